package audit

import (
	"log/slog"
	"os"
	"testing"
)

func TestLast(t *testing.T) {
	dir := t.TempDir()
	l, _, err := Open(Config{Dir: dir, MaxBytes: 4 << 10}, slog.New(slog.DiscardHandler)) // several files
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := range 100 {
		action := "capture.start"
		if i%2 == 1 {
			action = "capture.stop"
		}
		if err := l.Append(t.Context(), Entry{Actor: Actor{Name: "ann"}, Action: action, Outcome: Allowed}); err != nil {
			t.Fatal(err)
		}
	}
	starts := func(e *Entry) bool { return e.Action == "capture.start" }
	for _, c := range []struct {
		n           int
		before      uint64
		keep        func(*Entry) bool
		want        int
		first, last uint64
	}{{5, 0, nil, 5, 100, 96}, {500, 0, nil, 100, 100, 1}, {3, 50, nil, 3, 49, 47}, {4, 0, starts, 4, 99, 93}, {500, 11, starts, 5, 9, 1}, {5, 1, nil, 0, 0, 0}} {
		got, err := l.Last(c.n, c.before, c.keep)
		if err != nil || len(got) != c.want || c.want > 0 && (got[0].Seq != c.first || got[len(got)-1].Seq != c.last) {
			t.Errorf("%+v: %d entries, %v", c, len(got), err)
		}
	}
	if r, err := l.Verify(); err != nil || r.Head.Seq != 100 || r.Files < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	paths, err := files(dir)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(paths[0])
	if err != nil {
		t.Fatal(err)
	}
	b[20] ^= 1
	if err := os.WriteFile(paths[0], b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Verify(); err == nil {
		t.Error("a changed line is not found")
	}
	if _, err := l.Last(500, 0, nil); err == nil {
		t.Error("a changed line is shown")
	}
}
