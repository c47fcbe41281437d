package index

import "opentap/packet"

// Builder gathers the keys of chunks until they are a part. It is used by one goroutine and reuses its memory, of which
// a part takes 8 octets for each key of a block.
type Builder struct {
	head     partHead
	coarsest uint8

	octets        int
	chunks        []chunkEntry
	blocks        []Mark
	keys          []Key                  // of the blocks, one after the other
	ends          []uint32               // of each block: where its keys end
	counts        [1 << countBits]uint32 // of the keys, by their first bits
	sorted        []uint32
	starts        []uint32
	looked, twice int                   // entries among which ones that are there twice were looked for, and found
	values        [1 << maxValue]uint32 // of a bucket
	sieve         sieve

	// For chunks that come without their keys.
	scanner *Scanner
	own     Keys
	touched byte
}

// countBits number the buckets of the largest part that is usual.
const countBits = 11

// chunkEntry is what a part keeps of a chunk.
type chunkEntry struct {
	headerCRC uint32
	blocks    uint32
}

// NewBuilder makes a Builder for the chunks of one segment.
func NewBuilder(link packet.LinkType, recordID uint64, segment uint32) *Builder {
	b := &Builder{head: partHead{link: link}, coarsest: maxGroup, sieve: newSieve()}
	b.Segment(recordID, segment)
	return b
}

// Segment begins another segment; there must be nothing pending.
func (b *Builder) Segment(recordID uint64, segment uint32) {
	b.head = partHead{recordID: recordID, segment: segment, link: b.head.link}
	b.reset(0)
	b.sieve.reset()
}

func (b *Builder) reset(first uint32) {
	b.head.first = first
	b.octets, b.chunks, b.blocks, b.keys, b.ends = 0, b.chunks[:0], b.blocks[:0], b.keys[:0], b.ends[:0]
	clear(b.counts[:])
}

// Pending reports whether chunks have been added that are in no part yet.
func (b *Builder) Pending() bool { return len(b.chunks) > 0 }

// Full reports whether the chunks added should become a part.
func (b *Builder) Full() bool {
	return b.octets >= PartOctets || len(b.chunks) >= partChunks || len(b.keys) >= partKeys || len(b.blocks) >= maxBlocks/2
}

// Add adds the next chunk of the segment, of so many octets. marks are its blocks in order; k has their keys, as a
// Scanner finds them that is told of each block. A chunk without packets has no blocks. Add keeps neither.
func (b *Builder) Add(k *Keys, octets int, headerCRC uint32, marks []Mark) {
	b.chunks = append(b.chunks, chunkEntry{headerCRC, uint32(len(marks))})
	b.octets += octets
	b.blocks = append(b.blocks, marks...)
	if len(marks) == 0 {
		return
	}
	base := uint32(len(b.keys))
	b.append(k.list()...)
	for _, end := range k.ends {
		b.ends = append(b.ends, base+end)
	}
	b.ends = append(b.ends, uint32(len(b.keys)))
	for len(b.ends) < len(b.blocks) { // a writer's bug: what is there is read always
		b.append(keyOpaque())
		b.ends = append(b.ends, uint32(len(b.keys)))
	}
}

func (b *Builder) append(keys ...Key) {
	if n := len(b.keys) + len(keys); n > cap(b.keys) {
		b.keys = append(make([]Key, 0, max(n, 2*cap(b.keys))), b.keys...)
	}
	b.keys = append(b.keys, keys...)
	for _, k := range keys {
		b.counts[k>>(32-countBits)]++
	}
}

// Chunk adds the next chunk of the segment and finds the keys itself. c is the whole chunk, of which the packet blocks
// are from header on and as many as packets says; marks are its blocks in order, the first at header.
func (b *Builder) Chunk(c []byte, header int, packets, headerCRC uint32, marks []Mark) {
	if b.scanner == nil {
		b.scanner = NewScanner(b.head.link)
	}
	s := b.scanner
	s.Begin(&b.own)
	if packets > 0 && len(marks) == 0 { // a writer's bug
		marks = []Mark{{Offset: uint32(header)}}
		b.own.reserve()
		s.add(keyOpaque())
	}
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
			if next > 0 {
				s.Next()
			}
			next++
			end := len(c)
			if next < len(marks) {
				end = min(end, int(marks[next].Offset))
			}
			b.touch(c[off:max(off, end)])
		}
		s.Frame(c[off+28 : off+28+n : off+28+n])
		off += size
	}
	if packets > 0 { // likewise, or one that reads what it has not verified
		b.own.reserve()
		s.add(keyOpaque())
	}
	b.Add(&b.own, len(c), headerCRC, marks)
}

// touch reads a block in order, which the processor fetches ahead; the way from packet to packet it cannot foresee.
func (b *Builder) touch(c []byte) {
	sum := byte(0)
	for i := 0; i < len(c); i += 64 {
		sum += c[i]
	}
	b.touched = sum
}

// Part appends the part of the chunks added since the last one to dst and begins the next.
func (b *Builder) Part(dst []byte) []byte {
	dst = b.encode(dst)
	b.reset(b.head.first + b.head.chunks)
	return dst
}
