package segment

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"sync"
	"sync/atomic"
	"unsafe"

	"opentap/capture/index"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// Writer appends packets to a recording. Append copies a packet into a chunk buffer and never waits for the disk: one
// goroutine of the Writer's own, which ends with Close, writes full buffers. All methods may be called from any
// goroutine; packets are kept in the order of the calls.
type Writer struct {
	cfg    Config
	lanes  []Lane
	failed atomic.Bool // err is set

	mu      sync.Mutex // after those of the lanes
	moved   sync.Cond  // written, err or stopped changed
	free    []*buffer  // a stack: a slow recording touches one buffer only
	least   int        // of free buffers, since memory was last given back
	account ledger.Account
	handed  uint64 // buffers handed to the sink
	written uint64 // buffers the sink is done with
	durable Position
	stats   Stats
	err     error
	closed  bool
	packets uint64 // in the recording, before the open buffers

	full    chan *buffer // to the sink; as many slots as there are buffers, so a send never waits
	stop    chan struct{}
	stopped chan struct{}
	closing sync.Once
	dir     *os.File // holds the lock
	release func()   // gives the buffers back

	indexing     sync.WaitGroup // of old segments
	stopIndexing func()
	sink         *sink
}

// Stats are counts since Create.
type Stats struct {
	Packets uint64 // appended: Append returned true
	Octets  uint64 // of those, on the wire
	Stored  uint64 // of those, as stored
	Refused uint64 // Append returned false

	WrittenPackets uint64 // in the files; after Close or an error, Packets-WrittenPackets were lost with the disk's error
	WrittenOctets  uint64
	WrittenStored  uint64
	FileOctets     uint64 // written to files, with heads, padding and seals
	Chunks         uint64
	Segments       uint64 // begun
	Syncs          uint64
	FreeBuffers    int
	Direct         bool // the page cache is bypassed
}

// buffer is one chunk in the making.
type buffer struct {
	b        []byte // aligned; length = used
	h        ChunkHeader
	crc      uint32 // of the body up to summed
	summed   int
	finished bool
	marks    []index.Mark // where blocks start: wherever the sum stopped
	keys     index.Keys
}

// crcWindow is how much of a chunk is summed at once: small enough to be still in the first or second level cache.
const crcWindow = index.BlockOctets

// Create makes a new recording in cfg.Dir, or continues the one that is there with the next segment number. It takes
// hold of the directory (flock), makes the first segment and starts the writing goroutine. ErrNotRecovered means that
// the last segment has no seal; ErrBusy that another Writer or Recover holds the directory.
func Create(cfg Config) (*Writer, error) {
	w, err := prepare(cfg)
	if err != nil {
		return nil, err
	}
	if err := w.sink.begin(); err != nil {
		w.release()
		w.dir.Close()
		return nil, err
	}
	w.publish()
	go w.run()
	ctx, cancel := context.WithCancel(context.Background())
	w.stopIndexing = cancel
	if !cfg.NoIndex {
		w.indexing.Go(func() { _, _ = Reindex(ctx, cfg.Dir, false) }) // segments from before there was an index; readers do without
	}
	return w, nil
}

// prepare is Create up to where files are made.
func prepare(cfg Config) (*Writer, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(cfg.Dir, 0o750); err != nil {
		return nil, fmt.Errorf("create recording: %w", err)
	}
	dir, err := lockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	w := &Writer{
		cfg: cfg, dir: dir,
		free:    make([]*buffer, 0, cfg.Buffers),
		full:    make(chan *buffer, cfg.Buffers),
		stop:    make(chan struct{}),
		stopped: make(chan struct{}),
	}
	if w.sink, err = newSink(&w.cfg, dir); err != nil {
		dir.Close()
		return nil, err
	}
	w.account, w.packets = w.sink.account, w.sink.before
	w.lanes = make([]Lane, max(cfg.Lanes, 1))
	for i := range w.lanes {
		w.lanes[i] = Lane{w: w, number: uint32(i)}
		if !cfg.NoIndex {
			w.lanes[i].scanner = index.NewScanner(cfg.Interface.Link)
		}
	}
	w.moved.L = &w.mu
	pool, release, err := mapBuffers(cfg.Buffers * cfg.ChunkBytes)
	if err != nil {
		dir.Close()
		return nil, err
	}
	w.release = release
	for i := range cfg.Buffers {
		at := i * cfg.ChunkBytes
		w.free = append(w.free, &buffer{
			b:     pool[at : at+cfg.ChunkBytes : at+cfg.ChunkBytes],
			marks: make([]index.Mark, 0, cfg.ChunkBytes/crcWindow+1),
		})
	}
	w.least = len(w.free)
	return w, nil
}

