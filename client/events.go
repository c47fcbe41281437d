package client

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"

	"opentap/fault"
	"opentap/want"
)

// maxStreamed bounds one event, octets: all points of a large fleet.
const maxStreamed = 64 << 20

// Events calls fn with each event of GET /v1/events as it comes; see package want for their forms. It returns fn's error, a
// fault when the caller may no longer listen, and otherwise a *ConnectError when the stream ends: to call it again begins
// anew with everything.
func (c *Client) Events(ctx context.Context, fn func(want.Event) error) error {
	req, err := c.request(ctx, http.MethodGet, "/v1/events", nil)
	if err != nil {
		return err
	}
	resp, err := c.send(ctx, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxStreamed)
	var e want.Event
	for lines.Scan() {
		switch line := lines.Bytes(); {
		case len(line) == 0:
			if e.Name == "end" {
				return fault.New(fault.Unauthenticated, "the token is no longer valid")
			}
			if e.Name != "" {
				if err := fn(e); err != nil {
					return err
				}
			}
			e = want.Event{}
		case len(line) > 7 && string(line[:7]) == "event: ":
			e.Name = string(line[7:])
		case len(line) > 6 && string(line[:6]) == "data: ":
			e.Data = json.RawMessage(append([]byte{}, line[6:]...))
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	err = lines.Err()
	if err == nil {
		err = io.EOF
	}
	return &ConnectError{c.base, err}
}
