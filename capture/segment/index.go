package segment

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"opentap/capture/index"
	"opentap/packet"
)

const (
	indexSuffix     = ".index"
	unreadySuffix   = ".index.new"
	selectorsAtMost = 16 // they wait for the disk, not for the processor
)

func indexPath(dir string, n uint32) string { return numbered(dir, n, indexSuffix) }

// indexer writes the index of the open segment. Readers do without an index, so a disk that refuses it only means that
// there is none.
type indexer struct {
	dir  string
	b    *index.Builder
	f    *os.File
	path string
	out  []byte

	octets uint64 // written
}

// begin starts the index of a segment in the file path.
func (x *indexer) begin(path string, recordID uint64, n uint32, link packet.LinkType) {
	x.drop()
	if x.b == nil {
		x.b = index.NewBuilder(link, recordID, n)
	}
	x.b.Segment(recordID, n)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return
	}
	x.f, x.path = f, path
}

// chunk adds a chunk that is on the disk.
func (x *indexer) chunk(c []byte, h *ChunkHeader, marks []index.Mark) {
	x.b.Chunk(c, h.Header, h.Packets, h.HeaderCRC, marks)
	if x.b.Full() {
		x.part()
	}
}

// written adds a chunk that is on the disk and whose keys were found as it was filled.
func (x *indexer) written(c *buffer) {
	if x == nil || x.f == nil {
		return
	}
	x.b.Add(&c.keys, len(c.b), c.h.HeaderCRC, c.marks)
	if x.b.Full() {
		x.part()
	}
}

func (x *indexer) part() {
	x.out = x.b.Part(x.out[:0])
	n, err := x.f.Write(x.out)
	x.octets += uint64(n)
	if err != nil {
		x.drop()
		os.Remove(x.path)
	}
}

// end completes the index of the segment. It reports whether it is whole.
func (x *indexer) end() bool {
	if x == nil || x.f == nil {
		return false
	}
	if x.b.Pending() {
		x.part()
	}
	ok := x.f != nil && x.f.Close() == nil
	x.f = nil
	return ok
}

func (x *indexer) drop() {
	if x.f != nil {
		x.f.Close()
		x.f = nil
	}
}

// marksOf finds the blocks of a chunk as Append does.
func marksOf(dst []index.Mark, c []byte, h *ChunkHeader) []index.Mark {
	if h.Packets == 0 {
		return dst
	}
	dst = append(dst, index.Mark{Offset: uint32(h.Header)})
	start, off, crc := h.Header, h.Header, uint32(0)
	for range h.Packets {
		if off-start >= crcWindow {
			crc = crc32.Update(crc, castagnoli, c[start:off])
			dst = append(dst, index.Mark{Offset: uint32(off), CRC: crc})
			start = off
		}
		if len(c)-off < 32 {
			break
		}
		size := int(le.Uint32(c[off+4:]))
		if size < 32 || size > len(c)-off {
			break
		}
		off += size
	}
	return dst
}

// Reindex builds the index of every sealed segment of dir that has none that fits it, or of all. It returns how many it
// built. It may run beside readers and a Writer. ctx ends it between chunks.
func Reindex(ctx context.Context, dir string, all bool) (built int, err error) {
	numbers, err := list(dir)
	if err != nil {
		return 0, err
	}
	for _, n := range numbers {
		in, err := inspect(dir, n)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return built, err
		}
		if !in.Sealed || !all && indexFits(&in, dir) {
			continue
		}
		if err := buildIndex(ctx, dir, &in); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // expired meanwhile
			}
			return built, err
		}
		if f, err := openSegment(dir, n); errors.Is(err, os.ErrNotExist) {
			removeIndex(dir, n)
		} else if err == nil {
			f.Close()
		}
		built++
	}
	return built, nil
}

// indexFits reports whether the index of a sealed segment is complete, without reading more than its parts' fronts.
func indexFits(in *Info, dir string) bool {
	chunks := uint32(0)
	err := eachPart(indexPath(dir, in.Number), in, func(p *index.Part) error {
		_, _, _, n := p.Of()
		chunks += n
		return nil
	})
	return err == nil && chunks >= in.Chunks
}

// eachPart goes through the whole parts of an index file that follow one another from chunk 0 on.
func eachPart(path string, in *Info, fn func(*index.Part) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	readsAnywhere(f)
	var p index.Part
	next := uint32(0)
	buf := make([]byte, 48<<10) // most fronts are shorter: one read
	for at := int64(0); at < st.Size(); {
		n, err := readFull(f, buf, at)
		if err != nil {
			return err
		}
		length, front := 0, 0
		if n >= index.HeadSize {
			length, front = index.Length(buf[:index.HeadSize])
		}
		if length == 0 || at+int64(length) > st.Size() {
			return nil // torn: what is behind is read without an index
		}
		if front <= n {
			err = p.Use(f, at, buf[:front])
		} else {
			buf = make([]byte, front+4096)
			err = p.Read(f, at, front, buf)
		}
		if err != nil {
			return err
		}
		id, segment, first, chunks := p.Of()
		if segment != in.Number || in.recordID != 0 && id != in.recordID || first != next {
			return nil // stale
		}
		next += chunks
		if err := fn(&p); err != nil {
			return err
		}
		at += int64(length)
	}
	return nil
}

