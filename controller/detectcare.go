package controller

import (
	"context"
	"slices"
	"time"

	"opentap/fault"
	"opentap/store"
	"opentap/want"
)

const (
	careEvery = time.Second
	// takeOver is after how long, unchanged, an act that is being begun or ended is done again: whoever was at it is gone. It is more than
	// actPatience, by the own clock.
	takeOver = actPatience + 15*time.Second
	// actAgain is after how long an act that could not be begun is tried again, while its flow goes on: what it needs may have come.
	actAgain = 30 * time.Second
)

// care looks after events once a second, until ctx ends. All controllers do; of each change one is first.
func (c *Controller) care(ctx context.Context) {
	k := carer{c: c, away: make(map[string]time.Time), written: make(map[string]time.Time)}
	every(ctx, careEvery, func(now time.Time) {
		k.suspend()
		k.look(ctx, now)
	})
}

// carer looks after events.
type carer struct {
	c       *Controller
	away    map[string]time.Time // nodes: since when
	written map[string]time.Time // events: when their peak was
}

// chore is something to do for an event.
type chore struct {
	id string
	do func(ctx context.Context) error
}

// look does what is due now. Errors are the store's: what could not be done is due the next time.
func (k *carer) look(ctx context.Context, now time.Time) {
	c, d := k.c, k.c.detection
	d.mu.Lock()
	none := len(d.order) == 0
	d.mu.Unlock()
	if none {
		clear(k.written)
		return
	}
	c.mu.Lock()
	connected := make(map[string]bool)
	for _, n := range c.nodes {
		connected[n.id.NodeName] = n.connected
	}
	c.mu.Unlock()
	d.mu.Lock()
	if !d.known {
		d.mu.Unlock()
		return
	}
	var due []chore
	for _, id := range d.order {
		e := d.events[id]
		if e.goesOn() {
			if x := k.goingOn(e, connected, now); x != nil {
				due = append(due, chore{id, x})
			}
		}
		if x := k.act(e, now); x != nil {
			due = append(due, chore{id, x})
		}
	}
	old := d.old(now, c.cfg.EventsKept)
	for id := range k.written {
		if d.events[id] == nil {
			delete(k.written, id)
		}
	}
	d.mu.Unlock()
	for _, x := range due {
		if err := x.do(ctx); err != nil && ctx.Err() == nil && !fault.Is(err, fault.NotFound) {
			c.log.Warn("an event cannot be looked after; it is tried again", "event", x.id, "err", err)
			return
		}
	}
	for part := range slices.Chunk(old, store.MaxTxnOps) {
		ops := make([]store.Op, len(part))
		for i, id := range part {
			ops[i] = store.Delete(eventPrefix + id)
		}
		if _, err := c.store.Txn(ctx, nil, ops); err != nil && ctx.Err() == nil {
			c.log.Warn("old events cannot be deleted; it is tried again", "err", err)
			return
		}
	}
}

// goingOn is what is due for an event that goes on: its end, when its rule is gone or nobody sees it any more, or its peak. d.mu is held.
func (k *carer) goingOn(e *storedDetection, connected map[string]bool, now time.Time) func(context.Context) error {
	c, d := k.c, k.c.detection
	r := d.rules[e.Rule]
	why := ""
	switch {
	case r == nil:
		why = "the rule is gone"
	case r.Disabled:
		why = "the rule is disabled"
	case d.suspended[e.Rule] != "":
		why = "the rule is suspended: " + d.suspended[e.Rule]
	}
	if why != "" {
		return func(ctx context.Context) error { return c.finish(ctx, e.ID, why, ended(now)) }
	}
	if connected[e.Node] {
		delete(k.away, e.Node)
	} else if k.away[e.Node].IsZero() {
		k.away[e.Node] = now
	}
	flow := e.flow()
	var peak uint64
	active := false
	for node, tops := range d.tops {
		for i := range tops[e.Rule] {
			if t := &tops[e.Rule][i]; t.Active && activeKey(e.Rule, t.Keys) == flow {
				peak, active = max(peak, t.Value, t.Peak), active || node == e.Node
			}
		}
	}
	if active || d.seen[e.ID].IsZero() {
		d.seen[e.ID] = now
	}
	// A node that begins anew tells again what goes on, or it is over.
	patience := detectGrace + r.compiled.Hold + r.compiled.Window
	if now.Sub(d.seen[e.ID]) > patience || !k.away[e.Node].IsZero() && now.Sub(k.away[e.Node]) > patience {
		return func(ctx context.Context) error { return c.finish(ctx, e.ID, "", ended(now)) }
	}
	if peak > e.Peak+e.Peak/peakGrowth && now.Sub(k.written[e.ID]) >= peakEvery {
		k.written[e.ID] = now
		return func(ctx context.Context) error {
			_, _, err := c.change(ctx, e.ID, func(e *storedDetection) bool {
				if !e.goesOn() || peak <= e.Peak+e.Peak/peakGrowth {
					return false
				}
				e.Value, e.Peak = peak, peak
				return true
			})
			return err
		}
	}
	return nil
}

