package client

import (
	"context"

	"opentap/want"
)

// Node shows the host with this name or id.
func (c *Client) Node(ctx context.Context, name string) (n want.Node, err error) {
	_, err = c.do(ctx, "GET", "/v1/nodes/"+escape(name), nil, &n)
	return n, err
}

// RevokeNode shuts a host out of the fleet.
func (c *Client) RevokeNode(ctx context.Context, name string) (n want.Node, err error) {
	_, err = c.do(ctx, "POST", "/v1/nodes/"+escape(name)+"/revoke", nil, &n)
	return n, err
}

// ForgetNode removes a host from the fleet, with its captures.
func (c *Client) ForgetNode(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/nodes/"+escape(name), nil, nil)
	return err
}

// CreateJoinToken makes a token that lets one host join; its text is in the answer and nowhere else.
func (c *Client) CreateJoinToken(ctx context.Context, r want.JoinTokenRequest) (t want.JoinToken, err error) {
	_, err = c.do(ctx, "POST", "/v1/nodes/join-tokens", r, &t)
	return t, err
}

// JoinTokens lists the join tokens.
func (c *Client) JoinTokens(ctx context.Context) ([]want.JoinToken, error) {
	return listOf[want.JoinToken](ctx, c, "/v1/nodes/join-tokens", "join_tokens", nil)
}

// DeleteJoinToken forgets a join token.
func (c *Client) DeleteJoinToken(ctx context.Context, id string) error {
	_, err := c.do(ctx, "DELETE", "/v1/nodes/join-tokens/"+escape(id), nil, nil)
	return err
}

// AcceptStore says that what the store holds now is wanted, after it was put back from a copy.
func (c *Client) AcceptStore(ctx context.Context) (e want.Epoch, err error) {
	_, err = c.do(ctx, "POST", "/v1/store/accept", nil, &e)
	return e, err
}
