package doortest

import (
	"context"
	"net/netip"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// OpenSession implements the doors' Controller: the token "ci" and the code "once" are let in.
func (c *Controller) OpenSession(_ context.Context, r want.SessionRequest, remote netip.AddrPort) (auth.Session, error) {
	if r.Token != "ci" && r.Code != "once" {
		return auth.Session{}, fault.New(fault.Unauthenticated, "the token is not valid")
	}
	return auth.Session{Text: "os_text", Expires: Epoch.Add(time.Hour), Holder: auth.Identity{
		Name: "ci", Project: "default", Role: "analyst", Rights: auth.SeeMetadata | auth.ReadPayload, Via: "session", Remote: remote.String(),
	}}, c.Fail["OpenSession"]
}

// CloseSession implements the doors' Controller.
func (c *Controller) CloseSession(context.Context, string) error { return c.Fail["CloseSession"] }

// SessionCode implements the doors' Controller.
func (c *Controller) SessionCode(_ context.Context, _ auth.Identity, credential string, _ netip.AddrPort) (want.SessionCode, error) {
	if credential == "" {
		return want.SessionCode{}, fault.New(fault.Unauthenticated, "a token is needed")
	}
	return want.SessionCode{Code: "oc_code", Expires: Epoch}, c.Fail["SessionCode"]
}

// Events implements the doors' Controller: it tells how it begins, and that it is over.
func (c *Controller) Events(_ context.Context, id auth.Identity) (func(context.Context, auth.Identity) ([]want.Event, error), func(), error) {
	if !id.May(auth.SeeMetadata) {
		return nil, nil, fault.New(fault.Forbidden, "may not listen")
	}
	told := false
	return func(context.Context, auth.Identity) ([]want.Event, error) {
		if told {
			return nil, nil
		}
		told = true
		return []want.Event{{Name: want.EventBegin, Data: []byte(`{"name":"virgo"}`)}}, nil
	}, func() {}, c.Fail["Events"]
}
