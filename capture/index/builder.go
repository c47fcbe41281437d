package index

import (
	"math/bits"

	"opentap/packet"
)

// Builder gathers the keys of chunks until they are a part. It is used by one goroutine and reuses its memory, of which
// a part takes 8 octets twice for each key of a block.
type Builder struct {
	link packet.LinkType
	head partHead

	octets   int
	chunks   []chunkEntry
	blocks   []Mark
	postings []uint64 // key in the high half, block in the low one
	spare    []uint64

	// Of the block at hand.
	block    uint32
	recent   [1024]uint64 // postings, at the key's high bits: most keys of a block come again soon
	protos   [4]uint64
	lastType uint16
	touched  byte
}

// chunkEntry is what a part keeps of a chunk.
type chunkEntry struct {
	headerCRC uint32
	blocks    uint32
}

// NewBuilder makes a Builder for the chunks of one segment.
func NewBuilder(link packet.LinkType, recordID uint64, segment uint32) *Builder {
	b := &Builder{link: link, postings: make([]uint64, 0, 1<<16)}
	b.Segment(recordID, segment)
	return b
}

// Segment begins another segment; there must be nothing pending.
func (b *Builder) Segment(recordID uint64, segment uint32) {
	b.head = partHead{recordID: recordID, segment: segment, link: b.link}
	b.reset(0)
}

func (b *Builder) reset(first uint32) {
	b.head.first = first
	b.octets, b.chunks, b.blocks, b.postings, b.block = 0, b.chunks[:0], b.blocks[:0], b.postings[:0], 0
	clear(b.recent[:])
}

// Pending reports whether chunks have been added that are in no part yet.
func (b *Builder) Pending() bool { return len(b.chunks) > 0 }

// Full reports whether the chunks added should become a part.
func (b *Builder) Full() bool {
	return b.octets >= PartOctets || len(b.chunks) >= partChunks || len(b.postings) >= partPostings || len(b.blocks) >= maxBlocks/2
}

// Chunk adds the next chunk of the segment. c is the whole chunk, of which the packet blocks are from header on and as
// many as packets says; marks are its blocks in order, the first at header. A chunk without packets has no blocks.
func (b *Builder) Chunk(c []byte, header int, packets, headerCRC uint32, marks []Mark) {
	b.chunks = append(b.chunks, chunkEntry{headerCRC, uint32(len(marks))})
	b.octets += len(c)
	next := 0
	off := header
	for ; packets > 0; packets-- {
		if len(c)-off < 32 {
			break
		}
		size, n := int(le.Uint32(c[off+4:])), int(le.Uint32(c[off+20:]))
		if n > len(c)-off-28 || size < 32 || size > len(c)-off {
			break
		}
		if next < len(marks) && off >= int(marks[next].Offset) {
			b.blocks = append(b.blocks, marks[next])
			next++
			end := len(c)
			if next < len(marks) {
				end = min(end, int(marks[next].Offset))
			}
			b.touch(c[off:max(off, end)])
			b.begin()
		}
		b.frame(c[off+28 : off+28+n : off+28+n])
		off += size
	}
	for ; next < len(marks) || packets > 0 && next == 0; next++ { // a writer's bug: what is there is read always
		m := Mark{Offset: uint32(header)}
		if next < len(marks) {
			m = marks[next]
		}
		b.blocks = append(b.blocks, m)
		b.begin()
		b.add(keyOpaque())
	}
}

// touch reads a block in order, which the processor fetches ahead; the way from packet to packet it cannot foresee.
func (b *Builder) touch(c []byte) {
	sum := byte(0)
	for i := 0; i < len(c); i += 64 {
		sum += c[i]
	}
	b.touched = sum
}

func (b *Builder) begin() {
	b.block = uint32(len(b.blocks) - 1)
	b.protos, b.lastType = [4]uint64{}, 0
}

// add notes that the block at hand has a packet with the key.
func (b *Builder) add(k Key) {
	p := uint64(k)<<32 | uint64(b.block)
	if r := &b.recent[k>>22]; *r != p {
		*r = p
		b.postings = append(b.postings, p)
	}
}

// Part appends the part of the chunks added since the last one to dst and begins the next.
func (b *Builder) Part(dst []byte) []byte {
	h := &b.head
	n := len(b.postings)
	h.chunks, h.blocks = uint32(len(b.chunks)), uint32(len(b.blocks))
	h.prefixBits = uint8(min(32, bits.Len(uint(n))+spareBits))
	b.sort(h.prefixBits)
	dst = h.encode(dst, b.chunks, b.blocks, b.postings)
	b.reset(h.first + h.chunks)
	return dst
}

// sort orders the postings by the first n bits of their keys, and within them as they came: by block.
func (b *Builder) sort(n uint8) {
	if cap(b.spare) < len(b.postings) {
		b.spare = make([]uint64, cap(b.postings))
	}
	from, to := b.postings, b.spare[:len(b.postings)]
	passes := (int(n) + digitBits - 1) / digitBits
	digit := (int(n) + passes - 1) / passes
	mask := uint64(1)<<digit - 1
	var count [1 << digitBits]uint32
	for shift := 64 - int(n); shift < 64; shift += digit {
		clear(count[:])
		for _, p := range from {
			count[p>>shift&mask]++
		}
		at := uint32(0)
		for i, c := range count {
			count[i] = at
			at += c
		}
		for _, p := range from {
			d := p >> shift & mask
			to[count[d]] = p
			count[d]++
		}
		from, to = to, from
	}
	b.postings, b.spare = from, to[:cap(to)]
}

const (
	digitBits = 12
	spareBits = 4 // of a key beyond those that number the postings: how rarely another key is met by chance
)
