package controller

import (
	"context"
	"time"

	"opentap/auth"
	"opentap/want"
)

// Keys makes and ends tokens; auth.Authenticator does.
type Keys interface {
	Create(ctx context.Context, by auth.Identity, s auth.Spec) (text string, t auth.Token, err error)
	Tokens(ctx context.Context, by auth.Identity) ([]auth.Token, error)
	Revoke(ctx context.Context, by auth.Identity, idOrName string) (auth.Token, error)
}

// SetKeys gives the way to the tokens; it must be called before a door is opened.
func (c *Controller) SetKeys(k Keys) { c.keys = k }

func shownToken(t auth.Token) want.Token {
	return want.Token{
		ID: t.ID, Name: t.Name, Role: t.Role, Project: t.Project, Created: t.Created, By: t.By,
		Expires: t.Expires, Revoked: t.Revoked, LastUsed: t.LastUsed,
	}
}

// CreateToken makes a token. Its text is in the answer and nowhere else.
func (c *Controller) CreateToken(ctx context.Context, id auth.Identity, r want.TokenRequest) (want.Token, error) {
	if !id.May(auth.Administer) {
		return want.Token{}, c.refuse(ctx, id, "token.create", r.Name, auth.Administer)
	}
	if err := c.refusedForRoom(); err != nil {
		return want.Token{}, err
	}
	if r.Project == "" {
		r.Project = id.Project
	}
	if err := c.record(ctx, id, "token.create", r.Name, r.Project, map[string]string{"role": r.Role}); err != nil {
		return want.Token{}, err
	}
	text, t, err := c.keys.Create(ctx, id, auth.Spec{Name: r.Name, Role: r.Role, Project: r.Project, Life: time.Duration(r.Life)})
	if err != nil {
		return want.Token{}, err
	}
	shown := shownToken(t)
	shown.Token = text
	return shown, nil
}

// Tokens lists the tokens, revoked ones included, without what would let somebody use them.
func (c *Controller) Tokens(ctx context.Context, id auth.Identity) ([]want.Token, error) {
	if !id.May(auth.Administer) {
		return nil, c.refuse(ctx, id, "token.list", "", auth.Administer)
	}
	list, err := c.keys.Tokens(ctx, id)
	if err != nil {
		return nil, err
	}
	out := make([]want.Token, len(list))
	for i, t := range list {
		out[i] = shownToken(t)
	}
	return out, nil
}

// RevokeToken ends a token for good.
func (c *Controller) RevokeToken(ctx context.Context, id auth.Identity, idOrName string) (want.Token, error) {
	if !id.May(auth.Administer) {
		return want.Token{}, c.refuse(ctx, id, "token.revoke", idOrName, auth.Administer)
	}
	if err := c.record(ctx, id, "token.revoke", idOrName, id.Project, nil); err != nil {
		return want.Token{}, err
	}
	t, err := c.keys.Revoke(ctx, id, idOrName)
	return shownToken(t), err
}
