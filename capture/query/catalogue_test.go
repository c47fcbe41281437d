package query

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"opentap/capture/segment"
)

// TestCatalogued: known from its catalogue or not, and whatever that says, a recording gives the same octets, indexed and all.
func TestCatalogued(t *testing.T) {
	dir := t.TempDir()
	hosts(t, dir, 20000, 3)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-time.Hour)
	for _, name := range names {
		if err := os.Chtimes(name, old, old); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "segments.catalogue")
	os.Remove(path)
	windows := []Window{{}, {From: epoch + 300e6, To: epoch + 900e6}, {From: epoch + 500e6}, {MaxPackets: 3}}
	ask := func() (out [][]byte, e Explain) {
		t.Helper()
		for _, text := range append(filters, "host 10.0.7.207 or port 3999", "host 172.16.0.1") {
			for _, w := range windows {
				p := filtered(t, dir, text, w, true)
				out = append(out, output(t, p))
				r := p.Result()
				e.Add(&r.Explain)
			}
		}
		return out, e
	}
	want, e := ask()
	if e.Segments == 0 || e.Catalogued != 0 {
		t.Fatalf("without a catalogue: %+v", e)
	}
	check := func(what string, least uint64) {
		t.Helper()
		got, now := ask()
		for i := range want {
			if !bytes.Equal(got[i], want[i]) {
				t.Errorf("%s: answer %d differs", what, i)
			}
		}
		if now.Catalogued < least {
			t.Errorf("%s: %d of %d segments known from the catalogue", what, now.Catalogued, now.Segments)
		}
		if now.Chunks != e.Chunks || now.SkippedByIndex != e.SkippedByIndex || now.SkippedByTime != e.SkippedByTime || now.Packets != e.Packets {
			t.Errorf("%s: %+v, without %+v", what, now, e)
		}
	}
	if _, err := segment.Reindex(context.Background(), dir, false); err != nil {
		t.Fatal(err)
	}
	check("whole", e.Segments)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"half": b[:len(b)/2], "torn": append(bytes.Clone(b[:700]), make([]byte, 300)...), "empty": {}, "foreign": bytes.Repeat([]byte("other"), 999),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		check(what, 0)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, name := range names {
		if err := os.Chtimes(name, old, old.Add(time.Duration(i)*time.Nanosecond)); err != nil {
			t.Fatal(err)
		}
	}
	check("stale", 0)
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	check("gone", 0)
}
