package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Node implements the doors' Controller: there is virgo.
func (c *Controller) Node(ctx context.Context, id auth.Identity, name string) (want.Node, error) {
	list, err := c.Nodes(ctx, id)
	if err == nil && name != list[0].Name && name != list[0].ID {
		return want.Node{}, fault.New(fault.NotFound, "no node %q", name)
	}
	return list[0], err
}

// RevokeNode implements the doors' Controller.
func (c *Controller) RevokeNode(ctx context.Context, id auth.Identity, name string) (want.Node, error) {
	if !id.May(auth.Administer) {
		return want.Node{}, fault.New(fault.Forbidden, "only an administrator revokes nodes")
	}
	n, err := c.Node(ctx, id, name)
	n.Connected, n.Revoked, n.Enrolled, n.CertificateEnds, n.Epoch = false, Epoch, Epoch, Epoch, "0123"
	return n, err
}

// ForgetNode implements the doors' Controller.
func (c *Controller) ForgetNode(ctx context.Context, id auth.Identity, name string) error {
	_, err := c.Node(ctx, id, name)
	return err
}

// CreateJoinToken implements the doors' Controller.
func (c *Controller) CreateJoinToken(_ context.Context, id auth.Identity, r want.JoinTokenRequest) (want.JoinToken, error) {
	if !id.May(auth.Administer) {
		return want.JoinToken{}, fault.New(fault.Forbidden, "only an administrator makes join tokens")
	}
	if r.Life < 0 {
		return want.JoinToken{}, fault.Field("life", "is negative")
	}
	return want.JoinToken{ID: "aaaabbbbccccdddd", Node: r.Node, Created: Epoch, By: id.Name, Expires: Epoch, Token: "otj_secret"}, nil
}

// JoinTokens implements the doors' Controller.
func (c *Controller) JoinTokens(context.Context, auth.Identity) ([]want.JoinToken, error) {
	return []want.JoinToken{{ID: "aaaabbbbccccdddd", Created: Epoch, Expires: Epoch, Used: Epoch, UsedBy: "virgo"}}, nil
}

// DeleteJoinToken implements the doors' Controller.
func (c *Controller) DeleteJoinToken(_ context.Context, _ auth.Identity, id string) error {
	if id != "aaaabbbbccccdddd" {
		return fault.New(fault.NotFound, "no join token %q", id)
	}
	return nil
}

// AcceptStore implements the doors' Controller.
func (c *Controller) AcceptStore(_ context.Context, id auth.Identity) (want.Epoch, error) {
	if !id.May(auth.Administer) {
		return want.Epoch{}, fault.New(fault.Forbidden, "only an administrator accepts a store")
	}
	return want.Epoch{ID: "b", Since: Epoch, By: id.Name, Replaces: []string{"a"}}, nil
}
