package client

import (
	"context"

	"opentap/want"
)

// SessionCode makes a code that opens one session in a browser, as what the token may do.
func (c *Client) SessionCode(ctx context.Context) (s want.SessionCode, err error) {
	_, err = c.do(ctx, "POST", "/v1/session/code", nil, &s)
	return s, err
}

// DashboardURL is where a browser uses the code.
func (c *Client) DashboardURL(s want.SessionCode) string { return c.base + "/#code=" + s.Code }
