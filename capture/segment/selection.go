package segment

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"opentap/capture/index"
	"opentap/packet"
)

// How many indexes are read at a time: who reads them waits for the disk, not for the processor. At first there are few, so
// that what the first segments hold is soon found; each that is through lets one more begin.
const (
	selectorsAtFirst = 3
	selectorsAtMost  = 16
)

// Span is a run of whole packet blocks of a chunk, with the body's checksum up to its two ends.
type Span struct {
	From, To          uint32 // offsets in the chunk
	CRCFrom, CRCAfter uint32 // crc32c of the chunk's body up to From, and to To; of the last one, that is the body's
}

// Selection is what the indexes of a recording say about one condition. They are asked segment by segment, some ahead of the
// one that Chunk was asked about last.
type Selection struct {
	segments map[uint32]*selected
	todo     []*selected // in order
	asked    int         // of todo: those before were asked about
	ahead    chan struct{}
	stop     context.CancelFunc
	workers  sync.WaitGroup
}

// selected is what is said about a segment. A worker asks; what it learns part by part may be read before it is through.
type selected struct {
	place int // in todo
	info  *Info
	run   *sifted // nil = its sieve is beside no others
	bit   int     // of the segment in the run

	decided chan struct{} // closed when nothing is there
	nothing bool          // no packet of the segment is wanted
	closed  bool          // decided is, for the worker

	mu      sync.Mutex
	grown   sync.Cond // headers or over changed
	over    bool      // nothing more will be said
	headers []uint32  // header checksums by chunk number
	spans   map[uint32][]Span
}

func newSelected(place int, in *Info) *selected {
	x := &selected{place: place, info: in, decided: make(chan struct{}), spans: make(map[uint32][]Span)}
	x.grown.L = &x.mu
	return x
}

// decide says whether any packet may be wanted.
func (x *selected) decide(nothing bool) {
	x.nothing, x.closed = nothing, true
	close(x.decided)
}

// finish says that there is no more to say.
func (x *selected) finish() {
	if !x.closed {
		x.decide(false)
	}
	x.mu.Lock()
	x.over = true
	x.grown.Broadcast()
	x.mu.Unlock()
}

// chunk waits for what is said about a chunk. known is false where nothing is, or about another.
func (x *selected) chunk(sequence, headerCRC uint32) (spans []Span, known bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for !x.over && int64(sequence) >= int64(len(x.headers)) {
		x.grown.Wait()
	}
	if int64(sequence) >= int64(len(x.headers)) || x.headers[sequence] != headerCRC {
		return nil, false
	}
	return x.spans[sequence], true
}

// Select begins to ask the indexes which parts of the chunks that can hold packets of from <= time < to may hold what c
// demands; to = 0 is no end. Segments, and ends of segments, without an index that fits are left to be read whole, and so are
// those that were not asked yet when ctx ended. The caller must Close the Selection.
func (r *Recording) Select(ctx context.Context, c *index.Cond, from, to packet.Timestamp) *Selection {
	if to == 0 {
		to = math.MaxInt64
	}
	ctx, stop := context.WithCancel(ctx)
	s := &Selection{segments: make(map[uint32]*selected), stop: stop}
	if c == nil {
		return s
	}
	var runs []*sifted
	for i := range r.segments {
		if in := &r.segments[i]; in.Packets > 0 && in.Latest >= from && in.Earliest < to {
			x := newSelected(len(s.todo), in)
			s.todo = append(s.todo, x)
			s.segments[in.Number] = x
			if u, ok := r.runs[sievesOf(in.Number)]; ok {
				if bit, ok := u.bit(in); ok {
					if n := len(runs); n == 0 || runs[n-1].first != u.first {
						runs = append(runs, &sifted{run: u, done: make(chan struct{})})
					}
					x.run, x.bit = runs[len(runs)-1], bit
				}
			}
		}
	}
	s.sift(ctx, r.dir, c, runs)
	s.ahead = make(chan struct{}, len(s.todo)+selectorsAtMost)
	for range selectorsAtFirst {
		s.ahead <- struct{}{}
	}
	var more atomic.Int32
	more.Store(selectorsAtMost - selectorsAtFirst)
	var next atomic.Int64
	for range min(len(s.todo), selectorsAtMost) {
		s.workers.Go(func() {
			for {
				// The right to ask comes before the segment, so that the earliest segment is never the one that waits for it.
				select {
				case <-s.ahead:
				case <-ctx.Done():
				}
				i := int(next.Add(1)) - 1
				if i >= len(s.todo) {
					return
				}
				x := s.todo[i]
				if ctx.Err() == nil {
					x.ask(r.dir, c)
				}
				if more.Add(-1) >= 0 {
					s.ahead <- struct{}{}
				}
				x.finish()
			}
		})
	}
	return s
}

// Close ends the asking. What was not asked yet must be read whole.
func (s *Selection) Close() {
	s.stop()
	s.workers.Wait()
}

// ask reads the index of a segment. What it cannot say is read.
func (x *selected) ask(dir string, c *index.Cond) {
	nothing, opaque, sifted := x.passed()
	if nothing {
		x.decide(true)
		return
	}
	if x.info.Sealed {
		defer readTable(tablePath(dir, x.info.Number), x.info) // which Chunks reads next, one after the other
	}
	f, err := os.Open(indexPath(dir, x.info.Number))
	if err != nil {
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return
	}
	readsAnywhere(f)
	if s := summaryOf(f, st.Size(), x.info); s != nil {
		if !sifted {
			if may, err := s.MayHold(c); err == nil && !may {
				x.decide(true)
				return
			}
			opaque = s.Opaque()
		}
		// All fronts are needed now: the disk may bring them at once.
		at := int64(0)
		for _, p := range s.Parts {
			willRead(f, at, min(int64(p.Length), max(int64(p.Front), partRead)))
			at += int64(p.Length)
		}
	}
	x.decide(false)
	_ = partsFrom(f, st.Size(), x.info, func(p *index.Part) error {
		if !opaque {
			p.NoOpaque()
		}
		return x.add(p, c)
	})
}

