package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"opentap/want"
)

// Live opens a stream of packets as they come: pcapng. It ends with io.EOF only when the server ended it in good order;
// closing it, or ending ctx, ends it there.
func (c *Client) Live(ctx context.Context, q want.LiveRequest) (io.ReadCloser, error) {
	v := url.Values{}
	for _, p := range q.Points {
		v.Add("point", p)
	}
	set := func(name, value string, given bool) {
		if given {
			v.Set(name, value)
		}
	}
	set("filter", q.Filter, q.Filter != "")
	set("strict", "true", q.Strict)
	set("snap", strconv.Itoa(q.Snap), q.Snap != 0)
	set("past", time.Duration(q.Past).String(), q.Past != 0)
	set("duration", time.Duration(q.Duration).String(), q.Duration != 0)
	set("packets", strconv.FormatUint(q.Packets, 10), q.Packets != 0)
	path := "/v1/live"
	if len(v) > 0 {
		path += "?" + v.Encode()
	}
	req, err := c.request(ctx, http.MethodGet, path, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.send(ctx, req)
	if err != nil {
		return nil, err
	}
	return &liveBody{resp.Body, ctx, c.base}, nil
}

// liveBody tells a connection that broke from other errors.
type liveBody struct {
	io.ReadCloser
	ctx context.Context
	url string
}

// Read implements io.Reader.
func (b *liveBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch {
	case err == nil || err == io.EOF:
	case b.ctx.Err() != nil:
		err = b.ctx.Err()
	default:
		err = &ConnectError{b.url, err}
	}
	return n, err
}
