package client

import (
	"context"

	"opentap/want"
)

// CreateToken makes a token; its text is in the answer and nowhere else.
func (c *Client) CreateToken(ctx context.Context, r want.TokenRequest) (t want.Token, err error) {
	_, err = c.do(ctx, "POST", "/v1/tokens", r, &t)
	return t, err
}

// Tokens lists the tokens.
func (c *Client) Tokens(ctx context.Context) ([]want.Token, error) {
	return listOf[want.Token](ctx, c, "/v1/tokens", "tokens", nil)
}

// RevokeToken ends the token with this id or name.
func (c *Client) RevokeToken(ctx context.Context, idOrName string) (t want.Token, err error) {
	_, err = c.do(ctx, "DELETE", "/v1/tokens/"+escape(idOrName), nil, &t)
	return t, err
}
