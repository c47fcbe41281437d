package controller

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/want"
)

// What rules found is in the store, so that it survives this controller and is the same at each: an event by its id; for an event that goes
// on, a second key that stands for its flow, so that two controllers that are told of the same crossing make one event of it; and for
// each rule that acts a key that changes with each act it begins, so that they keep its budget together.
const (
	foundPrefix    = "detect-found/"
	eventPrefix    = foundPrefix + "event/"
	goingOnPrefix  = foundPrefix + "going-on/"
	budgetPrefix   = foundPrefix + "budget/"
	mostDetections = 2000  // that are kept
	mostHeard      = 10000 // crossings that wait to be written down

	writeAgain = 500 * time.Millisecond // after the store refused
	peakEvery  = 2 * time.Second        // of one event
	peakGrowth = 50                     // it is written again when it grew by a 50th
)

// storedDetection is an event as the store holds it. It is never changed, but replaced: what is read of one needs no lock.
type storedDetection struct {
	want.Detection
	Values []string `json:"values"` // of the rule's keys, in their order
	As     actor    `json:"as"`
	Hook   string   `json:"hook,omitempty"` // the target that is told of it
	rev    int64
	since  time.Time // when it came to be like this, as this controller saw it
}

// actor is whose name an event's acts are done in, and ended in though the rule is gone.
type actor struct {
	Owner   string `json:"owner"`
	Project string `json:"project"`
	Admin   bool   `json:"admin,omitempty"`
}

func (e *storedDetection) goesOn() bool { return e.Ended.IsZero() }

// flow is what the event's flow is known by.
func (e *storedDetection) flow() string { return activeKey(e.Rule, e.Values) }

// activeKey is what a flow that is over its threshold is known by: it is told once, whoever sees it.
func activeKey(rule string, keys []string) string { return rule + "\x00" + strings.Join(keys, "\x00") }

// goingOnKey is the store's key for a flow, whatever its keys are made of.
func goingOnKey(flow string) string {
	sum := sha256.Sum256([]byte(flow))
	return goingOnPrefix + hex.EncodeToString(sum[:16])
}

// crossing is one that a node told.
type crossing struct {
	node string
	x    want.Crossing
}

// followFound keeps what is known of events true until the store's changes are lost.
func (c *Controller) followFound(ctx context.Context) error {
	kvs, rev, err := c.store.List(ctx, foundPrefix)
	if err != nil {
		return err
	}
	d := c.detection
	d.mu.Lock()
	before := d.events
	d.events, d.active, d.order, d.budgets = make(map[string]*storedDetection), make(map[string]string), nil, make(map[string]int64)
	for _, kv := range kvs {
		c.applyFound(store.Event{KV: kv})
	}
	for id, e := range d.events {
		if was := before[id]; was != nil && was.rev == e.rev {
			e.since = was.since
		}
	}
	d.known = true
	d.tell()
	d.mu.Unlock()
	for b := range c.store.Watch(ctx, foundPrefix, rev+1) {
		if b.Err != nil {
			return b.Err
		}
		d.mu.Lock()
		for _, ev := range b.Events {
			c.applyFound(ev)
		}
		d.tell()
		d.mu.Unlock()
	}
	return ctx.Err()
}

// applyFound takes over a change of the store. d.mu is held.
func (c *Controller) applyFound(ev store.Event) {
	d := c.detection
	if name, ok := strings.CutPrefix(ev.Key, budgetPrefix); ok {
		if d.budgets[name] = ev.ModRevision; ev.Deleted {
			delete(d.budgets, name)
		}
		return
	}
	id, ok := strings.CutPrefix(ev.Key, eventPrefix)
	if !ok {
		return
	}
	if ev.Deleted {
		d.forget(id)
		return
	}
	e, err := decodeDetection(ev.KV)
	if err != nil {
		c.log.Error("the store holds an event that cannot be read; it is left alone", "key", ev.Key, "err", err)
		return
	}
	d.keep(e)
}

