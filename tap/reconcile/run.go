package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"opentap/tap"
)

// Run works until ctx ends. What is real then stays so: it is for the next process to find.
func (r *Reconciler) Run(ctx context.Context) {
	counting := time.NewTicker(countEvery)
	defer counting.Stop()
	r.adopt()
	var verified time.Time
	for {
		now := time.Now().UTC()
		r.mu.Lock()
		fresh, replaced := r.fresh, r.set != nil
		if replaced {
			r.take(r.set, now)
		}
		r.fresh, r.set = false, nil
		r.mu.Unlock()
		verify := now.Sub(verified) >= verifyEvery
		if verify {
			verified = now
		}
		if replaced || verify {
			r.prune(ctx, now)
		}
		if r.pass(ctx, now, fresh || replaced, verify) || replaced {
			r.tell()
		}
		timer := time.NewTimer(max(time.Until(r.next(verified.Add(verifyEvery))), time.Millisecond))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-r.wake:
		case <-timer.C:
		case <-counting.C:
			if r.count(time.Now().UTC()) {
				r.cfg.Changed()
			}
		}
		timer.Stop()
	}
}

// Stander is what a driver may be beside a tap.Driver: it tells whether what it made still copies.
type Stander interface {
	Stands(id string) bool
}

func stands(d tap.Driver, id string) bool {
	s, ok := d.(Stander)
	return !ok || s.Stands(id)
}

// lastSure is when a tap was last known to copy.
func (r *Reconciler) lastSure(e *entry) time.Time {
	if e.checked.IsZero() {
		return r.cfg.Alive
	}
	return e.checked
}

// since has the gap that is open begin earlier than it was found, but in no other gap.
func (r *Reconciler) since(e *entry, t time.Time) {
	n := len(e.status.Gaps)
	if n == 0 || t.IsZero() || !e.status.Gaps[n-1].To.IsZero() || !t.Before(e.status.Gaps[n-1].From) {
		return
	}
	if n > 1 && t.Before(e.status.Gaps[n-2].To) {
		t = e.status.Gaps[n-2].To
	}
	r.mu.Lock()
	e.status.Gaps[n-1].From = t
	r.mu.Unlock()
}

// adopt finds out which taps of a former process still run. Of those that do not nothing was copied since it was last alive.
func (r *Reconciler) adopt() {
	for id, e := range r.taps {
		if e.status.State != tap.Active {
			continue
		}
		for _, d := range r.cfg.Drivers {
			if _, err := d.Counts(id); err == nil {
				e.driver = d
			}
		}
		if e.driver == nil {
			e.base = e.status.Counts
			r.mu.Lock()
			e.turn(tap.Pending, "the agent was not running, and the tap did not outlive it", time.Now().UTC())
			r.mu.Unlock()
			r.since(e, r.cfg.Alive)
		}
	}
}

// tell keeps and reports what has changed.
func (r *Reconciler) tell() {
	r.count(time.Now().UTC())
	if r.cfg.Keep != nil {
		r.cfg.Keep(r.memos())
	}
	r.cfg.Changed()
}

// next is when something is to be done though nobody says so.
func (r *Reconciler) next(at time.Time) time.Time {
	now := time.Now()
	for _, e := range r.taps {
		if !e.again.IsZero() && e.again.Before(at) {
			at = e.again
		}
		if x := e.expires(); x.After(now) && x.Before(at) {
			at = x
		}
	}
	return at
}

func (e *entry) expires() time.Time {
	if e.source != nil {
		return e.source.Options.Expires
	}
	return e.sink.Expires
}

