package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"testing"

	"opentap/fault"
	"opentap/want"
)

// A host tells what it finds when it is asked, and stops looking when nobody listens any more.
func TestAHostLooksAtItself(t *testing.T) {
	h := newHost(t, nil)
	ask := func(end chan struct{}, w io.Writer) error {
		return h.Live(t.Context(), end, want.LiveSpec{Look: &want.Look{Doctor: true}}, w)
	}
	if err := ask(make(chan struct{}), io.Discard); !fault.Is(err, fault.Unsupported) {
		t.Errorf("without a doctor: %v", err)
	}
	h.SetDoctor(func(context.Context) (want.Examination, error) {
		return want.Examination{Node: "host1", Findings: []want.Finding{{Check: "kernel", Severity: want.Fine}}}, nil
	})
	var b bytes.Buffer
	var x want.Examination
	if err := ask(make(chan struct{}), &b); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.Bytes(), &x); err != nil || x.Node != "host1" || len(x.Findings) != 1 || x.Findings[0].Check != "kernel" {
		t.Errorf("%v, %s", err, b.Bytes())
	}
	end := make(chan struct{})
	h.SetDoctor(func(ctx context.Context) (want.Examination, error) {
		close(end)
		<-ctx.Done()
		return want.Examination{}, ctx.Err()
	})
	if err := ask(end, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody listens: %v", err)
	}
}
