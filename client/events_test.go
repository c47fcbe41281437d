package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"opentap/fault"
	"opentap/want"
)

// stream serves one text as a stream of events; hold keeps it open behind the text.
func stream(t *testing.T, text string, hold bool) *Client {
	t.Helper()
	end := make(chan struct{})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
		if hold {
			select {
			case <-end:
			case <-r.Context().Done():
			}
		}
	}))
	c, err := New(Config{URL: s.URL, Token: "t"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { close(end); c.Close(); s.Close() })
	return c
}

func TestEvents(t *testing.T) {
	long := `{"points":["` + strings.Repeat("x", 1<<20) + `"]}`
	for _, x := range []struct {
		name, text string
		events     []string // name=data
		err        func(error) bool
	}{
		{"as they come", "retry: 1000\n\nevent: begin\ndata: {\"name\":\"lab\"}\n\nevent: rates\ndata: {}\n\n", []string{`begin={"name":"lab"}`, "rates={}"}, ended},
		{"of a later version", "event: sensors\ndata: 7\n\n", []string{"sensors=7"}, ended},
		{"the beat is nobody's", "event: beat\ndata: {}\n\n:\n\nevent: rates\ndata: 1\n\n", []string{"rates=1"}, ended},
		{"long ones", "event: points\ndata: " + long + "\n\n", []string{"points=" + long}, ended},
		{"what is cut off is not told", "event: rates\ndata: {}\n", nil, ended},
		{"no data of the one before", "event: rates\ndata: 1\n\nevent: nodes\n\n", []string{"rates=1", "nodes="}, ended},
		{"nothing at all", "", nil, ended},
		{"signed out", "event: rates\ndata: 1\n\nevent: end\ndata: {\"reason\":\"signed_out\"}\n\nevent: rates\ndata: 2\n\n", []string{"rates=1"}, func(err error) bool { return fault.Is(err, fault.Unauthenticated) }},
	} {
		t.Run(x.name, func(t *testing.T) {
			var got []string
			err := stream(t, x.text, false).Events(t.Context(), func(e want.Event) error {
				got = append(got, e.Name+"="+string(e.Data))
				return nil
			})
			if !x.err(err) {
				t.Errorf("ends with %v", err)
			}
			if !slices.Equal(got, x.events) {
				t.Errorf("got %.200q, want %.200q", got, x.events)
			}
		})
	}
}

// ended: the server ended it, and to call again makes sense.
func ended(err error) bool {
	var away *ConnectError
	return errors.As(err, &away) && errors.Is(err, io.EOF)
}

func TestEventsThatFallSilentAreAway(t *testing.T) {
	n := 0
	err := stream(t, "event: rates\ndata: 1\n\n", true).follow(t.Context(), "/v1/events", 50*time.Millisecond, func(want.Event) error {
		n++
		time.Sleep(150 * time.Millisecond) // who takes long is not silent
		return nil
	})
	var away *ConnectError
	if n != 1 || !errors.As(err, &away) || !errors.Is(err, errSilent) {
		t.Errorf("%d events, then %v", n, err)
	}
}

func TestEventsEndWithTheReader(t *testing.T) {
	enough := errors.New("enough")
	if err := stream(t, "event: rates\ndata: 1\n\n", true).Events(t.Context(), func(want.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("fn's error became %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if err := stream(t, "event: rates\ndata: 1\n\n", true).Events(ctx, func(want.Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("the context's end became %v", err)
	}
}

func TestFollowDetections(t *testing.T) {
	var got []string
	err := stream(t, "retry: 1\n\nevent: detection\ndata: {\"id\":\"a\",\"rule\":\"big\"}\n\nevent: beat\ndata: {}\n\nevent: detection\ndata: {\"id\":\"b\"}\n\n", false).FollowDetections(t.Context(), "big", func(d want.Detection) error {
		got = append(got, d.ID+d.Rule)
		return nil
	})
	if err != nil || !slices.Equal(got, []string{"abig", "b"}) {
		t.Errorf("%q, %v", got, err)
	}
	if err := stream(t, "event: detection\ndata: []\n\n", false).FollowDetections(t.Context(), "", func(want.Detection) error { return nil }); err == nil || !strings.Contains(err.Error(), "read an event") {
		t.Errorf("a detection that is none: %v", err)
	}
}
