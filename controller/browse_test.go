package controller

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"opentap/fault"
	"opentap/want"
)

func TestLookingIsWrittenDownOnce(t *testing.T) {
	b := newBench(t, nil)
	var asked []want.Look
	b.hub.live = func(_ context.Context, _ <-chan struct{}, nodeID string, spec want.LiveSpec, w io.Writer) error {
		asked = append(asked, *spec.Look)
		if spec.Look.Timeline != nil {
			return json.NewEncoder(w).Encode(want.Timeline{})
		}
		return json.NewEncoder(w).Encode(want.PacketRows{Total: 9, Packets: []want.PacketRow{{Info: nodeID}}})
	}
	v := b.create(t, alice, want.Request{ID: "c", Kind: want.Packets})
	b.create(t, alice, want.Request{ID: "f", Kind: want.Flows})
	ctx := t.Context()
	for range 3 {
		out, err := b.Packets(ctx, alice, "c", want.PacketsLook{From: 3, Limit: 5, Filter: "port 53"})
		if err != nil || out.Total != 9 || out.Packets[0].Info != "n1" {
			t.Fatalf("%+v, %v", out, err)
		}
	}
	if l := asked[0]; len(asked) != 3 || l.Capture != v.UID || l.Packets.From != 3 || l.Packets.Filter != "port 53" {
		t.Errorf("the node was asked %+v", asked)
	}
	if got := b.trail.actions(); got != "capture.start:allowed capture.start:allowed capture.browse:allowed" {
		t.Errorf("audit = %s", got)
	}
	elsewhere := alice
	elsewhere.Remote = "192.0.2.9:1"
	if _, err := b.Packet(ctx, elsewhere, "c", want.PacketLook{}); err != nil {
		t.Fatal(err)
	}
	elsewhere.Remote = "192.0.2.9:2"
	if _, err := b.Timeline(ctx, elsewhere, "c", want.TimelineLook{}); err != nil {
		t.Fatal(err)
	}
	if got := b.trail.actions(); got != "capture.start:allowed capture.start:allowed capture.browse:allowed capture.browse:allowed" {
		t.Errorf("audit = %s: one entry for each address", got)
	}
	for name, err := range map[string]error{
		"another project":        errOf(b.Packets(ctx, bob, "c", want.PacketsLook{})),
		"a viewer":               errOf(b.Packets(ctx, eve, "c", want.PacketsLook{})),
		"flows of packets":       errOf(b.CaptureTop(ctx, alice, "c", want.RecordsLook{})),
		"packets of flows":       errOf(b.Packets(ctx, alice, "f", want.PacketsLook{})),
		"a bad filter":           errOf(b.Packets(ctx, alice, "c", want.PacketsLook{Filter: "prot 5"})),
		"a bad filter of flows":  errOf(b.CaptureTop(ctx, alice, "f", want.RecordsLook{Filter: "prot 5"})),
		"a key there is not":     errOf(b.CaptureTop(ctx, alice, "f", want.RecordsLook{By: []string{"colour"}})),
		"a metric there is not":  errOf(b.CaptureTop(ctx, alice, "f", want.RecordsLook{Metric: "colour"})),
		"a series without steps": errOf(b.CaptureSeries(ctx, alice, "f", want.RecordsLook{})),
	} {
		kind := map[string]fault.Kind{"another project": fault.NotFound, "a viewer": fault.Forbidden, "flows of packets": fault.Unsupported, "packets of flows": fault.Unsupported}[name]
		if kind == 0 {
			kind = fault.Invalid
		}
		if !fault.Is(err, kind) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.trail.err = errors.New("no space left on device")
	if _, err := b.Packets(ctx, root, "c", want.PacketsLook{}); !fault.Is(err, fault.Unavailable) {
		t.Errorf("looked without an entry: %v", err)
	}
}

func errOf[T any](_ T, err error) error { return err }
