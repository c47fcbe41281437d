package segment

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"

	"opentap/capture/index"
	"opentap/packet"
)

const (
	indexSuffix   = ".index"
	unreadySuffix = ".index.new"
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

func (x *indexer) part() { x.append(x.b.Part(x.out[:0])) }

func (x *indexer) append(b []byte) {
	x.out = b
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
	if x.f != nil {
		x.append(x.b.Summary(x.out[:0]))
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

// Reindex builds the index of every sealed segment of dir that has none that fits it, or of all, and the catalogue. It returns
// how many indexes it built. It may run beside readers and a Writer. ctx ends it between chunks.
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
	refreshCatalogue(dir, all)
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
	return partsFrom(f, st.Size(), in, fn)
}

// partRead is how much of a part is read at first: most fronts are shorter, and the table of blocks is behind.
const partRead = 24 << 10

// partsFrom is eachPart for an open file.
func partsFrom(f *os.File, size int64, in *Info, fn func(*index.Part) error) error {
	var p index.Part
	next := uint32(0)
	buf := make([]byte, partRead)
	for at := int64(0); at < size; {
		n, err := readFull(f, buf, at)
		if err != nil {
			return err
		}
		length, front := 0, 0
		if n >= index.HeadSize {
			length, front = index.Length(buf[:index.HeadSize])
		}
		if length == 0 || at+int64(length) > size {
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

// removeIndex deletes what belongs to a segment's index.
func removeIndex(dir string, n uint32) {
	os.Remove(indexPath(dir, n))
	os.Remove(filepath.Join(dir, strings.TrimSuffix(filepath.Base(indexPath(dir, n)), indexSuffix)+unreadySuffix))
}
