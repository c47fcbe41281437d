package agentapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// Local is what an agent does when the controller says so.
type Local interface {
	// Obey takes over the complete desired set. It returns once the set is kept on disk and being acted upon; an older
	// revision than the one taken is refused with an error and changes nothing.
	Obey(d Desired) error
	// Open makes a stable snapshot of a capture's data.
	Open(ctx context.Context, uid string, o want.OpenOptions) (*want.Retrieval, error)
	// Live writes packets to w as they come: a pcapng section in whole blocks, until what spec says has ended it, end is
	// closed, or ctx ends. Only the first two are a good end, after which nil is returned.
	Live(ctx context.Context, end <-chan struct{}, spec want.LiveSpec, w io.Writer) error
	// Actual returns the revision taken and the states of all captures.
	Actual() (revision int64, statuses []want.Status)
	// TapStates returns the states of all sources and sinks.
	TapStates() []tap.Status
	// Inventory returns all points and the node's facts.
	Inventory() ([]point.Point, want.Node)
}

// openedIdle is how long an opened snapshot is kept when nobody reads it.
const openedIdle = 10 * time.Minute

// Link is the agent's half. The changed-notifications may be called from anywhere; Run is called once.
type Link struct {
	id    Identity
	local Local
	log   *slog.Logger

	mu       sync.Mutex
	changed  map[string]want.Status // to be reported; latest wins
	inv      bool                   // the inventory is to be sent
	revision bool                   // the taken revision is to be sent
	taps     bool                   // the states of the taps are to be sent
	wake     chan struct{}
	sessions int64 // the number of the last one
}

// NewLink makes the agent's half. It is inert.
func NewLink(id Identity, local Local, log *slog.Logger) *Link {
	return &Link{id: id, local: local, log: log, changed: make(map[string]want.Status), wake: make(chan struct{}, 1)}
}

// StatusChanged has the status reported soon; several of one capture coalesce to the last. It never blocks.
func (l *Link) StatusChanged(s want.Status) {
	l.mu.Lock()
	l.changed[s.UID] = s
	l.mu.Unlock()
	l.poke()
}

// InventoryChanged has the inventory sent soon. It never blocks.
func (l *Link) InventoryChanged() {
	l.mu.Lock()
	l.inv = true
	l.mu.Unlock()
	l.poke()
}

// TapsChanged has the states of the taps sent soon. It never blocks.
func (l *Link) TapsChanged() {
	l.mu.Lock()
	l.taps = true
	l.mu.Unlock()
	l.poke()
}

func (l *Link) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Dialer makes a connection to a controller for one session: to another one each time, where there are several. The
// connection is closed after the session.
type Dialer func(ctx context.Context) (*grpc.ClientConn, error)

// Run keeps a session with the controller behind cc until ctx ends, and then returns nil.
func (l *Link) Run(ctx context.Context, cc *grpc.ClientConn) error {
	return l.run(ctx, func(ctx context.Context) error { return l.session(ctx, agentpb.NewHubClient(cc)) })
}

// RunDialing is Run with a new connection for each session.
func (l *Link) RunDialing(ctx context.Context, dial Dialer) error {
	return l.run(ctx, func(ctx context.Context) error {
		cc, err := dial(ctx)
		if err != nil {
			return err
		}
		return errors.Join(l.session(ctx, agentpb.NewHubClient(cc)), cc.Close())
	})
}

// Pauses between sessions. Each is drawn from nothing to twice its length, so that the agents of a controller that has gone
// do not come to another one all at once; a controller that has too much to do names a longer one.
const (
	firstPause = 500 * time.Millisecond
	mostPause  = 15 * time.Second
	longVisit  = 15 * time.Second // a session that lasted so long was a good one
)

