package segment

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"opentap/ledger"
	"opentap/packet"
)

// sink is the disk's side of a Writer: it is used by one goroutine.
type sink struct {
	cfg      *Config
	dir      *os.File
	recordID uint64
	before   uint64         // packets of the recording when it was opened
	account  ledger.Account // the last one known then

	file    *os.File
	direct  bool
	number  uint32
	offset  int64 // end of the last whole chunk
	totals  totals
	table   []byte // entries of the chunk table
	page    []byte // aligned, for heads and seals
	dirty   bool   // written since the last sync
	synced  time.Time
	lastAcc ledger.Account // of the last chunk
	packets uint64         // of the recording up to here
	octets  uint64         // written to files
	syncs   uint64
	begun   uint64
	index   *indexer // nil: none is written
	sealed  cataloguer

	chores   chores
	spare    chan spare // the next segment's file; nil = not asked for
	dataSync func(*os.File) error
}

func newSink(cfg *Config, dir *os.File) (*sink, error) {
	s := &sink{cfg: cfg, dir: dir, page: aligned(maxHead), dataSync: dataSync, sealed: cataloguer{dir: cfg.Dir}}
	segments, err := list(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if n := len(segments); n > 0 {
		in, err := inspect(cfg.Dir, segments[n-1])
		if err != nil {
			return nil, fmt.Errorf("continue recording: %w", err)
		}
		if !in.Sealed && !in.Compressed {
			return nil, fmt.Errorf("continue recording: segment %s: %w", in.Path, ErrNotRecovered)
		}
		s.number, s.recordID, s.account, s.before = in.Number, in.recordID, in.Account, in.before
	} else {
		var id [8]byte
		rand.Read(id[:])
		s.recordID = le.Uint64(id[:])
	}
	s.lastAcc, s.packets = s.account, s.before
	if !cfg.NoIndex {
		s.index = &indexer{dir: cfg.Dir}
	}
	return s, nil
}

// begin makes the first segment: a head under a name of its own, renamed when it is on the disk, so that a file with a
// segment's name always has a head.
func (s *sink) begin() error {
	if err := s.open(); err != nil {
		return err
	}
	err := s.sync()
	if err == nil {
		err = s.syncDir()
	}
	if err != nil {
		s.file.Close()
		os.Remove(segmentPath(s.cfg.Dir, s.number))
		s.file = nil
		return fmt.Errorf("begin segment %08d: %w", s.number, err)
	}
	return nil
}

// open makes the next segment. After a power failure its file may be empty, or zeros, which Recover knows.
func (s *sink) open() error {
	n := s.number + 1
	path := newPath(s.cfg.Dir, n)
	h := head{recordID: s.recordID, segment: n, limit: s.cfg.ChunkBytes, lanes: s.cfg.Lanes, account: s.lastAcc, Interface: s.cfg.Interface}
	b, err := appendHead(s.page[:0], &h, s.cfg.Section)
	if err != nil {
		return err
	}
	f, direct, err := s.take()
	if err != nil {
		return fmt.Errorf("begin segment: %w", err)
	}
	s.file, s.direct = f, direct
	if err = s.write(b, 0); err == nil {
		err = os.Rename(path, segmentPath(s.cfg.Dir, n))
	}
	if err != nil {
		f.Close()
		os.Remove(path)
		s.file = nil
		return fmt.Errorf("begin segment %08d: %w", n, err)
	}
	s.number, s.offset, s.totals, s.table = n, int64(h.length), totals{}, s.table[:0]
	s.begun++
	if s.index != nil {
		s.index.begin(indexPath(s.cfg.Dir, n), s.recordID, n, s.cfg.Interface.Link)
	}
	return nil
}

// write writes b, which is aligned, at offset, or fails. Where direct writes turn out to be impossible it goes on
// through the page cache.
func (s *sink) write(b []byte, offset int64) error {
	for len(b) > 0 {
		n, err := s.file.WriteAt(b, offset)
		s.octets += uint64(n)
		if n > 0 && n < len(b) && n%Page != 0 {
			n -= n % Page // written again: the next write must start at a page
		}
		b, offset = b[n:], offset+int64(n)
		if err != nil {
			if s.direct && isInvalid(err) && clearDirect(s.file) == nil {
				s.direct = false
				continue
			}
			return err
		}
	}
	s.dirty = true
	return nil
}

// chunk writes one chunk, after sealing the segment if it would grow too large with it.
func (s *sink) chunk(c *buffer) error {
	if err := s.chores.poll(); err != nil {
		return err
	}
	if !c.finished {
		c.finish()
	}
	if s.offset > s.cfg.SegmentBytes/2 {
		s.prepare()
	}
	if s.offset+int64(len(c.b))+Page > s.cfg.SegmentBytes && s.totals.chunks > 0 || s.spanned(c.h.Latest) {
		if err := s.rotate(); err != nil {
			return err
		}
	}
	h := &c.h
	h.Segment, h.Sequence, h.Offset, h.RecordID = s.number, s.totals.chunks, s.offset, s.recordID
	h.put(c.b, nil)
	if err := s.write(c.b, s.offset); err != nil {
		return fmt.Errorf("write segment %08d: chunk %d at offset %d: %w", s.number, h.Sequence, s.offset, err)
	}
	s.offset += int64(h.Length)
	s.totals.add(h)
	s.table = appendEntry(s.table, h.Offset, c.b)
	s.index.written(c)
	s.lastAcc = h.Account
	s.packets = h.Before + uint64(h.Packets)
	if e := s.cfg.SyncEvery; e > 0 && time.Since(s.synced) >= e && !s.chores.busy() {
		s.syncLater()
	}
	return nil
}

func (s *sink) spanned(latest packet.Timestamp) bool {
	return s.cfg.SegmentSpan > 0 && s.totals.packets > 0 && latest.Sub(s.totals.earliest) >= s.cfg.SegmentSpan
}

// rotate seals the segment and begins the next. What it takes the disk to have both for sure is not waited for.
func (s *sink) rotate() error {
	if err := s.putSeal(s.lastAcc); err != nil {
		return err
	}
	old, number, t, table := s.file, s.number, s.totals, s.table
	s.file, s.table = nil, nil
	if err := s.open(); err != nil {
		_ = s.chores.wait() // they have the file open
		old.Close()
		return err
	}
	now := s.file
	s.chores.add(func() error { return s.finish(old, number, &t, table, now) })
	s.syncs += 2
	s.dirty, s.synced = false, time.Now()
	return nil
}

// finish makes a sealed segment, and the beginning of the one after it, sure.
func (s *sink) finish(old *os.File, number uint32, t *totals, table []byte, next *os.File) error {
	var err error
	if !s.cfg.NoSync {
		err = s.dataSync(old)
	}
	if cerr := old.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("seal segment %08d: %w", number, err)
	}
	writeTable(tablePath(s.cfg.Dir, number), s.recordID, number, t, table)
	s.sealed.add(number)
	if s.cfg.NoSync {
		return nil
	}
	if err = s.dataSync(next); err == nil {
		err = s.syncDir()
	}
	if err != nil {
		return fmt.Errorf("begin segment %08d: %w", number+1, err)
	}
	return nil
}

