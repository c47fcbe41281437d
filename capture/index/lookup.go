package index

import (
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
)

// Part answers for the chunks of one part. It reads what it needs of the file when it is asked. It is used by one
// goroutine at a time.
type Part struct {
	head   partHead
	r      io.ReaderAt
	at     int64
	front  []byte
	blocks []byte
	buf    []byte
	opaque Bitmap // nil = none
	looked bool   // for opaque blocks
}

// Read reads the front of the part at offset at, of n octets as Length says, into buf. It is an ErrDamaged if it is no
// whole front.
func (p *Part) Read(r io.ReaderAt, at int64, n int, buf []byte) error {
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if k, err := r.ReadAt(buf, at); k < n {
		return fmt.Errorf("read index part at offset %d: %w", at, err)
	}
	return p.Use(r, at, buf)
}

// Use is Read for a front that is in memory. It keeps front.
func (p *Part) Use(r io.ReaderAt, at int64, front []byte) error {
	*p = Part{r: r, at: at, front: front, blocks: p.blocks[:0], buf: p.buf}
	if !p.head.parse(front) || int(p.head.front) != len(front) {
		return ErrDamaged
	}
	crc := crc32.Update(0, castagnoli, front[:16])
	crc = crc32.Update(crc, castagnoli, make([]byte, 4))
	if crc32.Update(crc, castagnoli, front[20:]) != p.head.frontCRC {
		return ErrDamaged
	}
	total := uint64(0)
	for i := range int(p.head.chunks) {
		total += uint64(le.Uint32(front[partFixed+8*i+4:]))
	}
	if total != uint64(p.head.blocks) {
		return ErrDamaged
	}
	return nil
}

// Of says which chunks the part is about: chunks of them from number first on, of that segment of that recording.
func (p *Part) Of() (recordID uint64, segment, first, chunks uint32) {
	return p.head.recordID, p.head.segment, p.head.first, p.head.chunks
}

// Blocks is the number of blocks of all chunks of the part.
func (p *Part) Blocks() int { return int(p.head.blocks) }

// Chunk returns the header checksum and the number of blocks of the i-th chunk of the part.
func (p *Part) Chunk(i int) (headerCRC uint32, blocks int) {
	b := p.front[partFixed+8*i:]
	return le.Uint32(b), int(le.Uint32(b[4:]))
}

// Marks reads where the blocks start. It must come before Mark.
func (p *Part) Marks() error {
	if len(p.blocks) > 0 || p.head.blocks == 0 {
		return nil
	}
	b := make([]byte, 8*int(p.head.blocks))
	if n, err := p.r.ReadAt(b, p.at+int64(p.head.front)); n < len(b) {
		return fmt.Errorf("read index part at offset %d: %w", p.at, err)
	}
	if crc32.Checksum(b, castagnoli) != p.head.blockCRC {
		return ErrDamaged
	}
	p.blocks = b
	return nil
}

// Mark returns where block i of the part starts in its chunk.
func (p *Part) Mark(i int) Mark {
	return Mark{le.Uint32(p.blocks[8*i:]), le.Uint32(p.blocks[8*i+4:])}
}

// Bitmap is a set of a part's blocks.
type Bitmap []uint64

// Has reports whether block i is in the set.
func (m Bitmap) Has(i int) bool { return m[i>>6]>>(i&63)&1 != 0 }

// Empty reports whether no block is in the set.
func (m Bitmap) Empty() bool {
	for _, w := range m {
		if w != 0 {
			return false
		}
	}
	return true
}

func (p *Part) empty() Bitmap { return make(Bitmap, (p.head.blocks+63)/64) }