func decodeDetection(kv store.KV) (*storedDetection, error) {
	e := &storedDetection{rev: kv.ModRevision, since: time.Now()}
	err := json.Unmarshal(kv.Value, e)
	if err == nil && eventPrefix+e.ID != kv.Key {
		err = fmt.Errorf("it has the id %q", e.ID)
	}
	return e, err
}

// keep takes an event over, unless a newer state of it is known. d.mu is held.
func (d *detection) keep(e *storedDetection) {
	was := d.events[e.ID]
	if was != nil && was.rev >= e.rev {
		return
	}
	d.events[e.ID] = e
	if was == nil {
		i, _ := d.place(e)
		d.order = slices.Insert(d.order, i, e.ID)
	}
	switch flow := e.flow(); {
	case e.goesOn():
		d.active[flow] = e.ID
	case d.active[flow] == e.ID:
		delete(d.active, flow)
		delete(d.seen, e.ID)
	}
}

// place is where an event is among all, or belongs. d.mu is held.
func (d *detection) place(e *storedDetection) (i int, found bool) {
	return slices.BinarySearchFunc(d.order, e, func(id string, e *storedDetection) int {
		return cmp.Or(d.events[id].Began.Compare(e.Began), cmp.Compare(id, e.ID))
	})
}

// forget drops an event. d.mu is held.
func (d *detection) forget(id string) {
	e := d.events[id]
	if e == nil {
		return
	}
	if i, ok := d.place(e); ok {
		d.order = slices.Delete(d.order, i, i+1)
	}
	delete(d.events, id)
	delete(d.seen, id)
	if flow := e.flow(); d.active[flow] == id {
		delete(d.active, flow)
	}
}

// change changes an event in the store, whoever else does: fn says how, of the newest, or false. done: it is changed, and no other controller
// has changed it in this way.
func (c *Controller) change(ctx context.Context, id string, fn func(e *storedDetection) bool) (e *storedDetection, done bool, err error) {
	for {
		kv, err := c.store.Get(ctx, eventPrefix+id)
		if errors.Is(err, store.ErrNotFound) {
			return nil, false, fault.New(fault.NotFound, "there is no event %q (any more)", id)
		}
		if err != nil {
			return nil, false, storeFault(err)
		}
		if e, err = decodeDetection(kv); err != nil {
			return nil, false, fault.New(fault.Internal, "the event %q cannot be read: %v", id, err)
		}
		goesOn := e.goesOn()
		if !fn(e) {
			return e, false, nil
		}
		value, err := json.Marshal(e)
		if err != nil {
			return nil, false, err
		}
		ops := []store.Op{store.Put(kv.Key, value)}
		if goesOn && !e.goesOn() {
			ops = append(ops, store.Delete(goingOnKey(e.flow())))
		}
		e.rev, err = c.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, ops)
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return nil, false, storeFault(err)
		}
		d := c.detection
		d.mu.Lock()
		d.keep(e)
		d.tell()
		d.mu.Unlock()
		return e, true, nil
	}
}

// detected takes over what a node tells. It waits for nothing.
func (c *Controller) detected(node string, told *want.Detections) {
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	if told.Tops != nil {
		d.tops[node] = told.Tops
		if told.Counts != nil {
			d.counts[node] = *told.Counts
		}
	}
	if told.Crossing == nil {
		d.tell()
		return
	}
	if len(d.heard) >= mostHeard { // the store has not answered for long: what goes on is told again when detection begins anew
		c.log.Error("a crossing is lost: too many wait for the store", "rule", told.Crossing.Rule, "node", node)
		return
	}
	d.heard = append(d.heard, crossing{node, *told.Crossing})
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// writeDown writes what is heard into the store, in its order, until ctx ends.
func (c *Controller) writeDown(ctx context.Context) {
	d := c.detection
	for {
		d.mu.Lock()
		var next *crossing
		if len(d.heard) > 0 && d.known {
			next = &d.heard[0]
		}
		known := d.changed
		if d.known {
			known = nil
		}
		d.mu.Unlock()
		if next == nil {
			select {
			case <-ctx.Done():
				return
			case <-d.wake:
			case <-known:
			}
			continue
		}
		var err error
		if next.x.Over {
			err = c.crossedBack(ctx, next)
		} else {
			err = c.crossed(ctx, next)
		}
		if err != nil && ctx.Err() == nil {
			c.log.Warn("what a rule found cannot be written down; it is tried again", "rule", next.x.Rule, "err", err)
		}
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(writeAgain):
			}
			continue
		}
		d.mu.Lock()
		d.heard = slices.Delete(d.heard, 0, 1)
		d.mu.Unlock()
	}
}