// putSeal writes the seal of the open segment.
func (s *sink) putSeal(a ledger.Account) error {
	s.index.end()
	b := s.page[:Page]
	h := ChunkHeader{Segment: s.number, Offset: s.offset, RecordID: s.recordID, Account: a, Before: s.packets}
	putSeal(b, &h, &s.totals)
	if err := s.write(b, s.offset); err != nil {
		return fmt.Errorf("seal segment %08d: %w", s.number, err)
	}
	return nil
}

// seal ends the recording with the account a, and waits for all that is under way.
func (s *sink) seal(a ledger.Account) error {
	s.dropSpare()
	err := s.putSeal(a)
	if cerr := s.chores.wait(); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.sync()
	}
	if cerr := s.file.Close(); err == nil {
		err = cerr
	}
	s.file = nil
	if err != nil {
		return fmt.Errorf("seal segment %08d: %w", s.number, err)
	}
	writeTable(tablePath(s.cfg.Dir, s.number), s.recordID, s.number, &s.totals, s.table)
	s.sealed.add(s.number)
	return nil
}

// giveUp ends the segment after an error of the disk: what is whole is kept, cut and, if the disk still can, sealed.
func (s *sink) giveUp() {
	s.dropSpare()
	_ = s.chores.wait() // the files they have open
	if s.file == nil {
		return
	}
	if s.file.Truncate(s.offset) == nil && s.seal(s.lastAcc) == nil {
		return
	}
	if s.file != nil {
		s.file.Close()
		s.file = nil
	}
}

