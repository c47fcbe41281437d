package agent

import (
	"context"
	"errors"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/fault"
	"opentap/internal/await"
	"opentap/want"
)

// puppet is a taker that does what the test says.
type puppet struct {
	over    chan struct{}
	entered chan struct{} // a token each time look or end is called
	hold    chan struct{} // not nil: look and end wait for it to be closed
	failed  error         // of begin
	state   want.State
	reason  string
	resumed atomic.Bool
	stops   atomic.Int32
}

func newPuppet() *puppet {
	return &puppet{over: make(chan struct{}), entered: make(chan struct{}, 1000), state: want.Done}
}

func (p *puppet) begin(_ *memo, resumed bool) error { p.resumed.Store(resumed); return p.failed }
func (p *puppet) done() <-chan struct{}             { return p.over }
func (p *puppet) look(*memo)                        { p.wait() }
func (p *puppet) stop(context.Context)              { p.stops.Add(1); close(p.over) }
func (p *puppet) end(m *memo) (want.State, string) {
	p.wait()
	m.Status.Bytes = 42
	return p.state, p.reason
}

func (p *puppet) open(context.Context, want.Status, want.OpenOptions) (*want.Retrieval, error) {
	return &want.Retrieval{}, nil
}

func (p *puppet) wait() {
	select {
	case p.entered <- struct{}{}:
	default:
	}
	if p.hold != nil {
		<-p.hold
	}
}

// play runs one capture with a puppet on an agent that is not running.
func play(t *testing.T, c want.Capture, p *puppet) (*host, *job, context.CancelFunc) {
	t.Helper()
	h := newHost(t, nil)
	h.obey(1, c)
	j := h.jobs[c.UID]
	j.taker = p
	ctx, cancel := context.WithCancel(context.Background())
	go func() { defer close(j.done); j.run(ctx) }()
	t.Cleanup(func() { cancel(); <-j.done })
	return h, j, cancel
}

func TestJobEnds(t *testing.T) {
	past := time.Now().UTC().Add(-time.Minute)
	for name, tt := range map[string]struct {
		change func(*want.Capture, *puppet)
		after  func(*job, *puppet)
		state  want.State
		stops  int32
	}{
		"by itself":        {after: func(_ *job, p *puppet) { close(p.over) }, state: want.Done},
		"badly":            {change: func(_ *want.Capture, p *puppet) { p.state, p.reason = want.Failed, "broken" }, after: func(_ *job, p *puppet) { close(p.over) }, state: want.Failed},
		"when stopped":     {after: func(j *job, _ *puppet) { c := j.get(); c.StopAt = time.Now().Add(time.Hour); j.respec(c) }, state: want.Stopped, stops: 1},
		"when full":        {after: func(j *job, _ *puppet) { j.halt("no room") }, state: want.Failed, stops: 1},
		"cannot begin":     {change: func(_ *want.Capture, p *puppet) { p.failed = errors.New("no such thing") }, state: want.Failed},
		"too late":         {change: func(c *want.Capture, _ *puppet) { c.Query.From, c.Query.To = past, past.Add(time.Second) }, state: want.Failed},
		"stopped too late": {change: func(c *want.Capture, _ *puppet) { c.Query.From, c.StopAt = past, past }, state: want.Stopped},
		"stopped before":   {change: func(c *want.Capture, _ *puppet) { c.Query.From = time.Now().Add(time.Hour); c.StopAt = time.Now() }, state: want.Stopped},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, p := asked(1, want.Packets, 1), newPuppet()
			if tt.change != nil {
				tt.change(&c, p)
			}
			h, j, _ := play(t, c, p)
			if tt.after != nil {
				h.awaitState(c.UID, want.Running)
				tt.after(j, p)
			}
			<-j.done
			st := h.state(c.UID)
			if st.State != tt.state || st.Ended.IsZero() || p.stops.Load() != tt.stops {
				t.Errorf("%+v, %d stops", st, p.stops.Load())
			}
			if st.Reason == "" && st.State != want.Done {
				t.Error("no reason is given")
			}
			_, _, done, err := h.keep.load()
			if err != nil || done[c.UID] == nil || done[c.UID].Status.State != tt.state {
				t.Errorf("kept: %+v, %v", done[c.UID], err)
			}
			if h.status(c.UID).State != tt.state {
				t.Error("not reported")
			}
		})
	}
}

// The agent's end is not the capture's, and the next run knows that there was one before.
func TestJobOutlivesTheAgent(t *testing.T) {
	c, p := asked(1, want.Packets, 1), newPuppet()
	h, j, cancel := play(t, c, p)
	h.awaitState(c.UID, want.Running)
	cancel()
	<-j.done
	if st := h.state(c.UID); st.State != want.Running || p.stops.Load() != 1 || st.Bytes != 42 {
		t.Fatalf("%+v", st)
	}
	h.end()
	h.make()
	j, again := h.jobs[c.UID], newPuppet()
	j.taker = again
	if _, err := h.Open(t.Context(), c.UID, want.OpenOptions{}); !fault.Is(err, fault.NotReady) {
		t.Errorf("open before it is resumed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { defer close(j.done); j.run(ctx) }()
	await.Until(t, "it is resumed", again.resumed.Load)
	await.Until(t, "it can be opened", func() bool { _, err := h.Open(t.Context(), c.UID, want.OpenOptions{}); return err == nil })
	if st := h.state(c.UID); len(st.Gaps) != 1 {
		t.Errorf("gaps %v, want one", st.Gaps)
	}
	cancel()
	<-j.done
}

// A taker that waits for its disk holds up nobody else.
func TestSlowTakerHoldsNobody(t *testing.T) {
	c, p := asked(1, want.Packets, 1), newPuppet()
	p.hold = make(chan struct{})
	h, _, _ := play(t, c, p)
	<-p.entered
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Actual()
		h.obey(2, c)
		h.guardDisk()
		if _, err := h.Open(t.Context(), c.UID, want.OpenOptions{}); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Error("the agent waits for a taker")
	}
	close(p.hold)
	<-done
}

func TestObeyRefusesStrangeUIDs(t *testing.T) {
	h := newHost(t, nil)
	c := asked(1, want.Packets, 1)
	c.UID = "../../../../etc/passwd"
	if err := h.Obey(agentapi.Desired{Revision: 1, Captures: []want.Capture{c}}); err == nil {
		t.Error("taken")
	}
	if rev, all := h.Actual(); rev != 0 || len(all) != 0 {
		t.Errorf("revision %d, %v", rev, all)
	}
}

// What belongs to no capture goes at the next start, and what is not ours stays.
func TestStartRemovesOrphans(t *testing.T) {
	h := newHost(t, nil)
	h.end()
	for _, name := range []string{uidOf(77), "lost+found"} {
		if err := os.MkdirAll(h.cfg.CaptureDir+"/"+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	h.make()
	if _, err := os.Stat(h.cfg.CaptureDir + "/" + uidOf(77)); !errors.Is(err, os.ErrNotExist) {
		t.Error("the orphan is still there:", err)
	}
	if _, err := os.Stat(h.cfg.CaptureDir + "/lost+found"); err != nil {
		t.Error(err)
	}
}
