package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
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
	// the capture had begun before and was cut off; what is known of it is in m. After an error nothing is held or running.
	begin(m *memo, resumed bool) error
	// done is closed when no more data will come.
	done() <-chan struct{}
	// look brings the memo up to date: accounts, records, gaps.
	look(m *memo)
	// stop ends the taking now; done is closed soon after, or when ctx ends.
	stop(ctx context.Context)
	// end closes the files after done, and says why it ended: the state, and a reason unless it is plain.
	end(m *memo) (want.State, string)
	// open is called after begin and before the directory goes.
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
	hunger hunger             // the goroutine's

	taker taker

	mu      sync.Mutex // never held while the taker or the disk is at work
	spec    want.Capture
	memo    memo   // changed by set alone
	ready   bool   // begin is over: the taker can be opened
	full    string // why recording must stop now; "" = it need not
	unsaved bool   // the memo is newer than what is on disk
	dropped bool   // no longer wanted: its data is about to go
}

func newJob(a *Agent, c want.Capture, m *memo) *job {
	j := &job{
		a: a, uid: c.UID, dir: filepath.Join(a.cfg.CaptureDir, c.UID), spec: c,
		log: a.log.With("capture", c.ID, "uid", c.UID), done: make(chan struct{}), kick: make(chan struct{}, 1),
	}
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
	case j.spec.Stored:
		return newStored(j)
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

// set changes the status, reports it if it has changed, and with durable keeps it on disk first. Only the job's goroutine calls it, and
// after that has ended whoever waited for it: so change works on a copy, and may take its time.
func (j *job) set(durable bool, change func(m *memo)) {
	j.mu.Lock()
	m := j.memo.clone()
	j.mu.Unlock()
	was := m.clone()
	change(&m)
	m.Status.UID = j.uid
	changed := !reflect.DeepEqual(was, m)
	if changed {
		m.Status.Updated = time.Now().UTC()
	}
	j.mu.Lock()
	j.memo = m.clone()
	dropped := j.dropped
	durable = durable && (changed || j.unsaved)
	j.unsaved = (changed || j.unsaved) && !durable
	j.mu.Unlock()
	if dropped || !changed && !durable {
		return
	}
	if durable {
		problem := ""
		if err := j.a.keep.remember(j.uid, &m); err != nil {
			j.log.Error("cannot keep the state of a capture on disk", "err", err)
			problem = "the agent's state cannot be written: " + err.Error()
		}
		j.a.trouble("state", problem)
	}
	j.a.link.StatusChanged(m.Status)
}

const (
	lookEvery     = 250 * time.Millisecond // how often a running capture's numbers are brought up to date
	rememberEvery = 2 * time.Second        // how often they are kept on disk: what a crash can make us forget of them
	stopPatience  = 10 * time.Second       // how long the end of a capture may take
	clockSteps    = 5 * time.Second        // how often the wall clock is looked at anew while waiting for a time: it may be set
)

// run is the capture's life. It returns when ctx ends or when nothing is left to do.
func (j *job) run(ctx context.Context) {
	st := j.snapshot()
	if st.State.Final() {
		return
	}
	known := !st.Started.IsZero()
	if !known && !j.wait(ctx) {
		return
	}
	if ctx.Err() != nil {
		return
	}
	_, err := os.Stat(j.dir)
	resumed := known || err == nil // a crash may have come between the first packet and its being known
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		j.finish(want.Failed, "its directory cannot be made: "+err.Error())
		return
	}
	j.set(true, func(m *memo) {
		c := j.get()
		since := m.Status.Updated
		if err = j.taker.begin(m, resumed); err != nil {
			return
		}
		if known { // until now, when packets are taken again
			if alive := j.a.keep.alive; alive.After(since) {
				since = alive // nothing had changed in between
			}
			m.Status.Gaps = appendGap(m.Status.Gaps, since, time.Now().UTC(), c.End())
		}
		j.mu.Lock()
		j.ready = true // before it is told that it runs
		j.mu.Unlock()
		m.Status.State, m.Status.Reason = want.Running, ""
		if m.Status.Started.IsZero() {
			m.Status.Started = time.Now().UTC()
			from := c.Query.From
			if from.After(m.Status.Started) {
				m.Status.Started = from
			} else if from.After(c.Created.Add(capture.Lead)) && m.Status.Started.After(from) { // there had been time
				m.Status.Gaps = append(m.Status.Gaps, want.Gap{From: from, To: m.Status.Started, Reason: "the capture began late"})
			}
		}
	})
	if err != nil {
		j.finish(want.Failed, err.Error())
		return
	}
	j.tend(ctx)
}

// appendGap adds the gap of a time in which opentapd did not run, as far as it is inside the window; a zero end is none.
func appendGap(gaps []want.Gap, from, to, end time.Time) []want.Gap {
	if !end.IsZero() && to.After(end) {
		to = end
	}
	if !to.After(from) {
		return gaps
	}
	return append(gaps, want.Gap{From: from, To: to, Reason: "opentapd was not running"})
}

