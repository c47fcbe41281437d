package segment

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"os"
	"slices"

	"opentap/ledger"
	"opentap/packet"
)

// Info describes a segment.
type Info struct {
	Number    uint32
	Path      string
	Sealed    bool
	Recovered bool   // sealed by Recover after a crash
	Bytes     int64  // of the file; of one that is being written, what is readable
	Damaged   string // what is wrong with the head; ""

	// Of the whole chunks. For a sealed segment they come from its seal.
	Chunks       uint32
	Packets      uint64
	Octets       uint64 // on the wire
	StoredOctets uint64
	Earliest     packet.Timestamp // bounds of the packet times; 0 without packets
	Latest       packet.Timestamp
	Account      ledger.Account // the last one

	start    int64 // of the first chunk
	end      int64 // of the chunks
	limit    int
	recordID uint64         // 0 = unknown, since the head is damaged
	base     ledger.Account // before the segment
	before   uint64         // packets of the recording before end
	chain    uint32
}

// Recording reads the segments of a directory as they were when it was opened, also while a Writer appends. It is not
// safe for concurrent use; open another one instead.
type Recording struct {
	dir      string
	segments []Info
	files    []openFile // the last used ones, newest last
	page     []byte
}

type openFile struct {
	number uint32
	f      *os.File
}

const maxOpenFiles = 8

// Open opens the recording in dir: everything that is readable now. A chunk that is being written at this moment is left out.
func Open(dir string) (*Recording, error) { return OpenUpto(dir, Position{}) }

// OpenUpto opens the recording in dir up to upto, as Writer.Durable says it; the zero Position is everything.
func OpenUpto(dir string, upto Position) (*Recording, error) {
	numbers, err := list(dir)
	if err != nil {
		return nil, err
	}
	r := &Recording{dir: dir, page: make([]byte, Page)}
	for _, n := range numbers {
		if upto != (Position{}) && n > upto.Segment {
			break
		}
		in, err := inspect(dir, n)
		if errors.Is(err, os.ErrNotExist) {
			continue // expired in between
		}
		if err != nil {
			r.Close()
			return nil, err
		}
		cut := upto != (Position{}) && n == upto.Segment && in.end > upto.Offset
		if cut {
			in.end, in.Sealed = upto.Offset, false
		}
		if !in.Sealed {
			if err := r.survey(&in, upto == Position{}); err != nil {
				r.Close()
				return nil, err
			}
		}
		r.segments = append(r.segments, in)
	}
	return r, nil
}

