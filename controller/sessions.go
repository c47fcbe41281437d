package controller

import (
	"context"
	"net/netip"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Visits opens and closes browsers' sessions; auth.Authenticator does.
type Visits interface {
	OpenSession(ctx context.Context, text string, remote netip.AddrPort) (auth.Session, error)
	CloseSession(ctx context.Context, text string) error
	MakeCode(ctx context.Context, text string, remote netip.AddrPort) (auth.Code, error)
}

func (c *Controller) visits() (Visits, error) {
	if v, ok := c.keys.(Visits); ok {
		return v, nil
	}
	return nil, fault.New(fault.Unsupported, "sessions are not kept here; send a token")
}

// OpenSession lets a browser in that presents a token or a code. The session's text is for its cookie alone.
func (c *Controller) OpenSession(ctx context.Context, r want.SessionRequest, remote netip.AddrPort) (auth.Session, error) {
	v, err := c.visits()
	if err != nil {
		return auth.Session{}, err
	}
	if (r.Token == "") == (r.Code == "") {
		return auth.Session{}, fault.Field("token", "give either a token or a code")
	}
	s, err := v.OpenSession(ctx, r.Token+r.Code, remote)
	if err != nil {
		return auth.Session{}, err
	}
	by := "token"
	if r.Code != "" {
		by = "code"
	}
	if err := c.record(ctx, s.Holder, "session.open", s.Holder.Name, s.Holder.Project, map[string]string{"by": by}); err != nil {
		_ = v.CloseSession(ctx, s.Text) // nobody has it
		return auth.Session{}, err
	}
	return s, nil
}

// CloseSession ends a session; one that has ended is no error.
func (c *Controller) CloseSession(ctx context.Context, text string) error {
	v, err := c.visits()
	if err != nil {
		return err
	}
	return v.CloseSession(ctx, text)
}

// SessionCode makes a code that opens one session for the holder of the credential that the caller presented.
func (c *Controller) SessionCode(ctx context.Context, id auth.Identity, credential string, remote netip.AddrPort) (want.SessionCode, error) {
	v, err := c.visits()
	if err != nil {
		return want.SessionCode{}, err
	}
	if err := c.record(ctx, id, "session.code", id.Name, id.Project, nil); err != nil {
		return want.SessionCode{}, err
	}
	code, err := v.MakeCode(ctx, credential, remote)
	return want.SessionCode{Code: code.Text, Expires: code.Expires}, err
}
