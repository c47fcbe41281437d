package segment

import (
	"bytes"
	"context"
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"opentap/ledger"

	"pgregory.net/rapid"
)

// age makes the files of a recording so old that they are noted.
func age(t testing.TB, dir string) {
	t.Helper()
	names, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range names {
		then := time.Now().Add(-time.Hour + time.Duration(i)*time.Second)
		if err := os.Chtimes(filepath.Join(dir, e.Name()), then, then); err != nil {
			t.Fatal(err)
		}
	}
}

// recorded writes a recording of a few segments that are old enough to be noted.
func recorded(t testing.TB, dir string, seed uint64, packets int) {
	t.Helper()
	cfg := testConfig(dir)
	cfg.SegmentBytes, cfg.NoIndex = 128<<10, true
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range samples(rand.New(rand.NewPCG(seed, 3)), packets) {
		w.Account(ledger.Account{Seen: uint64(i) + 1, Captured: uint64(i) + 1, FilterUncounted: seed%2 == 0})
		appendAll(t, w, []sample{s})
	}
	if err := w.Close(ledger.Account{Seen: uint64(packets) + 5, Captured: uint64(packets)}); err != nil {
		t.Fatal(err)
	}
	age(t, dir)
}

// agree opens a recording with and without its catalogue, which must be the same, and returns how many segments were known.
func agree(t fataler, dir string) (known int) {
	t.Helper()
	with, err := Open(dir)
	without, werr := openUpto(dir, Position{}, nil)
	if err != nil || werr != nil {
		if err == nil || werr == nil || err.Error() != werr.Error() {
			t.Fatalf("with the catalogue: %v, without: %v", err, werr)
		}
		return 0
	}
	defer with.Close()
	defer without.Close()
	got := slices.Clone(with.Segments())
	for i := range got {
		if got[i].Catalogued {
			known++
		}
		got[i].Catalogued = false
	}
	if !slices.Equal(got, without.Segments()) {
		t.Fatalf("with the catalogue:\n%+v\nwithout:\n%+v", got, without.Segments())
	}
	return known
}

type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

