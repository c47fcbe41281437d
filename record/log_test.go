package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// row is what the tests keep: a number that must be its own place, and ballast.
type row struct {
	n    uint64
	text string
}

type rowCodec struct{}

func (rowCodec) Append(dst []byte, v *row) []byte {
	return append(binary.LittleEndian.AppendUint64(dst, v.n), v.text...)
}

func (rowCodec) Decode(src []byte, v *row) error {
	if len(src) < 8 {
		return errors.New("short row")
	}
	v.n, v.text = binary.LittleEndian.Uint64(src), string(src[8:])
	return nil
}

func (rowCodec) Schema() (string, uint16) { return "test", 7 }

func rowOf(n uint64) *row { return &row{n, fmt.Sprintf("row %d of %d", n, n%97)} }

func mustOpen(t *testing.T, cfg Config) (*Log[row], Report) {
	t.Helper()
	l, rep, err := Open(cfg, rowCodec{})
	if err != nil {
		t.Fatal(err)
	}
	return l, rep
}

func fillRows(t *testing.T, l *Log[row], upto uint64) {
	t.Helper()
	for n := l.Len(); n < upto; n++ {
		if err := l.Append(rowOf(n)); err != nil {
			t.Fatal(err)
		}
	}
}

// check reads rows and demands that each is what was appended, none missing from first on.
func check(t *testing.T, l *Log[row], from, upto uint64) {
	t.Helper()
	next := from
	err := l.Each(upto, func(i uint64, v *row) error {
		if i != next || *v != *rowOf(i) {
			return fmt.Errorf("row %d is %+v, want row %d", i, *v, next)
		}
		next++
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if next != upto {
		t.Fatalf("rows end at %d, want %d", next, upto)
	}
}

func TestAppendAndEach(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, FrameBytes: 500, MaxFileBytes: 3000}
	l, rep := mustOpen(t, cfg)
	if rep.Files != 0 || !rep.Clean() {
		t.Fatalf("report of nothing: %+v", rep)
	}
	check(t, l, 0, 0)
	fillRows(t, l, 5000)
	check(t, l, 0, 5000)
	check(t, l, 0, 1234)
	if err := l.Each(10, func(uint64, *row) error { return os.ErrExist }); err != os.ErrExist {
		t.Errorf("error of fn came back as %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	check(t, l, 0, 5000) // readable after Close
	if err := l.Append(rowOf(0)); err != ErrClosed {
		t.Errorf("append after close: %v", err)
	}
	if err := l.Sync(); err != ErrClosed {
		t.Errorf("sync after close: %v", err)
	}

	l, rep = mustOpen(t, cfg)
	if rep.Rows != 5000 || rep.Files < 2 || !rep.Clean() {
		t.Fatalf("report %+v", rep)
	}
	fillRows(t, l, 6000)
	check(t, l, 0, 6000)
	var got []uint64
	if err := l.Range(4990, 5010, func(i uint64, v *row) error { got = append(got, v.n); return nil }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 20 || got[0] != 4990 || got[19] != 5009 {
		t.Errorf("range gave %v", got)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestEmptyLogLeavesNoFiles(t *testing.T) {
	dir := t.TempDir()
	for range 3 {
		l, _ := mustOpen(t, Config{Dir: dir})
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if l.Len() != 0 || l.First() != 0 {
			t.Errorf("len %d, first %d", l.Len(), l.First())
		}
	}
	if names, _ := filepath.Glob(filepath.Join(dir, "*")); len(names) != 0 {
		t.Errorf("left %v", names)
	}
}

func TestRotateAndDropOldest(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, Config{Dir: dir})
	for n := range uint64(5) {
		fillRows(t, l, (n+1)*100)
		if err := l.Rotate(); err != nil {
			t.Fatal(err)
		}
		if err := l.Rotate(); err != nil { // nothing to rotate
			t.Fatal(err)
		}
	}
	before := l.Bytes()
	rows, octets, err := l.DropOldest()
	if rows != 100 || octets == 0 || err != nil || l.Bytes() != before-octets || l.First() != 100 || l.Len() != 500 {
		t.Errorf("dropped %d rows, %d octets, %v; %d octets left, rows %d to %d", rows, octets, err, l.Bytes(), l.First(), l.Len())
	}
	check(t, l, 100, 500)
	for rows != 0 {
		if rows, _, err = l.DropOldest(); err != nil {
			t.Fatal(err)
		}
	}
	if l.First() != 500 || l.Len() != 500 {
		t.Errorf("rows %d to %d after dropping all", l.First(), l.Len())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	l, _ = mustOpen(t, Config{Dir: dir})
	if l.Len() != 500 { // numbers go on
		t.Errorf("len %d after reopening", l.Len())
	}
	fillRows(t, l, 510)
	check(t, l, 500, 510)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSchemaIsChecked(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, Config{Dir: dir})
	fillRows(t, l, 1)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	_, _, err := Open(Config{Dir: dir}, otherCodec{})
	var wrong *SchemaError
	if !errors.As(err, &wrong) || wrong.HaveV != 7 || wrong.WantV != 8 {
		t.Errorf("other schema: %v", err)
	}
}

type otherCodec struct{ rowCodec }

func (otherCodec) Schema() (string, uint16) { return "test", 8 }

func TestAppendDoesNotAllocate(t *testing.T) {
	l, _, err := Open(Config{Dir: t.TempDir(), SyncEvery: -1}, numberCodec{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var n uint64
	add := func() {
		n++
		if err := l.Append(&n); err != nil {
			t.Fatal(err)
		}
	}
	for range 100000 {
		add()
	}
	if a := testing.AllocsPerRun(200000, add); a != 0 {
		t.Errorf("%v allocations a row", a)
	}
}

type numberCodec struct{}

func (numberCodec) Append(dst []byte, v *uint64) []byte {
	return binary.LittleEndian.AppendUint64(dst, *v)
}

func (numberCodec) Decode(src []byte, v *uint64) error {
	if len(src) != 8 {
		return errors.New("not 8 octets")
	}
	*v = binary.LittleEndian.Uint64(src)
	return nil
}
func (numberCodec) Schema() (string, uint16) { return "number", 1 }

// TestRecoverAnyCut cuts the journal in many places: what is whole before the cut is there, the rest is said to be lost,
// and a second recovery finds nothing to do.
func TestRecoverAnyCut(t *testing.T) {
	dir := t.TempDir()
	l, _ := mustOpen(t, Config{Dir: dir, FrameBytes: 100, SyncEvery: -1})
	ends := map[int64]uint64{fileHeaderLen: 0}
	for n := range uint64(60) {
		fillRows(t, l, n+1)
		if n%7 == 0 {
			if err := l.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		ends[l.files[0].size] = l.files[0].end
	}
	if err := l.Sync(); err != nil {
		t.Fatal(err)
	}
	ends[l.files[0].size] = 60
	whole, err := os.ReadFile(l.files[0].path)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	for cut := 0; cut <= len(whole); cut += 1 + cut%5 { // all kinds of places; every one is too slow where fsync is
		for _, tail := range [][]byte{nil, make([]byte, 4096)} { // a file system may leave zeros behind
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "000001.rows"), append(slices.Clone(whole[:cut]), tail...), 0o600); err != nil {
				t.Fatal(err)
			}
			if cut < fileHeaderLen && tail != nil {
				continue // a header torn in the middle with more behind it is reported as unreadable
			}
			var keep int64
			var rows uint64
			for size, end := range ends {
				if size <= int64(cut) && size > keep {
					keep, rows = size, end
				}
			}
			l, rep := mustOpen(t, Config{Dir: dir})
			if rep.Rows != rows || rep.BytesLost != int64(cut+len(tail))-keep {
				t.Fatalf("cut at %d: report %+v, want %d rows and %d octets lost", cut, rep, rows, int64(cut+len(tail))-keep)
			}
			fillRows(t, l, rows+5)
			check(t, l, 0, rows+5)
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			l, rep = mustOpen(t, Config{Dir: dir})
			if !rep.Clean() || rep.Rows != rows+5 {
				t.Fatalf("cut at %d: second recovery says %+v", cut, rep)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestCorruptionIsFound(t *testing.T) {
	dir := t.TempDir()
	cfg := Config{Dir: dir, FrameBytes: 200}
	l, _ := mustOpen(t, cfg)
	fillRows(t, l, 300)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	path := l.files[0].path
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	l, _ = mustOpen(t, cfg) // sealed files are not read through when opened
	defer l.Close()
	n := uint64(0)
	err = l.Each(300, func(i uint64, v *row) error { n++; return nil })
	var bad *CorruptionError
	if !errors.As(err, &bad) || bad.Row != n || bad.Path != path || n == 0 || n == 300 {
		t.Errorf("after %d rows: %v", n, err)
	}
}

// diskFile fails like a disk that is full after some octets.
type diskFile struct {
	file
	room *int64
}

func (d diskFile) WriteAt(b []byte, off int64) (int, error) {
	if int64(len(b)) > *d.room {
		n, _ := d.file.WriteAt(b[:*d.room], off) // a part is written, as write(2) does
		*d.room = 0
		return n, syscall.ENOSPC
	}
	*d.room -= int64(len(b))
	return d.file.WriteAt(b, off)
}

func TestDiskFull(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		dir := t.TempDir()
		room := int64(rapid.IntRange(fileHeaderLen, 6000).Draw(rt, "room"))
		cfg := Config{Dir: dir, FrameBytes: 300, MaxFileBytes: 2000, SyncEvery: -1}
		l, _, err := open(cfg, rowCodec{}, func(path string) (file, error) {
			f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
			return diskFile{f, &room}, err
		})
		if err != nil {
			rt.Fatal(err)
		}
		n := uint64(0)
		for err = nil; err == nil; n++ {
			err = l.Append(rowOf(n))
		}
		var lost *LostError
		if !errors.Is(err, syscall.ENOSPC) || !errors.As(err, &lost) {
			rt.Fatalf("full disk: %v", err)
		}
		if l.Len()+lost.Rows != n {
			rt.Fatalf("appended %d, kept %d, said to be lost %d", n, l.Len(), lost.Rows)
		}
		if again := l.Append(rowOf(n)); again != err || l.Err() != err || l.Sync() != err {
			rt.Fatalf("not sticky: %v", again)
		}
		check(t, l, 0, l.Len())
		if e := l.Close(); !errors.Is(e, syscall.ENOSPC) {
			rt.Fatalf("close: %v", e)
		}
		l2, rep := mustOpen(t, cfg)
		if l2.Len() != l.Len() || rep.RowsMissing != 0 {
			rt.Fatalf("reopened with %d rows, want %d; %+v", l2.Len(), l.Len(), rep)
		}
		check(t, l2, 0, l2.Len())
		if err := l2.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}

// TestReadersBesideWriter reads stable snapshots while rows are appended, files rotated and the oldest dropped.
func TestReadersBesideWriter(t *testing.T) {
	l, _ := mustOpen(t, Config{Dir: t.TempDir(), FrameBytes: 2000, MaxFileBytes: 20000, SyncEvery: time.Millisecond})
	const total = 30000
	done := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for stop := false; !stop; {
				select {
				case <-done:
					stop = true
				default:
				}
				upto := l.Len()
				next := uint64(0)
				err := l.Each(upto, func(i uint64, v *row) error {
					if next == 0 {
						next = i
					}
					if i != next || v.n != i {
						return fmt.Errorf("row %d is %d, want %d", i, v.n, next)
					}
					next++
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
				if next != upto && next != 0 {
					t.Errorf("rows end at %d, want %d", next, upto)
				}
				_ = l.Bytes()
			}
		})
	}
	for n := range uint64(total) {
		if err := l.Append(rowOf(n)); err != nil {
			t.Fatal(err)
		}
		if n%9000 == 8999 {
			if _, _, err := l.DropOldest(); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(done)
	readers.Wait()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if l.First() == 0 {
		t.Error("nothing was dropped")
	}
}

// TestSyncEvery says that rows reach the file without another call.
func TestSyncEvery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, _ := mustOpen(t, Config{Dir: t.TempDir(), SyncEvery: time.Second})
		fillRows(t, l, 3)
		l.mu.Lock()
		end := l.files[0].end
		l.mu.Unlock()
		if end != 0 {
			t.Fatal("written before its time")
		}
		time.Sleep(2 * time.Second) // of the bubble's clock
		synctest.Wait()
		l.mu.Lock()
		end = l.files[0].end
		l.mu.Unlock()
		if end != 3 {
			t.Errorf("%d rows written after SyncEvery, want 3", end)
		}
		fillRows(t, l, 4)
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

func TestReadOnlyMakesNothing(t *testing.T) {
	dir := t.TempDir()
	l, _, err := Open(Config{Dir: dir}, numberCodec{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 10 {
		if err := l.Append(new(uint64(i))); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	r, _, err := Open(Config{Dir: dir, ReadOnly: true}, numberCodec{})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := r.Each(r.Len(), func(uint64, *uint64) error { n++; return nil }); err != nil || n != 10 {
		t.Errorf("read %d rows, %v", n, err)
	}
	if err := r.Append(new(uint64(1))); !errors.Is(err, ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	after, err := os.ReadDir(dir)
	if err != nil || len(after) != len(before) {
		t.Errorf("%d files became %d, %v", len(before), len(after), err)
	}
	if _, _, err := Open(Config{Dir: dir + "/none", ReadOnly: true}, numberCodec{}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory that is not there: %v", err)
	}
}
