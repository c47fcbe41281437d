package client

import (
	"context"

	"opentap/want"
)

// Recorders lists the recorders.
func (c *Client) Recorders(ctx context.Context) ([]want.RecorderView, error) {
	return listOf[want.RecorderView](ctx, c, "/v1/recorders", "recorders", nil)
}

// SetRecorder has the newest packets of a point kept; of r it takes filter, snap length, octets, age, compression and fanout.
func (c *Client) SetRecorder(ctx context.Context, point string, r want.Recorder) (v want.RecorderView, err error) {
	body := struct {
		Filter string        `json:"filter,omitempty"`
		Snap   int           `json:"snap,omitempty"`
		Bytes  int64         `json:"bytes"`
		Age    want.Duration `json:"age,omitempty"`

		Compress string `json:"compress,omitempty"`
		Fanout   int    `json:"fanout,omitempty"`
	}{r.Filter, r.Snap, r.Bytes, r.Age, r.Compress, r.Fanout}
	_, err = c.do(ctx, "PUT", "/v1/recorders/"+escape(point), body, &v)
	return v, err
}

// DeleteRecorder ends the recorder of a point.
func (c *Client) DeleteRecorder(ctx context.Context, point string) error {
	_, err := c.do(ctx, "DELETE", "/v1/recorders/"+escape(point), nil, nil)
	return err
}
