package agentapi

import (
	"log/slog"
	"testing"

	"opentap/tap"
)

// A node that begins one session after the other, and ends none, takes no place from others.
func TestOneNodeTakesOnePlaceAmongThoseThatBegin(t *testing.T) {
	h := NewHub(newFleet(), slog.New(slog.DiscardHandler))
	done, later, err := h.turn(t.Context(), "greedy")
	if err != nil || later != 0 {
		t.Fatal(later, err)
	}
	for range 3 * beginners {
		if _, later, err := h.turn(t.Context(), "greedy"); err != nil || later < onceMore {
			t.Fatalf("again: %s, %v", later, err)
		}
	}
	other, later, err := h.turn(t.Context(), "other")
	if err != nil || later != 0 {
		t.Errorf("another one: %s, %v", later, err)
	}
	other()
	done()
	done()
	if len(h.begin) != 0 || len(h.beginners) != 0 {
		t.Errorf("%d places, %d nodes", len(h.begin), len(h.beginners))
	}
	done, later, err = h.turn(t.Context(), "greedy")
	if err != nil || later != 0 {
		t.Errorf("once it is over: %s, %v", later, err)
	}
	done()
}

// What a session said is not told of the one after it.
func TestANewSessionHasSaidNothing(t *testing.T) {
	b := NewBoard(newFleet(), slog.New(slog.DiscardHandler))
	b.SetHub(NewHub(b, slog.New(slog.DiscardHandler)))
	b.Joined(Identity{NodeID: "n", NodeName: "host", Session: 1})
	b.here("n", func(p *place) { p.taps, p.revision = []tap.Status{{ID: "f", State: tap.Active}}, 7 })
	b.Joined(Identity{NodeID: "n", NodeName: "host", Session: 2})
	events, err := b.events("n", &dirt{all: true})
	if err != nil || len(events) != 1 {
		t.Fatal(events, err)
	}
	if events[0].TapStates != nil || events[0].Actual != nil {
		t.Errorf("told: %v", events[0])
	}
}
