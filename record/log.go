package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"
)

// ErrClosed is returned by a Log after Close.
var ErrClosed = errors.New("record: log is closed")

// Log is the rows of one kind, in order, numbered from 0. Append is for one goroutine at a time; all other methods may
// be called from any goroutine beside it.
type Log[T any] struct {
	cfg   Config
	codec Codec[T]
	open  func(path string) (file, error) // for tests of failing disks

	mu      sync.Mutex
	files   []fileInfo // oldest first; the last is the journal
	journal file
	pending []byte // rows not yet in a frame
	rows    uint32 // rows in pending
	written uint64 // number of the row after the last one written to the journal
	row     []byte // one row, before its length is known
	frame   []byte
	packed  []byte
	enc     *zstd.Encoder
	err     error // sticky
	closed  bool
	timer   *time.Timer
	armed   bool
	running sync.WaitGroup // the timer's Sync

	syncing sync.Mutex // held while the journal is synced; taken after mu
}

// file is what a Log needs of *os.File.
type file interface {
	WriteAt(b []byte, offset int64) (int, error)
	Truncate(size int64) error
	Sync() error
	Close() error
}

type fileInfo struct {
	path   string
	number uint64
	first  uint64 // number of the first row
	end    uint64 // number of the row after the last
	size   int64  // octets that are whole
	sealed bool
}

// Append adds a row. It copies v; nothing is allocated per row. The row can be read at once, and is safe from a crash of
// the process after a frame is full, from a power loss after SyncEvery. An error is sticky: *LostError says what is lost.
func (l *Log[T]) Append(v *T) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	l.row = l.codec.Append(l.row[:0], v)
	if len(l.row) > MaxRow {
		return fmt.Errorf("append row %d: %d octets, more than %d", l.written+uint64(l.rows), len(l.row), MaxRow)
	}
	l.pending = binary.AppendUvarint(l.pending, uint64(len(l.row)))
	l.pending = append(l.pending, l.row...)
	l.rows++
	if !l.armed && l.cfg.SyncEvery > 0 {
		l.arm()
	}
	if len(l.pending) >= l.cfg.FrameBytes {
		return l.flush()
	}
	return nil
}

func (l *Log[T]) usable() error {
	if l.err != nil {
		return l.err
	}
	if l.closed {
		return ErrClosed
	}
	return nil
}

// arm starts the clock that syncs what is pending. The caller holds mu.
func (l *Log[T]) arm() {
	l.armed = true
	l.running.Add(1)
	if l.timer != nil {
		l.timer.Reset(l.cfg.SyncEvery)
		return
	}
	l.timer = time.AfterFunc(l.cfg.SyncEvery, func() {
		defer l.running.Done()
		l.mu.Lock()
		l.armed = false
		l.mu.Unlock()
		_ = l.Sync() // the error is sticky: the next Append returns it
	})
}

// flush writes the pending rows as one frame. The caller holds mu.
func (l *Log[T]) flush() error {
	if l.rows == 0 {
		return nil
	}
	if l.enc == nil {
		enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
			zstd.WithEncoderCRC(false), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true))
		if err != nil {
			return l.fail(err)
		}
		l.enc = enc
	}
	h := frameHeader{kind: kindZstd, raw: uint32(len(l.pending)), rows: l.rows, first: l.written}
	l.packed = l.enc.EncodeAll(l.pending, l.packed[:0])
	payload := l.packed
	if len(payload) >= len(l.pending) {
		h.kind, payload = kindRaw, l.pending
	}
	h.stored = uint32(len(payload))
	l.frame = h.append(l.frame[:0], payload)
	j := &l.files[len(l.files)-1]
	if err := l.write(j, l.frame); err != nil {
		return l.fail(err)
	}
	l.written += uint64(l.rows)
	j.end = l.written
	l.pending, l.rows = l.pending[:0], 0
	if j.size >= l.cfg.MaxFileBytes {
		return l.rotate()
	}
	return nil
}

// write appends b to the journal; when that fails the file is cut back to what is whole, as well as can be.
func (l *Log[T]) write(j *fileInfo, b []byte) error {
	if _, err := l.journal.WriteAt(b, j.size); err != nil {
		return errors.Join(err, l.journal.Truncate(j.size))
	}
	j.size += int64(len(b))
	return nil
}

// fail makes err sticky. The caller holds mu.
func (l *Log[T]) fail(err error) error {
	if l.err == nil {
		l.err = &LostError{Path: l.files[len(l.files)-1].path, Rows: uint64(l.rows), Err: err}
	}
	l.pending, l.rows = nil, 0
	return l.err
}

// rotate seals the journal and begins the next. The caller holds mu and has flushed.
func (l *Log[T]) rotate() error {
	if err := l.seal(); err != nil {
		return l.fail(err)
	}
	last := l.files[len(l.files)-1]
	if err := l.begin(last.number+1, last.end); err != nil {
		return l.fail(err)
	}
	return nil
}