// list returns the numbers of the segments in dir, in order.
func list(dir string) ([]uint32, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	var numbers []uint32
	for _, e := range names {
		if n, ok := parseName(e.Name(), segmentSuffix); ok && e.Type().IsRegular() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// inspect reads the head and the seal of a segment.
func inspect(dir string, n uint32) (Info, error) {
	path := segmentPath(dir, n)
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	return inspectFile(f, st.Size(), n, path)
}

func inspectFile(f io.ReaderAt, size int64, n uint32, path string) (Info, error) {
	in := Info{Number: n, Path: path, Bytes: size, start: Page, end: size &^ (Page - 1), limit: MaxChunkBytes}
	b := make([]byte, Page)
	got, err := readFull(f, b, 0)
	if err != nil {
		return in, err
	}
	if m, ok := headLength(b[:got]); ok && m > Page {
		b = make([]byte, m)
		if got, err = readFull(f, b, 0); err != nil {
			return in, err
		}
	}
	var h head
	msg, foreign := parseHead(b[:got], &h)
	if in.Damaged = msg; msg == "" {
		in.start, in.limit, in.recordID, in.base = int64(h.length), h.limit, h.recordID, h.account
		if h.segment != n {
			return in, &ForeignError{Path: path, Msg: fmt.Sprintf("its head says segment %08d", h.segment)}
		}
	} else if foreign {
		return in, &ForeignError{Path: path, Msg: msg}
	}
	if size%Page != 0 || size < in.start+Page {
		return in, nil
	}
	if _, err := readFull(f, b[:Page], size-Page); err != nil {
		return in, err
	}
	var c ChunkHeader
	var t totals
	if parseSeal(b[:Page], size-Page, &c, &t) && in.owns(&c) {
		in.Sealed, in.Recovered, in.end = true, c.Recovered(), c.Offset
		in.setTotals(&t)
		in.recordID, in.before, in.Account = c.RecordID, c.Before, c.Account
	}
	return in, nil
}

// owns reports whether a chunk belongs to the segment, and not to what was on the disk before.
func (in *Info) owns(c *ChunkHeader) bool {
	return c.Segment == in.Number && (in.recordID == 0 || c.RecordID == in.recordID)
}

func (in *Info) setTotals(t *totals) {
	in.Chunks, in.Packets, in.Octets, in.StoredOctets = t.chunks, t.packets, t.octets, t.stored
	in.Earliest, in.Latest, in.chain = t.earliest, t.latest, t.chain
}

// readFull reads as much of b as the file has.
func readFull(f io.ReaderAt, b []byte, offset int64) (int, error) {
	n, err := f.ReadAt(b, offset)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// survey walks a segment without a seal and sets its totals. With check, the last chunk counts only if its body is
// whole: a Writer may be busy with it.
func (r *Recording) survey(in *Info, check bool) error {
	f, err := r.file(in.Number)
	if err != nil {
		return err
	}
	var t, before totals
	var last, previous ChunkHeader
	err = walk(f, in, r.page, func(c *ChunkHeader) bool {
		before, previous = t, last
		t.add(c)
		last = *c
		return true
	}, nil)
	if err != nil {
		return err
	}
	if check && t.chunks > 0 {
		if _, err := r.ReadChunk(&last, nil); err != nil {
			var c *CorruptionError
			if !errors.As(err, &c) {
				return err
			}
			t, last = before, previous
		}
	}
	in.end = in.start
	if t.chunks > 0 {
		in.end = last.End()
	}
	in.Bytes = in.end
	in.setTotals(&t)
	in.Account, in.before = last.Account, last.Before+uint64(last.Packets)
	return nil
}

// walk calls fn for the header of each chunk of a segment until it returns false; page is scratch of Page octets. gap
// is called for what is not readable in between: damage that was skipped until the next header.
func walk(f io.ReaderAt, in *Info, page []byte, fn func(*ChunkHeader) bool, gap func(from, to int64, msg string) bool) error {
	var h ChunkHeader
	next, bad, why := uint32(0), int64(-1), ""
	if in.Damaged != "" {
		bad, why = 0, in.Damaged
	}
	for at := in.start; at < in.end; {
		n, err := readFull(f, page[:Page], at)
		if err != nil {
			return fmt.Errorf("read segment %s: offset %d: %w", in.Path, at, err)
		}
		msg := h.parse(page[:n], at, in.limit)
		switch {
		case msg != "":
		case !in.owns(&h) || h.Sequence < next && !h.Seal():
			msg = "chunk of another segment"
		case h.End() > in.end:
			msg = "file ends inside the chunk"
		}
		if msg != "" {
			if bad < 0 {
				bad, why = at, msg
			}
			at += Page
			continue
		}
		if bad >= 0 && gap != nil && !gap(bad, at, why) {
			return nil
		}
		bad = -1
		if h.Seal() {
			return nil
		}
		if !fn(&h) {
			return nil
		}
		next, at = h.Sequence+1, h.End()
	}
	if bad >= 0 && gap != nil {
		gap(bad, in.end, why)
	}
	return nil
}

// Segments returns the segments in order. The slice is the Recording's own.
func (r *Recording) Segments() []Info { return r.segments }

// Position is the end of the recording as it was opened.
func (r *Recording) Position() Position {
	if len(r.segments) == 0 {
		return Position{}
	}
	in := &r.segments[len(r.segments)-1]
	return Position{Segment: in.Number, Chunk: in.Chunks, Offset: in.end}
}

// Account is the last account of the recording as it was opened.
func (r *Recording) Account() ledger.Account {
	if len(r.segments) == 0 {
		return ledger.Account{}
	}
	return r.segments[len(r.segments)-1].Account
}

// Chunks goes through the headers of the chunks that can hold packets of from <= time < to, in order; to = 0 is no end.
// The header is valid until the next step. A *CorruptionError comes with a nil header where chunks are missing, with the
// number of packets missed, and the walk goes on behind; any other error ends it. Bodies are not read.
func (r *Recording) Chunks(from, to packet.Timestamp) iter.Seq2[*ChunkHeader, error] {
	if to == 0 {
		to = math.MaxInt64
	}
	return func(yield func(*ChunkHeader, error) bool) {
		for i := range r.segments {
			in := &r.segments[i]
			// Without packets there is nothing to find, but damage that may have held them is reported.
			if in.Packets > 0 && (in.Latest < from || in.Earliest >= to) {
				continue
			}
			if !r.segmentChunks(in, from, to, yield) {
				return
			}
		}
	}
}

func (r *Recording) segmentChunks(in *Info, from, to packet.Timestamp, yield func(*ChunkHeader, error) bool) bool {
	on := true
	visit := func(h *ChunkHeader) bool {
		if h.Packets > 0 && h.Latest >= from && h.Earliest < to {
			on = yield(h, nil)
		}
		return on
	}
	if in.Sealed {
		if t := readTable(tablePath(r.dir, in.Number), in); t != nil {
			var h ChunkHeader
			for ; len(t) > 0 && on; t = t[tableEntry:] {
				if msg := h.fields(t[8:tableEntry], int64(le.Uint64(t)), in.limit); msg != "" {
					break
				}
				visit(&h)
			}
			if len(t) == 0 || !on {
				return on
			}
		}
	}
	f, err := r.file(in.Number)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return yield(nil, &CorruptionError{Path: in.Path, Packets: in.Packets, Msg: "the segment was removed"})
		}
		yield(nil, err)
		return false
	}
	var lost *CorruptionError
	next, expect, known := uint32(0), uint64(0), false
	report := func(before uint64) bool {
		if lost == nil {
			return true
		}
		if known && before > expect {
			lost.Packets = before - expect
		}
		e := lost
		lost = nil
		on = yield(nil, e)
		return on
	}
	page := make([]byte, Page)
	err = walk(f, in, page, func(h *ChunkHeader) bool {
		if !known {
			known, expect = true, h.Before // of a first chunk that is damaged nothing is known
		}
		if !report(h.Before) {
			return false
		}
		next, expect = h.Sequence+1, h.Before+uint64(h.Packets)
		return visit(h)
	}, func(from, to int64, msg string) bool {
		lost = &CorruptionError{Path: in.Path, Chunk: next, Offset: from, Msg: msg}
		return true
	})
	if err != nil {
		yield(nil, err)
		return false
	}
	return on && report(in.before)
}

// ReadChunk reads the chunk of a header from Chunks into buf, which grows if it must, and verifies both checksums. It
// returns the whole chunk: the packet blocks are from h.Header on. A *CorruptionError says that it cannot be used.
func (r *Recording) ReadChunk(h *ChunkHeader, buf []byte) ([]byte, error) {
	f, err := r.file(h.Segment)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return buf[:0], h.corrupt(r.dir, "the segment was removed")
		}
		return buf[:0], err
	}
	if cap(buf) < h.Length {
		buf = make([]byte, h.Length)
	}
	buf = buf[:h.Length]
	n, err := readFull(f, buf, h.Offset)
	if err != nil {
		return buf[:0], h.corrupt(r.dir, err.Error())
	}
	if n < len(buf) {
		return buf[:0], h.corrupt(r.dir, "file ends inside the chunk")
	}
	if msg := h.verify(buf); msg != "" {
		return buf[:0], h.corrupt(r.dir, msg)
	}
	return buf, nil
}