// crossed makes an event of a flow that has come to be remarkable, unless there is one.
func (c *Controller) crossed(ctx context.Context, h *crossing) error {
	d := c.detection
	for {
		d.mu.Lock()
		r, e := d.draft(h)
		changed := d.changed
		var compares []store.Compare
		if e != nil {
			compares = []store.Compare{store.Absent(goingOnKey(e.flow())), {Key: detectPrefix + r.Name, ModRevision: r.rev}}
			if acts(r.Then) {
				compares = append(compares, store.Compare{Key: budgetPrefix + r.Name, ModRevision: d.budgets[r.Name]})
			}
		}
		d.mu.Unlock()
		if e == nil || acts(r.Then) && c.ofCopies(ctx, r.compiled.Keys, h.x.Keys) {
			return nil
		}
		value, err := json.Marshal(e)
		if err != nil {
			return err
		}
		ops := []store.Op{store.Put(eventPrefix+e.ID, value), store.Put(goingOnKey(e.flow()), []byte(e.ID))}
		if acts(r.Then) {
			ops = append(ops, store.Put(budgetPrefix+r.Name, []byte(e.ID)))
		}
		e.rev, err = c.store.Txn(ctx, compares, ops)
		if errors.Is(err, store.ErrConflict) { // another controller was first, or the rule has changed: soon that is known here
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-changed:
			case <-time.After(writeAgain):
			}
			continue
		}
		if err != nil {
			return storeFault(err)
		}
		d.mu.Lock()
		d.keep(e)
		if acts(r.Then) {
			d.budgets[r.Name] = max(d.budgets[r.Name], e.rev)
		}
		d.tell()
		d.mu.Unlock()
		c.tellHook(e)
		if e.Action.State == "running" {
			c.act(r, e)
		}
		return nil
	}
}

// draft is the event that a crossing makes; nil = none: the rule is not there (any more), the flow is told already, or it cools down. d.mu
// is held.
func (d *detection) draft(h *crossing) (*storedRule, *storedDetection) {
	r := d.rules[h.x.Rule]
	if r == nil || len(h.x.Keys) != len(r.compiled.Keys) || r.Disabled || d.suspended[r.Name] != "" {
		return nil, nil
	}
	flow := activeKey(r.Name, h.x.Keys)
	if d.active[flow] != "" {
		return nil, nil
	}
	for _, id := range slices.Backward(d.order) { // told late by another's stream, or by a node that has forgotten
		if was := d.events[id]; was.flow() == flow {
			if h.x.At.Before(was.Ended.Add(r.compiled.CoolDown)) {
				return nil, nil
			}
			break
		}
	}
	e := &storedDetection{
		Detection: want.Detection{
			ID: newDetectionID(h.x.At), Rule: r.Name, Project: r.Project, Node: h.node, Agent: h.x.Agent, Source: h.x.Source, Keys: make(map[string]string, len(h.x.Keys)),
			Unit: r.compiled.Unit(), Value: h.x.Value, Peak: h.x.Peak, Threshold: r.compiled.Above, Samples: h.x.Samples, Began: h.x.At,
		},
		Values: h.x.Keys, As: actor{Owner: r.Owner, Project: r.Project, Admin: r.Admin}, since: time.Now(),
	}
	for i, name := range r.compiled.Keys {
		e.Keys[name] = h.x.Keys[i]
	}
	if r.Then != nil {
		e.Hook = r.Then.Webhook
	}
	e.Action = d.decide(r)
	return r, e
}