// buildIndex writes the index of a segment anew from its chunks. It takes its place when it is whole.
func buildIndex(ctx context.Context, dir string, in *Info) error {
	f, err := openSegment(dir, in.Number)
	if err != nil {
		return fmt.Errorf("build index: %w", err)
	}
	defer f.Close()
	link := packet.LinkEthernet
	if b := make([]byte, in.start); in.Damaged == "" {
		if _, err := readFull(f, b, 0); err != nil {
			return fmt.Errorf("build index: %w", err)
		}
		link = linkOf(b)
	}
	path := strings.TrimSuffix(indexPath(dir, in.Number), indexSuffix) + unreadySuffix
	var x indexer
	x.begin(path, in.recordID, in.Number, link)
	if x.f == nil {
		return nil
	}
	defer os.Remove(path)
	defer x.drop()
	var buf []byte
	var marks []index.Mark
	next := uint32(0)
	var failed error
	err = walk(f, in, make([]byte, Page), func(h *ChunkHeader) bool {
		if failed = ctx.Err(); failed != nil {
			return false
		}
		for ; next < h.Sequence; next++ { // lost: no chunk has this checksum and no blocks
			x.b.Chunk(nil, 0, 0, 0, nil)
		}
		next++
		if cap(buf) < h.Length {
			buf = make([]byte, max(h.Length, min(in.limit, 1<<20)))
		}
		buf = buf[:h.Length]
		n, rerr := readFull(f, buf, h.Offset)
		if rerr != nil || n < len(buf) || h.verify(buf) != "" {
			x.chunk(nil, &ChunkHeader{}, nil) // its checksum does not fit: read, and found damaged, by who asks
			return true
		}
		marks = marksOf(marks[:0], buf, h)
		x.chunk(buf, h, marks)
		return true
	}, nil)
	if err == nil {
		err = failed
	}
	if err != nil {
		return fmt.Errorf("build index: %w", err)
	}
	for ; next < in.Chunks && in.Damaged == ""; next++ {
		x.b.Chunk(nil, 0, 0, 0, nil)
	}
	if !x.end() {
		return nil
	}
	return os.Rename(path, indexPath(dir, in.Number))
}

// linkOf finds the link type in the interface description of a head; Ethernet if there is none.
func linkOf(b []byte) packet.LinkType {
	if len(b) >= 8 {
		if n := int(le.Uint32(b[4:])); n >= 12 && n+10 <= len(b) && le.Uint32(b[n:]) == 1 {
			return packet.LinkType(le.Uint16(b[n+8:]))
		}
	}
	return packet.LinkEthernet
}

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

type selected struct {
	place   int           // in todo
	done    chan struct{} // closed when the rest is there
	info    *Info
	headers []uint32 // header checksums by chunk number
	spans   map[uint32][]Span
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
	for i := range r.segments {
		if in := &r.segments[i]; in.Packets > 0 && in.Latest >= from && in.Earliest < to {
			x := &selected{place: len(s.todo), done: make(chan struct{}), info: in, spans: make(map[uint32][]Span)}
			s.todo = append(s.todo, x)
			s.segments[in.Number] = x
		}
	}
	s.ahead = make(chan struct{}, len(s.todo)+selectorsAtMost)
	for range selectorsAtMost {
		s.ahead <- struct{}{}
	}
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
				if ctx.Err() == nil {
					s.todo[i].ask(r.dir, c)
				}
				close(s.todo[i].done)
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

// ask reads the index of a segment.
func (x *selected) ask(dir string, c *index.Cond) {
	if x.info.Sealed {
		readTable(tablePath(dir, x.info.Number), x.info) // which Chunks reads next, one after the other
	}
	_ = eachPart(indexPath(dir, x.info.Number), x.info, func(p *index.Part) error { // what it could not say is read
		return x.add(p, c)
	})
}

// of waits for what is said about a segment; nil if nothing is. Those it has passed make room for others to be asked.
func (s *Selection) of(number uint32) *selected {
	x := s.segments[number]
	if x == nil {
		return nil
	}
	for ; s.asked <= x.place; s.asked++ {
		s.ahead <- struct{}{}
	}
	<-x.done
	return x
}

// add evaluates a part. An error leaves the chunks of this part and those after it unknown.
func (x *selected) add(p *index.Part, c *index.Cond) error {
	found, err := p.Find(c)
	if err != nil {
		return err
	}
	_, _, first, chunks := p.Of()
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
			x.spans[first+uint32(i)] = spans
		}
		x.headers = append(x.headers, crc)
		block += n
	}
	return nil
}

// Chunk returns what must be read of a chunk; none of it if spans is empty. known is false where no index speaks of just
// this chunk: then it must be read whole. It waits for the index of the chunk's segment, and is for one goroutine.
func (s *Selection) Chunk(h *ChunkHeader) (spans []Span, known bool) {
	x := s.of(h.Segment)
	if x == nil || int64(h.Sequence) >= int64(len(x.headers)) || x.headers[h.Sequence] != h.HeaderCRC {
		return nil, false
	}
	spans = x.spans[h.Sequence]
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

// removeIndex deletes what belongs to a segment's index.
func removeIndex(dir string, n uint32) {
	os.Remove(indexPath(dir, n))
	os.Remove(filepath.Join(dir, strings.TrimSuffix(filepath.Base(indexPath(dir, n)), indexSuffix)+unreadySuffix))
}
