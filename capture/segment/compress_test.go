package segment

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"opentap/ledger"
)

// dull makes samples that compress.
func dull(n int) []sample {
	all := samples(rand.New(rand.NewPCG(8, 9)), n)
	for i := range all {
		for j := range all[i].data {
			all[i].data[j] &= 7
		}
	}
	return all
}

// record writes samples into several segments.
func record(t *testing.T, dir string, all []sample) {
	t.Helper()
	cfg := testConfig(dir)
	cfg.ChunkBytes, cfg.SegmentBytes = 64<<10, 512<<10
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	appendAll(t, w, all)
	if err := w.Close(ledger.Account{Seen: uint64(len(all)), Captured: uint64(len(all))}); err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *Recording {
	t.Helper()
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	m, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestCompress: a compressed recording is the same recording, in less room, and goes on.
func TestCompress(t *testing.T) {
	dir := t.TempDir()
	all := dull(3000)
	record(t, dir, all)
	plain := open(t, dir)
	plainFiles := map[string][]byte{}
	for _, path := range glob(t, dir, "*.pcapng") {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		plainFiles[path] = b
	}
	c, err := Compress(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.Segments != len(plain.Segments()) || c.Segments < 3 || c.After*3 > c.Before*2 {
		t.Fatalf("%+v of %d segments", c, len(plain.Segments()))
	}
	if left := append(glob(t, dir, "*.pcapng"), glob(t, dir, "*.new")...); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	r := open(t, dir)
	sameSamples(t, readAll(t, r), all)
	held := int64(0)
	for i, in := range r.Segments() {
		was := plain.Segments()[i]
		st, err := os.Stat(in.Path)
		if err != nil || !in.Compressed || !in.Sealed || in.Bytes != st.Size() || in.Packets != was.Packets || in.chain != was.chain {
			t.Errorf("segment %+v, was %+v, %v", in, was, err)
		}
		held += in.Bytes
	}
	if held != c.After {
		t.Errorf("%d octets held, %d told", held, c.After)
	}
	if r.Position() != plain.Position() {
		t.Errorf("position %+v, was %+v", r.Position(), plain.Position())
	}
	v, err := Verify(context.Background(), dir, nil)
	if err != nil || len(v.Problems) > 0 || v.Packets != uint64(len(all)) || v.Indexed != c.Segments {
		t.Errorf("verification %+v, %v", v, err)
	}
	if rep, err := Recover(dir); err != nil || !rep.Clean() {
		t.Errorf("recover: %+v, %v", rep, err)
	}
	if again, err := Compress(context.Background(), dir, nil); err != nil || again != (Compressed{}) {
		t.Errorf("again: %+v, %v", again, err)
	}
	if bin, err := exec.LookPath("zstd"); err == nil {
		for path, want := range plainFiles {
			got, err := exec.Command(bin, "-dc", path+".zst").Output()
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("zstd makes something else of %s: %d octets of %d, %v", path, len(got), len(want), err)
			}
		}
	}

	record(t, dir, all) // goes on where it ended
	r = open(t, dir)
	sameSamples(t, readAll(t, r), append(append([]sample(nil), all...), all...))
	first := r.Segments()[0]
	if _, err := r.DropOldest(); err != nil {
		t.Fatal(err)
	}
	if left := glob(t, dir, "00000001*"); len(left) > 0 || first.Number != 1 {
		t.Errorf("dropped, and left: %v", left)
	}
}

// TestCompressBeside: readers that have the recording open go on reading while it is compressed.
func TestCompressBeside(t *testing.T) {
	dir := t.TempDir()
	all := dull(3000)
	record(t, dir, all)
	r := open(t, dir)
	if _, err := Compress(context.Background(), dir, nil); err != nil {
		t.Fatal(err)
	}
	sameSamples(t, readAll(t, r), all)
}

// TestCompressIsEnded: one that is ended leaves whole segments, of either kind.
func TestCompressIsEnded(t *testing.T) {
	dir := t.TempDir()
	all := dull(3000)
	record(t, dir, all)
	enough := errors.New("enough")
	n := 0
	c, err := Compress(context.Background(), dir, func() error {
		if n++; n > 20 {
			return enough
		}
		return nil
	})
	if !errors.Is(err, enough) || c.Segments == 0 {
		t.Fatalf("%+v, %v", c, err)
	}
	if left := glob(t, dir, "*.new"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	sameSamples(t, readAll(t, open(t, dir)), all)
}

// TestCompressedDamage: damage costs the chunks it is in, and is told; a damaged segment is not compressed.
func TestCompressedDamage(t *testing.T) {
	dir := t.TempDir()
	all := dull(3000)
	record(t, dir, all)
	flip := func(path string, at int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt(bytes.Repeat([]byte{0xa5}, 64), at); err != nil {
			t.Fatal(err)
		}
	}
	flip(segmentPath(dir, 2), 100_000)
	c, err := Compress(context.Background(), dir, nil)
	if err != nil || c.Kept != 1 || len(glob(t, dir, "*.pcapng")) != 1 {
		t.Fatalf("%+v, %v", c, err)
	}
	st, err := os.Stat(packedPath(dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	flip(packedPath(dir, 1), st.Size()/2)
	if err := os.Truncate(packedPath(dir, 3), 5000); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	read, lost := 0, 0
	for h, err := range r.Chunks(0, 0) {
		if err != nil {
			lost++
			continue
		}
		if _, err := r.ReadChunk(h, nil); err != nil {
			var damage *CorruptionError
			if !errors.As(err, &damage) {
				t.Fatal(err)
			}
			lost++
			continue
		}
		read++
	}
	if read == 0 || lost == 0 {
		t.Errorf("%d chunks read, %d lost", read, lost)
	}
	v, err := Verify(context.Background(), dir, nil)
	if err != nil || len(v.Problems) < 3 {
		t.Errorf("verification %+v, %v", v.Problems, err)
	}
	if _, err := Recover(dir); err != nil {
		t.Error(err)
	}
}

// TestOutdatedIndex: an index of an older version is no damage, hides nothing, and is built anew.
func TestOutdatedIndex(t *testing.T) {
	dir := t.TempDir()
	all := dull(500)
	record(t, dir, all)
	path := indexPath(dir, 1)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	was := bytes.Clone(b)
	for at, older := range map[int]byte{59: 0, 4: 1} { // of an older make, of an older version
		b = bytes.Clone(was)
		b[at] = older
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if v, err := Verify(context.Background(), dir, nil); err != nil || len(v.Problems) > 0 || v.Missing != 1 {
			t.Errorf("octet %d is %d: %+v, %v", at, older, v, err)
		}
	}
	b[4] = 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := Reindex(context.Background(), dir, false); err != nil || n != 1 {
		t.Errorf("built %d, %v", n, err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, was) {
		t.Errorf("another index than before: %v", err)
	}
}
