package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// CreateToken implements the doors' Controller: there can be one token, "ci".
func (c *Controller) CreateToken(_ context.Context, id auth.Identity, r want.TokenRequest) (want.Token, error) {
	if !id.May(auth.Administer) {
		return want.Token{}, fault.New(fault.Forbidden, "only an administrator makes tokens")
	}
	if r.Name != "ci" {
		return want.Token{}, fault.Field("name", "this controller knows ci alone")
	}
	return want.Token{ID: "abc", Name: r.Name, Role: r.Role, Project: "default", Created: Epoch, By: id.Name, Token: "ot_abc_secret"}, c.Fail["CreateToken"]
}

// Tokens implements the doors' Controller.
func (c *Controller) Tokens(context.Context, auth.Identity) ([]want.Token, error) {
	return []want.Token{{ID: "abc", Name: "ci", Role: "analyst", Project: "default", Created: Epoch}}, c.Fail["Tokens"]
}

// RevokeToken implements the doors' Controller.
func (c *Controller) RevokeToken(_ context.Context, _ auth.Identity, idOrName string) (want.Token, error) {
	if idOrName != "ci" && idOrName != "abc" {
		return want.Token{}, fault.New(fault.NotFound, "no token has the id or name %q", idOrName)
	}
	return want.Token{ID: "abc", Name: "ci", Role: "analyst", Project: "default", Created: Epoch, Revoked: Epoch}, c.Fail["RevokeToken"]
}