// ready is how many free buffers keep their memory when a stall of the disk is over.
const ready = 4

// relax gives back the memory of the buffers that a stall of the disk took, once it is over.
func (w *Writer) relax() {
	n := len(w.free)
	if n < w.cfg.Buffers-1 || w.least >= n-ready { // it lasts, or took nothing
		return
	}
	for _, c := range w.free[w.least : n-ready] {
		forget(c.b)
		c.keys = index.Keys{}
	}
	w.least = n - ready
}

// aligned returns n octets at an address that is a multiple of Page.
func aligned(n int) []byte {
	b := make([]byte, n+Page)
	skip := int(-uintptr(unsafe.Pointer(unsafe.SliceData(b))) & (Page - 1))
	return b[skip : skip+n : skip+n]
}

// Append is Lane.Append of the first lane.
func (w *Writer) Append(ts packet.Timestamp, origLen uint32, data []byte, dir pcap.Direction) bool {
	return w.lanes[0].Append(ts, origLen, data, dir)
}

// Begin is Lane.Begin of the first lane.
func (w *Writer) Begin() *Batch { return w.lanes[0].Begin() }

// Room is Lane.Room of the first lane.
func (w *Writer) Room() int { return w.lanes[0].Room() }

// Lane returns one of Config.Lanes.
func (w *Writer) Lane(i int) *Lane { return &w.lanes[i] }

// finish pads the chunk to whole pages and completes its body checksum. Called by the sink.
func (c *buffer) finish() {
	if pad := pageUp(len(c.b)) - len(c.b); pad > 0 {
		if pad < minPad {
			pad += Page // there is room: append never ends that near the end of the buffer
		}
		c.b = pcap.Pad(c.b, int(c.h.Last), pad)
	}
	c.h.Length = len(c.b)
	c.h.BodyCRC = crc32.Update(c.crc, castagnoli, c.b[c.summed:])
	c.finished = true
}

// Account sets the cumulative account that is written with the next chunk. In a continued recording the account
// counts on from Account of the recording before; the Writer starts with that one.
func (w *Writer) Account(a ledger.Account) {
	w.mu.Lock()
	w.account = a
	w.mu.Unlock()
}

// Flush hands what is open to the disk and waits until everything appended before is readable. An engine that must
// not wait for the disk relies on Config.FlushEvery instead.
func (w *Writer) Flush() error {
	for i := range w.lanes {
		w.lanes[i].flush()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for target := w.handed; w.written < target && w.err == nil; {
		w.moved.Wait()
	}
	return w.err
}

// Durable says up to where a reader may read now.
func (w *Writer) Durable() Position {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.durable
}

// Err returns the first error of the disk. After one, Append returns false; what was written before stays readable.
func (w *Writer) Err() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if errors.Is(w.err, ErrClosed) {
		return nil
	}
	return w.err
}

// Stats returns the counts.
func (w *Writer) Stats() Stats {
	for i := range w.lanes { // all at once, or a chunk could be counted twice
		l := &w.lanes[i]
		l.mu.Lock()
		defer l.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s := w.stats
	for i := range w.lanes {
		s.Refused += w.lanes[i].refused
		if c := w.lanes[i].open; c != nil {
			s.Packets += uint64(c.h.Packets)
			s.Octets += c.h.Octets
			s.Stored += c.h.StoredOctets
		}
	}
	s.FreeBuffers = len(w.free)
	return s
}

// Close writes what is open, seals the segment with the final account, syncs it and waits for the writing goroutine. It
// returns the first error of the disk. A second Close does nothing.
func (w *Writer) Close(a ledger.Account) error {
	w.closing.Do(func() {
		w.mu.Lock()
		w.closed = true // from now on no lane opens another chunk
		w.account = a
		w.mu.Unlock()
		for i := range w.lanes {
			w.lanes[i].flush()
		}
		close(w.stop)
		if w.stopIndexing != nil {
			w.stopIndexing()
		}
	})
	<-w.stopped
	w.indexing.Wait()
	return w.Err()
}
