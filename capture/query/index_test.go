package query

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"opentap/capture/index"
	"opentap/capture/segment"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// hosts writes a recording of n UDP packets between random hosts and ports, 100 µs apart, several chunks and segments.
func hosts(t testing.TB, dir string, n int, seed uint64) {
	t.Helper()
	hostsIn(t, dir, n, seed, 2<<20)
}

// hostsIn is hosts in segments of another size.
func hostsIn(t testing.TB, dir string, n int, seed uint64, segmentBytes int64) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 5))
	cfg := segment.DefaultConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes, cfg.FlushEvery, cfg.NoSync, cfg.Direct = 256<<10, segmentBytes, 0, true, false
	cfg.Interface = iface(0)
	w, err := segment.Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		f := udp(r.Uint32N(2000), r.Uint32N(2000), uint16(r.IntN(4000)), 53, r.IntN(700))
		for !w.Append(epoch+packet.Timestamp(i)*100_000, uint32(len(f)), f, pcap.DirectionIn) {
			w.Flush()
		}
	}
	if err := w.Close(ledger.Account{Seen: uint64(n), Captured: uint64(n)}); err != nil {
		t.Fatal(err)
	}
}

func udp(src, dst uint32, sport, dport uint16, payload int) []byte {
	f := make([]byte, 42+payload)
	copy(f[12:], []byte{8, 0, 0x45})
	f[23] = 17
	binary.BigEndian.PutUint32(f[26:], 0x0a000000|src)
	binary.BigEndian.PutUint32(f[30:], 0x0a000000|dst)
	binary.BigEndian.PutUint16(f[34:], sport)
	binary.BigEndian.PutUint16(f[36:], dport)
	return f
}

