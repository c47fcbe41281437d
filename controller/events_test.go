package controller

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// heard is what a listener knows.
type heard struct {
	t        *testing.T
	who      auth.Identity
	next     func(context.Context, auth.Identity) ([]want.Event, error)
	begins   int
	captures map[string]want.View
	rates    map[string]want.Rate
	nodes    []want.Node
	points   int
	known    bool
}

func (b *bench) listen(t *testing.T, who auth.Identity) *heard {
	t.Helper()
	next, stop, err := b.Events(t.Context(), who)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &heard{t: t, who: who, next: next}
}

// until takes events until ok.
func (h *heard) until(what string, ok func() bool) {
	h.t.Helper()
	ctx, cancel := context.WithTimeout(h.t.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		events, err := h.next(ctx, h.who)
		if err != nil {
			h.t.Fatalf("not %s: %v", what, err)
		}
		for _, e := range events {
			h.take(e)
		}
	}
}

func (h *heard) take(e want.Event) {
	var err error
	switch e.Name {
	case want.EventBegin:
		h.begins++
		h.captures, h.rates, h.nodes, h.points, h.known = map[string]want.View{}, map[string]want.Rate{}, nil, 0, false
	case want.EventPoints:
		var p struct{ Points []json.RawMessage }
		err = json.Unmarshal(e.Data, &p)
		h.points = len(p.Points)
	case want.EventNodes:
		var n want.NodesChanged
		err = json.Unmarshal(e.Data, &n)
		h.nodes = n.Nodes
	case want.EventRates:
		var r want.Rates
		err = json.Unmarshal(e.Data, &r)
		for _, x := range r.Rates {
			h.rates[x.Node+"/"+x.Point] = x
		}
	case want.EventCaptures:
		var c want.CapturesChanged
		err = json.Unmarshal(e.Data, &c)
		for _, raw := range c.Captures {
			var v want.View
			err = errors.Join(err, json.Unmarshal(raw, &v))
			h.captures[v.UID] = v
		}
		for _, uid := range c.Gone {
			delete(h.captures, uid)
		}
		h.known = true
	default:
		h.t.Errorf("unknown event %s", e.Name)
	}
	if err != nil {
		h.t.Errorf("%s: %v: %s", e.Name, err, e.Data)
	}
}

func TestEventsTellWhatIsAndWhatChanges(t *testing.T) {
	b := newBench(t, nil)
	lines := make(chan string)
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, _ string, spec want.LiveSpec, w io.Writer) error {
		if spec.Look == nil || !spec.Look.Rates {
			t.Errorf("asked for %+v", spec)
		}
		for {
			select {
			case s := <-lines:
				if _, err := io.WriteString(w, s); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
	before := b.create(t, alice, want.Request{Kind: want.Packets})
	ann, bob, all := b.listen(t, eve), b.listen(t, bob), b.listen(t, root)
	ann.until("told of her project's capture", func() bool { return ann.captures[before.UID].ID == before.ID })
	all.until("told of all captures", func() bool { return len(all.captures) == 1 })
	bob.until("told that there is none", func() bool { return bob.known && bob.points == 3 && len(bob.nodes) == 1 })
	if len(bob.captures) != 0 {
		t.Errorf("bob hears of %v", bob.captures)
	}
	lines <- `{"time":"2026-01-02T03:04:05Z","rates":[{"point":"eth0","rx_pac`
	lines <- "kets\":7}]}\n"
	for _, h := range []*heard{ann, bob, all} {
		h.until("told the rates", func() bool { return h.rates["host1/eth0"].RxPackets == 7 })
	}
	late := b.listen(t, eve)
	late.until("told the rates of before", func() bool { return late.rates["host1/eth0"].RxPackets == 7 })
	if _, err := b.StopCapture(t.Context(), alice, before.ID); err != nil {
		t.Fatal(err)
	}
	ann.until("told that it was stopped", func() bool { return ann.captures[before.UID].Status.State == want.Stopped })
	if err := b.DeleteCapture(t.Context(), alice, before.ID); err != nil {
		t.Fatal(err)
	}
	ann.until("told that it is gone", func() bool { return len(ann.captures) == 0 })
	b.create(t, bob.who, want.Request{Kind: want.Packets})
	bob.until("told of his capture", func() bool { return len(bob.captures) == 1 })
	// Somebody who was promoted sees more, and is told all of it anew.
	ann.who = root
	ann.until("told everything", func() bool { return ann.begins == 2 && len(ann.captures) == 1 })
}

func TestASlowListenerIsToldAnew(t *testing.T) {
	b := newBench(t, nil)
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, _ string, _ want.LiveSpec, _ io.Writer) error {
		<-ctx.Done()
		return ctx.Err()
	}
	slow, quick := b.listen(t, alice), b.listen(t, alice)
	slow.until("begun", func() bool { return slow.known })
	for range listenerBuffer + 2 {
		v := b.create(t, alice, want.Request{Kind: want.Packets})
		quick.until("told", func() bool { return quick.captures[v.UID].ID != "" })
	}
	slow.until("told anew", func() bool { return slow.begins == 2 && len(slow.captures) == listenerBuffer+2 })
}

func TestEventsEnd(t *testing.T) {
	b := newBench(t, nil)
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, _ string, _ want.LiveSpec, _ io.Writer) error {
		return fault.New(fault.Unsupported, "older than the controller")
	}
	if _, _, err := b.Events(t.Context(), auth.Identity{Role: "none"}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("without rights: %v", err)
	}
	h := b.listen(t, alice)
	h.until("begun", func() bool { return h.known })
	h.who.Rights = 0
	if _, err := h.next(t.Context(), h.who); !fault.Is(err, fault.Forbidden) {
		t.Errorf("rights that were taken: %v", err)
	}
	h.who = alice
	b.EndLive()
	for {
		events, err := h.next(t.Context(), alice)
		if err != nil {
			t.Fatal(err)
		}
		if events == nil {
			return
		}
	}
}
