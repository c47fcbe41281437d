package segment

import (
	"bytes"
	"errors"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"opentap/ledger"

	"pgregory.net/rapid"
)

// crashed is a recording of one segment as a crash leaves it: without a seal.
type crashed struct {
	content []byte
	chunks  []ChunkHeader
	packets [][]sample // by chunk
}

func makeCrashed(t testing.TB, seed uint64) *crashed {
	t.Helper()
	cfg := testConfig(t.TempDir())
	cfg.SegmentBytes = 64 << 20
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range samples(rand.New(rand.NewPCG(seed, 1)), 120) {
		w.Account(ledger.Account{Seen: uint64(i) + 1, Captured: uint64(i) + 1})
		appendAll(t, w, []sample{s})
		if i%11 == 0 {
			w.Flush()
		}
	}
	w.Close(ledger.Account{})
	c := &crashed{}
	r, err := Open(cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for h, err := range r.Chunks(0, 0) {
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.ReadChunk(h, nil)
		if err != nil {
			t.Fatal(err)
		}
		c.chunks = append(c.chunks, *h)
		c.packets = append(c.packets, chunkSamples(t, h, b))
	}
	if c.content, err = os.ReadFile(segmentPath(cfg.Dir, 1)); err != nil {
		t.Fatal(err)
	}
	c.content = c.content[:len(c.content)-Page]
	return c
}

// snapshot returns the content of every file of dir.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range names {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		out[e.Name()] = string(b)
	}
	return out
}

func TestRecoverProperty(t *testing.T) {
	c := makeCrashed(t, 5)
	dir := t.TempDir()
	path := segmentPath(dir, 1)
	rapid.Check(t, func(rt *rapid.T) {
		b := bytes.Clone(c.content)
		if rapid.Bool().Draw(rt, "truncate") {
			b = b[:rapid.IntRange(Page, len(b)).Draw(rt, "size")]
		}
		for range rapid.IntRange(0, 3).Draw(rt, "flips") {
			if len(b) > Page {
				b[rapid.IntRange(Page, len(b)-1).Draw(rt, "flip")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
			}
		}
		if rapid.Bool().Draw(rt, "hole") && len(b) > Page {
			at := rapid.IntRange(Page, len(b)-1).Draw(rt, "hole at")
			clear(b[at:min(len(b), at+rapid.IntRange(1, 3*Page).Draw(rt, "hole octets"))])
		}
		b = append(b, make([]byte, rapid.IntRange(0, 3*Page).Draw(rt, "zero tail"))...)
		if rapid.Bool().Draw(rt, "garbage") {
			b = append(b, "garbage at the end"...)
		}
		whole := make([]bool, len(c.chunks))
		for i, h := range c.chunks {
			whole[i] = int64(len(b)) >= h.End() && bytes.Equal(b[h.Offset:h.End()], c.content[h.Offset:h.End()])
		}

		for _, p := range []string{path, tablePath(dir, 1)} {
			os.Remove(p)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			rt.Fatal(err)
		}
		rep, err := Recover(dir)
		if err != nil {
			rt.Fatal(err)
		}
		var want []sample
		var chunks uint32
		end := int64(Page)
		var last ledger.Account
		for i, ok := range whole {
			if ok {
				want = append(want, c.packets[i]...)
				chunks++
				end = c.chunks[i].End()
				last = c.chunks[i].Account
			}
		}
		s := rep.Segments[0]
		if len(rep.Segments) != 1 || s.Chunks != chunks || s.Packets != uint64(len(want)) || s.End != end || s.Account != last ||
			s.Cut != int64(len(b))-end || rep.Next != 2 {
			rt.Fatalf("report %+v; want %d chunks, %d packets, end %d", rep, chunks, len(want), end)
		}
		if lost := int64(len(bytes.TrimRight(b[end:], "\x00"))); s.Lost != lost {
			rt.Fatalf("lost %d octets, want %d", s.Lost, lost)
		}
		r, err := Open(dir)
		if err != nil {
			rt.Fatal(err)
		}
		defer r.Close()
		if !r.Segments()[0].Recovered || r.Segments()[0].Packets != uint64(len(want)) {
			rt.Fatalf("segment %+v", r.Segments()[0])
		}
		sameSamples(t, readWhole(t, r), want)
		before := snapshot(t, dir)
		if rep, err = Recover(dir); err != nil || !rep.Clean() {
			rt.Fatalf("second recover: %+v, %v", rep, err)
		}
		if !maps.Equal(before, snapshot(t, dir)) {
			rt.Fatal("second recover changed a file")
		}
	})
}

// readWhole is readAll without what is damaged.
func readWhole(t testing.TB, r *Recording) []sample {
	t.Helper()
	var out []sample
	var damage *CorruptionError
	for h, err := range r.Chunks(0, 0) {
		if errors.As(err, &damage) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := r.ReadChunk(h, nil)
		if errors.As(err, &damage) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, chunkSamples(t, h, b)...)
	}
	return out
}