func (s *sink) sync() error {
	if s.cfg.NoSync || !s.dirty {
		return nil
	}
	if err := s.dataSync(s.file); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	s.dirty = false
	s.synced = time.Now()
	s.syncs++
	return nil
}

// syncLater is sync that nobody waits for. The file stays open: what closes it is a later chore, or comes after them.
func (s *sink) syncLater() {
	if s.cfg.NoSync || !s.dirty {
		return
	}
	f := s.file
	s.chores.add(func() error {
		if err := s.dataSync(f); err != nil {
			return fmt.Errorf("sync: %w", err)
		}
		return nil
	})
	s.dirty = false
	s.synced = time.Now()
	s.syncs++
}

func (s *sink) syncDir() error {
	if s.cfg.NoSync {
		return nil
	}
	return s.dir.Sync()
}

// written is how many octets were written to files.
func (s *sink) written() uint64 {
	if s.index == nil {
		return s.octets
	}
	return s.octets + s.index.octets
}

// run is the writing goroutine.
func (w *Writer) run() {
	defer close(w.stopped)
	defer w.dir.Close()
	defer w.release()
	var tick <-chan time.Time
	if w.cfg.FlushEvery > 0 {
		t := time.NewTicker(w.cfg.FlushEvery/2 + 1)
		defer t.Stop()
		tick = t.C
	}
	for {
		select {
		case c := <-w.full:
			w.writeChunk(c)
		case <-tick:
			for i := range w.lanes {
				w.lanes[i].tick()
			}
			w.mu.Lock()
			w.relax()
			w.mu.Unlock()
		case <-w.stop:
			for {
				select {
				case c := <-w.full:
					w.writeChunk(c)
					continue
				default:
				}
				break
			}
			w.end()
			return
		}
	}
}

// writeChunk writes c and gives it back to the pool. After an error chunks are only given back.
func (w *Writer) writeChunk(c *buffer) {
	err := w.Err()
	failed := err != nil
	if !failed {
		if err = w.sink.chunk(c); err != nil {
			w.sink.giveUp()
		}
	}
	w.mu.Lock()
	if err != nil {
		w.fail(err)
	}
	if err == nil {
		w.stats.WrittenPackets += uint64(c.h.Packets)
		w.stats.WrittenOctets += c.h.Octets
		w.stats.WrittenStored += c.h.StoredOctets
		w.stats.Chunks++
	}
	w.written++
	w.free = append(w.free, c)
	w.publish()
	w.moved.Broadcast()
	w.mu.Unlock()
}

// fail keeps the first error, after which nothing is appended. Called with mu held.
func (w *Writer) fail(err error) {
	if w.err == nil {
		w.err = err
		w.failed.Store(true)
	}
}

// publish copies what the sink knows to where readers see it. Called with mu held, or before the goroutine starts.
func (w *Writer) publish() {
	s := w.sink
	w.durable = Position{Segment: s.number, Chunk: s.totals.chunks, Offset: s.offset}
	w.stats.FileOctets, w.stats.Segments, w.stats.Syncs, w.stats.Direct = s.written(), s.begun, s.syncs, s.direct
}

// end seals the last segment.
func (w *Writer) end() {
	w.mu.Lock()
	err, a := w.err, w.account
	w.mu.Unlock()
	if err == nil {
		if err = w.sink.seal(a); err != nil {
			w.sink.giveUp()
		}
	}
	w.mu.Lock()
	if err == nil {
		err = ErrClosed
	}
	w.fail(err)
	w.publish()
	w.moved.Broadcast()
	w.mu.Unlock()
}

func isInvalid(err error) bool { return errors.Is(err, errInvalid) }
