package segment

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

func testConfig(dir string) Config {
	c := DefaultConfig(dir)
	c.ChunkBytes, c.SegmentBytes, c.FlushEvery, c.NoSync = 4*Page, 1<<20, 0, true
	c.Interface = pcap.Interface{Name: "veth0", Link: packet.LinkEthernet, SnapLen: 262144}
	c.Section = pcap.Section{Application: "OpenTap test"}
	return c
}

type sample struct {
	ts   packet.Timestamp
	orig uint32
	data []byte
	dir  pcap.Direction
}

func samples(rng *rand.Rand, n int) []sample {
	out := make([]sample, n)
	ts := packet.Timestamp(1_700_000_000_000_000_000)
	for i := range out {
		ts += packet.Timestamp(rng.IntN(2_000_000))
		d := make([]byte, rng.IntN(1600))
		for j := range d {
			d[j] = byte(rng.Uint32())
		}
		out[i] = sample{ts - packet.Timestamp(rng.IntN(1000)), uint32(len(d) + rng.IntN(3)*100), d, pcap.Direction(rng.IntN(3))}
	}
	return out
}

// appendAll appends every sample, however late the disk is.
func appendAll(t testing.TB, w *Writer, all []sample) {
	t.Helper()
	for _, s := range all {
		for !w.Append(s.ts, s.orig, s.data, s.dir) {
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// readAll reads a recording packet by packet through its chunks.
func readAll(t testing.TB, r *Recording) []sample {
	t.Helper()
	var out []sample
	var buf []byte
	for h, err := range r.Chunks(0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		if buf, err = r.ReadChunk(h, buf); err != nil {
			t.Fatal(err)
		}
		out = append(out, chunkSamples(t, h, buf)...)
	}
	return out
}

func chunkSamples(t testing.TB, h *ChunkHeader, b []byte) []sample {
	t.Helper()
	var out []sample
	for b = b[h.Header:]; len(b) > 0; {
		_, body, n, err := pcap.NextBlock(b)
		if err != nil {
			t.Fatal(err)
		}
		var p pcap.Packet
		if err := pcap.DecodePacket(body, &p); err != nil {
			t.Fatal(err)
		}
		out = append(out, sample{p.Time, p.OrigLen, bytes.Clone(p.Data), p.Direction})
		b = b[n:]
	}
	if len(out) != int(h.Packets) {
		t.Fatalf("chunk holds %d packets, its header says %d", len(out), h.Packets)
	}
	return out
}

func sameSamples(t testing.TB, got, want []sample) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("got %d packets, want %d", len(got), len(want))
	}
	for i := range got {
		g, w := got[i], want[i]
		if g.ts != w.ts || g.orig != w.orig || g.dir != w.dir || !bytes.Equal(g.data, w.data) {
			t.Fatalf("packet %d differs", i)
		}
	}
}

func TestWriteReadContinue(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rec")
	all := samples(rand.New(rand.NewPCG(1, 2)), 5000)
	var acc ledger.Account
	for part := range 2 {
		w, err := Create(testConfig(dir))
		if err != nil {
			t.Fatal(err)
		}
		appendAll(t, w, all[part*2500:part*2500+2500])
		acc.Captured += 2500
		acc.Seen += 2503
		acc.Dropped[ledger.Ring] += 3
		acc.FilterUncounted = true
		if err := w.Close(acc); err != nil {
			t.Fatal(err)
		}
		if s := w.Stats(); s.Packets-s.WrittenPackets != 0 || s.FreeBuffers != DefaultConfig("").Buffers {
			t.Fatalf("stats after close: %+v", s)
		}
		if w.Append(1, 1, []byte{1}, 0) {
			t.Fatal("append after close succeeded")
		}
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	sameSamples(t, readAll(t, r), all)
	if r.Account() != acc {
		t.Fatalf("account %+v, want %+v", r.Account(), acc)
	}
	var packets, octets uint64
	for i, in := range r.Segments() {
		packets += in.Packets
		octets += in.Octets
		if !in.Sealed || in.Number != uint32(i+1) || in.Bytes > 1<<20 {
			t.Fatalf("segment %+v", in)
		}
		f, err := os.Open(in.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		pr, err := pcap.NewReader(f)
		if err != nil {
			t.Skip("pcap.Reader:", err)
		}
		var n uint64
		var p pcap.Packet
		for err = pr.Next(&p); err == nil; err = pr.Next(&p) {
			n++
		}
		if err != io.EOF || n != in.Packets {
			t.Fatalf("pcap.Reader: %d packets, error %v; want %d", n, err, in.Packets)
		}
	}
	if packets != 5000 {
		t.Fatalf("segments hold %d packets", packets)
	}
	if rep, err := Recover(dir); err != nil || !rep.Clean() || rep.Next != uint32(len(r.Segments())+1) {
		t.Fatalf("recover of a closed recording: %+v, %v", rep, err)
	}
}

func TestCreateRefuses(t *testing.T) {
	dir := t.TempDir()
	w, err := Create(testConfig(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Create(testConfig(dir)); !errors.Is(err, ErrBusy) {
		t.Fatalf("second writer: %v", err)
	}
	if _, err := Recover(dir); !errors.Is(err, ErrBusy) {
		t.Fatalf("recover beside a writer: %v", err)
	}
	w.Append(1, 4, []byte{1, 2, 3, 4}, 0)
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	path := segmentPath(dir, 1)
	st, _ := os.Stat(path)
	if err := os.Truncate(path, st.Size()-Page); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(testConfig(dir)); !errors.Is(err, ErrNotRecovered) {
		t.Fatalf("create without a seal: %v", err)
	}
}

func TestAppendAllocs(t *testing.T) {
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 64 << 20
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close(ledger.Account{})
	data := make([]byte, 1000)
	appendAll(t, w, make([]sample, 1000))
	n := testing.AllocsPerRun(200, func() {
		for range 100 { // several chunks
			w.Append(1, 1000, data, pcap.DirectionIn)
		}
		w.Flush()
	})
	if n > 0.5 {
		t.Fatalf("%v allocations in 100 packets and 7 chunks", n)
	}
}