// run has one session after the other.
func (l *Link) run(ctx context.Context, session func(context.Context) error) error {
	pause := firstPause
	for {
		began := time.Now()
		err := session(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > longVisit {
			pause = firstPause
		}
		wait := rand.N(2*pause) + asked(err)
		l.log.Warn("the session with the controller ended; captures go on", "err", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
		pause = min(2*pause, mostPause)
	}
}

// nextSession numbers a session. The clock makes numbers grow over restarts of the agent.
func (l *Link) nextSession() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sessions = max(l.sessions+1, time.Now().UnixNano())
	return l.sessions
}

// opened is a snapshot that the controller holds open.
type opened struct {
	r     *want.Retrieval
	users int         // reads under way
	idle  *time.Timer // fires when nobody reads for openedIdle
	gone  bool        // released: close when the last read ends
}

// visit is one session: its snapshots and reads end with it.
type visit struct {
	l      *Link
	client agentpb.HubClient
	out    chan *agentpb.AgentMessage
	work   sync.WaitGroup
	newest atomic.Int64 // revision of the desired set that came last

	mu      sync.Mutex
	open    map[uint64]*opened
	streams map[uint64]chan struct{} // closed to end one
}

func (l *Link) session(ctx context.Context, client agentpb.HubClient) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := client.Session(ctx, grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
	if err != nil {
		return err
	}
	hello := &agentpb.Hello{NodeId: l.id.NodeID, NodeName: l.id.NodeName, Version: l.id.Version, Protocol: Protocol, Session: l.nextSession()}
	if err := stream.Send(&agentpb.AgentMessage{Kind: &agentpb.AgentMessage_Hello{Hello: hello}}); err != nil {
		return err
	}
	m, err := stream.Recv()
	if err != nil {
		return err
	}
	w := m.GetWelcome()
	if w == nil || w.Protocol != Protocol {
		return fmt.Errorf("the controller did not welcome us: %v", m)
	}
	if w.LaterNs > 0 {
		return &laterError{time.Duration(w.LaterNs)}
	}
	v := &visit{l: l, client: client, out: make(chan *agentpb.AgentMessage, 16), open: make(map[uint64]*opened), streams: make(map[uint64]chan struct{})}
	v.work.Go(func() {
		if err := v.send(ctx, stream); err != nil {
			cancel(err)
		}
	})
	defer v.closeAll()
	defer v.work.Wait()
	defer cancel(nil)
	for {
		m, err := stream.Recv()
		if err != nil {
			if cause := context.Cause(ctx); cause != nil {
				return cause
			}
			return err
		}
		if err := v.receive(ctx, m); err != nil {
			return err
		}
	}
}

// send reports everything once, then what changes.
func (v *visit) send(ctx context.Context, stream grpc.BidiStreamingClient[agentpb.AgentMessage, agentpb.HubMessage]) error {
	l := v.l
	l.mu.Lock()
	clear(l.changed)
	l.inv, l.revision, l.taps = false, false, false
	l.mu.Unlock()
	if err := v.sendInventory(stream); err != nil {
		return err
	}
	if err := v.sendTapStates(stream); err != nil {
		return err
	}
	revision, statuses := l.local.Actual()
	if err := sendActual(stream, revision, statuses, true); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-v.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-l.wake:
			l.mu.Lock()
			inv, rev, taps := l.inv, l.revision, l.taps
			l.inv, l.revision, l.taps = false, false, false
			changed := make([]want.Status, 0, len(l.changed))
			for _, s := range l.changed {
				changed = append(changed, s)
			}
			clear(l.changed)
			l.mu.Unlock()
			if inv {
				if err := v.sendInventory(stream); err != nil {
					return err
				}
			}
			if taps {
				if err := v.sendTapStates(stream); err != nil {
					return err
				}
			}
			if rev || len(changed) > 0 {
				revision, all := l.local.Actual()
				if rev {
					changed = all
				}
				if err := sendActual(stream, revision, changed, rev); err != nil {
					return err
				}
			}
		}
	}
}

func (v *visit) sendInventory(stream grpc.BidiStreamingClient[agentpb.AgentMessage, agentpb.HubMessage]) error {
	points, node := v.l.local.Inventory()
	pj, err := json.Marshal(points)
	if err != nil {
		return err
	}
	nj, err := json.Marshal(node)
	if err != nil {
		return err
	}
	return stream.Send(&agentpb.AgentMessage{Kind: &agentpb.AgentMessage_Inventory{Inventory: &agentpb.Inventory{Points: pj, Node: nj}}})
}

func (v *visit) sendTapStates(stream grpc.BidiStreamingClient[agentpb.AgentMessage, agentpb.HubMessage]) error {
	b, err := json.Marshal(v.l.local.TapStates())
	if err != nil {
		return err
	}
	return stream.Send(&agentpb.AgentMessage{Kind: &agentpb.AgentMessage_TapStates{TapStates: &agentpb.TapStates{Statuses: b}}})
}

