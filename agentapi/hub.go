package agentapi

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// Fleet is what a Hub tells the controller, and what it asks of it. Calls for one node come one after the other; calls
// for different nodes come at the same time.
type Fleet interface {
	Joined(id Identity)
	Inventory(nodeID string, points []point.Point, node want.Node)
	// Actual reports states. With complete, captures not named are unknown to the agent.
	Actual(nodeID string, revision int64, statuses []want.Status, complete bool)
	// TapStates reports the states of all sources and sinks that the node has.
	TapStates(nodeID string, states []tap.Status)
	Left(nodeID string)
	// Desired returns all that the node shall do, and the revision of that state.
	Desired(ctx context.Context, nodeID string) (Desired, error)
}

// Hub is the controller's half. It is safe for concurrent use.
type Hub struct {
	agentpb.UnimplementedHubServer
	fleet Fleet
	log   *slog.Logger
	near  map[string]Local // by node ID; see Near

	begin      chan struct{}       // holds those that begin a session; see turn
	beginners  map[string]struct{} // their nodes' ids; h.mu guards it
	turnedAway atomic.Uint64

	readers sync.WaitGroup // of sessions; see Wait

	mu       sync.Mutex
	sessions map[string]*session // by node ID
	reads    map[uint64]*delivery
	next     uint64
}

type session struct {
	id     Identity
	kick   chan struct{}            // the desired set may have changed
	out    chan *agentpb.HubMessage // requests; bounded
	cancel context.CancelCauseFunc
	over   <-chan struct{} // closed when it is to end: nothing is taken from out any more
	done   chan struct{}   // closed when it has ended
	begun  func()          // all has been told that is told at the begin

	mu      sync.Mutex
	opening map[uint64]chan *agentpb.Opened
}

// delivery is a Read or Stream under way: the Deliver stream that answers it writes into the pipe, and the one who asked reads from
// it, so that no write happens behind the back of a caller that has gone.
type delivery struct {
	node string
	pw   *io.PipeWriter
}

// finish ends the delivery: with nil the data is whole. Only the first call counts.
func (d *delivery) finish(err error) { _ = d.pw.CloseWithError(err) } // always nil, io.PipeWriter

// NewHub makes the controller's half. It is inert: Register puts it on a server.
func NewHub(fleet Fleet, log *slog.Logger) *Hub {
	return &Hub{fleet: fleet, log: log, near: make(map[string]Local), begin: make(chan struct{}, beginners), beginners: make(map[string]struct{}), sessions: make(map[string]*session), reads: make(map[uint64]*delivery)}
}

// ServerOptions are what a grpc.Server needs to carry a Hub. Its Stop waits until every session has ended.
func ServerOptions() []grpc.ServerOption {
	return []grpc.ServerOption{grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage), grpc.WaitForHandlers(true)}
}

// Register puts the hub on a server made with ServerOptions.
func (h *Hub) Register(s *grpc.Server) { agentpb.RegisterHubServer(s, h) }

// Wait returns when nothing is under way here any more. It is for when all servers of the hub have stopped.
func (h *Hub) Wait() { h.readers.Wait() }

// Kick has the node's desired set sent again when it has changed. It never blocks; kicks coalesce.
func (h *Hub) Kick(nodeID string) {
	h.mu.Lock()
	s := h.sessions[nodeID]
	h.mu.Unlock()
	if s != nil {
		select {
		case s.kick <- struct{}{}:
		default:
		}
	}
}

