package agent

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"opentap/capture"
	"opentap/want"
)

// slowRing is an attachment that opens when its channel is closed.
type slowRing chan struct{}

func (s slowRing) Open() <-chan struct{}          { return s }
func (s slowRing) Done() <-chan struct{}          { return nil }
func (s slowRing) Progress() capture.Progress     { return capture.Progress{} }
func (s slowRing) Detach(_ context.Context) error { return nil }

// What comes while a slow ring is opened, of a capture that is said to run, is in a gap.
func TestASlowOpeningIsAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		if late := awaitOpen(make(slowRing)); late.Sub(begun) < openPatience {
			t.Errorf("one that does not open is late since %v", late)
		}
		open := make(slowRing)
		close(open)
		if late := awaitOpen(open); !late.IsZero() {
			t.Errorf("one that is open is late since %v", late)
		}
	})
	late := time.Unix(1000, 0)
	st := &want.Status{State: want.Running}
	mergeGaps(st, lateGap("eth0", late, &capture.Progress{}))
	if st.State != want.Degraded || len(st.Gaps) != 1 || !st.Gaps[0].To.IsZero() {
		t.Errorf("while it opens: %+v", st)
	}
	mergeGaps(st, lateGap("eth0", late, &capture.Progress{Began: late.Add(time.Second)}))
	if st.State != want.Running || len(st.Gaps) != 1 || st.Gaps[0].To.Sub(st.Gaps[0].From) != time.Second {
		t.Errorf("once it is open: %+v", st)
	}
	if g := lateGap("eth0", time.Time{}, &capture.Progress{}); g != nil {
		t.Errorf("it opened in time: %+v", g)
	}
}
