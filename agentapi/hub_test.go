package agentapi

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"opentap/agentapi/agentpb"
)

// A session whose sender has gone takes nothing from its queue; that a snapshot comes late must not keep it from ending.
func TestASessionThatEndsWaitsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		h := NewHub(newFleet(), slog.New(slog.DiscardHandler))
		s := &session{out: make(chan *agentpb.HubMessage), over: ctx.Done(), done: make(chan struct{}), opening: map[uint64]chan *agentpb.Opened{}}
		ended := false
		go func() {
			late := &agentpb.AgentMessage{Kind: &agentpb.AgentMessage_Opened{Opened: &agentpb.Opened{Request: 7}}}
			if err := h.receive(s, late); err != nil {
				t.Error(err)
			}
			ended = true
		}()
		synctest.Wait()
		if ended {
			t.Fatal("nobody has taken the release")
		}
		cancel()
		synctest.Wait()
		if !ended {
			t.Fatal("it waits for its own end")
		}
	})
}
