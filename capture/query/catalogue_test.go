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
	hostsIn(t, dir, 16000, 3, 400<<10)
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
		for i, text := range []string{"host 10.0.0.7", "src host 10.0.1.9 and port 53", "host 10.9.9.9", "udp port 999", "host 10.9.9.9 or port 17"} {
			p := filtered(t, dir, text, windows[i%len(windows)], true)
			out = append(out, output(t, p))
			r := p.Result()
			e.Add(&r.Explain)
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
	sieves, err := filepath.Glob(filepath.Join(dir, "*.sieves"))
	if err != nil || len(sieves) == 0 {
		t.Fatalf("no sieves of %d segments, %v", len(names), err)
	}
	whole, err := os.ReadFile(sieves[0])
	if err != nil {
		t.Fatal(err)
	}
	for what, bad := range map[string][]byte{
		"zeros for sieves": make([]byte, len(whole)), "half the sieves": whole[:len(whole)/2], "sieves of others": append(bytes.Clone(whole[4096:]), whole[:4096]...),
	} {
		if err := os.WriteFile(sieves[0], bad, 0o600); err != nil {
			t.Fatal(err)
		}
		check(what, e.Segments)
	}
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