func sendActual(stream grpc.BidiStreamingClient[agentpb.AgentMessage, agentpb.HubMessage], revision int64, statuses []want.Status, complete bool) error {
	a := &agentpb.Actual{Revision: revision, Complete: complete, Statuses: make([][]byte, len(statuses))}
	for i := range statuses {
		b, err := json.Marshal(&statuses[i])
		if err != nil {
			return err
		}
		a.Statuses[i] = b
	}
	return stream.Send(&agentpb.AgentMessage{Kind: &agentpb.AgentMessage_Actual{Actual: a}})
}

func (v *visit) receive(ctx context.Context, m *agentpb.HubMessage) error {
	switch k := m.Kind.(type) {
	case *agentpb.HubMessage_Desired:
		d := Desired{Epoch: k.Desired.Epoch, Replaces: k.Desired.Replaces, Revision: k.Desired.Revision, Captures: make([]want.Capture, len(k.Desired.Captures)), Recorders: make([]want.Recorder, len(k.Desired.Recorders))}
		for i, b := range k.Desired.Captures {
			if err := json.Unmarshal(b, &d.Captures[i]); err != nil {
				return fmt.Errorf("desired set %d: capture %d: %w", k.Desired.Revision, i, err)
			}
		}
		for i, b := range k.Desired.Recorders {
			if err := json.Unmarshal(b, &d.Recorders[i]); err != nil {
				return fmt.Errorf("desired set %d: recorder %d: %w", d.Revision, i, err)
			}
		}
		if len(k.Desired.Taps) > 0 {
			if err := json.Unmarshal(k.Desired.Taps, &d.Taps); err != nil {
				return fmt.Errorf("desired set %d: taps: %w", d.Revision, err)
			}
		}
		v.newest.Store(d.Revision)
		if !v.obey(d) {
			v.work.Go(func() { v.insist(ctx, d) })
		}
	case *agentpb.HubMessage_Open:
		v.work.Go(func() { v.answerOpen(ctx, k.Open) })
	case *agentpb.HubMessage_Read:
		v.work.Go(func() { v.answerRead(ctx, k.Read) })
	case *agentpb.HubMessage_Release:
		v.release(k.Release.Opened)
	case *agentpb.HubMessage_Stream:
		end := v.beginStream(k.Stream.Request)
		v.work.Go(func() { v.answerStream(ctx, end, k.Stream) })
	case *agentpb.HubMessage_EndStream:
		v.endStream(k.EndStream.Request)
	default:
		return fmt.Errorf("unexpected message %T", m.Kind)
	}
	return nil
}

// obeyAgain is how long after a failure a desired set is tried again.
const obeyAgain = time.Second

// obey has the set taken, and reports whether it need not be tried again.
func (v *visit) obey(d Desired) bool {
	err := v.l.local.Obey(d)
	if err != nil {
		v.l.log.Warn("desired set not taken", "revision", d.Revision, "err", err)
	}
	if err != nil && !errors.Is(err, ErrStale) {
		return false
	}
	v.l.mu.Lock()
	v.l.revision = true
	v.l.mu.Unlock()
	v.l.poke()
	return true
}

// insist tries a set until it is taken or a newer one has come. Meanwhile the session goes on: an agent that cannot write
// its state can still be read.
func (v *visit) insist(ctx context.Context, d Desired) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(obeyAgain):
		}
		if v.newest.Load() != d.Revision || v.obey(d) {
			return
		}
	}
}

func (v *visit) answer(ctx context.Context, m *agentpb.AgentMessage) bool {
	select {
	case v.out <- m:
		return true
	case <-ctx.Done():
		return false
	}
}

func (v *visit) answerOpen(ctx context.Context, o *agentpb.Open) {
	fail := func(err error) {
		v.answer(ctx, &agentpb.AgentMessage{Kind: &agentpb.AgentMessage_Opened{Opened: &agentpb.Opened{Request: o.Request, Fault: faultToWire(err)}}})
	}
	r, err := v.l.local.Open(ctx, o.Uid, want.OpenOptions{Format: want.Format(o.Format), ETag: o.Etag})
	if err != nil {
		fail(err)
		return
	}
	b, err := json.Marshal(opening{r.Format, r.FileName, r.Size, r.ETag, r.Modified, r.Final, r.Ledger, r.Records})
	if err != nil {
		fail(errors.Join(err, r.Close()))
		return
	}
	v.mu.Lock()
	v.open[o.Request] = &opened{r: r, idle: time.AfterFunc(openedIdle, func() { v.release(o.Request) })}
	v.mu.Unlock()
	v.answer(ctx, &agentpb.AgentMessage{Kind: &agentpb.AgentMessage_Opened{Opened: &agentpb.Opened{Request: o.Request, Retrieval: b}}})
}