// summaryOf reads the summary at the end of an index file, or returns nil where there is none of just this segment as its
// seal has it.
func summaryOf(f *os.File, size int64, in *Info) *index.Summary {
	if !in.Sealed {
		return nil
	}
	s, err := index.ReadSummary(f, size)
	if err != nil {
		return nil
	}
	if id, segment, chunks, chain := s.Of(); id != in.recordID || segment != in.Number || chunks != in.Chunks || chain != in.chain {
		return nil
	}
	return s
}

// of returns what is said about a segment, when it is known whether there is anything in it; nil if nothing is said. Those it
// has passed make room for others to be asked.
func (s *Selection) of(number uint32) *selected {
	x := s.segments[number]
	if x == nil {
		return nil
	}
	for ; s.asked <= x.place; s.asked++ {
		s.ahead <- struct{}{}
	}
	<-x.decided
	return x
}

// add evaluates a part. An error leaves the chunks of this part and those after it unknown.
func (x *selected) add(p *index.Part, c *index.Cond) error {
	found, err := p.Find(c)
	if err != nil {
		return err
	}
	_, _, first, chunks := p.Of()
	var headers []uint32
	all := make(map[uint32][]Span)
	if !found.Empty() {
		if err := p.Marks(); err != nil {
			return err
		}
	}
	block := 0
	for i := range int(chunks) {
		crc, n := p.Chunk(i)
		var spans []Span
		for j := block; j < block+n; j++ {
			if !found.Has(j) {
				continue
			}
			m := p.Mark(j)
			end := index.Mark{}
			if j+1 < block+n {
				end = p.Mark(j + 1)
			}
			if k := len(spans) - 1; k >= 0 && spans[k].To == m.Offset {
				spans[k].To, spans[k].CRCAfter = end.Offset, end.CRC
			} else {
				spans = append(spans, Span{m.Offset, end.Offset, m.CRC, end.CRC})
			}
		}
		if spans != nil {
			all[first+uint32(i)] = spans
		}
		headers = append(headers, crc)
		block += n
	}
	x.mu.Lock()
	maps.Copy(x.spans, all)
	x.headers = append(x.headers, headers...)
	x.grown.Broadcast()
	x.mu.Unlock()
	return nil
}

// Nothing reports that no packet of the segment is wanted. It waits as Chunk does.
func (s *Selection) Nothing(number uint32) bool {
	x := s.of(number)
	return x != nil && x.nothing
}

// Chunk returns what must be read of a chunk; none of it if spans is empty. known is false where no index speaks of just
// this chunk: then it must be read whole. It waits for the part of the index that speaks of the chunk, and is for one goroutine.
func (s *Selection) Chunk(h *ChunkHeader) (spans []Span, known bool) {
	x := s.of(h.Segment)
	switch {
	case x == nil:
		return nil, false
	case x.nothing:
		return nil, true
	}
	if spans, known = x.chunk(h.Sequence, h.HeaderCRC); !known {
		return nil, false
	}
	for i := range spans {
		p := &spans[i]
		if p.To == 0 { // the chunk's end, which the index does not know
			p.To, p.CRCAfter = uint32(h.Length), h.BodyCRC
		}
		if p.From < uint32(h.Header) || p.From >= p.To || p.To > uint32(h.Length) || p.From&3 != 0 || p.To&3 != 0 {
			return nil, false
		}
	}
	return spans, true
}

// ReadSpans is ReadChunk for parts of a chunk: it reads the spans one after the other into buf and verifies each.
func (r *Recording) ReadSpans(h *ChunkHeader, spans []Span, buf []byte) ([]byte, error) {
	f, err := r.file(h.Segment)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return buf[:0], h.corrupt(r.dir, "the segment was removed")
		}
		return buf[:0], err
	}
	total := 0
	for _, s := range spans {
		total += int(s.To - s.From)
	}
	if cap(buf) < total {
		buf = make([]byte, max(total, 256<<10))
	}
	buf = buf[:0]
	for _, s := range spans {
		b := buf[len(buf) : len(buf)+int(s.To-s.From)]
		n, err := readFull(f, b, h.Offset+int64(s.From))
		if err != nil {
			return buf[:0], h.corrupt(r.dir, err.Error())
		}
		if n < len(b) {
			return buf[:0], h.corrupt(r.dir, "file ends inside the chunk")
		}
		if crc32.Update(s.CRCFrom, castagnoli, b) != s.CRCAfter {
			return buf[:0], h.corrupt(r.dir, fmt.Sprintf("checksum mismatch from octet %d to %d of the chunk", s.From, s.To))
		}
		buf = buf[:len(buf)+len(b)]
	}
	return buf, nil
}

// Expect tells the kernel that the spans, or without any the whole chunk, will be read soon.
func (r *Recording) Expect(h *ChunkHeader, spans []Span) {
	f, err := r.file(h.Segment)
	if err != nil {
		return // told when it is read
	}
	if len(spans) == 0 {
		f.expect(h.Offset, int64(h.Length))
	}
	for _, s := range spans {
		f.expect(h.Offset+int64(s.From), int64(s.To-s.From))
	}
}