// crossedBack ends the event of a flow that is remarkable no more, if who tells it is who told of the flow.
func (c *Controller) crossedBack(ctx context.Context, h *crossing) error {
	d := c.detection
	d.mu.Lock()
	id := d.active[activeKey(h.x.Rule, h.x.Keys)]
	d.mu.Unlock()
	if id == "" {
		return nil
	}
	err := c.finish(ctx, id, "", func(e *storedDetection) bool {
		if e.Node != h.node || e.Source != h.x.Source && e.Agent == h.x.Agent {
			return false
		}
		e.Value, e.Peak, e.Samples, e.Ended = h.x.Value, max(e.Peak, h.x.Peak), h.x.Samples, h.x.At
		return true
	})
	if fault.Is(err, fault.NotFound) {
		return nil
	}
	return err
}

// finish ends an event as fn says, and what was done for it; why is told where that was not begun.
func (c *Controller) finish(ctx context.Context, id, why string, fn func(e *storedDetection) bool) error {
	e, done, err := c.change(ctx, id, func(e *storedDetection) bool {
		if !e.goesOn() || !fn(e) {
			return false
		}
		if e.Action.State == "pending" {
			e.Action.State, e.Action.Reason = "refused", cmp.Or(why, "it was over before anybody agreed")
		} else if why != "" && e.Action.Reason == "" {
			e.Action.Reason = why
		}
		return true
	})
	if err != nil || !done {
		return err
	}
	c.tellHook(e)
	c.endAct(e)
	return nil
}

// newDetectionID makes identifiers that sort by time.
func newDetectionID(at time.Time) string {
	var b [4]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return at.UTC().Format("20060102T150405.000") + "-" + hex.EncodeToString(b[:])
}

// Detections lists what rules found, the newest first.
func (c *Controller) Detections(ctx context.Context, id auth.Identity, rule string, active bool) ([]want.Detection, error) {
	if err := c.mayDetect(ctx, id, "detect.event.list", rule, auth.ReadPayload); err != nil {
		return nil, err
	}
	d := c.detection
	if err := d.await(ctx, func(d *detection) bool { return d.known }); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.list(id, rule, active), nil
}

// list is what somebody may see. d.mu is held.
func (d *detection) list(id auth.Identity, rule string, active bool) []want.Detection {
	out := []want.Detection{}
	for _, name := range slices.Backward(d.order) {
		e := d.events[name]
		if ruleVisible(id, e.Project) && (rule == "" || e.Rule == rule) && (!active || e.goesOn()) {
			out = append(out, e.Detection)
		}
	}
	return out
}

// FollowDetections returns what changes: each call of next waits for detections that are not as they were told before; at first
// all are told. None and no error: the server stops.
func (c *Controller) FollowDetections(ctx context.Context, id auth.Identity, rule string) (next func(context.Context, auth.Identity) ([]want.Detection, error), err error) {
	if err := c.mayDetect(ctx, id, "detect.event.follow", rule, auth.ReadPayload); err != nil {
		return nil, err
	}
	told := make(map[string]want.Detection)
	return func(ctx context.Context, id auth.Identity) ([]want.Detection, error) {
		if !id.May(auth.ReadPayload) {
			return nil, c.refuse(ctx, id, "detect.event.follow", rule, auth.ReadPayload)
		}
		if err := c.mayWatch(ctx, id, "detect.event.follow", rule); err != nil {
			return nil, err
		}
		d := c.detection
		for {
			d.mu.Lock()
			var fresh []want.Detection
			known := make(map[string]bool)
			for _, e := range slices.Backward(d.list(id, rule, false)) {
				known[e.ID] = true
				if was, ok := told[e.ID]; !ok || was.Action != e.Action || !was.Ended.Equal(e.Ended) || was.Peak != e.Peak {
					told[e.ID] = e
					fresh = append(fresh, e)
				}
			}
			changed := d.changed
			d.mu.Unlock()
			maps.DeleteFunc(told, func(k string, _ want.Detection) bool { return !known[k] })
			if len(fresh) > 0 {
				return fresh, nil
			}
			select {
			case <-changed:
			case <-c.liveEnd:
				return nil, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}, nil
}
