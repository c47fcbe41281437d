package agent

import (
	"time"

	"opentap/tap"
)

// TapStates implements agentapi.Local. No driver is there yet: what is wished for fails, and says so.
func (a *Agent) TapStates() []tap.Status {
	set, err := a.keep.taps()
	if err != nil {
		a.log.Error("cannot read the tap set", "err", err)
	}
	now := time.Now()
	out := []tap.Status{}
	fail := func(id string) {
		out = append(out, tap.Status{ID: id, State: tap.Failed, Reason: "this agent has no driver for taps", Updated: now})
	}
	for _, s := range set.Sources {
		fail(s.ID)
	}
	for _, s := range set.Sinks {
		fail(s.ID)
	}
	return out
}