// Session serves one agent.
func (h *Hub) Session(stream grpc.BidiStreamingServer[agentpb.AgentMessage, agentpb.HubMessage]) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	hello := first.GetHello()
	if hello == nil || hello.NodeId == "" || hello.NodeName == "" {
		return status.Error(codes.InvalidArgument, "a session begins with a hello that names the node")
	}
	if hello.Protocol != Protocol {
		return status.Errorf(codes.FailedPrecondition, "agent speaks protocol %d, this controller %d", hello.Protocol, Protocol)
	}
	id := Identity{NodeID: hello.NodeId, NodeName: hello.NodeName, Version: hello.Version, Session: hello.Session}
	if peer, ok := peerOf(stream.Context()); ok {
		if peer.NodeID != id.NodeID {
			return status.Errorf(codes.PermissionDenied, "the certificate is that of node %s, and the agent says it is %s", peer.NodeID, id.NodeID)
		}
		id.NodeName = peer.NodeName
	}
	ctx, cancel := context.WithCancelCause(stream.Context())
	defer cancel(nil)
	s := &session{
		id: id, kick: make(chan struct{}, 1), over: ctx.Done(),
		out: make(chan *agentpb.HubMessage, 64), cancel: cancel, done: make(chan struct{}), opening: make(map[uint64]chan *agentpb.Opened),
	}
	begun, later, err := h.turn(ctx, id.NodeID)
	if err != nil {
		return err
	}
	if later > 0 {
		return stream.Send(&agentpb.HubMessage{Kind: &agentpb.HubMessage_Welcome{Welcome: &agentpb.Welcome{Protocol: Protocol, LaterNs: int64(later)}}})
	}
	defer begun()
	s.begun = begun
	h.admit(s)
	defer h.leave(s)
	if err := stream.Send(&agentpb.HubMessage{Kind: &agentpb.HubMessage_Welcome{Welcome: &agentpb.Welcome{Protocol: Protocol}}}); err != nil {
		return err
	}
	var senders sync.WaitGroup
	senders.Go(func() {
		if err := h.send(ctx, s, stream); err != nil {
			cancel(err)
		}
	})
	defer senders.Wait()
	defer cancel(nil)

	type received struct {
		m   *agentpb.AgentMessage
		err error
	}
	in := make(chan received)
	h.readers.Go(func() { // ends with the stream, which ends when this handler returns
		for {
			m, err := stream.Recv()
			select {
			case in <- received{m, err}:
			case <-s.done:
				return
			}
			if err != nil {
				return
			}
		}
	})
	for {
		select {
		case <-ctx.Done():
			return status.FromContextError(context.Cause(ctx)).Err()
		case r := <-in:
			if r.err != nil {
				if r.err == io.EOF {
					return nil
				}
				return r.err
			}
			if err := h.receive(s, r.m); err != nil {
				return err
			}
		}
	}
}

// admit makes s the node's session; an older one of the same node ends, for an agent that dials anew knows that the old
// stream is dead before we do.
func (h *Hub) admit(s *session) {
	h.mu.Lock()
	old := h.sessions[s.id.NodeID]
	h.sessions[s.id.NodeID] = s
	h.mu.Unlock()
	if old != nil {
		old.cancel(status.Error(codes.Aborted, "the agent connected anew"))
		<-old.done
	}
	h.fleet.Joined(s.id)
	h.Kick(s.id.NodeID)
}

// End ends the session of a node, if it is not later than the one given: its agent has another elsewhere.
func (h *Hub) End(nodeID string, session int64) {
	h.mu.Lock()
	s := h.sessions[nodeID]
	h.mu.Unlock()
	if s != nil && s.id.Session <= session {
		s.cancel(status.Error(codes.Aborted, "the agent is connected to another controller"))
	}
}

func (h *Hub) leave(s *session) {
	h.mu.Lock()
	mine := h.sessions[s.id.NodeID] == s
	if mine {
		delete(h.sessions, s.id.NodeID)
	}
	for _, d := range h.reads {
		if d.node == s.id.NodeID && mine {
			d.finish(unavailable(s.id.NodeName))
		}
	}
	h.mu.Unlock()
	close(s.done)
	if mine {
		h.fleet.Left(s.id.NodeID)
	}
}

func unavailable(node string) error {
	return &fault.Error{Kind: fault.Unavailable, Msg: "node " + node + " is not connected", Hint: "the data is on that node; try again when its agent is back", RetryAfter: 5 * time.Second}
}

