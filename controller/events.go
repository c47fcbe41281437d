package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

const (
	eventsEvery = time.Second // how often changes are looked for, while anybody listens
	listenerMax = 256         // listeners at one time
	// listenerBuffer is how many ticks wait for a slow listener. One that is later still is told everything anew.
	listenerBuffer = 4
)

// events tells listeners what there is and what changes. One look a second serves them all, and nothing is looked at while
// there are none.
type events struct {
	wake chan struct{} // the first listener has come

	mu        sync.Mutex
	listeners map[*listener]bool
	seq       uint64 // of the last tick
	// What was last told, in the form in which it is told.
	points, nodes json.RawMessage
	rates         map[ratePoint]want.Rate
	fresh         map[ratePoint]want.Rate // rates that came since the last tick
	captures      map[string]*toldCapture // by UID
}

type ratePoint struct{ node, point string }

// toldCapture is a capture as it was told.
type toldCapture struct {
	project string
	mark    captureMark
	view    json.RawMessage
}

// captureMark changes whenever a capture's view does.
type captureMark struct {
	rev     int64
	updated time.Time
	state   want.State
	reason  string
	expires time.Time
}

// tick is what changed within one interval.
type tick struct {
	seq    uint64
	common []want.Event // the same for all
	// Captures by project, for those who see only theirs.
	changed map[string][]json.RawMessage
	gone    map[string][]string

	mu  sync.Mutex
	cut map[scope][]want.Event // as cut for each kind of listener, made when first asked for
}

// scope is what decides about which captures somebody sees.
type scope struct {
	project string
	all     bool
}

func scopeOf(id auth.Identity) scope {
	if id.May(auth.Administer) {
		return scope{all: true}
	}
	return scope{project: id.Project}
}

type listener struct {
	ticks chan *tick
	late  bool   // a tick was left out; guarded by events.mu
	heard uint64 // ticks up to here are known
	scope scope
	begun bool
}

// Events begins to listen. next waits for the next events, until its context ends; it is called by one goroutine at a time.
// No events and no error: the server stops. stop must be called once.
func (c *Controller) Events(ctx context.Context, id auth.Identity) (next func(context.Context, auth.Identity) ([]want.Event, error), stop func(), err error) {
	if !id.May(auth.SeeMetadata) {
		return nil, nil, c.refuse(ctx, id, "events", "", auth.SeeMetadata)
	}
	e := &c.events
	l := &listener{ticks: make(chan *tick, listenerBuffer)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.listeners) >= listenerMax {
		return nil, nil, &fault.Error{Kind: fault.Exhausted, Msg: "too many pages listen for events", RetryAfter: 10 * time.Second}
	}
	e.listeners[l] = true
	select {
	case e.wake <- struct{}{}:
	default:
	}
	return func(ctx context.Context, id auth.Identity) ([]want.Event, error) { return c.eventsFor(ctx, id, l) },
		func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			delete(e.listeners, l)
		}, nil
}

