package agentapi

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"opentap/agentapi/agentpb"
	"opentap/fault"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// Board knows which controller has the session of each agent. It stands between this controller and its Hub: it passes on
// what agents with a session here say, tells that to other controllers, and takes from them what agents say there. To the
// controller all agents look alike; data of an agent elsewhere comes through the controller that has its session, as it is
// read.
//
// An agent has one session. When two controllers believe to have it, the later one is true (Identity.Session).
//
// A Board is safe for concurrent use.
type Board struct {
	fleet Fleet
	log   *slog.Logger
	hub   *Hub // set before use

	mu        sync.Mutex
	places    map[string]*place // by node id
	followers map[*follower]struct{}
	held      map[uint64]*want.Retrieval // opened for other controllers
	handles   uint64
}

// place is where a node's session is, and what it said last.
type place struct {
	mu       sync.Mutex // held while the controller is told, so that calls for one node come one after the other
	id       Identity
	peer     *peer // that has the session; nil = it is here
	gone     bool  // nobody has
	points   []point.Point
	node     want.Node
	told     bool // points and node are known
	taps     []tap.Status
	revision int64
	statuses map[string]want.Status // by UID
}

var _ Fleet = (*Board)(nil)

// NewBoard makes a board for a controller. Its Hub is made with the board as its Fleet, and given to SetHub.
func NewBoard(fleet Fleet, log *slog.Logger) *Board {
	return &Board{
		fleet: fleet, log: log, places: make(map[string]*place), followers: make(map[*follower]struct{}), held: make(map[uint64]*want.Retrieval),
	}
}

// SetHub gives the hub of this controller.
func (b *Board) SetHub(h *Hub) { b.hub = h }

func (b *Board) place(nodeID string) *place {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.places[nodeID]
	if p == nil {
		p = &place{gone: true, statuses: make(map[string]want.Status)}
		b.places[nodeID] = p
	}
	return p
}

