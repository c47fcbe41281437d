package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"opentap/fault"
	"opentap/want"
)

const (
	// maxStreamed bounds one event, octets: all points of a large fleet.
	maxStreamed = 64 << 20
	// silent is how long a stream may be without a word. Servers send something every ten seconds: a connection that has been
	// silent for longer is dead, though nobody has said so.
	silent = 35 * time.Second
)

var errSilent = fmt.Errorf("nothing was heard for %v", silent)

// Events calls fn with each event of GET /v1/events as it comes; see package want for their forms. It returns fn's error, a
// fault when the caller may no longer listen, and otherwise a *ConnectError when the stream ends or falls silent: to call it
// again begins anew with everything.
func (c *Client) Events(ctx context.Context, fn func(want.Event) error) error {
	return c.follow(ctx, "/v1/events", silent, fn)
}

// follow reads server-sent events (HTML Living Standard section 9.2) as our server writes them: one line of data each.
func (c *Client) follow(ctx context.Context, path string, silent time.Duration, fn func(want.Event) error) error {
	heard, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := c.request(heard, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", "identity")
	resp, err := c.send(heard, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	watch := time.AfterFunc(silent, func() { cancel(errSilent) })
	defer watch.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 64<<10), maxStreamed)
	var e want.Event
	for lines.Scan() {
		watch.Reset(silent)
		switch line := lines.Bytes(); {
		case len(line) == 0:
			switch e.Name {
			case "end":
				return fault.New(fault.Unauthenticated, "the token is no longer valid")
			case "", want.EventBeat:
			default:
				watch.Stop() // a reader that takes its time is not the connection's silence
				if err := fn(e); err != nil {
					return err
				}
				watch.Reset(silent)
			}
			e = want.Event{}
		case len(line) > 7 && string(line[:7]) == "event: ":
			e.Name = string(line[7:])
		case len(line) > 6 && string(line[:6]) == "data: ":
			e.Data = json.RawMessage(append([]byte{}, line[6:]...))
		}
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(context.Cause(heard), errSilent):
		return &ConnectError{c.base, errSilent}
	case lines.Err() != nil:
		return &ConnectError{c.base, lines.Err()}
	}
	return &ConnectError{c.base, io.EOF}
}
