package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"opentap/capture"
	"opentap/fault"
	"opentap/want"
)

// taker takes the data of one capture. Its methods are called from the job's goroutine, but for open, which may be called
// from anywhere at any time.
type taker interface {
	// begin starts taking into the capture's directory, after whatever an earlier begin left there. resumed says that
	// the capture had begun before and was cut off; what is known of it is in the status given.
	begin(st *want.Status, resumed bool) error
	// done is closed when no more data will come.
	done() <-chan struct{}
	// look brings the status up to date: accounts, records, gaps.
	look(st *want.Status)
	// stop ends the taking now; done is closed soon after, or when ctx ends.
	stop(ctx context.Context)
	// end closes the files after done, and says why it ended: the state, and a reason unless it is plain.
	end(st *want.Status) (want.State, string)
	open(ctx context.Context, st want.Status, o want.OpenOptions) (*want.Retrieval, error)
}

// job is one capture on this host.
type job struct {
	a      *Agent
	uid    string
	dir    string
	log    *slog.Logger
	cancel context.CancelFunc // set when it is started
	done   chan struct{}      // closed when run has returned
	kick   chan struct{}      // the spec has changed

	mu      sync.Mutex
	spec    want.Capture
	memo    memo
	taker   taker
	full    string // why recording must stop now; "" = it need not
	dropped bool   // no longer wanted: its data is about to go
}

func newJob(a *Agent, c want.Capture, m *memo) *job {
	j := &job{a: a, uid: c.UID, dir: filepath.Join(a.cfg.CaptureDir, c.UID), spec: c,
		log: a.log.With("capture", c.ID, "uid", c.UID), done: make(chan struct{}), kick: make(chan struct{}, 1)}
	if m != nil {
		j.memo = *m
	} else {
		j.memo.Status = want.Status{UID: c.UID, State: want.Scheduled, Updated: time.Now().UTC()}
	}
	j.taker = newTaker(j)
	return j
}

// newTaker chooses by kind. The spec's kind and points never change.
func newTaker(j *job) taker {
	switch {
	case j.spec.Recorded:
		return newRecorded(j)
	case j.spec.Kind == want.Packets:
		return newPackets(j)
	case j.spec.Kind == want.Flows:
		return newFlows(j)
	case j.spec.Kind == want.Counters:
		return newCounters(j)
	case j.spec.Kind == want.Sensor:
		return newSamples(j)
	}
	return refused{fault.New(fault.Unsupported, "this agent cannot capture %q", j.spec.Kind)}
}

func (j *job) poke() {
	select {
	case j.kick <- struct{}{}:
	default:
	}
}

func (j *job) respec(c want.Capture) {
	j.mu.Lock()
	j.spec = c
	j.mu.Unlock()
	j.poke()
}

// halt has the capture end because there is no room for more.
func (j *job) halt(reason string) {
	j.mu.Lock()
	j.full = reason
	j.mu.Unlock()
	j.poke()
}

// forget ends the job; its data is about to be removed.
func (j *job) forget() {
	j.mu.Lock()
	j.dropped = true
	cancel := j.cancel
	j.mu.Unlock()
	if cancel != nil {
		cancel()
	}
}

func (j *job) snapshot() want.Status {
	j.mu.Lock()
	defer j.mu.Unlock()
	st := j.memo.Status
	st.Gaps = append([]want.Gap(nil), st.Gaps...)
	return st
}

func (j *job) get() want.Capture {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.spec
}

// set changes the status, reports it, and with durable keeps it on disk first.
func (j *job) set(durable bool, change func(m *memo)) {
	j.mu.Lock()
	change(&j.memo)
	j.memo.Status.UID = j.uid
	j.memo.Status.Updated = time.Now().UTC()
	m := j.memo
	m.Status.Gaps = append([]want.Gap(nil), m.Status.Gaps...)
	dropped := j.dropped
	j.mu.Unlock()
	if dropped {
		return
	}
	if durable {
		if err := j.a.keep.remember(j.uid, &m); err != nil {
			j.log.Error("cannot keep the state of a capture on disk", "err", err)
			j.a.trouble("state", "the agent's state cannot be written: "+err.Error())
		}
	}
	j.a.link.StatusChanged(m.Status)
}

const (
	lookEvery     = 250 * time.Millisecond // how often a running capture's numbers are brought up to date
	rememberEvery = 2 * time.Second        // how often they are kept on disk: what a crash can make us forget of them
	stopPatience  = 10 * time.Second       // how long the end of a capture may take
)

// run is the capture's life. It returns when ctx ends or when nothing is left to do.
func (j *job) run(ctx context.Context) {
	st := j.snapshot()
	if st.State.Final() {
		return
	}
	resumed := !st.Started.IsZero()
	if !resumed && !j.wait(ctx) {
		return
	}
	if ctx.Err() != nil {
		return
	}
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		j.finish(want.Failed, "its directory cannot be made: "+err.Error())
		return
	}
	if resumed {
		j.set(false, func(m *memo) {
			m.Status.Gaps = append(m.Status.Gaps, want.Gap{From: m.Status.Updated, To: time.Now().UTC(), Reason: "opentapd was not running"})
		})
	}
	begun := j.snapshot()
	if err := j.taker.begin(&begun, resumed); err != nil {
		j.finish(want.Failed, err.Error())
		return
	}
	j.set(true, func(m *memo) {
		m.Status = begun
		m.Status.State, m.Status.Reason = want.Running, ""
		if m.Status.Started.IsZero() {
			m.Status.Started = time.Now().UTC()
			if from := j.spec.Query.From; from.After(m.Status.Started) {
				m.Status.Started = from
			}
		}
	})
	j.tend(ctx)
}

