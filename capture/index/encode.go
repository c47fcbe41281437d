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
	h.shape(len(b.keys), max(b.octets*sizeAim/1000, sizeFloor), b.coarsest)
	b.sort()
	b.sieve.small(h, b.keys)
	frequent := b.frequent()
	h.common = uint32(len(frequent))

	at := len(dst)
	h.front = uint32(partFixed + 8*len(b.chunks) + len(frequent)*(4+h.bitmapSize()) + 8*int(h.buckets))
	dst = slices.Grow(dst, int(h.front)+8*len(b.blocks)+len(b.keys)*h.entryBits()/8+8*int(h.buckets)+64) // nearly always enough
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
	keys := b.keys
	if cap(b.sorted) < len(keys) {
		b.sorted = make([]uint32, len(keys)+len(keys)/8)
	}
	b.sorted = b.sorted[:len(keys)]
	sorted := b.sorted
	b.starts = append(b.starts[:0], make([]uint32, h.buckets+1)...)
	next := b.starts[1:] // of each bucket where its next entry goes: in the end where it ends
	shift := 32 - h.bucketBits()
	if fold := countBits - int(h.bucketBits()); fold >= 0 {
		for i, n := range b.counts {
			next[i>>fold] += n
		}
	} else {
		for _, k := range keys {
			next[k>>shift]++
		}
	}
	sum := uint32(0)
	for i, n := range next {
		next[i] = sum
		sum += n
	}
	drop, mask := 32-h.prefixBits, Key(1)<<h.valueBits()-1
	begin := uint32(0)
	for block, end := range b.ends {
		group := uint32(block) >> h.groupBits << maxValue
		for _, k := range keys[begin:end] {
			i := uint64(k) >> (shift & 63)
			at := next[i]
			next[i] = at + 1
			sorted[at] = group | uint32(k>>(drop&31)&mask)
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
	if len(entries) > skewed {
		entries = b.sift(dst[maps:], entries, frequent)
	} else if h.groupBits > 0 && b.twice >= b.looked/64 { // else it is not worth the time
		b.looked += len(entries)
		n := len(entries)
		entries = distinct(entries)
		b.twice += n - len(entries)
	}
	if len(entries) == 0 {
		return dst
	}
	dst = slices.Grow(dst, (len(entries)*int(1+h.rice+h.valueBits())+int(h.groups()>>h.rice))/8+32)
	b.sieve.bucket(h, bucket, entries)
	end := len(dst) + h.pack(dst[len(dst):cap(dst)], entries)
	return le.AppendUint32(dst[:end], uint32(len(entries)))
}

const valued = 1<<maxValue - 1 // of an entry: its value

// sift takes those of frequent prefixes out of the entries of a bucket and sets their bits in maps instead. It takes out what
// is there twice.
func (b *Builder) sift(maps []byte, entries []uint32, frequent []uint32) []uint32 {
	const some = 1 << 31 // values: the rest numbers a frequent prefix of the bucket
	clear(b.values[:])
	for i, prefix := range frequent {
		b.sieve.prefix(&b.head, prefix)
		b.values[prefix&(1<<b.head.valueBits()-1)] = some | uint32(i)
	}
	n, size := 0, b.head.bitmapSize()
	for _, e := range entries {
		group := e >> maxValue
		v := &b.values[e&valued]
		if *v&some != 0 {
			maps[int(*v&^some)*size+int(group>>3)] |= 1 << (group & 7)
		} else if *v != group+1 {
			*v = group + 1
			entries[n] = e
			n++
		}
	}
	return entries[:n]
}

// distinct takes out what is there twice in a bucket that is not long.
func distinct(entries []uint32) []uint32 {
	n := 0
next:
	for _, e := range entries {
		for i := n - 1; i >= 0 && (entries[i]^e)>>maxValue == 0; i-- {
			if entries[i] == e {
				continue next
			}
		}
		entries[n] = e
		n++
	}
	return entries[:n]
}

// pack writes the entries as a string of bits, the first ones lowest, and returns how many octets it takes. dst must have
// room for eight octets more.
func (h *partHead) pack(dst []byte, entries []uint32) int {
	rice := uint(h.rice & 15)
	each, mask := 1+rice+uint(h.valueBits()), uint64(1)<<rice-1
	at, acc, n := 0, uint64(0), uint(0)
	previous := uint32(0)
	for _, e := range entries {
		gap := uint64(e>>maxValue - previous)
		previous = e >> maxValue
		rest := 1 | (gap&mask|uint64(e&valued)<<rice)<<1
		gap >>= rice
		for ; gap > 16; gap -= 16 {
			le.PutUint16(dst[at:], uint16(acc))
			at, acc = at+2, acc>>16 // fewer than eight bits are in acc
		}
		n += uint(gap)
		acc |= rest << (n & 63)
		le.PutUint64(dst[at:], acc)
		n += each
		acc >>= n & 56
		at += int(n >> 3)
		n &= 7
	}
	return at + int(n+7)>>3
}