// filtered makes a plan for a filter, with or without its index.
func filtered(t testing.TB, dir, text string, w Window, indexed bool) *Plan {
	t.Helper()
	e, err := filter.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	m, err := cbpf.NewMatcher(e, cbpf.Options{Link: packet.LinkEthernet})
	if err != nil {
		t.Fatal(err)
	}
	w.Match = m.Match
	if indexed {
		w.Need = index.Necessary(e, packet.LinkEthernet, false)
	}
	p, err := New([]Source{{Name: "a", Interface: iface(0), Dir: dir}}, w, PcapNG, Meta{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var filters = []string{
	"host 10.0.0.7", "src host 10.0.1.9 and port 53", "net 10.0.2.16/29", "host 10.0.0.7 or host 10.0.0.8",
	"udp port 999", "portrange 100-120 and not host 10.0.0.1", "host 10.9.9.9", "not udp", "udp", "len > 600 and port 17",
}

// same compares what the index finds with what reading everything finds.
func same(t *testing.T, dir string) (skipped, chunks uint64) {
	t.Helper()
	for i, text := range filters {
		w := Window{}
		if i%3 == 1 {
			w.From, w.To = epoch+100e6, epoch+700e6
		}
		if i%4 == 3 {
			w.MaxPackets = 5
		}
		with, without := filtered(t, dir, text, w, true), filtered(t, dir, text, w, false)
		a, b := output(t, with), output(t, without)
		if !bytes.Equal(a, b) {
			t.Fatalf("%q: %d octets with the index, %d without", text, len(a), len(b))
		}
		e := with.Result().Explain
		skipped += e.SkippedByIndex
		chunks += e.Chunks
		if got, all := e.Packets, without.Result().Explain.Packets; got > all {
			t.Errorf("%q: %d packets looked at with the index, %d without", text, got, all)
		}
		var part bytes.Buffer
		if err := with.WriteTo(context.Background(), &part, 100, int64(len(a))-150); err != nil || !bytes.Equal(part.Bytes(), a[100:len(a)-50]) {
			t.Fatalf("%q: a range differs: %v", text, err)
		}
	}
	return skipped, chunks
}

func TestIndexedEqualsScanned(t *testing.T) {
	dir := t.TempDir()
	hosts(t, dir, 20000, 1)
	if skipped, chunks := same(t, dir); skipped*5 < chunks {
		t.Errorf("only %d of %d chunks skipped", skipped, chunks)
	}
	p := filtered(t, dir, "host 10.0.0.7", Window{}, true)
	output(t, p)
	r := p.Result()
	if r.Packets == 0 || r.Explain.Packets > 100*r.Packets || r.Explain.NotIndexed != 0 {
		t.Errorf("%+v", r)
	}
}

// TestCompressed: a recording that was compressed gives the same octets, indexed, whole and from the middle.
func TestCompressed(t *testing.T) {
	dir := t.TempDir()
	hosts(t, dir, 20000, 1)
	whole := output(t, filtered(t, dir, "udp", Window{}, false))
	one := output(t, filtered(t, dir, "host 10.0.0.7", Window{}, true))
	c, err := segment.Compress(context.Background(), dir, nil)
	if err != nil || c.Segments < 2 || c.After*2 > c.Before {
		t.Fatalf("%+v, %v", c, err)
	}
	same(t, dir)
	p := filtered(t, dir, "host 10.0.0.7", Window{}, true)
	if !bytes.Equal(output(t, p), one) || !bytes.Equal(output(t, filtered(t, dir, "udp", Window{}, false)), whole) {
		t.Error("other octets than before")
	}
	if r := p.Result(); r.Explain.NotIndexed != 0 || r.Explain.SkippedByIndex == 0 {
		t.Errorf("%+v", r.Explain)
	}
}

// TestIndexDamaged: an index that is missing, cut, changed or another segment's changes how long it takes, and nothing else.
func TestIndexDamaged(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	hosts(t, dir, 20000, 1)
	hosts(t, other, 20000, 2)
	path := filepath.Join(dir, "00000002.index")
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := os.ReadFile(filepath.Join(other, "00000002.index"))
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 1))
	cases := [][]byte{nil, foreign, whole[:len(whole)/2], append(bytes.Clone(whole), make([]byte, 5000)...), make([]byte, 100)}
	for range 6 {
		b := bytes.Clone(whole)
		b[r.IntN(len(b))] ^= 0x41
		cases = append(cases, b)
	}
	for i, c := range cases {
		os.Remove(path)
		if i > 0 {
			if err := os.WriteFile(path, c, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		same(t, dir)
	}
	os.Remove(path)
	if n, err := segment.Reindex(context.Background(), dir, false); err != nil || n != 1 {
		t.Fatalf("rebuilt %d, %v", n, err)
	}
	again, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(again, whole) {
		t.Fatalf("the index that was rebuilt is another one: %d octets, %d before, %v", len(again), len(whole), err)
	}
	if n, err := segment.Reindex(context.Background(), dir, false); err != nil || n != 0 {
		t.Fatalf("rebuilt %d, %v", n, err)
	}
}

// TestIndexCrash: a segment that a crash left open is read without its index, and indexed by recovery.
func TestIndexCrash(t *testing.T) {
	dir := t.TempDir()
	hosts(t, dir, 20000, 1)
	segments, err := filepath.Glob(filepath.Join(dir, "*.pcapng"))
	if err != nil || len(segments) < 2 {
		t.Fatal(segments, err)
	}
	last := segments[len(segments)-1]
	st, err := os.Stat(last)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(last, st.Size()-3*segment.Page); err != nil { // the seal, and a bit of the last chunk
		t.Fatal(err)
	}
	same(t, dir)
	if _, err := segment.Recover(dir); err != nil {
		t.Fatal(err)
	}
	same(t, dir)
	if n, err := segment.Reindex(context.Background(), dir, false); err != nil || n != 0 {
		t.Fatalf("recovery left %d segments without an index, %v", n, err)
	}
}

// TestIndexedChunkDamaged: damage to a block that is read is found by its own checksum.
func TestIndexedChunkDamaged(t *testing.T) {
	dir := t.TempDir()
	hosts(t, dir, 4000, 1)
	clean := filtered(t, dir, "host 10.0.0.7", Window{}, true)
	output(t, clean)
	rec, err := segment.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer rec.Close()
	for h := range rec.Chunks(0, 0) {
		f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("%08d.pcapng", h.Segment)), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for at := h.Offset + int64(h.Header) + 40; at < h.End(); at += 1000 {
			if _, err := f.WriteAt([]byte{0x5a}, at); err != nil {
				t.Fatal(err)
			}
		}
		f.Close()
	}
	p := filtered(t, dir, "host 10.0.0.7", Window{}, true)
	output(t, p)
	if r := p.Result(); r.Packets != 0 || r.CorruptChunks == 0 {
		t.Errorf("damaged: %+v; before: %+v", r, clean.Result())
	}
}

// TestSummary: of a host that is nowhere the summaries tell, and no part is read; indexes from before there were summaries do too.
func TestSummary(t *testing.T) {
	dir := t.TempDir()
	hosts(t, dir, 20000, 1)
	indexes, err := filepath.Glob(filepath.Join(dir, "*.index"))
	if err != nil || len(indexes) < 2 {
		t.Fatal(indexes, err)
	}
	look := func(change func(b []byte, parts int) []byte) Explain {
		t.Helper()
		for _, path := range indexes {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			s, err := index.ReadSummary(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			parts := 0
			for _, p := range s.Parts {
				parts += int(p.Length)
			}
			if err := os.WriteFile(path, change(bytes.Clone(b), parts), 0o600); err != nil {
				t.Fatal(err)
			}
			defer os.WriteFile(path, b, 0o600)
		}
		p := filtered(t, dir, "host 172.16.0.1 and port 53", Window{}, true)
		output(t, p)
		return p.Result().Explain
	}
	spoilt := look(func(b []byte, parts int) []byte {
		clear(b[:parts])
		return b
	})
	if spoilt.SkippedByIndex != spoilt.Chunks || spoilt.Chunks == 0 {
		t.Errorf("with summaries alone: %+v", spoilt)
	}
	old := look(func(b []byte, parts int) []byte { return b[:parts] })
	if old.SkippedByIndex != old.Chunks {
		t.Errorf("without summaries: %+v", old)
	}
	for _, path := range indexes {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		s, err := index.ReadSummary(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, int64(s.Parts[0].Length)); err != nil {
			t.Fatal(err)
		}
	}
	v, err := segment.Verify(context.Background(), dir, nil)
	if err != nil || len(v.Problems) > 0 || v.Indexed != len(indexes) {
		t.Errorf("indexes without summaries do not verify: %+v, %v", v, err)
	}
}
