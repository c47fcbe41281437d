package agentapi

import (
	"context"
	"encoding/json"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/want"
)

// relay serves other controllers: it tells them of the sessions that are here, and reaches the agents for them.
type relay struct {
	agentpb.UnimplementedRelayServer
	b *Board
}

// Register puts what other controllers call on a server. It must let nobody else call it.
func (b *Board) Register(s *grpc.Server) { agentpb.RegisterRelayServer(s, &relay{b: b}) }

// follower is another controller that follows. What it has to be told is noted by node, so that one that is slow is told
// what is so, and not all that was.
type follower struct {
	wake chan struct{}

	mu    sync.Mutex
	dirty map[string]*dirt // by node id
}

// dirt is what a follower was not told of a node.
type dirt struct {
	left                    int64 // the session that ended; 0 = none
	all                     bool
	inventory, actual, taps bool
	complete                bool            // all statuses, and not only:
	uids                    map[string]bool // those
}

func (f *follower) mark(nodeID string, fn func(*dirt)) {
	f.mu.Lock()
	d := f.dirty[nodeID]
	if d == nil {
		d = &dirt{uids: make(map[string]bool)}
		f.dirty[nodeID] = d
	}
	fn(d)
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *follower) take() map[string]*dirt {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := f.dirty
	f.dirty = make(map[string]*dirt)
	return out
}

// mark notes something for all followers. It is called with the place's lock held.
func (b *Board) mark(nodeID string, fn func(*dirt)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for f := range b.followers {
		f.mark(nodeID, fn)
	}
}

// events are what a follower is to be told of a node.
func (b *Board) events(nodeID string, d *dirt) ([]*agentpb.NodeEvent, error) {
	p := b.place(nodeID)
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*agentpb.NodeEvent
	if d.left != 0 {
		out = append(out, &agentpb.NodeEvent{NodeId: nodeID, Session: d.left, Left: true})
	}
	if p.gone || p.peer != nil {
		return out, nil
	}
	e := &agentpb.NodeEvent{NodeId: nodeID, NodeName: p.id.NodeName, Version: p.id.Version, Session: p.id.Session}
	var err error
	if p.told && (d.all || d.inventory) {
		e.Inventory = &agentpb.Inventory{}
		if e.Inventory.Points, err = json.Marshal(p.points); err != nil {
			return nil, err
		}
		if e.Inventory.Node, err = json.Marshal(p.node); err != nil {
			return nil, err
		}
	}
	if p.taps != nil && (d.all || d.taps) {
		e.TapStates = &agentpb.TapStates{}
		if e.TapStates.Statuses, err = json.Marshal(p.taps); err != nil {
			return nil, err
		}
	}
	if p.told && (d.all || d.actual) {
		e.Actual = &agentpb.Actual{Revision: p.revision, Complete: d.all || d.complete}
		for uid, s := range p.statuses {
			if e.Actual.Complete || d.uids[uid] {
				j, err := json.Marshal(&s)
				if err != nil {
					return nil, err
				}
				e.Actual.Statuses = append(e.Actual.Statuses, j)
			}
		}
	}
	return append(out, e), nil
}

// Follow implements agentpb.RelayServer.
func (r *relay) Follow(_ *agentpb.FollowRequest, stream grpc.ServerStreamingServer[agentpb.NodeEvent]) error {
	f := &follower{wake: make(chan struct{}, 1), dirty: make(map[string]*dirt)}
	r.b.mu.Lock()
	for nodeID := range r.b.places {
		f.dirty[nodeID] = &dirt{all: true}
	}
	r.b.followers[f] = struct{}{}
	r.b.mu.Unlock()
	defer func() {
		r.b.mu.Lock()
		delete(r.b.followers, f)
		r.b.mu.Unlock()
	}()
	for first := true; ; first = false {
		for nodeID, d := range f.take() {
			events, err := r.b.events(nodeID, d)
			if err != nil {
				return err
			}
			for _, e := range events {
				if err := stream.Send(e); err != nil {
					return err
				}
			}
		}
		if first {
			if err := stream.Send(&agentpb.NodeEvent{All: true}); err != nil {
				return err
			}
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-f.wake:
		}
	}
}

// Open implements agentpb.RelayServer.
func (r *relay) Open(q *agentpb.RelayOpen, stream grpc.ServerStreamingServer[agentpb.Opened]) error {
	got, err := r.b.hub.Open(stream.Context(), q.NodeId, q.NodeName, q.Uid, want.OpenOptions{Format: want.Format(q.Format), ETag: q.Etag})
	if err != nil {
		return stream.Send(&agentpb.Opened{Fault: faultToWire(err)})
	}
	defer func() { _ = got.Close() }() // always nil, Hub.Open
	j, err := json.Marshal(opening{got.Format, got.FileName, got.Size, got.ETag, got.Modified, got.Final, got.Ledger, got.Records})
	if err != nil {
		return err
	}
	r.b.mu.Lock()
	r.b.handles++
	handle := r.b.handles
	r.b.held[handle] = got
	r.b.mu.Unlock()
	defer func() {
		r.b.mu.Lock()
		delete(r.b.held, handle)
		r.b.mu.Unlock()
	}()
	if err := stream.Send(&agentpb.Opened{Request: handle, Retrieval: j}); err != nil {
		return err
	}
	<-stream.Context().Done()
	return nil
}

// chunks sends what is written as it comes, at the receiver's pace.
type chunks struct {
	stream interface{ Send(*agentpb.Chunk) error }
}

// Write implements io.Writer.
func (c chunks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), chunkSize)
		if err := c.stream.Send(&agentpb.Chunk{Data: p[:k]}); err != nil { // encoded before Send returns
			return n - len(p), err
		}
		p = p[k:]
	}
	return n, nil
}

// end tells how the data ended.
func (c chunks) end(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return c.stream.Send(&agentpb.Chunk{Last: true})
	case ctx.Err() != nil:
		return status.FromContextError(ctx.Err()).Err()
	}
	return c.stream.Send(&agentpb.Chunk{Fault: faultToWire(err)})
}

// Read implements agentpb.RelayServer.
func (r *relay) Read(q *agentpb.RelayRead, stream grpc.ServerStreamingServer[agentpb.Chunk]) error {
	r.b.mu.Lock()
	got := r.b.held[q.Opened]
	r.b.mu.Unlock()
	out := chunks{stream}
	if got == nil {
		return out.end(stream.Context(), fault.New(fault.NotFound, "the snapshot was closed; ask for the data anew"))
	}
	return out.end(stream.Context(), got.Write(stream.Context(), out, q.Offset, q.Length))
}

// Stream implements agentpb.RelayServer.
func (r *relay) Stream(stream grpc.BidiStreamingServer[agentpb.RelayStream, agentpb.Chunk]) error {
	q, err := stream.Recv()
	if err != nil {
		return err
	}
	var spec want.LiveSpec
	if err := json.Unmarshal(q.Spec, &spec); err != nil {
		return status.Errorf(codes.InvalidArgument, "the stream's spec: %v", err)
	}
	end := make(chan struct{})
	go func() { // ends with the stream
		if _, err := stream.Recv(); err == nil {
			close(end)
		}
	}()
	out := chunks{stream}
	return out.end(stream.Context(), r.b.hub.Stream(stream.Context(), end, q.NodeId, q.NodeName, spec, out))
}
