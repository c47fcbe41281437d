// Package reconcile makes a node's tap set real, and keeps it so.
//
// It tries until what is agrees with what is wished for: devices come and go, kernels refuse, time runs out. It says of each
// source and sink how it fares, and of the times in which packets were missed.
//
// Runs in: agent
package reconcile

import (
	"cmp"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"opentap/tap"
)

// Place is where a device is now. Another Place means that the taps there must be looked at again.
type Place struct {
	Name  string
	Index int // 0 = the driver knows
	MTU   int
}

// Config says what a Reconciler works with.
type Config struct {
	Drivers []tap.Driver // asked in order who takes a device
	// Find says where a device is; false if it is not there. It is called from Run's goroutine.
	Find func(tap.Device) (Place, bool)
	// Changed is called, from Run's goroutine, when a state has changed, and at most each second when only counters have.
	Changed func()
	// Keep is called, from Run's goroutine, when a state has changed, with what a later New is to know.
	Keep  func([]Memo)
	Known []Memo       // what Keep was given last, by the process before
	Alive time.Time    // when the process before was last known to be alive; zero = there was none
	Log   *slog.Logger // nil discards
}

// Memo is what is remembered of a source or sink beyond this process.
type Memo struct {
	Status tap.Status `json:"status"`
	Base   tap.Counts `json:"base"` // of its counters what the driver no longer has
}

// Times.
const (
	countEvery  = time.Second
	verifyEvery = 10 * time.Second // how often all is looked at though nothing was heard: routes change silently
	firstRetry  = 100 * time.Millisecond
	mostRetry   = 30 * time.Second
	maxGaps     = 32 // of one tap that are remembered, the newest
)

// Reconciler is safe for concurrent use.
type Reconciler struct {
	cfg  Config
	log  *slog.Logger
	wake chan struct{}

	mu    sync.Mutex
	set   *tap.Set          // wished for, and not taken by Run yet; nil = none
	fresh bool              // devices have changed
	taps  map[string]*entry // changed by Run's goroutine alone
}

// entry is what is known of one source or sink. Run's goroutine alone changes it, its status with mu held.
type entry struct {
	status  tap.Status
	base    tap.Counts  // of a time for which the driver has no counters any more
	source  *tap.Source // one of both is set
	sink    *tap.Sink
	driver  tap.Driver // that has it; nil = none
	done    *applied   // nil = not real, or not known to be
	again   time.Time  // not tried before; zero = at once
	retry   time.Duration
	checked time.Time // when it was last made sure of
}

// applied is what was wished for when it was made real. Equal means that nothing is to be done.
type applied struct {
	source   tap.Source
	sink     tap.Sink
	at, dest Place
}

// equal is asked for each tap whenever anything changes, so it looks closely at sinks only, which are few.
func (a *applied) equal(b *applied) bool {
	return a.source == b.source && a.at == b.at && a.dest == b.dest && (a.sink.ID == "" && b.sink.ID == "" || reflect.DeepEqual(a.sink, b.sink))
}

// New makes a Reconciler of a first set. It touches nothing until Run.
func New(cfg Config, set tap.Set) *Reconciler {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Reconciler{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), taps: make(map[string]*entry)}
	now := time.Now().UTC()
	for _, m := range cfg.Known {
		e := &entry{status: m.Status, base: m.Base}
		if s := e.status.State; s != tap.Active && s != tap.Expired { // what was in the way may not be now
			e.status.State, e.status.Reason, e.status.Since = tap.Pending, "not tried yet", now
		}
		r.taps[m.Status.ID] = e
	}
	r.take(&set, now)
	return r
}

// Set replaces what is wished for. It never blocks for long.
func (r *Reconciler) Set(set tap.Set) {
	r.mu.Lock()
	r.set = &set
	r.mu.Unlock()
	r.poke()
}

// Poke has everything looked at soon, because devices have changed. It never blocks.
func (r *Reconciler) Poke() {
	r.mu.Lock()
	r.fresh = true
	r.mu.Unlock()
	r.poke()
}

func (r *Reconciler) poke() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// take makes the entries those of a set. r.mu is held, or r not shared yet.
func (r *Reconciler) take(set *tap.Set, now time.Time) {
	taps := make(map[string]*entry, len(set.Sources)+len(set.Sinks))
	put := func(id string) *entry {
		e := r.taps[id]
		if e == nil {
			e = &entry{status: untried(id, now)}
		}
		e.again, e.retry, e.source, e.sink = time.Time{}, 0, nil, nil
		taps[id] = e
		return e
	}
	for _, s := range set.Sources {
		put(s.ID).source = &s
	}
	for _, s := range set.Sinks {
		put(s.ID).sink = &s
	}
	r.taps = taps
}

func untried(id string, now time.Time) tap.Status {
	return tap.Status{ID: id, State: tap.Pending, Reason: "not tried yet", Since: now, Updated: now}
}

// Statuses returns the state of each source and sink that is wished for, in the order of their IDs.
func (r *Reconciler) Statuses() []tap.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]tap.Status, 0, len(r.taps))
	add := func(id string) {
		s := untried(id, time.Now().UTC())
		if e := r.taps[id]; e != nil {
			s = e.status
			s.Gaps = slices.Clone(s.Gaps)
		}
		out = append(out, s)
	}
	if r.set != nil {
		for i := range r.set.Sources {
			add(r.set.Sources[i].ID)
		}
		for i := range r.set.Sinks {
			add(r.set.Sinks[i].ID)
		}
	} else {
		for id := range r.taps {
			add(id)
		}
	}
	slices.SortFunc(out, func(a, b tap.Status) int { return cmp.Compare(a.ID, b.ID) })
	return out
}

// memos is what a later process is to know.
func (r *Reconciler) memos() []Memo {
	out := make([]Memo, 0, len(r.taps))
	for _, e := range r.taps {
		out = append(out, Memo{Status: e.status, Base: e.base})
	}
	slices.SortFunc(out, func(a, b Memo) int { return cmp.Compare(a.Status.ID, b.Status.ID) })
	return out
}
