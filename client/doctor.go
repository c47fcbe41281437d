package client

import (
	"context"

	"opentap/want"
)

// Doctor has the server's host look at itself.
func (c *Client) Doctor(ctx context.Context) (x want.Examination, err error) {
	_, err = c.do(ctx, "GET", "/v1/doctor", nil, &x)
	return x, err
}
