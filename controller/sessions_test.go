package controller

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"testing"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

func TestSessionsAreWrittenDown(t *testing.T) {
	b := newBench(t, nil)
	peer := netip.MustParseAddrPort("192.0.2.1:1")
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := b.OpenSession(ctx, want.SessionRequest{Token: "x"}, peer); !fault.Is(err, fault.Unsupported) {
		t.Errorf("without keys: %v", err)
	}
	keys, err := auth.New(b.store, auth.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- keys.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-keys.Ready()
	b.SetKeys(keys)
	tok, err := b.CreateToken(ctx, root, want.TokenRequest{Name: "ann", Role: "viewer"})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range []want.SessionRequest{{}, {Token: tok.Token, Code: "oc_x"}} {
		if _, err := b.OpenSession(ctx, r, peer); !fault.Is(err, fault.Invalid) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if _, err := b.OpenSession(ctx, want.SessionRequest{Token: "wrong"}, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a wrong token: %v", err)
	}
	s, err := b.OpenSession(ctx, want.SessionRequest{Token: tok.Token}, peer)
	if err != nil || s.Holder.Name != "ann" {
		t.Fatalf("%+v, %v", s, err)
	}
	code, err := b.SessionCode(ctx, s.Holder, s.Text, peer)
	if err != nil {
		t.Fatal(err)
	}
	other, err := b.OpenSession(ctx, want.SessionRequest{Code: code.Code}, peer)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.CloseSession(ctx, s.Text); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.UseSession(ctx, s.Text, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("closed: %v", err)
	}
	if _, err := keys.UseSession(ctx, other.Text, peer); err != nil {
		t.Errorf("another session: %v", err)
	}
	if got := b.trail.actions(); got != "token.create:allowed session.open:allowed session.code:allowed session.open:allowed" {
		t.Errorf("audit = %s", got)
	}
	b.trail.err = errors.New("no space left on device")
	if _, err := b.OpenSession(ctx, want.SessionRequest{Token: tok.Token}, peer); !fault.Is(err, fault.Unavailable) {
		t.Errorf("an entry could not be written: %v", err)
	}
}