// lookup adds the blocks of a key to m.
func (p *Part) lookup(k Key, m Bitmap) error {
	h := &p.head
	prefix := uint64(k) >> (32 - h.prefixBits)
	keys := p.front[partFixed+8*int(h.chunks):]
	maps := keys[4*int(h.common):]
	if i, ok := findCommon(keys[:4*int(h.common)], uint32(prefix)); ok {
		b := maps[i*h.bitmapSize():]
		for i := range m {
			m[i] |= h.widen(b, i)
		}
		return nil
	}
	low := h.valueBits()
	directory := p.front[int(h.front)-8*int(h.buckets):]
	bucket := int(prefix >> low)
	begin, end := h.front+8*h.blocks, le.Uint32(directory[8*bucket:])
	if bucket > 0 {
		begin = le.Uint32(directory[8*bucket-8:])
	}
	if begin == end {
		return nil
	}
	if begin > end || end > h.length || end-begin < 4 || end-begin > 1<<24 {
		return ErrDamaged
	}
	if cap(p.buf) < int(end-begin) {
		p.buf = make([]byte, end-begin+1024)
	}
	b := p.buf[:end-begin]
	if n, err := p.r.ReadAt(b, p.at+int64(begin)); n < len(b) {
		return fmt.Errorf("read index part at offset %d: %w", p.at, err)
	}
	if crc32.Checksum(b, castagnoli) != le.Uint32(directory[8*bucket+4:]) {
		return ErrDamaged
	}
	return h.decode(b, prefix&(1<<low-1), m)
}

// widen returns the blocks 64i to 64i+63 of a bitmap of groups.
func (h *partHead) widen(b []byte, i int) uint64 {
	if h.groupBits == 0 {
		return le.Uint64(b[8*i:])
	}
	out := uint64(0)
	for j := 0; j < 64; j++ {
		g := (64*i + j) >> h.groupBits
		if g>>3 < h.bitmapSize() {
			out |= uint64(b[g>>3]>>(g&7)&1) << j
		}
	}
	if n := int(h.blocks) - 64*i; n < 64 {
		out &= 1<<n - 1
	}
	return out
}

// decode adds the blocks of value in the bucket b to m.
func (h *partHead) decode(b []byte, value uint64, m Bitmap) error {
	n := le.Uint32(b[len(b)-4:])
	r := bitReader{b: b[:len(b)-4]}
	group, known := uint64(0), uint64(1)<<63 // known is in m already: a crafted bucket may repeat it without end
	low := h.valueBits()
	for range n {
		q, ok := r.unary()
		if !ok {
			return ErrDamaged
		}
		x, ok := r.take(uint(h.rice + low))
		if !ok {
			return ErrDamaged
		}
		group += q<<h.rice | x&(1<<h.rice-1)
		if group >= uint64(h.groups()) {
			return ErrDamaged
		}
		if x>>h.rice != value || group == known {
			continue
		}
		known = group
		first := group << h.groupBits
		for block := first; block < min(first+1<<h.groupBits, uint64(h.blocks)); block++ {
			m[block>>6] |= 1 << (block & 63)
		}
	}
	return nil
}

// bitReader reads what bitWriter wrote.
type bitReader struct {
	b   []byte
	acc uint64
	n   uint
}

func (r *bitReader) fill() {
	if len(r.b) >= 8 {
		r.acc |= le.Uint64(r.b) << r.n
		k := (63 - r.n) >> 3
		r.b = r.b[k:]
		r.n += k * 8
		if r.n < 64 {
			r.acc &= 1<<r.n - 1
		}
		return
	}
	for r.n <= 56 && len(r.b) > 0 {
		r.acc |= uint64(r.b[0]) << r.n
		r.b = r.b[1:]
		r.n += 8
	}
}

func (r *bitReader) take(n uint) (uint64, bool) {
	if r.n < n {
		if r.fill(); r.n < n {
			return 0, false
		}
	}
	v := r.acc & (1<<n - 1)
	r.acc >>= n
	r.n -= n
	return v, true
}

func (r *bitReader) unary() (uint64, bool) {
	v := uint64(0)
	for {
		if r.acc != 0 {
			z := uint(bits.TrailingZeros64(r.acc))
			r.acc >>= z
			r.acc >>= 1
			r.n -= z + 1
			return v + uint64(z), true
		}
		v += uint64(r.n)
		r.n = 0
		if r.fill(); r.n == 0 {
			return 0, false
		}
	}
}