// pass does what is to be done now. It reports whether a state has changed.
func (r *Reconciler) pass(ctx context.Context, now time.Time, all, verify bool) (changed bool) {
	order := slices.Collect(maps.Values(r.taps))
	// Sinks first, since they may make the device that a source sends to; then what matters most.
	slices.SortFunc(order, func(a, b *entry) int {
		if (a.sink != nil) != (b.sink != nil) {
			if a.sink != nil {
				return -1
			}
			return 1
		}
		if a.source != nil && a.source.Options.Priority != b.source.Options.Priority {
			return b.source.Options.Priority - a.source.Options.Priority
		}
		return cmp.Compare(a.status.ID, b.status.ID)
	})
	for _, e := range order {
		if ctx.Err() != nil {
			return changed
		}
		before := e.status
		switch {
		case !e.expires().IsZero() && !now.Before(e.expires()):
			r.expire(ctx, e, now)
		case all || verify || e.done == nil && !now.Before(e.again):
			r.apply(ctx, e, now, verify)
		}
		b, a := before, e.status
		changed = changed || b.State != a.State || b.Reason != a.Reason || b.Note != a.Note || b.Device != a.Device || b.Driver != a.Driver
	}
	return changed
}

// prune has the drivers take away what nobody wishes for.
func (r *Reconciler) prune(ctx context.Context, now time.Time) {
	keep := func(id string) bool {
		e := r.taps[id]
		return e != nil && (e.expires().IsZero() || now.Before(e.expires()))
	}
	for _, d := range r.cfg.Drivers {
		removed, err := d.Prune(ctx, keep)
		if len(removed) > 0 {
			r.log.Info("taps that nobody wishes for any more are away", "driver", d.Name(), "ids", removed)
		}
		if err != nil {
			r.log.Error("taps that nobody wishes for cannot be removed now; it is tried again", "driver", d.Name(), "err", err)
		}
	}
}

// expire takes away what has had its time.
func (r *Reconciler) expire(ctx context.Context, e *entry, now time.Time) {
	if e.status.State == tap.Expired {
		return
	}
	if !r.drop(ctx, e, now) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.again = time.Time{}
	e.status.State, e.status.Reason, e.status.Since, e.status.Updated = tap.Expired, "its time is over", now, now
	e.closeGap(e.expires())
}

// apply makes one source or sink real.
func (r *Reconciler) apply(ctx context.Context, e *entry, now time.Time, verify bool) {
	wish, missing := r.resolve(e)
	if missing != "" {
		r.drop(ctx, e, now)
		r.fail(e, tap.Pending, "waits for "+missing, now)
		return
	}
	same := e.done != nil && e.done.equal(&wish)
	if same && !verify {
		return
	}
	d, err := r.taker(e, wish)
	if err != nil {
		r.drop(ctx, e, now)
		r.fail(e, tap.Failed, err.Error(), now)
		return
	}
	if e.driver != nil && e.driver != d && !r.drop(ctx, e, now) {
		return
	}
	if e.driver == d && e.status.State == tap.Active && !stands(d, e.status.ID) {
		r.mu.Lock()
		e.turn(tap.Pending, "what was at the device is gone", now)
		r.mu.Unlock()
		r.since(e, r.lastSure(e))
	}
	e.driver = d
	var note string
	if e.source != nil {
		note, err = d.UpdateSource(ctx, wish.source)
	} else {
		note, err = d.UpdateSink(ctx, wish.sink)
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		// What was wished for before must not go on: it may be somebody else's by now.
		if (same || r.drop(ctx, e, now)) && errors.Is(err, tap.ErrNoDevice) {
			r.fail(e, tap.Pending, "waits: "+err.Error(), now)
		} else {
			r.fail(e, tap.Failed, err.Error(), now)
		}
		return
	}
	// The time it took is part of the gap.
	now = time.Now().UTC()
	r.mu.Lock()
	defer r.mu.Unlock()
	e.done, e.again, e.retry, e.checked = &wish, time.Time{}, 0, now
	e.status.Driver, e.status.Device, e.status.Note = d.Name(), wish.at.Name, note
	if e.status.State != tap.Active {
		e.status.State, e.status.Reason, e.status.Since, e.status.Updated = tap.Active, "", now, now
	}
	e.closeGap(now)
}

