package client

import (
	"context"

	"opentap/want"
)

// Sensors has all nodes look for sensors and read each once.
func (c *Client) Sensors(ctx context.Context) (s want.Sensors, err error) {
	_, err = c.do(ctx, "GET", "/v1/sensors", nil, &s)
	return s, err
}