func TestCatalogue(t *testing.T) {
	dir := t.TempDir()
	recorded(t, dir, 1, 800)
	if n := agree(t, dir); n != 0 {
		t.Fatalf("%d segments are known from before they were old enough", n)
	}
	n := refreshCatalogue(dir, false)
	if n < 5 {
		t.Fatalf("%d segments noted", n)
	}
	if known := agree(t, dir); known != n {
		t.Errorf("%d of %d segments are known", known, n)
	}
	before := snapshot(t, dir)
	if again := refreshCatalogue(dir, true); again != n || snapshot(t, dir)[catalogueName] != before[catalogueName] {
		t.Errorf("made anew it is another: %d of %d", again, n)
	}
	c, err := Compress(context.Background(), dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if known := agree(t, dir); known+c.Segments < n {
		t.Errorf("%d segments are known after %d of %d were compressed", known, c.Segments, n)
	}
	age(t, dir)
	refreshCatalogue(dir, false)
	if known := agree(t, dir); known != n {
		t.Errorf("%d of %d segments are known, compressed", known, n)
	}
	r, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.DropOldest(); err != nil {
		t.Fatal(err)
	}
	if known := agree(t, dir); known != n-1 {
		t.Errorf("%d of %d segments are known, one was dropped", known, n)
	}
	if left := refreshCatalogue(dir, false); left != n-1 {
		t.Errorf("%d entries of %d segments", left, n-1)
	}
}

// TestCatalogueIsOnlyACache: whatever becomes of the catalogue and of the files it speaks of, a recording opens as without it.
func TestCatalogueIsOnlyACache(t *testing.T) {
	master, foreign := t.TempDir(), t.TempDir()
	recorded(t, master, 2, 500)
	recorded(t, foreign, 3, 500)
	refreshCatalogue(master, false)
	refreshCatalogue(foreign, false)
	files := snapshot(t, master)
	other := []byte(snapshot(t, foreign)[catalogueName])
	then := map[string]time.Time{}
	for name := range files {
		st, err := os.Stat(filepath.Join(master, name))
		if err != nil {
			t.Fatal(err)
		}
		then[name] = st.ModTime()
	}
	numbers, err := list(master)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	seen := 0
	rapid.Check(t, func(rt *rapid.T) {
		for name := range snapshot(t, dir) {
			os.Remove(filepath.Join(dir, name))
		}
		write := func(name string, b []byte, mtime time.Time) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, b, 0o600); err != nil {
				rt.Fatal(err)
			}
			if err := os.Chtimes(path, mtime, mtime); err != nil {
				rt.Fatal(err)
			}
		}
		for name, b := range files {
			write(name, []byte(b), then[name])
		}
		now := time.Now().Add(-time.Minute)
		for range rapid.IntRange(0, 3).Draw(rt, "changes") {
			name := filepath.Base(segmentPath(dir, numbers[rapid.IntRange(0, len(numbers)-1).Draw(rt, "segment")]))
			b := []byte(files[name])
			switch rapid.IntRange(0, 4).Draw(rt, "change") {
			case 0:
				os.Remove(filepath.Join(dir, name))
			case 1: // with the size it had
				b[rapid.IntRange(0, len(b)-1).Draw(rt, "flip")] ^= 1
				write(name, b, now)
			case 2: // with the time it had
				write(name, b[:rapid.IntRange(0, len(b)).Draw(rt, "size")&^(Page-1)], then[name])
			case 3: // another recording's
				o, err := os.ReadFile(filepath.Join(foreign, name))
				if err != nil {
					continue
				}
				write(name, o, now)
			case 4:
				write(name, b, now)
			}
		}
		c := []byte(files[catalogueName])
		for range rapid.IntRange(0, 3).Draw(rt, "damages") {
			switch rapid.IntRange(0, 5).Draw(rt, "damage") {
			case 0:
				if len(c) > 0 {
					c[rapid.IntRange(0, len(c)-1).Draw(rt, "flip")] ^= 1 << rapid.IntRange(0, 7).Draw(rt, "bit")
				}
			case 1:
				c = c[:rapid.IntRange(0, len(c)).Draw(rt, "cut")]
			case 2:
				c = append(c, other...)
			case 3:
				c = append(c, "something else"...)
			case 4:
				at := rapid.IntRange(0, len(c)).Draw(rt, "torn at")
				clear(c[at:])
			case 5:
				c = append(bytes.Clone(other), c...)
			}
		}
		write(catalogueName, c, now)
		seen += agree(rt, dir)
		if rapid.Bool().Draw(rt, "refresh") {
			refreshCatalogue(dir, false)
			agree(rt, dir)
		}
	})
	if seen == 0 {
		t.Error("no segment was ever known from the catalogue")
	}
}