func ended(now time.Time) func(e *storedDetection) bool {
	return func(e *storedDetection) bool {
		e.Ended = now.UTC()
		return true
	}
}

// act is what is due for the act of an event: its end, when its time is up, or when whoever was at it is gone, what it was at. d.mu is held.
func (k *carer) act(e *storedDetection, now time.Time) func(context.Context) error {
	c, d := k.c, k.c.detection
	begun := e.Action.Capture != "" || e.Action.Tap != "" || e.Action.Policy != ""
	over := !e.goesOn() || !e.Action.Until.IsZero() && now.After(e.Action.Until)
	stuck := d.working[e.ID] == 0 && now.Sub(e.since) > takeOver
	switch {
	case e.Action.State == "running" && begun && over && d.working[e.ID] == 0:
		return func(context.Context) error { c.endAct(e); return nil }
	case e.Action.State == "running" && !begun && stuck:
		return func(context.Context) error { c.act(d.rule(e.Rule), e); return nil }
	case e.Action.State == "failed" && !begun && !over && now.Sub(e.since) > actAgain:
		if r := d.rules[e.Rule]; r != nil && acts(r.Then) && d.decide(r).State != "refused" {
			return func(ctx context.Context) error { return c.retry(ctx, r, e.ID) }
		}
	case e.Action.State == "ending" && stuck:
		return func(context.Context) error { c.stopAct(e); return nil }
	}
	return nil
}

// retry begins once more what could not be begun. Of all controllers one does it.
func (c *Controller) retry(ctx context.Context, r *storedRule, id string) error {
	e, done, err := c.change(ctx, id, func(e *storedDetection) bool {
		if e.Action.State != "failed" || !e.goesOn() {
			return false
		}
		e.Action.State, e.Action.Reason = "running", ""
		return true
	})
	if done {
		c.act(r, e)
	}
	return err
}

// old are the events that are not kept any more: those beyond the newest, and those that ended long ago. What goes on, or is not done with,
// stays. d.mu is held.
func (d *detection) old(now time.Time, kept time.Duration) (out []string) {
	for i, id := range d.order {
		e := d.events[id]
		if e.goesOn() || e.Action.State == "running" || e.Action.State == "ending" {
			continue
		}
		if len(d.order)-i > mostDetections || kept > 0 && now.Sub(e.Ended) > kept {
			out = append(out, id)
		}
	}
	return out
}

// suspend finds the rules that may not run: those of projects that have come to see some points alone.
func (k *carer) suspend() {
	c, d := k.c, k.c.detection
	blind := c.blindRules()
	d.mu.Lock()
	defer d.mu.Unlock()
	now := make(map[string]string)
	for name := range blind {
		if r := d.rules[name]; r != nil {
			now[name] = narrowed(r.Project)
		}
	}
	same := len(now) == len(d.suspended)
	for name, why := range now {
		same = same && d.suspended[name] == why
	}
	if !same {
		d.suspended = now
		d.version++
		d.tell()
	}
}

// shown is a rule as it is shown. d.mu is held.
func (d *detection) shown(r *storedRule) want.Rule {
	out := r.Rule
	out.Suspended = d.suspended[r.Name]
	return out
}
