package doortest

import (
	"context"
	"net/netip"

	"opentap/auth"
	"opentap/fault"
)

// Providers implements the doors' Controller.
func (c *Controller) Providers() []string { return []string{"idp"} }

// StartSignIn implements the doors' Controller.
func (c *Controller) StartSignIn(_ context.Context, provider, redirect, _ string) (to, kept string, err error) {
	if provider != "" && provider != "idp" {
		return "", "", fault.Field("provider", "%q is none", provider)
	}
	return "https://idp.example/authorize?redirect_uri=" + redirect, "kept", nil
}

// FinishSignIn implements the doors' Controller.
func (c *Controller) FinishSignIn(_ context.Context, kept, state, code string, _ netip.AddrPort) (auth.Session, error) {
	if kept != "kept" || state != "state" || code != "code" {
		return auth.Session{}, fault.New(fault.Unauthenticated, "this sign-in was not begun here")
	}
	return auth.Session{Text: "os_session", Expires: Epoch, Holder: auth.Identity{Name: "alice", Project: "default", Role: "viewer"}}, nil
}