// resolve finds the devices that are meant. missing says which is not there.
func (r *Reconciler) resolve(e *entry) (w applied, missing string) {
	var ok bool
	if e.sink != nil {
		w.sink = *e.sink
		w.at, ok = r.cfg.Find(e.sink.Device)
		if !ok && !e.sink.Make {
			return w, "the device " + called(e.sink.Device)
		}
		if ok {
			w.sink.Device.Name = w.at.Name
		} else {
			w.at.Name = e.sink.Device.Name
		}
		return w, ""
	}
	w.source = *e.source
	if w.at, ok = r.cfg.Find(e.source.Device); !ok {
		return w, "the device " + called(e.source.Device)
	}
	w.source.Device.Name = w.at.Name
	if to := e.source.To.Device; to != (tap.Device{}) {
		if w.dest, ok = r.cfg.Find(to); !ok {
			return w, "the destination " + called(to)
		}
		w.source.To.Device.Name = w.dest.Name
	}
	return w, ""
}

// called names a device for people.
func called(d tap.Device) string {
	var parts []string
	for _, s := range []string{d.Name, d.MAC, d.IfaceID} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, ", ")
}

// taker is the driver that takes a device. A device to be made is the first one's that can.
func (r *Reconciler) taker(e *entry, w applied) (tap.Driver, error) {
	if len(r.cfg.Drivers) == 0 {
		return nil, errors.New("no driver for taps works on this node")
	}
	dev := w.source.Device
	if e.sink != nil {
		dev = w.sink.Device
	}
	var why []error
	for _, d := range r.cfg.Drivers {
		err := d.Takes(dev)
		if err == nil || e.sink != nil && e.sink.Make && errors.Is(err, tap.ErrNoDevice) {
			return d, nil
		}
		why = append(why, fmt.Errorf("%s: %w", d.Name(), err))
	}
	return nil, errors.Join(why...)
}

// drop takes away what is real of it, and keeps its counters. It reports whether that was possible.
func (r *Reconciler) drop(ctx context.Context, e *entry, now time.Time) bool {
	e.done = nil
	if e.driver == nil {
		return true
	}
	r.countOne(e, now)
	if err := e.driver.Delete(ctx, e.status.ID); err != nil {
		r.fail(e, tap.Failed, fmt.Sprintf("it cannot be taken away: %v", err), now)
		return false
	}
	e.base, e.driver = e.status.Counts, nil
	return true
}

// fail says that it is not real now, and when it is tried again.
func (r *Reconciler) fail(e *entry, s tap.State, reason string, now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.done = nil
	e.retry = min(max(2*e.retry, firstRetry), mostRetry)
	e.again = now.Add(e.retry)
	if e.status.State != s || e.status.Reason != reason {
		e.turn(s, reason, now)
		r.log.Warn("a tap is not what it should be", "id", e.status.ID, "state", s, "reason", reason)
	}
}

// turn changes the state to one that is not Active. Leaving that one begins a gap.
func (e *entry) turn(s tap.State, reason string, now time.Time) {
	if e.status.State == tap.Active {
		e.status.Gaps = append(e.status.Gaps, tap.Gap{From: now, Reason: reason})
		if n := len(e.status.Gaps); n > maxGaps {
			e.status.Gaps = slices.Delete(e.status.Gaps, 0, n-maxGaps)
		}
	}
	if e.status.State != s {
		e.status.Since = now
	}
	e.status.State, e.status.Reason, e.status.Updated = s, reason, now
}

// closeGap ends a gap that is open.
func (e *entry) closeGap(now time.Time) {
	if n := len(e.status.Gaps); n > 0 && e.status.Gaps[n-1].To.IsZero() {
		e.status.Gaps[n-1].To = now
	}
}

// count reads all counters. It reports whether one has changed.
func (r *Reconciler) count(now time.Time) (changed bool) {
	for _, e := range r.taps {
		if e.driver != nil && r.countOne(e, now) {
			changed = true
		}
	}
	return changed
}

func (r *Reconciler) countOne(e *entry, now time.Time) bool {
	c, err := e.driver.Counts(e.status.ID)
	if err != nil {
		return false
	}
	c.Add(&e.base)
	if reflect.DeepEqual(c, e.status.Counts) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	e.status.Counts, e.status.Updated = c, now
	return true
}