// here calls fn with the place of a node whose session is here; what a session says that has another after it is of no
// interest.
func (b *Board) here(nodeID string, fn func(p *place)) {
	p := b.place(nodeID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.peer == nil && !p.gone {
		fn(p)
	}
}

// begin notes that a session has begun. p.mu is held.
func (p *place) begin(id Identity, at *peer) {
	p.id, p.peer, p.gone, p.told, p.taps, p.revision = id, at, false, false, nil, 0
	clear(p.statuses)
}

// Joined implements Fleet.
func (b *Board) Joined(id Identity) {
	p := b.place(id.NodeID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.peer != nil && p.id.Session > id.Session {
		b.hub.End(id.NodeID, id.Session)
		return
	}
	p.begin(id, nil)
	b.fleet.Joined(id)
	b.mark(id.NodeID, func(d *dirt) { d.all = true })
}

// Left implements Fleet.
func (b *Board) Left(nodeID string) {
	b.here(nodeID, func(p *place) {
		p.gone = true
		b.fleet.Left(nodeID)
		b.mark(nodeID, func(d *dirt) { d.left = p.id.Session })
	})
}

// Inventory implements Fleet.
func (b *Board) Inventory(nodeID string, points []point.Point, node want.Node) {
	b.here(nodeID, func(p *place) {
		p.points, p.node, p.told = points, node, true
		b.fleet.Inventory(nodeID, slices.Clone(points), node)
		b.mark(nodeID, func(d *dirt) { d.inventory = true })
	})
}

// Actual implements Fleet.
func (b *Board) Actual(nodeID string, revision int64, statuses []want.Status, complete bool) {
	b.here(nodeID, func(p *place) {
		p.revision = revision
		if complete {
			clear(p.statuses)
		}
		for _, s := range statuses {
			p.statuses[s.UID] = s
		}
		b.fleet.Actual(nodeID, revision, statuses, complete)
		b.mark(nodeID, func(d *dirt) {
			d.actual, d.complete = true, d.complete || complete
			for _, s := range statuses {
				d.uids[s.UID] = true
			}
		})
	})
}

// TapStates implements Fleet.
func (b *Board) TapStates(nodeID string, states []tap.Status) {
	b.here(nodeID, func(p *place) {
		p.taps = states
		b.fleet.TapStates(nodeID, states)
		b.mark(nodeID, func(d *dirt) { d.taps = true })
	})
}

// Desired implements Fleet.
func (b *Board) Desired(ctx context.Context, nodeID string) (Desired, error) {
	return b.fleet.Desired(ctx, nodeID)
}

// Kick has the node's desired set sent again when it has changed and the session is here. Other controllers see the change
// themselves.
func (b *Board) Kick(nodeID string) { b.hub.Kick(nodeID) }

// at returns the controller that has the session; nil = it is here, or nowhere.
func (b *Board) at(nodeID string) *peer {
	p := b.place(nodeID)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil
	}
	return p.peer
}

// Open is Hub.Open, wherever the session is.
func (b *Board) Open(ctx context.Context, nodeID, nodeName, uid string, o want.OpenOptions) (*want.Retrieval, error) {
	if q := b.at(nodeID); q != nil {
		return q.open(ctx, nodeID, nodeName, uid, o)
	}
	return b.hub.Open(ctx, nodeID, nodeName, uid, o)
}

// Stream is Hub.Stream, wherever the session is.
func (b *Board) Stream(ctx context.Context, end <-chan struct{}, nodeID, nodeName string, spec want.LiveSpec, w io.Writer) error {
	if q := b.at(nodeID); q != nil {
		return q.stream(ctx, end, nodeID, nodeName, spec, w)
	}
	return b.hub.Stream(ctx, end, nodeID, nodeName, spec, w)
}

// event takes over what another controller tells of a node.
func (b *Board) event(q *peer, e *agentpb.NodeEvent) error {
	p := b.place(e.NodeId)
	p.mu.Lock()
	defer p.mu.Unlock()
	mine := p.peer == q && p.id.Session == e.Session
	switch {
	case e.Left:
		if mine && !p.gone {
			p.gone = true
			b.fleet.Left(e.NodeId)
		}
		return nil
	case !mine && p.id.Session > e.Session:
		return nil // a session that has another after it
	case !mine || p.gone:
		if p.peer == nil && !p.gone {
			old := p.id.Session
			b.hub.End(e.NodeId, old)
			b.mark(e.NodeId, func(d *dirt) { d.left = old })
		}
		p.begin(Identity{NodeID: e.NodeId, NodeName: e.NodeName, Version: e.Version, Session: e.Session}, q)
		b.fleet.Joined(p.id)
	}
	if e.Inventory != nil {
		points, node, err := inventoryFromWire(e.Inventory)
		if err != nil {
			return err
		}
		b.fleet.Inventory(e.NodeId, points, node)
	}
	if e.TapStates != nil {
		var states []tap.Status
		if err := json.Unmarshal(e.TapStates.Statuses, &states); err != nil {
			return err
		}
		b.fleet.TapStates(e.NodeId, states)
	}
	if e.Actual != nil {
		statuses, err := statusesFromWire(e.Actual.Statuses)
		if err != nil {
			return err
		}
		b.fleet.Actual(e.NodeId, e.Actual.Revision, statuses, e.Actual.Complete)
	}
	return nil
}

// lost notes that another controller is not heard any more, and so none of its agents.
func (b *Board) lost(q *peer) {
	b.mu.Lock()
	all := slices.Collect(maps.Keys(b.places))
	b.mu.Unlock()
	for _, nodeID := range all {
		p := b.place(nodeID)
		p.mu.Lock()
		if p.peer == q && !p.gone {
			p.gone = true
			b.fleet.Left(nodeID)
		}
		p.mu.Unlock()
	}
}

func inventoryFromWire(m *agentpb.Inventory) (points []point.Point, node want.Node, err error) {
	if err = json.Unmarshal(m.Points, &points); err == nil {
		err = json.Unmarshal(m.Node, &node)
	}
	return points, node, err
}

func statusesFromWire(list [][]byte) ([]want.Status, error) {
	out := make([]want.Status, len(list))
	for i, s := range list {
		if err := json.Unmarshal(s, &out[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// unreachable is what is told of a controller that has a session and does not answer.
func unreachable(node string, err error) error {
	u := unavailable(node).(*fault.Error)
	u.Err = err
	return u
}
