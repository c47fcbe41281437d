package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/want"
)

// Peer is another controller.
type Peer struct {
	ID      string
	Name    string
	Address string // HOST:PORT
}

// Peers are the other controllers, and the way to them.
type Peers interface {
	Others() []Peer
	Changed() <-chan struct{} // closed when Others may have changed
	Dial(p Peer) (*grpc.ClientConn, error)
	DropController(ctx context.Context, id string) error
}

// forgetPeer is how long a controller is not heard before it is taken for gone for good.
const forgetPeer = 24 * time.Hour

// CallOptions are what a connection to a controller needs to carry these messages.
func CallOptions() []grpc.CallOption {
	return []grpc.CallOption{grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)}
}

// peer is the way to another controller.
type peer struct {
	Peer
	b      *Board
	log    *slog.Logger
	client agentpb.RelayClient
}

// Run follows the other controllers until ctx ends, and then returns nil. settled is called once each that is known at the
// begin has told of its agents, or cannot be reached.
func (b *Board) Run(ctx context.Context, peers Peers, settled func()) error {
	type following struct {
		stop context.CancelFunc
		of   Peer
	}
	var running sync.WaitGroup
	defer running.Wait()
	var first sync.WaitGroup
	all := make(map[string]following)
	for begun := false; ; begun = true {
		changed := peers.Changed()
		now := make(map[string]bool)
		for _, p := range peers.Others() {
			now[p.ID] = true
			if have, ok := all[p.ID]; ok {
				if have.of == p {
					continue
				}
				have.stop()
			}
			pctx, stop := context.WithCancel(ctx)
			all[p.ID] = following{stop, p}
			heard := func() {}
			if !begun {
				first.Add(1)
				heard = sync.OnceFunc(first.Done)
			}
			running.Go(func() {
				defer heard()
				b.follow(pctx, p, peers, heard)
			})
		}
		for id, f := range all {
			if !now[id] {
				f.stop()
				delete(all, id)
			}
		}
		if !begun {
			running.Go(func() { first.Wait(); settled() })
		}
		select {
		case <-ctx.Done():
			for _, f := range all {
				f.stop()
			}
			return nil
		case <-changed:
		}
	}
}

// follow keeps hearing of the agents of one controller.
func (b *Board) follow(ctx context.Context, of Peer, peers Peers, heard func()) {
	log := b.log.With("controller", of.Name, "address", of.Address)
	cc, err := peers.Dial(of)
	if err != nil {
		log.Error("cannot reach another controller", "err", err)
		return
	}
	defer cc.Close()
	q := &peer{Peer: of, b: b, log: log, client: agentpb.NewRelayClient(cc)}
	since := time.Now()
	told := false
	for {
		err := q.follow(ctx, func() {
			heard()
			since, told = time.Now(), false
			log.Info("another controller tells of its agents")
		})
		b.lost(q)
		if ctx.Err() != nil {
			return
		}
		heard()
		level := slog.LevelDebug
		if !told {
			level, told = slog.LevelWarn, true
		}
		log.Log(ctx, level, "another controller is not heard; its agents are unknown until it is, or they come here", "err", err)
		if time.Since(since) > forgetPeer {
			if err := peers.DropController(ctx, of.ID); err != nil {
				log.Warn("a controller that is gone cannot be forgotten", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(300*time.Millisecond + rand.N(500*time.Millisecond)):
		}
	}
}

// follow hears of the agents until the stream breaks. all is called when it has told of all that there are.
func (q *peer) follow(ctx context.Context, all func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := q.client.Follow(ctx, &agentpb.FollowRequest{})
	if err != nil {
		return err
	}
	for {
		e, err := stream.Recv()
		if err != nil {
			return err
		}
		if e.All {
			all()
			continue
		}
		if err := q.b.event(q, e); err != nil {
			return err
		}
	}
}

// open opens a capture's data at an agent whose session is there.
func (q *peer) open(ctx context.Context, nodeID, nodeName, uid string, o want.OpenOptions) (*want.Retrieval, error) {
	held, release := context.WithCancel(context.WithoutCancel(ctx)) // the call lasts as long as the snapshot
	stop := context.AfterFunc(ctx, release)
	fail := func(err error) error {
		release()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	stream, err := q.client.Open(held, &agentpb.RelayOpen{NodeId: nodeID, NodeName: nodeName, Uid: uid, Format: string(o.Format), Etag: o.ETag})
	if err != nil {
		return nil, fail(unreachable(nodeName, err))
	}
	m, err := stream.Recv()
	if err != nil {
		return nil, fail(unreachable(nodeName, err))
	}
	if m.Fault != nil {
		return nil, fail(faultFromWire(m.Fault))
	}
	var op opening
	if err := json.Unmarshal(m.Retrieval, &op); err != nil {
		return nil, fail(fault.New(fault.Internal, "controller %s answered an open with a malformed retrieval: %v", q.Name, err))
	}
	if !stop() { // ctx ended just now
		return nil, fail(ctx.Err())
	}
	return &want.Retrieval{
		Format: op.Format, FileName: op.FileName, Size: op.Size, ETag: op.ETag, Modified: op.Modified,
		Final: op.Final, Ledger: op.Ledger, Records: op.Records,
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			in, err := q.client.Read(ctx, &agentpb.RelayRead{Opened: m.Request, Offset: offset, Length: length})
			if err != nil {
				return unreachable(nodeName, err)
			}
			return receive(ctx, nodeName, in, w)
		},
		Close: func() error { release(); return nil },
	}, nil
}

// stream has an agent send packets whose session is there.
func (q *peer) stream(ctx context.Context, end <-chan struct{}, nodeID, nodeName string, spec want.LiveSpec, w io.Writer) error {
	b, err := json.Marshal(&spec)
	if err != nil {
		return err
	}
	outer := ctx
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	in, err := q.client.Stream(ctx)
	if err != nil {
		return unreachable(nodeName, err)
	}
	if err := in.Send(&agentpb.RelayStream{NodeId: nodeID, NodeName: nodeName, Spec: b}); err != nil && !errors.Is(err, io.EOF) {
		return unreachable(nodeName, err) // io.EOF: Recv says why
	}
	var ender sync.WaitGroup
	defer ender.Wait()
	defer cancel()
	ender.Go(func() {
		select {
		case <-end:
			_ = in.Send(&agentpb.RelayStream{}) // when it fails the stream has ended
		case <-ctx.Done():
		}
	})
	return receive(outer, nodeName, in, w)
}

// receive copies chunks until the data ends.
func receive(ctx context.Context, nodeName string, in interface {
	Recv() (*agentpb.Chunk, error)
}, w io.Writer,
) error {
	for {
		c, err := in.Recv()
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return &fault.Error{Kind: fault.Unavailable, Msg: "the way to node " + nodeName + " broke in the middle of the data", Err: err, RetryAfter: 5 * time.Second}
		}
		if len(c.Data) > 0 {
			if _, err := w.Write(c.Data); err != nil {
				return err
			}
		}
		if c.Fault != nil {
			return faultFromWire(c.Fault)
		}
		if c.Last {
			return nil
		}
	}
}
