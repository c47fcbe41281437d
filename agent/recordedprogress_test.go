package agent

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"opentap/capture"
	"opentap/filter"
	"opentap/internal/await"
	"opentap/ledger"
	"opentap/want"
)

// A window that is still open shows what is in it so far, with a filter too, and what the recorder gave up meanwhile.
func TestNetnsRecordedShowsItsProgress(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	h := newHost(t, func(c *Config) {
		c.Recorders = []Recorder{{Point: "lo", Filter: fmt.Sprintf("udp port %d", port), Bytes: 64 << 20}}
	})
	h.start()
	recorded := func(ok func(*ledger.Account) bool) func() bool {
		return func() bool { st := h.recorderState("lo").Status; return st.State != want.Scheduled && ok(&st.Ledger) }
	}
	await.Until(t, "the recorder runs", recorded(func(*ledger.Account) bool { return true }))
	from := time.Now().UTC()
	out.send(30)
	await.Until(t, "it is recorded", recorded(func(a *ledger.Account) bool { return a.Captured == 30 }))

	some, none, first := asked(1, want.Packets, port), asked(2, want.Packets, port), asked(3, want.Packets, port)
	for _, c := range []*want.Capture{&some, &none, &first} {
		c.Recorded, c.Query.From = true, from
	}
	none.Query.Filter = "tcp"
	first.Query.Limits = filter.Limits{Packets: 40}
	h.obey(1, some, none, first)
	await.Until(t, "the past is counted", func() bool { return h.state(some.UID).Ledger.Captured == 30 })
	if st := h.state(some.UID).State; st != want.Running {
		t.Errorf("it is %s, and should still run", st)
	}
	await.Until(t, "what the filter leaves out is counted", func() bool {
		a := h.state(none.UID).Ledger
		return a.Filtered >= 30 && a.Captured == 0 && a.Check() == nil
	})

	h.engine.Restrain(capture.Restraint{OneIn: 4})
	reason := "the governor holds this host's budget"
	h.governed.Store(&governed{2, reason})
	out.send(80)
	await.Until(t, "a quarter is recorded", recorded(func(a *ledger.Account) bool { return a.Captured == 50 && a.SampledOut == 60 }))
	await.Until(t, "the capture says so while it runs", func() bool {
		st := h.state(some.UID)
		return st.State == want.Degraded && strings.Contains(st.Reason, reason) && st.Ledger.Captured == 50 && st.Ledger.SampledOut == 60
	})
	if st := h.awaitState(first.UID, want.Done); st.Ledger.Captured != 40 || !strings.HasPrefix(st.Reason, recordedEnough) {
		t.Errorf("with a limit of 40 packets: %+v", st)
	}
	some.StopAt, none.StopAt = time.Now().UTC(), time.Now().UTC()
	h.obey(2, some, none, first)
	st := h.awaitState(some.UID, want.Stopped)
	if err := st.Ledger.Check(); err != nil || st.Ledger.Captured != 50 || st.Ledger.SampledOut != 60 {
		t.Errorf("in the end %+v, %v", st.Ledger, err)
	}
}