func (h *ChunkHeader) corrupt(dir, msg string) error {
	return &CorruptionError{Path: segmentPath(dir, h.Segment), Chunk: h.Sequence, Offset: h.Offset, Packets: uint64(h.Packets), Msg: msg}
}

// file returns the open file of a segment.
func (r *Recording) file(n uint32) (*os.File, error) {
	for i := len(r.files) - 1; i >= 0; i-- {
		if o := r.files[i]; o.number == n {
			if i != len(r.files)-1 {
				r.files = append(slices.Delete(r.files, i, i+1), o)
			}
			return o.f, nil
		}
	}
	f, err := os.Open(segmentPath(r.dir, n))
	if err != nil {
		return nil, fmt.Errorf("open segment: %w", err)
	}
	if len(r.files) == maxOpenFiles {
		r.files[0].f.Close()
		r.files = slices.Delete(r.files, 0, 1)
	}
	r.files = append(r.files, openFile{n, f})
	return f, nil
}

// Close gives back the open files.
func (r *Recording) Close() error {
	for _, o := range r.files {
		o.f.Close()
	}
	r.files = nil
	return nil
}

// DropOldest deletes the oldest segment and returns what it was. The last segment, or one without a seal, is never
// deleted: then the Info is zero. Readers that have it open keep it.
func (r *Recording) DropOldest() (Info, error) {
	if len(r.segments) < 2 || !r.segments[0].Sealed {
		return Info{}, nil
	}
	in := r.segments[0]
	os.Remove(tablePath(r.dir, in.Number))
	if err := os.Remove(in.Path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return Info{}, fmt.Errorf("drop segment %08d: %w", in.Number, err)
	}
	r.segments = r.segments[1:]
	return in, nil
}

// ExpireBefore deletes the oldest segments as long as all their packets are older than t, and returns what they were.
func (r *Recording) ExpireBefore(t packet.Timestamp) ([]Info, error) {
	var gone []Info
	for len(r.segments) > 0 && r.segments[0].Latest < t {
		in, err := r.DropOldest()
		if err != nil || in.Number == 0 {
			return gone, err
		}
		gone = append(gone, in)
	}
	return gone, nil
}

// Clone returns a Recording of the same snapshot that can be used beside r. It has open files of its own to Close.
func (r *Recording) Clone() *Recording {
	return &Recording{dir: r.dir, segments: slices.Clone(r.segments), page: make([]byte, Page)}
}

// AccountBefore returns the cumulative account as it was before the chunk h: that of the chunk before it.
func (r *Recording) AccountBefore(h *ChunkHeader) (ledger.Account, error) {
	var a ledger.Account
	for i := range r.segments {
		in := &r.segments[i]
		if in.Number < h.Segment {
			a = in.Account
			continue
		}
		if in.Number > h.Segment {
			break
		}
		if in.Damaged == "" {
			a = in.base
		}
		var failed error
		r.segmentChunks(in, math.MinInt64, math.MaxInt64, func(c *ChunkHeader, err error) bool {
			var damage *CorruptionError
			if err != nil && !errors.As(err, &damage) {
				failed = err
				return false
			}
			if c == nil {
				return true
			}
			if c.Sequence >= h.Sequence {
				return false
			}
			a = c.Account
			return true
		})
		return a, failed
	}
	return a, nil
}
