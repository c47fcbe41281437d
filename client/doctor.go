package client

import (
	"context"
	"net/url"

	"opentap/want"
)

// Doctor has the server's host and those of all agents look at themselves, or only the one of this name.
func (c *Client) Doctor(ctx context.Context, node string) (x want.Examination, err error) {
	path := "/v1/doctor"
	if node != "" {
		path += "?node=" + url.QueryEscape(node)
	}
	_, err = c.do(ctx, "GET", path, nil, &x)
	return x, err
}
