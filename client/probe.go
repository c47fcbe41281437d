package client

import (
	"context"

	"opentap/want"
)

// Probe has frames sent out of a device, and returns what answered when all is over.
func (c *Client) Probe(ctx context.Context, p want.Probe) (r want.ProbeReport, err error) {
	_, err = c.do(ctx, "POST", "/v1/probes", p, &r)
	return r, err
}