// TestCataloguer: a Writer notes what is old enough, one after the other, and leaves out what is gone when it writes anew.
func TestCataloguer(t *testing.T) {
	dir := t.TempDir()
	recorded(t, dir, 4, 1000)
	numbers, err := list(dir)
	if err != nil || len(numbers) < 8 {
		t.Fatal(numbers, err)
	}
	size := func() int64 {
		st, err := os.Stat(filepath.Join(dir, catalogueName))
		if err != nil {
			return 0
		}
		return st.Size() / entrySize
	}
	c := cataloguer{dir: dir}
	newest := segmentPath(dir, numbers[2])
	if err := os.Chtimes(newest, time.Time{}, time.Now().Add(time.Hour)); err != nil { // as one that was just written
		t.Fatal(err)
	}
	for _, n := range numbers[3:] { // the recorder has not sealed them yet
		if err := os.Rename(segmentPath(dir, n), segmentPath(dir, n)+".later"); err != nil {
			t.Fatal(err)
		}
	}
	refreshCatalogue(dir, false)
	c.add(numbers[2])
	if size() != 2 || agree(t, dir) != 2 || !slices.Equal(c.waiting, numbers[2:3]) {
		t.Fatalf("%d entries, waiting: %v", size(), c.waiting)
	}
	if err := os.Chtimes(newest, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	for i, n := range numbers[3:] {
		if err := os.Rename(segmentPath(dir, n)+".later", segmentPath(dir, n)); err != nil {
			t.Fatal(err)
		}
		c.add(n)
		if want := 4 + i; size() != int64(want) || agree(t, dir) != want {
			t.Fatalf("%d entries of %d segments", size(), want)
		}
	}
	for range 400 { // expired, sealed, expired ...
		c.add(numbers[len(numbers)-1])
	}
	if size() > 2*int64(len(numbers))+65 || agree(t, dir) != len(numbers) {
		t.Errorf("%d entries of %d segments", size(), len(numbers))
	}
}

// TestWriterNotes: while a Writer goes on, what it sealed is noted.
func TestWriterNotes(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(dir)
	cfg.SegmentBytes = 128 << 10
	w, err := Create(cfg)
	if err != nil {
		t.Fatal(err)
	}
	all := samples(rand.New(rand.NewPCG(6, 3)), 300)
	known := 0
	for deadline := time.Now().Add(30 * time.Second); known < 3; {
		appendAll(t, w, all)
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		if known = agree(t, dir); time.Now().After(deadline) {
			t.Fatalf("%d segments noted after 30 s", known)
		}
		time.Sleep(settled / 5) // segments grow old enough
	}
	if err := w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	if got := agree(t, dir); got < known {
		t.Errorf("%d segments are known, %d were", got, known)
	}
}

// TestCatalogueLies: an entry that says something else than its segment is told, and made anew.
func TestCatalogueLies(t *testing.T) {
	dir := t.TempDir()
	recorded(t, dir, 7, 400)
	refreshCatalogue(dir, false)
	c := readCatalogue(dir)
	e := c.segments[2]
	e.info.Latest = e.info.Earliest
	(&cataloguer{dir: dir}).append(e.append(nil))
	v, err := Verify(context.Background(), dir, nil)
	if err != nil || len(v.Problems) != 1 || !v.Problems[0].Index {
		t.Fatalf("%+v, %v", v, err)
	}
	if _, err := Reindex(context.Background(), dir, true); err != nil {
		t.Fatal(err)
	}
	if v, err = Verify(context.Background(), dir, nil); err != nil || len(v.Problems) != 0 {
		t.Fatalf("%+v, %v", v, err)
	}
	if known := agree(t, dir); known != len(c.segments) {
		t.Errorf("%d of %d segments are known", known, len(c.segments))
	}
}

// TestCatalogueOffsets reads an entry with the numbers of docs/format/catalogue.md alone.
func TestCatalogueOffsets(t *testing.T) {
	le := binary.LittleEndian
	e := entry{file: stamp{8192, 77}, info: Info{
		Number: 3, Sealed: true, Recovered: true, Compressed: true, Catalogued: true, Bytes: 8192, Chunks: 4, Packets: 5, Octets: 6,
		StoredOctets: 7, Earliest: 8, Latest: 9, Account: ledger.Account{Seen: 10, FilterUncounted: true},
		start: 4096, end: 12288, limit: 16384, lanes: 2, recordID: 11, base: ledger.Account{Captured: 12}, before: 13, chain: 14,
	}}
	b := e.append(nil)
	if len(b) != 512 || string(b[:4]) != "OTCE" || le.Uint32(b[4:]) != crc32.Checksum(b[8:], crc32.MakeTable(crc32.Castagnoli)) {
		t.Fatalf("% x", b[:16])
	}
	for at, want := range map[int]uint64{
		16: 11, 24: 8192, 32: 77, 40: 12288, 72: 5, 80: 8, 88: 9, 96: 6, 104: 7, 112: 13, 120: 10, 272 + 8: 12,
	} {
		if got := le.Uint64(b[at:]); got != want {
			t.Errorf("offset %d: %d, want %d", at, got, want)
		}
	}
	for at, want := range map[int]uint32{8: 1 | 7<<16, 12: 3, 48: 4096, 52: 16384, 56: 2, 60: 4, 64: 14, 68: 0} {
		if got := le.Uint32(b[at:]); got != want {
			t.Errorf("offset %d: %d, want %d", at, got, want)
		}
	}
	var got entry
	if !got.parse(b) || got != e {
		t.Errorf("%+v, want %+v", got, e)
	}
}

func FuzzCatalogue(f *testing.F) {
	dir := f.TempDir()
	recorded(f, dir, 8, 200)
	refreshCatalogue(dir, false)
	f.Add([]byte(snapshot(f, dir)[catalogueName]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		for at := 0; at+entrySize <= len(b); at += entrySize { // so that what is fuzzed is not only the checksum
			le.PutUint32(b[at+4:], crc32.Checksum(b[at+8:at+entrySize], castagnoli))
		}
		for n, e := range parseCatalogue(b).segments {
			var again entry
			if n != e.info.Number || !again.parse(e.append(nil)) || again != e {
				t.Fatalf("%+v becomes %+v", e, again)
			}
		}
		for first, r := range parseCatalogue(b).runs {
			var again run
			if first != r.first || !again.parse(r.append(nil)) || again != r {
				t.Fatalf("%+v becomes %+v", r, again)
			}
		}
	})
}
