package index

import (
	"hash/crc32"
	"math/bits"
	"slices"
)

const (
	bucketAim = 256 // entries; at most so many are in most buckets, at least half of them
	skewed    = 2 * bucketAim
	spareBits = 3  // of a key beyond those that number the entries: how rarely another key is met by chance
	maxValue  = 12 // bits: follows from the two above

	// The entries of a part are to take no more than sizeAim thousandths of its chunks' octets, or sizeFloor octets. Where
	// they would, as with many short packets of as many hosts, answers get coarser: groups of up to 1<<maxGroup blocks.
	sizeAim   = 18
	sizeFloor = 4096
	maxGroup  = 4
)

// encode appends the part.
func (b *Builder) encode(dst []byte) []byte {
	h := &b.head
	h.chunks, h.blocks = uint32(len(b.chunks)), uint32(len(b.blocks))
	h.shape(len(b.keys.keys), max(b.octets*sizeAim/1000, sizeFloor), b.coarsest)
	b.sort()
	frequent := b.frequent()
	h.common = uint32(len(frequent))

	at := len(dst)
	h.front = uint32(partFixed + 8*len(b.chunks) + len(frequent)*(4+h.bitmapSize()) + 8*int(h.buckets))
	dst = append(dst, make([]byte, partFixed)...)
	for _, c := range b.chunks {
		dst = le.AppendUint32(dst, c.headerCRC)
		dst = le.AppendUint32(dst, c.blocks)
	}
	for _, prefix := range frequent {
		dst = le.AppendUint32(dst, prefix)
	}
	maps := len(dst)
	dst = append(dst, make([]byte, at+int(h.front)-maps)...)
	table := len(dst)
	for _, m := range b.blocks {
		dst = le.AppendUint32(dst, m.Offset)
		dst = le.AppendUint32(dst, m.CRC)
	}
	h.blockCRC = crc32.Checksum(dst[table:], castagnoli)
	directory := at + int(h.front) - 8*int(h.buckets)
	low := h.valueBits()
	for bucket := range h.buckets {
		begin := len(dst)
		n := 0
		for n < len(frequent) && frequent[n]>>low == bucket {
			n++
		}
		dst = b.bucket(dst, bucket, frequent[:n], maps)
		frequent = frequent[n:]
		maps += n * h.bitmapSize()
		d := dst[directory+8*int(bucket):]
		le.PutUint32(d, uint32(len(dst)-at))
		le.PutUint32(d[4:], crc32.Checksum(dst[begin:], castagnoli))
	}
	for (len(dst)-at)%8 != 0 {
		dst = append(dst, 0)
	}
	h.length = uint32(len(dst) - at)
	h.put(dst[at:])
	b.sieve.part(h, b.chunks)
	return dst
}

// shape chooses the measures for n keys that shall take up to limit octets, with groups of at most 1<<coarsest blocks.
func (h *partHead) shape(n, limit int, coarsest uint8) {
	h.prefixBits = uint8(min(32, bits.Len(uint(n))+spareBits))
	h.buckets = 1
	for int(h.buckets)*bucketAim < n {
		h.buckets *= 2
	}
	for h.groupBits = 0; ; h.groupBits++ {
		h.rice = 0
		if gap := uint64(h.groups()) * uint64(h.buckets) / uint64(max(n, 1)); gap > 1 {
			h.rice = uint8(bits.Len64(gap) - 1)
		}
		if n*h.entryBits()/8 <= limit || h.groupBits >= coarsest {
			return
		}
	}
}

// entryBits is about how long an entry of a bucket is.
func (h *partHead) entryBits() int { return 2 + int(h.rice+h.valueBits()) }

// sort puts the keys into their buckets, in each by group: the group in the high bits, the value in the low ones.
func (b *Builder) sort() {
	h := &b.head
	keys := b.keys.keys
	if cap(b.sorted) < len(keys) {
		b.sorted = make([]uint32, cap(keys))
	}
	b.sorted = b.sorted[:len(keys)]
	sorted := b.sorted
	b.starts = append(b.starts[:0], make([]uint32, h.buckets+1)...)
	next := b.starts[1:] // of each bucket where its next entry goes: in the end where it ends
	shift := 32 - h.bucketBits()
	for _, k := range keys {
		next[k>>shift]++
	}
	sum := uint32(0)
	for i, n := range next {
		next[i] = sum
		sum += n
	}
	drop, mask := 32-h.prefixBits, Key(1)<<h.valueBits()-1
	begin := uint32(0)
	for block, end := range b.keys.ends {
		group := uint32(block) >> h.groupBits << maxValue
		for _, k := range keys[begin:end] {
			b.sieve.add(k)
			at := &next[k>>shift]
			sorted[*at] = group | uint32(k>>drop&mask)
			*at++
		}
		begin = end
	}
}

