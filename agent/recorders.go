package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"sort"
	"time"

	"opentap/want"
)

// wished is a recorder of the API as the agent keeps it on disk.
type wished struct {
	want.Recorder
	// Retired says that it is no longer wished for, and that captures still need some of its data.
	Retired bool `json:"retired,omitempty"`
}

func (w *wished) config() Recorder {
	return Recorder{Point: w.Point, Filter: w.Filter, Snap: w.Snap, Bytes: w.Bytes, Age: time.Duration(w.Age), Compress: w.Compress == want.Zstd, Fanout: w.Fanout}
}

// recorder returns the recording of a point; nil = there is none.
func (a *Agent) recorder(point string) *recording { return a.allRecorders()[point] }

// allRecorders returns the recordings by point. The map never changes: another takes its place.
func (a *Agent) allRecorders() map[string]*recording { return *a.recorders.Load() }

// loadRecorders makes the recordings that the configuration and the disk know of.
func (a *Agent) loadRecorders() error {
	all := make(map[string]*recording)
	for _, r := range a.cfg.Recorders {
		all[r.Point] = newRecording(a, r)
	}
	kept, err := a.keep.recorders()
	if err != nil {
		return err
	}
	for _, w := range kept {
		if all[w.Point] == nil {
			all[w.Point] = wishedRecording(a, w)
		}
	}
	a.recorders.Store(&all)
	return nil
}

func wishedRecording(a *Agent, w wished) *recording {
	r := newRecording(a, w.config())
	r.wish = &w
	return r
}

// obeyRecorders makes the recordings of the API those of the list. a.mu is held.
func (a *Agent) obeyRecorders(list []want.Recorder) {
	all := maps.Clone(a.allRecorders())
	wanted := make(map[string]bool, len(list))
	for _, w := range list {
		wanted[w.Point] = true
		old := all[w.Point]
		switch {
		case old == nil:
			all[w.Point] = wishedRecording(a, wished{Recorder: w})
			a.startRecording(all[w.Point], nil)
		case old.wish == nil: // the configuration's
		case !old.wish.Retired && old.wish.config() == (&wished{Recorder: w}).config():
		default:
			r := wishedRecording(a, wished{Recorder: w})
			r.inherit(old)
			all[w.Point] = r
			a.startRecording(r, old)
		}
	}
	for point, r := range all {
		if r.wish == nil || r.wish.Retired || wanted[point] {
			continue
		}
		w := *r.wish
		w.Retired = true
		gone := wishedRecording(a, w)
		gone.inherit(r)
		all[point] = gone
		a.startRecording(gone, r)
	}
	a.recorders.Store(&all)
}

// startRecording has a recording run, after the one whose place it takes has ended. A retired one does not run. a.mu is held.
func (a *Agent) startRecording(r, after *recording) {
	if after != nil {
		after.cancel()
	}
	if a.ctx == nil { // Run starts it
		return
	}
	ctx, cancel := context.WithCancel(a.ctx)
	r.cancel = cancel
	a.running.Go(func() {
		defer cancel()
		defer close(r.done)
		if after != nil {
			<-after.done
		}
		if r.wish == nil || !r.wish.Retired {
			r.run(ctx)
		}
	})
}

// inherit takes over what captures need of the recording whose place r takes.
func (r *recording) inherit(old *recording) {
	r.pins = old.pins
	old.mu.Lock()
	r.held = old.held
	old.mu.Unlock()
}

// bury removes the data of retired recordings that no capture needs any more.
func (a *Agent) bury() {
	for point, r := range a.allRecorders() {
		if r.wish == nil || !r.wish.Retired {
			continue
		}
		select {
		case <-r.done:
		default:
			continue // the one before it still writes
		}
		a.mu.Lock()
		r.pins.mu.Lock()
		needed := len(r.pins.by) > 0
		r.pins.mu.Unlock()
		if needed || a.recorder(point) != r {
			a.mu.Unlock()
			continue
		}
		err := os.RemoveAll(r.dir)
		if err == nil {
			err = a.keep.forgetRecorder(point)
		}
		if err == nil {
			all := maps.Clone(a.allRecorders())
			delete(all, point)
			a.recorders.Store(&all)
		}
		a.mu.Unlock()
		text := ""
		if err != nil {
			text = fmt.Sprintf("the data of the recorder that was at %s cannot be removed: %v", point, err)
		}
		r.trouble(text)
	}
}

// status says how a recording fares.
func (r *recording) status() want.RecorderStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	st := want.RecorderStatus{State: want.Scheduled, Reason: "it has not begun", Bytes: r.held}
	switch s := r.s; {
	case s != nil:
		pr := s.att.Progress()
		st.State, st.Reason, st.Since = want.Running, "", r.began
		st.Ledger = s.base
		st.Ledger.Add(&pr.Account)
		st.Gaps = gapsOf(pr.Gaps, r.cfg.Point)
		for _, g := range st.Gaps {
			if g.To.IsZero() {
				st.State, st.Reason = want.Degraded, g.Reason
			}
		}
		for _, reason := range []string{r.a.restraint(), r.hungry} {
			if reason != "" && st.State == want.Running {
				st.State, st.Reason = want.Degraded, reason
			}
		}
	case r.problem != "":
		st.State, st.Reason = want.Failed, r.problem
	}
	return st
}

// recorderViews lists the recordings for the inventory. a.mu is held.
func (a *Agent) recorderViews() []want.RecorderView {
	var out []want.RecorderView
	for point, r := range a.allRecorders() {
		v := want.RecorderView{
			Origin: want.FromConfiguration, Status: r.status(),
			Recorder: want.Recorder{Point: point, Node: a.cfg.NodeName, Filter: r.cfg.Filter, Snap: r.cfg.Snap, Bytes: r.cfg.Bytes, Age: want.Duration(r.cfg.Age), Fanout: r.cfg.Fanout},
		}
		if r.cfg.Compress {
			v.Compress = want.Zstd
		}
		if r.wish != nil {
			if r.wish.Retired {
				continue
			}
			v.Origin, v.Owner, v.Changed = want.FromAPI, r.wish.Owner, r.wish.Changed
		}
		v.Status.ReadBy = a.readBy[point]
		out = append(out, v)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Point < out[j].Point })
	return out
}

// checkRecorders refuses a list that could not be obeyed.
func checkRecorders(list []want.Recorder) error {
	seen := make(map[string]bool)
	for i := range list {
		c := (&wished{Recorder: list[i]}).config()
		err := c.check()
		switch {
		case c.Point == "" || seen[c.Point]:
			err = errors.New("its point is missing or has another recorder")
		case c.Bytes <= 0:
			err = errors.New("it has no budget")
		}
		if err != nil {
			return fmt.Errorf("recorder %d of %q: %w", i, c.Point, err)
		}
		seen[c.Point] = true
	}
	return nil
}
