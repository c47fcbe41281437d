package controller

import (
	"context"
	"log/slog"
	"net/netip"
	"testing"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

func TestTokensLiveAndDie(t *testing.T) {
	b := newBench(t, nil)
	keys, err := auth.New(b.store, auth.Config{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- keys.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	<-keys.Ready()
	b.SetKeys(keys)
	peer := netip.MustParseAddrPort("192.0.2.1:1")

	if _, err := b.CreateToken(ctx, alice, want.TokenRequest{Name: "x", Role: "admin"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("an owner made a token: %v", err)
	}
	tok, err := b.CreateToken(ctx, root, want.TokenRequest{Name: "ci", Role: "viewer", Project: "red", Life: want.Duration(time.Hour)})
	if err != nil || tok.Token == "" || tok.Expires.IsZero() {
		t.Fatalf("%+v, %v", tok, err)
	}
	who, err := keys.Authenticate(ctx, tok.Token, peer)
	if err != nil || who.Project != "red" || who.Rights != auth.SeeMetadata {
		t.Errorf("%+v, %v", who, err)
	}
	list, err := b.Tokens(ctx, root)
	if err != nil || len(list) != 1 || list[0].Token != "" {
		t.Errorf("%+v, %v: a list shows no secret", list, err)
	}
	if _, err := b.RevokeToken(ctx, root, "ci"); err != nil {
		t.Fatal(err)
	}
	if _, err := keys.Authenticate(ctx, tok.Token, peer); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a revoked token was taken: %v", err)
	}
	if got := b.trail.actions(); got != "token.create:denied token.create:allowed token.revoke:allowed" {
		t.Errorf("audit = %s", got)
	}
}
