package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"opentap/capture"
	"opentap/capture/segment"
	"opentap/filter"
	"opentap/want"
)

func FuzzPositions(f *testing.F) {
	f.Add("1.2.4096", 1)
	f.Add("1.2.4096_7.0.4096", 2)
	f.Add("1.2.-1", 1)
	f.Add("+1.2.3", 1)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 0 || n > 64 {
			return
		}
		if list, ok := parsePositions(s, n); ok && (len(list) != n || positions(list) != s) {
			t.Errorf("%q is read as %v", s, list)
		}
		if e, ok := parseExtent(s, n); ok && (e.String() != s || e.to < 0) {
			t.Errorf("%q is read as %v", s, e)
		}
	})
}

func TestExtentComesBack(t *testing.T) {
	e := extent{upto: []segment.Position{{Segment: 1, Chunk: 2, Offset: 8192}, {Segment: 9}}, to: 12345}
	got, ok := parseExtent(e.String(), 2)
	if !ok || fmt.Sprint(got) != fmt.Sprint(e) {
		t.Errorf("%v comes back as %v, %v", e, got, ok)
	}
	for _, s := range []string{"", "-", "1.2.3", "1.2.3-x", "1.2.3--1", "1.2.3-1-1"} {
		if e, ok := parseExtent(s, 1); ok {
			t.Errorf("%q is read as %v", s, e)
		}
	}
}

// lines writes numbers as text, one a line.
type lines struct{ w io.Writer }

func (l lines) Write(v *int) error { _, err := fmt.Fprintf(l.w, "row %d\n", *v); return err }
func (l lines) Close() error       { _, err := io.WriteString(l.w, "end\n"); return err }

// Any range of a snapshot is the same part of the whole.
func TestRowRanges(t *testing.T) {
	h := newHost(t, nil)
	c := asked(1, want.Counters, 0)
	h.obey(1, c)
	passes, closed := 0, 0
	snap := &rowSnapshot[int]{
		etag: "x", release: func() error { closed++; return nil },
		form: func(w io.Writer, _ want.Format) (rowWriter[int], error) { return lines{w}, nil },
		each: func(_ context.Context, fn func(*int) error) error {
			passes++
			for i := range 30 {
				if err := fn(&i); err != nil {
					return err
				}
			}
			return nil
		},
	}
	r, err := snap.retrieval(t.Context(), h.jobs[c.UID], want.Status{}, want.CSV)
	if err != nil || r.Records != 30 {
		t.Fatalf("%+v, %v", r, err)
	}
	var whole bytes.Buffer
	if err := r.Write(t.Context(), &whole, 0, -1); err != nil || int64(whole.Len()) != r.Size {
		t.Fatalf("%d octets of %d, %v", whole.Len(), r.Size, err)
	}
	for from := int64(0); from <= r.Size; from += 3 {
		for n := int64(-1); from+n <= r.Size; n += 5 {
			var part bytes.Buffer
			if err := r.Write(t.Context(), &part, from, n); err != nil {
				t.Fatal(err)
			}
			to := from + n
			if n < 0 {
				to = r.Size
			}
			if part.String() != whole.String()[from:to] {
				t.Fatalf("octets %d to %d are %q, want %q", from, to, part.String(), whole.String()[from:to])
			}
		}
	}
	broken := errors.New("reader gone")
	if err := r.Write(t.Context(), failing{broken}, 0, -1); !errors.Is(err, broken) {
		t.Errorf("a writer's error is %v", err)
	}
	if err := r.Close(); err != nil || closed != 1 {
		t.Errorf("released %d times, %v", closed, err)
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

func TestBudget(t *testing.T) {
	b := budget{of: filter.Limits{Packets: 3}}
	for i, v := range []capture.Verdict{capture.Took, capture.Took, capture.TookLast, capture.Full} {
		if b.spent() != (i >= 3) {
			t.Errorf("spent before packet %d: %v", i, b.spent())
		}
		if got := b.take(10); got != v {
			t.Errorf("packet %d: %v, want %v", i, got, v)
		}
	}
	b = budget{of: filter.Limits{Octets: 25}}
	for i, v := range []capture.Verdict{capture.Took, capture.Took, capture.Full} {
		if got := b.take(10); got != v {
			t.Errorf("packet %d: %v, want %v", i, got, v)
		}
	}
	b = budget{of: filter.Limits{Octets: 20}}
	b.take(10)
	if b.take(10) != capture.TookLast {
		t.Error("the last octet is not the last")
	}
	b.giveBack(10)
	if b.spent() || b.take(10) != capture.TookLast {
		t.Error("what was given back cannot be taken again")
	}
	if b := (budget{}); b.take(1<<20) != capture.Took || b.spent() {
		t.Error("without limits there is an end")
	}

	// Several points together take exactly what there is.
	b = budget{of: filter.Limits{Packets: 1000}}
	var took, last int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 1000 {
				v := b.take(1)
				mu.Lock()
				switch v {
				case capture.TookLast:
					last++
					took++
				case capture.Took:
					took++
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if took != 1000 || last != 1 {
		t.Errorf("%d taken, %d of them the last", took, last)
	}
}
