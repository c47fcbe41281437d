package segment

import (
	"errors"
	"fmt"
	"iter"
	"math"
	"os"
	"slices"
	"sync"
	"sync/atomic"

	"opentap/ledger"
	"opentap/packet"
)

// Recording reads the segments of a directory as they were when it was opened, also while a Writer appends. It is not
// safe for concurrent use; open another one instead.
type Recording struct {
	dir      string
	segments []Info
	runs     map[uint32]run // of segments whose sieves are beside one another; not changed
	files    []openFile     // the last used ones, newest last
	page     []byte
}

type openFile struct {
	number uint32
	f      *file
}

const maxOpenFiles = 8

// Open opens the recording in dir: everything that is readable now. A chunk that is being written at this moment is left out.
func Open(dir string) (*Recording, error) { return OpenUpto(dir, Position{}) }

// OpenUpto opens the recording in dir up to upto, as Writer.Durable says it; the zero Position is everything.
func OpenUpto(dir string, upto Position) (*Recording, error) {
	return openUpto(dir, upto, readCatalogue(dir))
}

// openUpto is OpenUpto with what was read of a catalogue; nil: each segment is looked at.
func openUpto(dir string, upto Position, known *catalogue) (*Recording, error) {
	numbers, err := list(dir)
	if err != nil {
		return nil, err
	}
	r := &Recording{dir: dir, page: make([]byte, Page)}
	if known != nil {
		r.runs = known.runs
	}
	if upto != (Position{}) {
		for len(numbers) > 0 && numbers[len(numbers)-1] > upto.Segment {
			numbers = numbers[:len(numbers)-1]
		}
	}
	infos, errs := inspectAll(dir, numbers, known)
	for i, n := range numbers {
		in, err := infos[i], errs[i]
		if errors.Is(err, os.ErrNotExist) {
			continue // expired in between
		}
		if err != nil {
			r.Close()
			return nil, err
		}
		cut := upto != (Position{}) && n == upto.Segment && in.end > upto.Offset
		if cut {
			in.end, in.Sealed, in.Catalogued = upto.Offset, false, false
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

// inspectAll inspects those segments that are not known, several at once: on a cold disk it is the waiting that takes time.
func inspectAll(dir string, numbers []uint32, known *catalogue) ([]Info, []error) {
	infos, errs := make([]Info, len(numbers)), make([]error, len(numbers))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(numbers), 16) {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(numbers); i = int(next.Add(1)) - 1 {
				in, ok := known.info(dir, numbers[i])
				if !ok {
					in, errs[i] = inspect(dir, numbers[i])
				}
				infos[i] = in
			}
		})
	}
	wg.Wait()
	return infos, errs
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
	if !in.Compressed {
		in.Bytes = in.end
	}
	in.setTotals(&t)
	in.Account, in.before = last.Account, last.Before+uint64(last.Packets)
	return nil
}

// Segments returns the segments in order. The slice is the Recording's own.
func (r *Recording) Segments() []Info { return r.segments }

// Lanes is how many runs of chunks there are at most that each are in the order of time: ChunkHeader.Lane is below it.
func (r *Recording) Lanes() int {
	lanes := 1
	for i := range r.segments {
		lanes = max(lanes, r.segments[i].lanes)
	}
	return lanes
}

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
	return func(yield func(*ChunkHeader, error) bool) {
		on := true
		for i := range r.segments {
			r.ChunksOf(i, from, to)(func(h *ChunkHeader, err error) bool {
				var damage *CorruptionError
				on = yield(h, err) && (err == nil || errors.As(err, &damage))
				return on
			})
			if !on {
				return
			}
		}
	}
}

// ChunksOf is Chunks of the i-th of Segments alone.
func (r *Recording) ChunksOf(i int, from, to packet.Timestamp) iter.Seq2[*ChunkHeader, error] {
	if to == 0 {
		to = math.MaxInt64
	}
	return func(yield func(*ChunkHeader, error) bool) {
		in := &r.segments[i]
		// Without packets there is nothing to find, but damage that may have held them is reported.
		if in.Packets > 0 && (in.Latest < from || in.Earliest >= to) {
			return
		}
		r.segmentChunks(in, from, to, yield)
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
func (r *Recording) file(n uint32) (*file, error) {
	for i := len(r.files) - 1; i >= 0; i-- {
		if o := r.files[i]; o.number == n {
			if i != len(r.files)-1 {
				r.files = append(slices.Delete(r.files, i, i+1), o)
			}
			return o.f, nil
		}
	}
	f, err := openSegment(r.dir, n)
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

// Clone returns a Recording of the same snapshot that can be used beside r. It has open files of its own to Close.
func (r *Recording) Clone() *Recording {
	return &Recording{dir: r.dir, segments: slices.Clone(r.segments), runs: r.runs, page: make([]byte, Page)}
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