func (h *Hub) send(ctx context.Context, s *session, stream grpc.BidiStreamingServer[agentpb.AgentMessage, agentpb.HubMessage]) error {
	sent, epoch := int64(-1), ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-s.out:
			if err := stream.Send(m); err != nil {
				return err
			}
		case <-s.kick:
			all, err := h.fleet.Desired(ctx, s.id.NodeID)
			rev, captures := all.Revision, all.Captures
			if err != nil {
				h.log.Warn("cannot read the desired set; it is tried again", "node", s.id.NodeName, "err", err)
				time.AfterFunc(time.Second, func() { h.Kick(s.id.NodeID) })
				continue
			}
			if rev == sent && all.Epoch == epoch {
				continue
			}
			d := &agentpb.Desired{Epoch: all.Epoch, Replaces: all.Replaces, Revision: rev, Captures: make([][]byte, len(captures)), Recorders: make([][]byte, len(all.Recorders))}
			for i := range all.Recorders {
				if d.Recorders[i], err = json.Marshal(&all.Recorders[i]); err != nil {
					return err
				}
			}
			if d.Taps, err = json.Marshal(&all.Taps); err != nil {
				return err
			}
			for i := range captures {
				if d.Captures[i], err = json.Marshal(&captures[i]); err != nil {
					return err
				}
			}
			if err := stream.Send(&agentpb.HubMessage{Kind: &agentpb.HubMessage_Desired{Desired: d}}); err != nil {
				return err
			}
			sent, epoch = rev, all.Epoch
		}
	}
}

func (h *Hub) receive(s *session, m *agentpb.AgentMessage) error {
	switch k := m.Kind.(type) {
	case *agentpb.AgentMessage_Inventory:
		var points []point.Point
		var node want.Node
		if err := json.Unmarshal(k.Inventory.Points, &points); err != nil {
			return status.Errorf(codes.InvalidArgument, "inventory: points: %v", err)
		}
		if err := json.Unmarshal(k.Inventory.Node, &node); err != nil {
			return status.Errorf(codes.InvalidArgument, "inventory: node: %v", err)
		}
		h.fleet.Inventory(s.id.NodeID, points, node)
	case *agentpb.AgentMessage_Actual:
		statuses := make([]want.Status, len(k.Actual.Statuses))
		for i, b := range k.Actual.Statuses {
			if err := json.Unmarshal(b, &statuses[i]); err != nil {
				return status.Errorf(codes.InvalidArgument, "actual: status %d: %v", i, err)
			}
		}
		h.fleet.Actual(s.id.NodeID, k.Actual.Revision, statuses, k.Actual.Complete)
		s.begun()
	case *agentpb.AgentMessage_TapStates:
		var states []tap.Status
		if err := json.Unmarshal(k.TapStates.Statuses, &states); err != nil {
			return status.Errorf(codes.InvalidArgument, "tap states: %v", err)
		}
		h.fleet.TapStates(s.id.NodeID, states)
	case *agentpb.AgentMessage_Opened:
		s.mu.Lock()
		ch := s.opening[k.Opened.Request]
		delete(s.opening, k.Opened.Request)
		s.mu.Unlock()
		if ch != nil {
			ch <- k.Opened
		} else if k.Opened.Fault == nil { // nobody waits any more
			h.release(s, k.Opened.Request)
		}
	case *agentpb.AgentMessage_ReadFailed:
		h.mu.Lock()
		d := h.reads[k.ReadFailed.Request]
		h.mu.Unlock()
		if d != nil && d.node == s.id.NodeID && k.ReadFailed.Fault != nil {
			d.finish(faultFromWire(k.ReadFailed.Fault))
		}
	default:
		return status.Errorf(codes.InvalidArgument, "unexpected message %T", m.Kind)
	}
	return nil
}

