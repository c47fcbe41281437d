package agentapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"opentap/fault"
	"opentap/want"
)

// Live implements Local: it says its points, then counts until it is told to end. Its first filter word chooses otherwise.
func (l *local) Live(ctx context.Context, end <-chan struct{}, spec want.LiveSpec, w io.Writer) error {
	switch spec.Filter {
	case "refuse":
		return fault.Field("past", "nothing is recorded")
	case "empty":
		return nil
	}
	if _, err := io.WriteString(w, "head "+spec.Points[0].Label+" "); err != nil {
		return err
	}
	switch spec.Filter {
	case "break":
		return fault.New(fault.Unavailable, "the device is gone")
	case "flood":
		defer func() { l.mu.Lock(); l.closed++; l.mu.Unlock() }()
		for {
			if _, err := w.Write(make([]byte, 100_000)); err != nil {
				return err
			}
		}
	}
	select {
	case <-end:
		l.mu.Lock()
		l.closed++
		l.mu.Unlock()
		_, err := io.WriteString(w, "tail")
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// signalling is a writer that tells of its first write, and then takes nothing more until released.
type signalling struct {
	bytes.Buffer
	first chan struct{}
	hold  chan struct{}
	told  bool
}

func (s *signalling) Write(p []byte) (int, error) {
	if !s.told {
		s.told = true
		close(s.first)
	}
	if s.hold != nil {
		<-s.hold
	}
	return s.Buffer.Write(p)
}

func spec(filter string) want.LiveSpec {
	return want.LiveSpec{Points: []want.LivePoint{{Name: "eth0", Label: "host1/eth0"}}, Filter: filter}
}

func (l *local) ends() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

func TestAStreamEndsInGoodOrder(t *testing.T) {
	l := &local{}
	p := join(t, l)
	end := make(chan struct{})
	w := &signalling{first: make(chan struct{})}
	go func() { <-w.first; close(end) }()
	if err := p.hub.Stream(t.Context(), end, "n1", "host1", spec(""), w); err != nil || w.String() != "head host1/eth0 tail" {
		t.Errorf("%q, %v", w.String(), err)
	}
}

func TestAStreamWhoseReaderGoesEndsAtTheAgent(t *testing.T) {
	for _, kind := range []string{"", "flood"} {
		l := &local{}
		p := join(t, l)
		ctx, cancel := context.WithCancel(t.Context())
		w := &signalling{first: make(chan struct{})}
		if kind == "flood" {
			w.hold = make(chan struct{})
		}
		go func() {
			<-w.first
			cancel()
			if w.hold != nil {
				close(w.hold)
			}
		}()
		if err := p.hub.Stream(ctx, nil, "n1", "host1", spec(kind), w); !errors.Is(err, context.Canceled) {
			t.Errorf("%q: %v", kind, err)
		}
		deadline := time.Now().Add(10 * time.Second)
		for l.ends() == 0 {
			if time.Now().After(deadline) {
				t.Fatalf("%q: the agent streams on", kind)
			}
			time.Sleep(time.Millisecond)
		}
	}
}

func TestAStreamThatFails(t *testing.T) {
	p := join(t, &local{})
	for kind, c := range map[string]struct {
		kind fault.Kind
		out  string
	}{"refuse": {fault.Invalid, ""}, "break": {fault.Unavailable, "head host1/eth0 "}} {
		var b bytes.Buffer
		err := p.hub.Stream(t.Context(), nil, "n1", "host1", spec(kind), &b)
		if !fault.Is(err, c.kind) || b.String() != c.out {
			t.Errorf("%s: %q, %v", kind, b.String(), err)
		}
	}
	if err := p.hub.Stream(t.Context(), nil, "n1", "host1", spec("empty"), io.Discard); err != nil {
		t.Error(err)
	}
	if err := p.hub.Stream(t.Context(), nil, "n2", "host2", spec(""), io.Discard); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
	if err := p.hub.Stream(t.Context(), nil, "n1", "host1", spec("flood"), &brokenWriter{after: 1 << 20}); !errors.Is(err, io.ErrClosedPipe) {
		t.Error(err)
	}
	var b bytes.Buffer
	done := make(chan error, 1)
	w := &signalling{first: make(chan struct{})}
	go func() { done <- p.hub.Stream(context.Background(), nil, "n1", "host1", spec(""), w) }()
	<-w.first
	p.stop()
	if err := <-done; !fault.Is(err, fault.Unavailable) {
		t.Errorf("the agent went away: %v, %q", err, b.String())
	}
}