// entries returns a bucket.
func (b *Builder) entries(bucket uint32) []uint32 {
	return b.sorted[b.starts[bucket]:b.starts[bucket+1]]
}

// frequent returns the prefixes that are in so many groups that a bitmap is shorter, in order. They are looked for in
// buckets alone that are much too long.
func (b *Builder) frequent() (prefixes []uint32) {
	h := &b.head
	often := uint32(max(8, (32+8*h.bitmapSize())/h.entryBits()))
	for bucket := range h.buckets {
		entries := b.entries(bucket)
		if len(entries) <= skewed {
			continue
		}
		clear(b.values[:])
		for _, e := range entries {
			b.values[e&(1<<maxValue-1)]++
		}
		for v, n := range b.values {
			if n >= often {
				prefixes = append(prefixes, bucket<<h.valueBits()|uint32(v))
			}
		}
	}
	return prefixes
}

// bucket appends the entries of a bucket but those of frequent prefixes, whose bitmaps are at dst[maps:].
func (b *Builder) bucket(dst []byte, bucket uint32, frequent []uint32, maps int) []byte {
	h := &b.head
	entries := b.entries(bucket)
	if len(entries) == 0 {
		return dst
	}
	rice, low := h.rice, h.valueBits()
	long := len(entries) > skewed
	const (
		some   = 1 << 31 // values: the rest numbers a frequent prefix of the bucket
		valued = 1<<maxValue - 1
	)
	if long {
		clear(b.values[:])
		for i, prefix := range frequent {
			b.values[prefix&(1<<low-1)] = some | uint32(i)
		}
	}
	dst = slices.Grow(dst, (len(entries)*int(1+rice+low)+int(h.groups()>>rice))/8+32)
	w := bitWriter{b: dst[:cap(dst)], at: len(dst)}
	n, previous := uint32(0), uint32(0)
	for i, e := range entries {
		group := e >> maxValue
		if long {
			v := &b.values[e&valued]
			if *v&some != 0 {
				dst[maps+int(*v&^some)*h.bitmapSize()+int(group>>3)] |= 1 << (group & 7)
				continue
			}
			if *v == group+1 {
				continue
			}
			*v = group + 1
		} else if n > 0 && group == previous && repeated(entries[:i], e) {
			continue
		}
		q := uint64(group-previous) >> rice
		for ; q > 16; q -= 16 {
			w.put(0, 16)
		}
		rest := uint64(group-previous)&(1<<rice-1) | uint64(e&valued)<<rice
		w.put((1|rest<<1)<<q, uint(q)+1+uint(rice+low))
		previous = group
		n++
	}
	if n == 0 {
		return dst
	}
	return le.AppendUint32(dst[:w.end()], n)
}

// bitWriter packs bits into b from octet at on, the first ones lowest. There must be room for eight octets more.
type bitWriter struct {
	b   []byte
	at  int
	acc uint64
	n   uint
}

// put appends the n bits of v, n <= 57.
func (w *bitWriter) put(v uint64, n uint) {
	w.acc |= v << w.n
	w.n += n
	le.PutUint64(w.b[w.at:], w.acc)
	k := w.n >> 3
	w.at += int(k)
	w.acc >>= 8 * k
	w.n &= 7
}

// end returns where the octet after the last bit is.
func (w *bitWriter) end() int {
	if w.n > 0 {
		return w.at + 1
	}
	return w.at
}

// repeated reports whether the entry e is among the last ones, which are of its group.
func repeated(entries []uint32, e uint32) bool {
	for i := len(entries) - 1; i >= 0 && entries[i]>>maxValue == e>>maxValue; i-- {
		if entries[i] == e {
			return true
		}
	}
	return false
}