// TestSealedDamage changes single octets of a sealed segment: what is before and behind the chunk stays readable.
func TestSealedDamage(t *testing.T) {
	c := makeCrashed(t, 6)
	dir := t.TempDir()
	path := segmentPath(dir, 1)
	if err := os.WriteFile(path, c.content, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Recover(dir); err != nil {
		t.Fatal(err)
	}
	sealed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(tablePath(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(8, 8))
	for i := range 300 {
		b := bytes.Clone(sealed)
		at := rng.IntN(len(b) - Page)
		b[at] ^= 1 << rng.IntN(8)
		os.WriteFile(path, b, 0o600)
		os.Remove(tablePath(dir, 1))
		if i%2 == 0 {
			tb := bytes.Clone(table)
			if i%4 == 0 {
				tb[rng.IntN(len(tb))] ^= 1
			}
			os.WriteFile(tablePath(dir, 1), tb, 0o600)
		}
		var want []sample
		for k, h := range c.chunks {
			if int64(at) < h.Offset || int64(at) >= h.End() {
				want = append(want, c.packets[k]...)
			}
		}
		r, err := Open(dir)
		if err != nil {
			t.Fatalf("octet %d: %v", at, err)
		}
		sameSamples(t, readWhole(t, r), want)
		r.Close()
	}
}

// TestLostPacketsAreKnown checks that a damaged header tells how many packets are missing.
func TestLostPacketsAreKnown(t *testing.T) {
	c := makeCrashed(t, 7)
	dir := t.TempDir()
	b := bytes.Clone(c.content)
	b[c.chunks[3].Offset+100]++
	b[c.chunks[4].Offset+100]++
	if err := os.WriteFile(segmentPath(dir, 1), b, 0o600); err != nil {
		t.Fatal(err)
	}
	want := uint64(c.chunks[3].Packets + c.chunks[4].Packets)
	rep, err := Recover(dir)
	if err != nil || rep.Missing != want || len(rep.Segments[0].Damage) != 1 {
		t.Fatalf("report %+v, %v; want %d missing", rep, err, want)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var lost []uint64
	for _, err := range r.Chunks(0, 0) {
		var damage *CorruptionError
		if errors.As(err, &damage) {
			lost = append(lost, damage.Packets)
		}
	}
	if !slices.Equal(lost, []uint64{want}) {
		t.Fatalf("lost %v, want %d", lost, want)
	}
}

func TestRecoverLeftovers(t *testing.T) {
	c := makeCrashed(t, 9)
	dir := t.TempDir()
	write := func(path string, b []byte) {
		t.Helper()
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(segmentPath(dir, 1), c.content)
	write(segmentPath(dir, 2), nil)
	write(segmentPath(dir, 3), make([]byte, 10000))
	write(newPath(dir, 4), c.content[:100])
	write(filepath.Join(dir, "notes.txt"), []byte("mine"))
	write(filepath.Join(dir, "trace.pcapng"), []byte("mine too"))
	rep, err := Recover(dir)
	if err != nil || rep.Next != 2 || len(rep.Segments) != 3 || !rep.Segments[1].Removed || !rep.Segments[2].Removed {
		t.Fatalf("%+v, %v", rep, err)
	}
	if rep.Account != c.chunks[len(c.chunks)-1].Account {
		t.Fatalf("account %+v", rep.Account)
	}
	if got := slices.Sorted(maps.Keys(snapshot(t, dir))); !slices.Equal(got, []string{"00000001.chunks", "00000001.index", "00000001.pcapng", "notes.txt", "trace.pcapng"}) {
		t.Fatalf("files %v", got)
	}
	if rep, err := Recover(filepath.Join(dir, "nothing")); err != nil || rep.Next != 1 {
		t.Fatalf("no directory: %+v, %v", rep, err)
	}
}

func TestRecoverRefusesForeign(t *testing.T) {
	c := makeCrashed(t, 10)
	for name, foreign := range map[string][]byte{
		"text":             []byte("something else"),
		"another pcapng":   append([]byte("\x0a\x0d\x0d\x0a\x1c\x00\x00\x00\x4d\x3c\x2b\x1a\x01\x00\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\x1c\x00\x00\x00"), make([]byte, 8192)...),
		"another's number": c.content, // says that it is segment 1
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			os.WriteFile(segmentPath(dir, 1), c.content, 0o600)
			os.WriteFile(segmentPath(dir, 2), foreign, 0o600)
			before := snapshot(t, dir)
			_, err := Recover(dir)
			var f *ForeignError
			if !errors.As(err, &f) || f.Path != segmentPath(dir, 2) {
				t.Fatalf("got %v", err)
			}
			if !maps.Equal(before, snapshot(t, dir)) {
				t.Fatal("a file was changed")
			}
		})
	}
}

// sign makes the checksums of b right, so that the fuzzer gets behind them.
func sign(b []byte) {
	if n, ok := headLength(b); ok && n <= len(b) {
		le.PutUint32(b[headCRC:], 0)
		le.PutUint32(b[headCRC:], crc32.Checksum(b[:n], castagnoli))
	}
	for ; len(b) >= Page; b = b[Page:] {
		n, length := int(le.Uint32(b[4:])), int(le.Uint32(b[52:]))
		if string(b[32:36]) != magicChunk || n < chunkHeaderSize || n > Page {
			continue
		}
		if length >= n && length <= len(b) {
			le.PutUint32(b[44:], crc32.Checksum(b[n:length], castagnoli))
		}
		le.PutUint32(b[40:], 0)
		le.PutUint32(b[40:], crc32.Checksum(b[:n], castagnoli))
	}
}

func FuzzRecover(f *testing.F) {
	golden := goldenSegment(f)
	for _, signed := range []bool{false, true} {
		f.Add(golden, signed)
		f.Add(golden[:len(golden)-Page], signed)
		f.Add(golden[:Page], signed)
		f.Add(golden[Page:], signed)
		f.Add([]byte{}, signed)
		f.Add(append(bytes.Clone(golden[:3*Page]), make([]byte, 5000)...), signed)
	}
	f.Fuzz(func(t *testing.T, b []byte, signed bool) {
		if signed {
			sign(b)
		}
		dir := t.TempDir()
		path := segmentPath(dir, 1)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		rep, err := Recover(dir)
		if err != nil {
			var foreign *ForeignError
			if !errors.As(err, &foreign) {
				t.Fatalf("not a ForeignError: %v", err)
			}
			if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, b) {
				t.Fatal("a foreign file was changed")
			}
			return
		}
		r, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		for h, err := range r.Chunks(0, 0) {
			if err == nil {
				r.ReadChunk(h, nil)
			}
		}
		if again, err := Recover(dir); err != nil || !again.Clean() {
			t.Fatalf("after %+v a second recover: %+v, %v", rep, again, err)
		}
	})
}

func FuzzReadChunk(f *testing.F) {
	golden := goldenSegment(f)
	f.Add(golden[Page : 2*Page])
	f.Add(golden[3*Page:])
	f.Fuzz(func(t *testing.T, b []byte) {
		sign(b)
		var h ChunkHeader
		if h.parse(b, 0, MaxChunkBytes) != "" {
			return
		}
		if h.Length > MaxChunkBytes || h.Header > h.Length || int(h.Last) > h.Length || int(h.PacketOctets) > h.Length {
			t.Fatalf("impossible header %+v", h)
		}
		dir := t.TempDir()
		if err := os.WriteFile(segmentPath(dir, h.Segment), b, 0o600); err != nil {
			t.Fatal(err)
		}
		r := &Recording{dir: dir}
		defer r.Close()
		got, err := r.ReadChunk(&h, nil)
		if err == nil && len(got) != h.Length {
			t.Fatalf("%d octets of %d", len(got), h.Length)
		}
	})
}
