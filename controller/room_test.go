package controller

import (
	"testing"

	"opentap/fault"
	"opentap/want"
)

func TestNothingNewIsTakenWhileTheDiskIsFull(t *testing.T) {
	b := newBench(t, nil)
	b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	b.SetFull("the disk of /var/lib/opentap is full")
	if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: want.Packets}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("create: %v", err)
	}
	if _, err := b.CreateToken(t.Context(), root, want.TokenRequest{Name: "x", Role: "viewer"}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("token: %v", err)
	}
	if err := b.DeleteCapture(t.Context(), alice, "c"); err != nil {
		t.Errorf("deleting makes room: %v", err)
	}
	b.SetFull("")
	b.create(t, alice, want.Request{Kind: want.Packets})
}
