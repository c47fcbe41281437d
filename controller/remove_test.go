package controller

import (
	"testing"
	"time"

	"opentap/fault"
	"opentap/want"
)

// Deleting a capture that is gone already must not give free its id, which another one may have by now.
func TestRemoveLeavesTheIDToItsNextOwner(t *testing.T) {
	b := newBench(t, nil)
	r := want.Request{ID: "a", Kind: want.Packets, Duration: want.Duration(time.Minute)}
	b.create(t, alice, r)
	old, err := b.find(alice, "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteCapture(t.Context(), alice, "a"); err != nil {
		t.Fatal(err)
	}
	b.create(t, alice, r)
	if _, err := b.remove(t.Context(), alice, old, "capture.delete"); !fault.Is(err, fault.NotFound) {
		t.Errorf("second removal: %v", err)
	}
	if _, err := b.store.Get(t.Context(), idKey("red", "a")); err != nil {
		t.Errorf("the id of the second capture: %v", err)
	}
}

// An agent that has lost its memory is told that a capture has ended, whatever ended it.
func TestDesiredSaysWhatHasEnded(t *testing.T) {
	b := newBench(t, nil)
	ended := time.Now().UTC()
	b.hub.state = func(c want.Capture) want.Status {
		return want.Status{UID: c.UID, State: want.Done, Reason: "its limit is reached", Started: ended, Ended: ended}
	}
	v := b.create(t, alice, want.Request{ID: "a", Kind: want.Packets})
	if err := b.await(t.Context(), func() bool { return b.captures[v.UID].Final != nil }); err != nil {
		t.Fatal(err)
	}
	d, err := b.Desired(t.Context(), "n1")
	desired := d.Captures
	if err != nil || len(desired) != 1 || !desired[0].StopAt.Equal(ended) {
		t.Errorf("desired %+v, %v", desired, err)
	}
	if v, err := b.Capture(t.Context(), alice, "a"); err != nil || !v.StopAt.IsZero() || v.Status.State != want.Done {
		t.Errorf("view %+v, %v: nobody had stopped it", v, err)
	}
}

func TestWindowsOutsideOfTime(t *testing.T) {
	b := newBench(t, nil)
	for name, r := range map[string]want.Request{
		"before packets": {Kind: want.Packets, From: time.Date(3, 1, 1, 0, 0, 0, 0, time.UTC), To: time.Now().Add(time.Hour)},
		"for ever":       {Kind: want.Packets, To: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		if _, _, err := b.CreateCapture(t.Context(), alice, r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