func (v *visit) answerRead(ctx context.Context, r *agentpb.Read) {
	fail := func(err error) {
		v.answer(ctx, &agentpb.AgentMessage{Kind: &agentpb.AgentMessage_ReadFailed{ReadFailed: &agentpb.ReadFailed{Request: r.Request, Fault: faultToWire(err)}}})
	}
	op := v.acquire(r.Opened)
	if op == nil {
		fail(fault.New(fault.NotFound, "the snapshot was closed; ask for the data anew"))
		return
	}
	defer v.yield(r.Opened, op)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := v.client.Deliver(ctx)
	if err != nil {
		fail(fault.New(fault.Unavailable, "cannot open the data stream: %v", err))
		return
	}
	w := &chunker{stream: stream, request: r.Request, buf: make([]byte, 0, chunkSize)}
	last := &agentpb.Chunk{Request: r.Request, Last: true}
	if err := errors.Join(op.r.Write(ctx, w, r.Offset, r.Length), w.flush()); err != nil {
		if w.err != nil || ctx.Err() != nil {
			return // the reader went away, or we do: the stream breaks off, which nobody takes for an end
		}
		last = &agentpb.Chunk{Request: r.Request, Fault: faultToWire(err)}
	}
	if err := stream.Send(last); err == nil {
		_, _ = stream.CloseAndRecv() // the reader has it all or has gone: nothing is left to do either way
	}
}

// chunker cuts what is written into chunks. Its err is the stream's, not the data's.
type chunker struct {
	stream  grpc.ClientStreamingClient[agentpb.Chunk, agentpb.Delivered]
	request uint64
	buf     []byte
	sent    time.Time // when something was sent last
	err     error
}

// chunkAge is how long octets may wait in a chunk for more, once others are written.
const chunkAge = 20 * time.Millisecond

func (c *chunker) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := copy(c.buf[len(c.buf):cap(c.buf)], p)
		c.buf, p = c.buf[:len(c.buf)+k], p[k:]
		if len(c.buf) == cap(c.buf) {
			if err := c.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	if time.Since(c.sent) > chunkAge {
		return n, c.flush()
	}
	return n, nil
}

func (c *chunker) flush() error {
	if c.err != nil || len(c.buf) == 0 {
		return c.err
	}
	c.err = c.stream.Send(&agentpb.Chunk{Request: c.request, Data: c.buf}) // encoded before Send returns: buf is ours again
	c.buf, c.sent = c.buf[:0], time.Now()
	return c.err
}

func (v *visit) acquire(id uint64) *opened {
	v.mu.Lock()
	defer v.mu.Unlock()
	op := v.open[id]
	if op == nil {
		return nil
	}
	op.users++
	op.idle.Stop()
	return op
}

func (v *visit) yield(id uint64, op *opened) {
	v.mu.Lock()
	op.users--
	last := op.users == 0
	gone := op.gone
	if last && !gone {
		op.idle.Reset(openedIdle)
	}
	v.mu.Unlock()
	if last && gone {
		v.close(op)
	}
}

func (v *visit) release(id uint64) {
	v.mu.Lock()
	op := v.open[id]
	delete(v.open, id)
	busy := false
	if op != nil {
		op.idle.Stop()
		op.gone = true
		busy = op.users > 0
	}
	v.mu.Unlock()
	if op != nil && !busy {
		v.close(op)
	}
}

func (v *visit) closeAll() {
	v.mu.Lock()
	all := v.open
	v.open = nil
	v.mu.Unlock()
	for _, op := range all {
		op.idle.Stop()
		v.close(op)
	}
}

func (v *visit) close(op *opened) {
	if err := op.r.Close(); err != nil {
		v.l.log.Warn("cannot close a snapshot", "err", err)
	}
}