// Open asks the node for a stable snapshot of a capture's data. The Retrieval's Write fails with a fault.Unavailable when
// the node goes away; nothing is buffered here beyond a few chunks.
func (h *Hub) Open(ctx context.Context, nodeID, nodeName, uid string, o want.OpenOptions) (*want.Retrieval, error) {
	h.mu.Lock()
	s := h.sessions[nodeID]
	h.next++
	request := h.next
	h.mu.Unlock()
	if s == nil {
		return nil, unavailable(nodeName)
	}
	if l := h.near[nodeID]; l != nil {
		return h.openNear(ctx, l, uid, o)
	}
	answer := make(chan *agentpb.Opened, 1)
	s.mu.Lock()
	s.opening[request] = answer
	s.mu.Unlock()
	forget := func() {
		s.mu.Lock()
		delete(s.opening, request)
		s.mu.Unlock()
	}
	m := &agentpb.HubMessage{Kind: &agentpb.HubMessage_Open{Open: &agentpb.Open{Request: request, Uid: uid, Format: string(o.Format), Etag: o.ETag}}}
	select {
	case s.out <- m:
	case <-s.done:
		return nil, unavailable(nodeName)
	case <-ctx.Done():
		forget()
		return nil, ctx.Err()
	}
	var opened *agentpb.Opened
	select {
	case opened = <-answer:
	case <-s.done:
		return nil, unavailable(nodeName)
	case <-ctx.Done():
		forget()
		return nil, ctx.Err()
	}
	if opened.Fault != nil {
		return nil, faultFromWire(opened.Fault)
	}
	var op opening
	if err := json.Unmarshal(opened.Retrieval, &op); err != nil {
		return nil, fault.New(fault.Internal, "node %s answered an open with a malformed retrieval: %v", nodeName, err)
	}
	return &want.Retrieval{
		Format: op.Format, FileName: op.FileName, Size: op.Size, ETag: op.ETag, Modified: op.Modified,
		Final: op.Final, Ledger: op.Ledger, Records: op.Records,
		Write: func(ctx context.Context, w io.Writer, offset, length int64) error {
			return h.read(ctx, s, request, w, offset, length)
		},
		Close: func() error { h.release(s, request); return nil },
	}, nil
}

// release lets the agent close a snapshot. The session's own goroutine calls it too, and must not wait for its own end.
func (h *Hub) release(s *session, opened uint64) {
	select {
	case s.out <- &agentpb.HubMessage{Kind: &agentpb.HubMessage_Release{Release: &agentpb.Release{Opened: opened}}}:
	case <-s.over:
	}
}

func (h *Hub) read(ctx context.Context, s *session, opened uint64, w io.Writer, offset, length int64) error {
	return h.deliver(ctx, nil, s, w, func(request uint64) *agentpb.HubMessage {
		return &agentpb.HubMessage{Kind: &agentpb.HubMessage_Read{Read: &agentpb.Read{Request: request, Opened: opened, Offset: offset, Length: length}}}
	})
}

// Deliver receives the octets of one Read or Stream and hands them to whoever asked.
func (h *Hub) Deliver(stream grpc.ClientStreamingServer[agentpb.Chunk, agentpb.Delivered]) error {
	c, err := stream.Recv()
	if err != nil {
		return err
	}
	h.mu.Lock()
	d := h.reads[c.Request]
	h.mu.Unlock()
	if d == nil {
		return status.Error(codes.Canceled, "nobody waits for this data any more")
	}
	if peer, ok := peerOf(stream.Context()); ok && peer.NodeID != d.node {
		return status.Error(codes.PermissionDenied, "this data is asked of another node")
	}
	for {
		if len(c.Data) > 0 {
			if _, err := d.pw.Write(c.Data); err != nil {
				return status.Error(codes.Canceled, "the reader went away")
			}
		}
		if c.Fault != nil {
			d.finish(faultFromWire(c.Fault))
			return stream.SendAndClose(&agentpb.Delivered{})
		}
		if c.Last {
			d.finish(nil)
			return stream.SendAndClose(&agentpb.Delivered{})
		}
		if c, err = stream.Recv(); err != nil {
			d.finish(&fault.Error{Kind: fault.Unavailable, Msg: "the node stopped sending in the middle of the data", Err: err, RetryAfter: 5 * time.Second})
			return err
		}
	}
}