func (c *Controller) nextEvents(ctx context.Context, id auth.Identity, l *listener) ([]want.Event, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.refuse(ctx, id, "events", "", auth.SeeMetadata)
	}
	for {
		if s := scopeOf(id); !l.begun || s != l.scope {
			l.begun, l.scope = true, s
			return c.allEvents(l)
		}
		select {
		case t := <-l.ticks:
			c.events.mu.Lock()
			late := l.late
			c.events.mu.Unlock()
			if late {
				return c.allEvents(l)
			}
			if t.seq <= l.heard {
				continue
			}
			l.heard = t.seq
			if out := t.of(l.scope); len(out) > 0 {
				return out, nil
			}
		case <-c.liveEnd:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// allEvents tells everything that is so as of the last tick.
func (c *Controller) allEvents(l *listener) ([]want.Event, error) {
	begin, err := json.Marshal(want.Begin{Time: time.Now().UTC(), Name: c.cfg.Name, Version: c.cfg.Version})
	if err != nil {
		return nil, err
	}
	e := &c.events
	e.mu.Lock()
	defer e.mu.Unlock()
	l.late, l.heard = false, e.seq
	out := []want.Event{{Name: want.EventBegin, Data: begin}}
	if e.seq == 0 { // the first tick tells it
		return out, nil
	}
	rates := want.Rates{Time: time.Now().UTC(), Rates: []want.Rate{}}
	for _, r := range e.rates {
		rates.Rates = append(rates.Rates, r)
	}
	told, err := json.Marshal(rates)
	if err != nil {
		return nil, err
	}
	changed := want.CapturesChanged{Captures: []json.RawMessage{}, Gone: []string{}}
	for _, t := range e.captures {
		if l.scope.all || t.project == l.scope.project {
			changed.Captures = append(changed.Captures, t.view)
		}
	}
	captures, err := json.Marshal(changed)
	return append(out, want.Event{Name: want.EventNodes, Data: e.nodes}, want.Event{Name: want.EventPoints, Data: e.points},
		want.Event{Name: want.EventRates, Data: told}, want.Event{Name: want.EventCaptures, Data: captures}), err
}

// of cuts a tick for those who see alike; all of them share the result.
func (t *tick) of(s scope) []want.Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	if out, ok := t.cut[s]; ok {
		return out
	}
	out := slices.Clone(t.common)
	changed := want.CapturesChanged{Captures: []json.RawMessage{}, Gone: []string{}}
	for project, views := range t.changed {
		if s.all || project == s.project {
			changed.Captures = append(changed.Captures, views...)
		}
	}
	for project, uids := range t.gone {
		if s.all || project == s.project {
			changed.Gone = append(changed.Gone, uids...)
		}
	}
	if len(changed.Captures)+len(changed.Gone) > 0 || t.seq == 1 { // that there are none is told as well
		if b, err := json.Marshal(changed); err == nil { // it is made of what was marshalled before
			out = append(out, want.Event{Name: want.EventCaptures, Data: b})
		}
	}
	t.cut[s] = out
	return out
}

// broadcast looks for changes while anybody listens, until ctx ends.
func (c *Controller) broadcast(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.events.wake:
			c.broadcastWhileHeard(ctx)
		}
	}
}

func (c *Controller) broadcastWhileHeard(ctx context.Context) {
	e := &c.events
	ctx, cancel := context.WithCancel(ctx)
	var meters sync.WaitGroup
	metered := make(map[string]bool) // by node ID; used with e.mu held
	defer func() {
		cancel()
		meters.Wait()
		e.mu.Lock()
		e.seq, e.points, e.nodes = 0, nil, nil // what was told is old by the next time
		clear(e.rates)
		clear(e.fresh)
		clear(e.captures)
		for l := range e.listeners { // one has come in the meantime
			l.late = true
			select {
			case e.wake <- struct{}{}:
			default:
			}
		}
		e.mu.Unlock()
	}()
	t := time.NewTicker(eventsEvery)
	defer t.Stop()
	var seen chan struct{}
	for {
		c.meterNodes(ctx, &meters, metered)
		seen = c.look(seen)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		e.mu.Lock()
		heard := len(e.listeners) > 0
		e.mu.Unlock()
		if !heard {
			return
		}
	}
}

// meterNodes asks each connected node for its rates that is not asked yet.
func (c *Controller) meterNodes(ctx context.Context, meters *sync.WaitGroup, metered map[string]bool) {
	e := &c.events
	c.mu.Lock()
	ask := make(map[string]string)
	for id, n := range c.nodes {
		if n.connected {
			ask[id] = n.id.NodeName
		}
	}
	c.mu.Unlock()
	for id, name := range ask {
		e.mu.Lock()
		asked := metered[id]
		metered[id] = true
		e.mu.Unlock()
		if asked {
			continue
		}
		meters.Go(func() {
			err := c.hub.Stream(ctx, nil, id, name, want.LiveSpec{Look: &want.Look{Rates: true}}, &rateLines{e: e, node: name})
			if fault.Is(err, fault.Unsupported) {
				return // and not asked again
			}
			if ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-time.After(eventsEvery):
				}
			}
			e.mu.Lock()
			delete(metered, id)
			e.mu.Unlock()
		})
	}
}

// rateLines takes in what a node tells, which comes cut anywhere.
type rateLines struct {
	e    *events
	node string
	part []byte
}

// maxRateLine bounds one line. Octets.
const maxRateLine = 8 << 20

