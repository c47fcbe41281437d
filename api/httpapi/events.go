package httpapi

import (
	"bytes"
	"context"
	"net/http"
	"strconv"
	"time"

	"opentap/auth"
	"opentap/fault"
)

// Event is one server-sent event. Data must be a JSON text, which holds no line break.
type Event struct {
	Name string
	Data []byte
}

const (
	// eventRetry is how long a browser waits before it connects anew.
	eventRetry = time.Second
	// eventBeat is how often an event "beat" is sent when nothing happens, so that a dead connection is noticed. It is an event and
	// no comment: browsers do not tell a page of comments.
	eventBeat = 10 * time.Second
)

// ServeEvents answers GET with server-sent events (HTML Living Standard section 9.2) until ctx ends, next ends it with a
// nil slice, or the caller may no longer come in, which is told as the event "end". next waits for what there is to send,
// until its context ends; who is the caller as of now.
func ServeEvents(w http.ResponseWriter, r *http.Request, next func(ctx context.Context, who auth.Identity) ([]Event, error)) error {
	if r.Method == http.MethodHead {
		err := WithStatus(http.StatusMethodNotAllowed, fault.Invalid, "a stream of events cannot be looked at without being begun")
		err.(*statusError).header = http.Header{"Allow": {"GET"}}
		return err
	}
	b := &body{w: w, rc: http.NewResponseController(w), stall: stallOf(r), left: -1, begin: func() {
		h := w.Header()
		h.Set("Content-Type", "text/event-stream")
		h.Set("X-Accel-Buffering", "no") // of nginx, should it stand between
		w.WriteHeader(http.StatusOK)
	}}
	out := flushed{b}
	buf := []byte("retry: " + strconv.Itoa(int(eventRetry/time.Millisecond)) + "\n\n")
	for {
		who, err := Recheck(r)
		if err != nil {
			if !b.started {
				return err
			}
			buf = appendEvent(buf, Event{"end", []byte(`{"reason":` + strconv.Quote(reasonOf(err)) + `}`)})
			_, err = out.Write(buf)
			return err
		}
		if len(buf) > 0 {
			if _, err := out.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
		ctx, cancel := context.WithTimeout(r.Context(), eventBeat)
		events, err := next(ctx, who)
		idle := ctx.Err() != nil && r.Context().Err() == nil
		cancel()
		switch {
		case r.Context().Err() != nil:
			return nil // the page was closed
		case idle:
			buf = appendEvent(buf, Event{"beat", []byte("{}")})
			continue
		case err != nil:
			return err
		case events == nil:
			return nil
		}
		for _, e := range events {
			buf = appendEvent(buf, e)
		}
	}
}

func reasonOf(err error) string {
	if fault.Is(err, fault.Unauthenticated) {
		return "signed_out"
	}
	return "refused"
}

func appendEvent(buf []byte, e Event) []byte {
	buf = append(buf, "event: "...)
	buf = append(buf, e.Name...)
	buf = append(buf, "\ndata: "...)
	buf = append(buf, bytes.ReplaceAll(e.Data, []byte{'\n'}, nil)...)
	return append(buf, "\n\n"...)
}
