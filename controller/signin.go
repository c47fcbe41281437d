package controller

import (
	"context"
	"encoding/base64"
	"net/netip"
	"strings"

	"opentap/auth"
	"opentap/fault"
)

// Provider lets people sign in elsewhere; openid.Provider does.
type Provider interface {
	Name() string
	// Start returns where the browser goes, and what it keeps for Finish.
	Start(ctx context.Context, redirect, project string) (to string, kept []byte, err error)
	Finish(ctx context.Context, kept []byte, state, code string) (auth.Identity, error)
}

// Foreign opens sessions for those whom a Provider names; auth.Authenticator does.
type Foreign interface {
	OpenSessionFor(ctx context.Context, id auth.Identity, remote netip.AddrPort) (auth.Session, error)
}

// SetProviders gives the places where people can sign in; it must be called before a door is opened.
func (c *Controller) SetProviders(list []Provider) { c.providers = list }

// Providers names the places where people can sign in.
func (c *Controller) Providers() []string {
	names := []string{}
	for _, p := range c.providers {
		names = append(names, p.Name())
	}
	return names
}

// StartSignIn begins a sign-in at a provider, "" = the first. The browser goes to the URL and keeps the text, which is no
// secret from it.
func (c *Controller) StartSignIn(ctx context.Context, provider, redirect, project string) (to, kept string, err error) {
	p, err := c.provider(provider)
	if err != nil {
		return "", "", err
	}
	to, b, err := p.Start(ctx, redirect, project)
	return to, base64.RawURLEncoding.EncodeToString([]byte(p.Name())) + "." + base64.RawURLEncoding.EncodeToString(b), err
}

func (c *Controller) provider(name string) (Provider, error) {
	for _, p := range c.providers {
		if name == "" || p.Name() == name {
			return p, nil
		}
	}
	if len(c.providers) == 0 {
		return nil, fault.New(fault.Unsupported, "nobody signs in elsewhere here; use a token")
	}
	return nil, fault.Field("provider", "%.80q is none of those where people sign in", name)
}

// FinishSignIn opens a session for whom the provider names.
func (c *Controller) FinishSignIn(ctx context.Context, kept, state, code string, remote netip.AddrPort) (auth.Session, error) {
	name, rest, _ := strings.Cut(kept, ".")
	n, err1 := base64.RawURLEncoding.DecodeString(name)
	b, err2 := base64.RawURLEncoding.DecodeString(rest)
	if err1 != nil || err2 != nil || len(n) == 0 {
		return auth.Session{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "this sign-in was not begun here, or too long ago", Hint: "begin anew"}
	}
	p, err := c.provider(string(n))
	if err != nil {
		return auth.Session{}, err
	}
	f, ok := c.keys.(Foreign)
	if !ok {
		return auth.Session{}, fault.New(fault.Unsupported, "sessions are not kept here; send a token")
	}
	id, err := p.Finish(ctx, b, state, code)
	if err != nil {
		return auth.Session{}, err
	}
	id.Remote = remote.String()
	if err := c.record(ctx, id, "session.open", id.Name, id.Project, map[string]string{"by": id.Via}); err != nil {
		return auth.Session{}, err
	}
	return f.OpenSessionFor(ctx, id, remote)
}