// Write implements io.Writer.
func (r *rateLines) Write(p []byte) (int, error) {
	n := len(p)
	r.part = append(r.part, p...)
	for {
		end := bytes.IndexByte(r.part, '\n')
		if end < 0 {
			break
		}
		var rates want.Rates
		if err := json.Unmarshal(r.part[:end], &rates); err != nil {
			return 0, fault.New(fault.Internal, "node %s told its rates in a form that is not known: %v", r.node, err)
		}
		r.part = r.part[end+1:]
		r.e.mu.Lock()
		for _, rate := range rates.Rates {
			rate.Node = r.node
			r.e.fresh[ratePoint{r.node, rate.Point}] = rate
		}
		r.e.mu.Unlock()
	}
	if len(r.part) > maxRateLine {
		return 0, fault.New(fault.Internal, "node %s told its rates in too long a line", r.node)
	}
	r.part = slices.Clone(r.part)
	return n, nil
}

// look tells the listeners what is not as it was told. Between two looks with the same seen nothing but rates has changed.
func (c *Controller) look(seen chan struct{}) chan struct{} {
	c.mu.Lock()
	now := c.changed
	c.mu.Unlock()
	t := &tick{changed: make(map[string][]json.RawMessage), gone: make(map[string][]string), cut: make(map[scope][]want.Event)}
	var views map[string]*toldCapture
	var points, nodes json.RawMessage
	if now != seen {
		views = c.viewsToTell()
		c.mu.Lock()
		list := c.nodeList()
		c.mu.Unlock()
		nodes = marshal(want.NodesChanged{Nodes: list})
		points = marshal(map[string]any{"points": append([]point.Point{}, c.set().Points()...)})
	}
	e := &c.events
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seq++
	t.seq = e.seq
	if nodes != nil && !bytes.Equal(nodes, e.nodes) {
		e.nodes = nodes
		t.common = append(t.common, want.Event{Name: want.EventNodes, Data: nodes})
	}
	if points != nil && !bytes.Equal(points, e.points) {
		e.points = points
		t.common = append(t.common, want.Event{Name: want.EventPoints, Data: points})
	}
	if len(e.fresh) > 0 || e.seq == 1 {
		rates := want.Rates{Time: time.Now().UTC(), Rates: make([]want.Rate, 0, len(e.fresh))}
		for k, r := range e.fresh {
			if r == (want.Rate{Node: r.Node, Point: r.Point}) {
				delete(e.rates, k)
			} else {
				e.rates[k] = r
			}
			rates.Rates = append(rates.Rates, r)
		}
		clear(e.fresh)
		t.common = append(t.common, want.Event{Name: want.EventRates, Data: marshal(rates)})
	}
	if views != nil {
		for uid, v := range views {
			if old := e.captures[uid]; v.view != nil && (old == nil || !bytes.Equal(old.view, v.view)) {
				t.changed[v.project] = append(t.changed[v.project], v.view)
				e.captures[uid] = v
			}
		}
		for uid, old := range e.captures {
			if views[uid] == nil {
				t.gone[old.project] = append(t.gone[old.project], uid)
				delete(e.captures, uid)
			}
		}
	}
	if len(t.common)+len(t.changed)+len(t.gone) == 0 {
		return now
	}
	for l := range e.listeners {
		select {
		case l.ticks <- t:
		default:
			l.late = true
		}
	}
	return now
}

// viewsToTell are all captures; those without a view are as they were told.
func (c *Controller) viewsToTell() map[string]*toldCapture {
	c.events.mu.Lock()
	marks := make(map[string]captureMark, len(c.events.captures))
	for uid, t := range c.events.captures {
		marks[uid] = t.mark
	}
	c.events.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]*toldCapture, len(c.captures))
	for uid, e := range c.captures {
		v := c.viewLocked(e)
		t := &toldCapture{project: v.Project, mark: captureMark{e.rev, v.Status.Updated, v.Status.State, v.Status.Reason, v.Expires}}
		if old, ok := marks[uid]; !ok || old != t.mark {
			if v.Query.Points == nil {
				v.Query.Points = []string{}
			}
			t.view = marshal(v)
		}
		out[uid] = t
	}
	return out
}

// marshal encodes what is ours and always can be.
func marshal(v any) json.RawMessage {
	b, err := json.Marshal(v)
	if err != nil {
		return json.RawMessage("null")
	}
	return b
}
