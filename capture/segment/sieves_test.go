package segment

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"opentap/capture/index"
	"opentap/filter"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// hostPerSegment writes a recording of so many segments, each with the packets of a host of its own, 10.0.0.number.
func hostPerSegment(t testing.TB, dir string, segments int) {
	t.Helper()
	cfg := testConfig(dir)
	cfg.SegmentSpan = 1000
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	f := make([]byte, 60)
	copy(f[12:], []byte{8, 0, 0x45})
	f[23] = 17
	for n := range segments {
		for i := range 3 {
			binary.BigEndian.PutUint32(f[26:], 10<<24|uint32(n+1))
			binary.BigEndian.PutUint32(f[30:], 10<<24|1<<16)
			appendAll(t, w, []sample{{packet.Timestamp(1000*n + 400*i), 60, f, pcap.DirectionIn}})
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	age(t, dir)
}

// nothingIn asks about hosts and returns the segments that are said to hold nothing, by host.
func nothingIn(t testing.TB, r *Recording, hosts int) map[string]bool {
	t.Helper()
	out := make(map[string]bool)
	for host := range hosts {
		e, err := filter.Parse(fmt.Sprintf("host 10.0.0.%d", host))
		if err != nil {
			t.Fatal(err)
		}
		s := r.Select(context.Background(), index.Necessary(e, packet.LinkEthernet, false), 0, 0)
		for _, in := range r.Segments() {
			if s.Nothing(in.Number) {
				out[fmt.Sprintf("%d in %d", host, in.Number)] = true
			}
		}
		s.Close()
	}
	return out
}

// TestSieves: what the sieves of many segments say is what those of each say, whatever becomes of them.
func TestSieves(t *testing.T) {
	dir := t.TempDir()
	const segments, hosts = 40, 60
	hostPerSegment(t, dir, segments)
	without, err := openUpto(dir, Position{}, nil)
	if err != nil || len(without.Segments()) != segments {
		t.Fatalf("%d segments, %v", len(without.Segments()), err)
	}
	defer without.Close()
	want := nothingIn(t, without, hosts)
	if len(want) < hosts*segments/2 {
		t.Fatalf("only %d answers are no", len(want))
	}
	same := func(what string, runs int) {
		t.Helper()
		with := open(t, dir)
		if len(with.runs) != runs {
			t.Errorf("%s: %d runs, want %d", what, len(with.runs), runs)
		}
		got := nothingIn(t, with, hosts)
		for k := range want {
			if !got[k] {
				t.Errorf("%s: %s is not told", what, k)
			}
		}
		if len(got) > len(want) {
			t.Errorf("%s: %d answers are no, %d should be", what, len(got), len(want))
		}
	}
	refreshCatalogue(dir, false)
	same("whole", 2)
	path := sievesPath(dir, 17)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	verify := func() int {
		v, err := Verify(context.Background(), dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		return len(v.Problems)
	}
	if n := verify(); n != 0 {
		t.Errorf("%d problems of whole sieves", n)
	}
	first, err := os.ReadFile(sievesPath(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	for what, b := range map[string][]byte{"empty": nil, "cut": whole[:len(whole)/2], "zeros": make([]byte, len(whole)), "another's": first} {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		same(what, 2)
		if n := verify(); n != 1 {
			t.Errorf("%s: %d problems", what, n)
		}
	}
	if _, err := Reindex(context.Background(), dir, true); err != nil {
		t.Fatal(err)
	}
	same("repaired", 2)
	if n := verify(); n != 0 {
		t.Errorf("%d problems, repaired", n)
	}
	os.Remove(path)
	same("gone", 2)
	refreshCatalogue(dir, false)
	if b, err := os.ReadFile(path); err != nil || string(b) != string(whole) {
		t.Errorf("made anew they are others: %v", err)
	}

	// The index of a segment of the run is made anew: the run still speaks of the same packets.
	os.Remove(indexPath(dir, 20))
	same("an index gone", 2)
	if n, err := Reindex(context.Background(), dir, false); n != 1 || err != nil {
		t.Error(n, err)
	}

	// They expire with the last of their segments.
	r := open(t, dir)
	for range 15 {
		if _, err := r.DropOldest(); err != nil {
			t.Fatal(err)
		}
	}
	for k := range want {
		var host, number int
		if fmt.Sscanf(k, "%d in %d", &host, &number); number < 16 {
			delete(want, k)
		}
	}
	same("15 dropped", 2)
	if n := verify(); n != 0 {
		t.Errorf("%d problems, 15 dropped", n)
	}
	if _, err := r.DropOldest(); err != nil {
		t.Fatal(err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.sieves")); len(left) != 1 {
		t.Errorf("left: %v", left)
	}
}