// wait sleeps until just before the window begins. false: the capture has ended before it began, or ctx has.
func (j *job) wait(ctx context.Context) bool {
	for {
		c := j.get()
		now := time.Now()
		if !c.StopAt.IsZero() && !c.Past() {
			j.finish(want.Stopped, "stopped before it began")
			return false
		}
		if end := c.Query.To; !end.IsZero() && !now.Before(end) && !c.Past() {
			j.finish(want.Failed, "its window passed while opentapd was not running")
			return false
		}
		begin := c.Query.From.Add(-capture.Lead)
		if !now.Before(begin) {
			return true
		}
		if reason := "begins at " + c.Query.From.Format(time.RFC3339); j.snapshot().Reason != reason {
			j.set(false, func(m *memo) { m.Status.Reason = reason })
		}
		select {
		case <-ctx.Done():
			return false
		case <-j.kick:
		case <-time.After(min(begin.Sub(now), clockSteps)):
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
		case <-ctx.Done():
		case <-j.taker.done():
		case <-j.kick:
		case <-look.C:
		}
		c := j.get()
		j.mu.Lock()
		full := j.full
		j.mu.Unlock()
		switch {
		case j.over(): // first of all: what has ended by itself is not cut off by what comes at the same moment
			j.close(c, "")
			return
		case ctx.Err() != nil: // we are asked to go, not the capture: it resumes at the next start
			j.stop(ctx)
			j.set(true, func(m *memo) { j.taker.look(m); j.taker.end(m) })
			return
		case !c.StopAt.IsZero() || full != "":
			j.stop(ctx)
			j.close(c, full)
			return
		}
		durable := time.Since(kept) >= rememberEvery
		if durable {
			kept = time.Now()
		}
		j.set(durable, func(m *memo) {
			j.taker.look(m)
			j.worry(&m.Status)
		})
	}
}

// over reports whether the taker has ended by itself.
func (j *job) over() bool {
	select {
	case <-j.taker.done():
		return true
	default:
		return false
	}
}

// stop ends the taker, also when ctx has ended.
func (j *job) stop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopPatience)
	defer cancel()
	j.taker.stop(ctx)
}

// close ends a capture whose taker is over; full says why it had to be, "" = it had not.
func (j *job) close(c want.Capture, full string) {
	var state want.State
	var reason string
	j.set(false, func(m *memo) { j.taker.look(m); state, reason = j.taker.end(m) })
	switch {
	case state == want.Failed && full == "":
	case full != "":
		state, reason = want.Failed, full
	case !c.StopAt.IsZero() && reason == "" && (c.Query.To.IsZero() || c.StopAt.Before(c.Query.To)):
		state, reason = want.Stopped, "stopped on request"
	}
	if t, ok := j.taker.(interface{ kept() string }); ok && t.kept() != "" && state != want.Failed {
		if reason != "" {
			reason += "; "
		}
		reason += t.kept()
	}
	j.finish(state, reason)
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

// expire removes the data when its retention has passed. The capture itself stays until it is no longer desired.
func (j *job) expire(now time.Time) error {
	select {
	case <-j.done: // run is over, so that set is ours
	default:
		return nil
	}
	j.mu.Lock()
	st, retain, expired, dropped := j.memo.Status, time.Duration(j.spec.Retain), j.memo.Expired, j.dropped
	j.mu.Unlock()
	if dropped || !st.State.Final() || st.Ended.IsZero() || now.Before(st.Ended.Add(retain)) {
		return nil
	}
	if !expired {
		j.log.Info("removing expired data", "ended", st.Ended, "retain", retain)
		j.release()
		j.set(true, func(m *memo) { m.Expired, m.Status.Bytes = true, 0 })
	} else if _, err := os.Stat(j.dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return os.RemoveAll(j.dir)
}

// release gives up what the taker holds outside the capture's directory.
func (j *job) release() {
	if t, ok := j.taker.(interface{ forget() }); ok {
		t.forget()
	}
}

func (j *job) open(ctx context.Context, o want.OpenOptions) (*want.Retrieval, error) {
	st, err := j.readable()
	if err != nil {
		return nil, err
	}
	r, err := j.taker.open(ctx, st, o)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &fault.Error{Kind: fault.NotFound, Msg: "the capture's data is not there (any more)", Err: err}
	}
	return r, err
}

// readable returns the status of a capture whose data can be read, or says why it cannot.
func (j *job) readable() (want.Status, error) {
	st := j.snapshot()
	j.mu.Lock()
	ready, expired, begins := j.ready, j.memo.Expired, j.spec.Query.From.UTC()
	j.mu.Unlock()
	switch {
	case expired:
		return st, fault.New(fault.NotFound, "the capture's data was removed when its retention had passed")
	case st.State == want.Scheduled:
		return st, &fault.Error{Kind: fault.NotReady, Msg: "the capture has not begun", Hint: "it begins at " + begins.Format(time.RFC3339), RetryAfter: time.Second}
	case !ready && !st.State.Final():
		return st, &fault.Error{Kind: fault.NotReady, Msg: "the capture is being resumed", RetryAfter: time.Second}
	case st.Started.IsZero():
		return st, fault.New(fault.NotFound, "the capture holds no data: %s", st.Reason)
	}
	return st, nil
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

func (r refused) begin(*memo, bool) error        { return r.err }
func (r refused) done() <-chan struct{}          { return nil }
func (r refused) look(*memo)                     {}
func (r refused) stop(context.Context)           {}
func (r refused) end(*memo) (want.State, string) { return want.Failed, r.err.Error() }
func (r refused) open(context.Context, want.Status, want.OpenOptions) (*want.Retrieval, error) {
	return nil, r.err
}