// wait sleeps until just before the window begins. false: the capture has ended before it began, or ctx has.
func (j *job) wait(ctx context.Context) bool {
	for {
		c := j.get()
		now := time.Now()
		if end := c.End(); !end.IsZero() && !now.Before(end) && !c.Recorded {
			if !c.StopAt.IsZero() {
				j.finish(want.Stopped, "stopped before it began")
			} else {
				j.finish(want.Failed, "its window passed while opentapd was not running")
			}
			return false
		}
		begin := c.Query.From.Add(-capture.Lead)
		if !now.Before(begin) {
			return true
		}
		j.set(false, func(m *memo) { m.Status.Reason = "begins at " + c.Query.From.Format(time.RFC3339) })
		select {
		case <-ctx.Done():
			return false
		case <-j.kick:
		case <-time.After(min(begin.Sub(now), time.Hour)): // the clock may be set meanwhile
		}
	}
}

// tend looks after a capture that takes data.
func (j *job) tend(ctx context.Context) {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	kept := time.Now()
	for {
		select {
		case <-ctx.Done(): // we are asked to go, not the capture: it resumes at the next start
			stopped, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
			j.taker.stop(stopped)
			cancel()
			j.set(true, func(m *memo) { j.taker.look(&m.Status); j.taker.end(&m.Status) })
			return
		case <-j.taker.done():
			var state want.State
			var reason string
			j.set(false, func(m *memo) { j.taker.look(&m.Status); state, reason = j.taker.end(&m.Status) })
			j.finish(state, reason)
			return
		case <-j.kick:
		case <-look.C:
		}
		c := j.get()
		j.mu.Lock()
		full := j.full
		j.mu.Unlock()
		if asked := !c.StopAt.IsZero() && !time.Now().Before(c.StopAt); asked || full != "" {
			stopped, cancel := context.WithTimeout(ctx, stopPatience)
			j.taker.stop(stopped)
			cancel()
			state, reason := want.Stopped, "stopped on request"
			j.set(false, func(m *memo) {
				j.taker.look(&m.Status)
				if s, r := j.taker.end(&m.Status); s == want.Failed {
					state, reason = s, r
				}
			})
			if full != "" {
				state, reason = want.Failed, full
			}
			j.finish(state, reason)
			return
		}
		durable := time.Since(kept) >= rememberEvery
		if durable {
			kept = time.Now()
		}
		j.set(durable, func(m *memo) { j.taker.look(&m.Status) })
	}
}

// finish writes the capture's last word.
func (j *job) finish(state want.State, reason string) {
	j.set(true, func(m *memo) {
		m.Status.State, m.Status.Reason = state, reason
		m.Status.Ended = time.Now().UTC()
		for i := range m.Status.Gaps {
			if m.Status.Gaps[i].To.IsZero() {
				m.Status.Gaps[i].To = m.Status.Ended
			}
		}
	})
	st := j.snapshot()
	j.log.Info("capture ended", "state", st.State, "reason", st.Reason, "seen", st.Ledger.Seen, "captured", st.Ledger.Captured,
		"dropped", st.Ledger.DroppedTotal(), "records", st.Records)
}

func (j *job) open(ctx context.Context, o want.OpenOptions) (*want.Retrieval, error) {
	st := j.snapshot()
	if st.State == want.Scheduled {
		return nil, &fault.Error{Kind: fault.NotReady, Msg: "the capture has not begun", RetryAfter: time.Second}
	}
	if st.Started.IsZero() {
		return nil, fault.New(fault.NotFound, "the capture holds no data: %s", st.Reason)
	}
	r, err := j.taker.open(ctx, st, o)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &fault.Error{Kind: fault.NotFound, Msg: "the capture's data is not there (any more)", Err: err}
	}
	return r, err
}

// gapsOf turns the engine's gaps into the status's.
func gapsOf(gaps []capture.Gap, point string) []want.Gap {
	out := make([]want.Gap, len(gaps))
	for i, g := range gaps {
		out[i] = want.Gap{From: g.From, To: g.To, Reason: point + ": " + g.Reason}
	}
	return out
}

// refused is the taker of a capture that cannot be.
type refused struct{ err error }

func (r refused) begin(*want.Status, bool) error        { return r.err }
func (r refused) done() <-chan struct{}                 { return nil }
func (r refused) look(*want.Status)                     {}
func (r refused) stop(context.Context)                  {}
func (r refused) end(*want.Status) (want.State, string) { return want.Failed, r.err.Error() }
func (r refused) open(context.Context, want.Status, want.OpenOptions) (*want.Retrieval, error) {
	return nil, r.err
}
