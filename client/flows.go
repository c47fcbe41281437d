package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"opentap/want"
)

// TopFlows adds up the flow records that are kept at all times.
func (c *Client) TopFlows(ctx context.Context, q want.FlowQuery) (t want.FlowTop, err error) {
	v := flowValues(q)
	v.Set("by", strings.Join(q.By, ","))
	v.Set("metric", q.Metric)
	v.Set("top", strconv.Itoa(q.Top))
	_, err = c.do(ctx, "GET", "/v1/flows/top?"+v.Encode(), nil, &t)
	return t, err
}

// Flows opens the flow records that are kept at all times. It ends with io.EOF only when they are all there.
func (c *Client) Flows(ctx context.Context, q want.FlowQuery) (io.ReadCloser, error) {
	path := "/v1/flows"
	if v := flowValues(q); len(v) > 0 {
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

func flowValues(q want.FlowQuery) url.Values {
	v := url.Values{}
	for _, p := range q.Points {
		v.Add("point", p)
	}
	for name, t := range map[string]time.Time{"from": q.From, "to": q.To} {
		if !t.IsZero() {
			v.Set(name, t.UTC().Format(time.RFC3339Nano))
		}
	}
	if q.Filter != "" {
		v.Set("filter", q.Filter)
	}
	if q.Format != "" {
		v.Set("format", string(q.Format))
	}
	return v
}