// seal ends the journal with a seal frame, on disk before it returns.
func (l *Log[T]) seal() error {
	j := &l.files[len(l.files)-1]
	h := frameHeader{kind: kindSeal, first: j.end}
	l.frame = h.append(l.frame[:0], nil)
	if err := l.write(j, l.frame); err != nil {
		return err
	}
	l.syncing.Lock()
	defer l.syncing.Unlock()
	if err := l.journal.Sync(); err != nil {
		return err
	}
	j.sealed = true
	err := l.journal.Close()
	l.journal = nil
	return err
}

// begin makes the file of a number, to hold rows from first on.
func (l *Log[T]) begin(number, first uint64) error {
	name, version := l.codec.Schema()
	path := filepath.Join(l.cfg.Dir, fmt.Sprintf("%06d%s", number, suffix))
	f, err := l.open(path)
	if err != nil {
		return err
	}
	h := fileHeader{number: number, first: first, schema: name, schemaVersion: version}
	b := h.append(nil)
	if _, err := f.WriteAt(b, 0); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	if err := syncDir(l.cfg.Dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	l.journal = f
	l.files = append(l.files, fileInfo{path: path, number: number, first: first, end: first, size: int64(len(b))})
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Sync returns when every row appended before it is on the disk.
func (l *Log[T]) Sync() error {
	l.mu.Lock()
	if err := l.usable(); err != nil {
		l.mu.Unlock()
		return err
	}
	if err := l.flush(); err != nil {
		l.mu.Unlock()
		return err
	}
	l.syncing.Lock()
	journal := l.journal
	l.mu.Unlock()
	err := journal.Sync()
	l.syncing.Unlock()
	if err != nil {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.fail(err)
	}
	return nil
}

// Rotate seals the open file, if it holds rows, and begins the next: for owners whose intervals are of time.
func (l *Log[T]) Rotate() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if err := l.flush(); err != nil {
		return err
	}
	if j := l.files[len(l.files)-1]; j.first == j.end {
		return nil
	}
	return l.rotate()
}

// Len is the number of the row after the last: all rows ever appended and not lost, dropped ones included.
func (l *Log[T]) Len() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.written + uint64(l.rows)
}

// First is the number of the first row that is still kept.
func (l *Log[T]) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) == 0 { // closed without a row
		return l.written
	}
	return l.files[0].first
}

// Bytes is the octets the Log takes on disk, and will for what is pending, before its compression.
func (l *Log[T]) Bytes() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(len(l.pending))
	for i := range l.files {
		n += l.files[i].size
	}
	return n
}

// Err returns the sticky error, if any.
func (l *Log[T]) Err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Oldest returns the rows of the oldest sealed file, from first up to end: what DropOldest would delete. ok is false when only the
// open file is left.
func (l *Log[T]) Oldest() (first, end uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) < 2 {
		return 0, 0, false
	}
	return l.files[0].first, l.files[0].end, true
}

// DropOldest deletes the oldest sealed file, for retention, and returns how many rows and octets went with it: 0, 0 when
// only the open file is left. Row numbers do not change. A reader that has begun keeps what it has begun with.
func (l *Log[T]) DropOldest() (rows uint64, octets int64, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.files) < 2 {
		return 0, 0, nil
	}
	f := l.files[0]
	if err := os.Remove(f.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, 0, fmt.Errorf("drop oldest file: %w", err)
	}
	l.files = l.files[1:]
	return l.files[0].first - f.first, f.size, nil
}

// dropEmpty deletes a journal without rows, unless it is what remembers the number of the next row.
func (l *Log[T]) dropEmpty() bool {
	k := len(l.files) - 1
	if j := l.files[k]; j.first != j.end || k == 0 && j.first != 0 {
		return false
	}
	l.syncing.Lock()
	_ = l.journal.Close() // nothing was written but the header
	l.syncing.Unlock()
	l.journal = nil
	_ = os.Remove(l.files[k].path) // an empty file does no harm
	l.files = l.files[:k]
	return true
}

// Close writes and syncs what is pending and seals the open file. Rows stay readable by Each. The second Close does nothing.
func (l *Log[T]) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	err := l.err
	if err == nil {
		err = l.flush()
	}
	l.closed = true
	if l.armed && l.timer.Stop() {
		l.armed = false
		l.running.Done()
	}
	if l.journal != nil {
		if err == nil && !l.dropEmpty() {
			if e := l.seal(); e != nil {
				err = l.fail(e)
			}
		}
		if l.journal != nil {
			l.syncing.Lock()
			err = errors.Join(err, l.journal.Close())
			l.syncing.Unlock()
			l.journal = nil
		}
	}
	if l.enc != nil {
		err = errors.Join(err, l.enc.Close())
		l.enc = nil
	}
	l.mu.Unlock()
	l.running.Wait()
	return err
}
