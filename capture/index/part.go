package index

import (
	"hash/crc32"
	"math/bits"
	"sort"

	"opentap/packet"
)

// Sizes of docs/format/index.md.
const (
	partMagic   = "OTIP"
	partVersion = 1
	partFixed   = 64
	bucketAim   = 256 // postings

	// MaxFront is the most that a reader has to read of a part at once, in octets.
	MaxFront = 8 << 20
	// HeadSize is how much of a part says how long it is.
	HeadSize = partFixed
)

type partHead struct {
	length, front uint32
	frontCRC      uint32
	recordID      uint64
	segment       uint32
	first, chunks uint32
	blocks        uint32
	buckets       uint32
	common        uint32
	blockCRC      uint32
	link          packet.LinkType
	prefixBits    uint8
	blockBits     uint8
	rice          uint8
}

// bucketBits is how many bits of a key number its bucket.
func (h *partHead) bucketBits() uint8 { return uint8(bits.Len32(h.buckets) - 1) }

func (h *partHead) bitmapSize() int { return int(h.blocks+63) / 64 * 8 }

// encode appends the part. postings are sorted by their first prefixBits and block.
func (h *partHead) encode(dst []byte, chunks []chunkEntry, blocks []Mark, postings []uint64) []byte {
	at := len(dst)
	shift := 64 - h.prefixBits
	h.blockBits = uint8(bits.Len32(max(h.blocks, 1) - 1))
	// A key of very many blocks is a bitmap, which also keeps it from filling buckets.
	often := max(8, h.bitmapSize()*8/(int(h.blockBits)+7))
	h.common, h.buckets = 0, 1
	rest := 0
	for i := 0; i < len(postings); {
		j := run(postings, i, shift)
		if j-i >= often {
			h.common++
		} else {
			rest += j - i
		}
		i = j
	}
	for int(h.buckets)*bucketAim < rest && h.bucketBits() < h.prefixBits {
		h.buckets *= 2
	}
	low := h.prefixBits - h.bucketBits() // bits of a key within its bucket
	h.rice = 0
	if rest > 0 {
		if gap := uint64(h.buckets) << low / uint64(rest); gap > 1 {
			h.rice = uint8(bits.Len64(gap) - 1)
		}
	}
	h.front = uint32(partFixed + 8*len(chunks) + int(h.common)*(4+h.bitmapSize()) + 8*int(h.buckets))
	dst = append(dst, make([]byte, partFixed)...)
	for _, c := range chunks {
		dst = le.AppendUint32(dst, c.headerCRC)
		dst = le.AppendUint32(dst, c.blocks)
	}
	keys := len(dst)
	maps := keys + 4*int(h.common)
	dst = append(dst, make([]byte, int(h.front)-(keys-at))...)
	table := len(dst)
	for _, m := range blocks {
		dst = le.AppendUint32(dst, m.Offset)
		dst = le.AppendUint32(dst, m.CRC)
	}
	h.blockCRC = crc32.Checksum(dst[table:], castagnoli)
	directory := at + int(h.front) - 8*int(h.buckets)
	var w bitWriter
	bucket, begin, n, previous := uint32(0), len(dst), uint32(0), uint64(0)
	closeBucket := func() {
		if n > 0 {
			dst = w.flush(dst)
			dst = le.AppendUint32(dst, n)
		}
		d := dst[directory+8*int(bucket):]
		le.PutUint32(d, uint32(len(dst)-at))
		le.PutUint32(d[4:], crc32.Checksum(dst[begin:], castagnoli))
		bucket, begin, n, previous = bucket+1, len(dst), 0, 0
	}
	common := 0
	for i := 0; i < len(postings); {
		j := run(postings, i, shift)
		prefix := postings[i] >> shift
		if j-i >= often {
			le.PutUint32(dst[keys+4*common:], uint32(prefix))
			m := dst[maps+common*h.bitmapSize():]
			for _, p := range postings[i:j] {
				m[uint32(p)>>3&0x1fffffff] |= 1 << (p & 7)
			}
			common++
			i = j
			continue
		}
		for bucket < uint32(prefix>>low) {
			closeBucket()
		}
		value := prefix & (1<<low - 1)
		last := uint32(0xffffffff)
		for _, p := range postings[i:j] {
			if uint32(p) == last {
				continue
			}
			last = uint32(p)
			q := (value - previous) >> h.rice
			if q >= 8 {
				dst = w.zeros(dst, q)
				q = 0
			}
			rest := (value-previous)&(1<<h.rice-1) | uint64(last)<<h.rice
			dst = w.put(dst, 1<<q|rest<<(q+1), uint(q)+1+uint(h.rice+h.blockBits))
			previous = value
			n++
		}
		i = j
	}
	for bucket < h.buckets {
		closeBucket()
	}
	for (len(dst)-at)%8 != 0 {
		dst = append(dst, 0)
	}
	h.length = uint32(len(dst) - at)
	h.put(dst[at:])
	return dst
}

// run returns the end of the postings from i on that have the same prefix.
func run(postings []uint64, i int, shift uint8) int {
	j := i + 1
	for p := postings[i] >> shift; j < len(postings) && postings[j]>>shift == p; j++ {
	}
	return j
}

// put writes the head into the part b and sums the front.
func (h *partHead) put(b []byte) {
	copy(b, partMagic)
	le.PutUint16(b[4:], partVersion)
	le.PutUint16(b[6:], uint16(h.link))
	le.PutUint32(b[8:], h.length)
	le.PutUint32(b[12:], h.front)
	le.PutUint32(b[16:], 0)
	le.PutUint32(b[20:], h.segment)
	le.PutUint64(b[24:], h.recordID)
	le.PutUint32(b[32:], h.first)
	le.PutUint32(b[36:], h.chunks)
	le.PutUint32(b[40:], h.blocks)
	le.PutUint32(b[44:], h.buckets)
	le.PutUint32(b[48:], h.common)
	le.PutUint32(b[52:], h.blockCRC)
	b[56], b[57], b[58], b[59] = h.prefixBits, h.blockBits, h.rice, 0
	le.PutUint32(b[60:], 0)
	le.PutUint32(b[16:], crc32.Checksum(b[:h.front], castagnoli))
}

// parse reads the fixed part of b and reports whether it can be one.
func (h *partHead) parse(b []byte) bool {
	if len(b) < partFixed || string(b[:4]) != partMagic || le.Uint16(b[4:]) != partVersion {
		return false
	}
	*h = partHead{
		link: packet.LinkType(le.Uint16(b[6:])), length: le.Uint32(b[8:]), front: le.Uint32(b[12:]), frontCRC: le.Uint32(b[16:]),
		segment: le.Uint32(b[20:]), recordID: le.Uint64(b[24:]), first: le.Uint32(b[32:]), chunks: le.Uint32(b[36:]),
		blocks: le.Uint32(b[40:]), buckets: le.Uint32(b[44:]), common: le.Uint32(b[48:]), blockCRC: le.Uint32(b[52:]),
		prefixBits: b[56], blockBits: b[57], rice: b[58],
	}
	if h.front > MaxFront || h.length > 1<<30 || h.chunks > MaxFront/8 || h.blocks > maxBlocks || h.buckets > MaxFront/8 ||
		h.common > MaxFront/4 || bits.OnesCount32(h.buckets) != 1 || h.prefixBits == 0 || h.prefixBits > 32 || h.bucketBits() > h.prefixBits ||
		h.blockBits > 16 || h.rice > 32 {
		return false
	}
	front := partFixed + 8*uint64(h.chunks) + uint64(h.common)*uint64(4+h.bitmapSize()) + 8*uint64(h.buckets)
	return uint64(h.front) == front && uint64(h.length) >= front+8*uint64(h.blocks) && uint64(h.first)+uint64(h.chunks) < 1<<32
}

// Length returns how long the part that starts with b is, and its front, in octets; zeros if b starts no part. b holds
// HeadSize octets.
func Length(b []byte) (part, front int) {
	var h partHead
	if !h.parse(b) {
		return 0, 0
	}
	return int(h.length), int(h.front)
}

// bitWriter packs bits, the first ones lowest.
type bitWriter struct {
	acc uint64
	n   uint
}

// put appends the low n bits of v, n <= 57.
func (w *bitWriter) put(dst []byte, v uint64, n uint) []byte {
	w.acc |= v << w.n
	w.n += n
	k := w.n >> 3
	dst = le.AppendUint64(dst, w.acc)[:len(dst)+int(k)]
	w.acc >>= 8 * k
	w.n &= 7
	return dst
}

// zeros appends v zeros.
func (w *bitWriter) zeros(dst []byte, v uint64) []byte {
	for ; v > 32; v -= 32 {
		dst = w.put(dst, 0, 32)
	}
	return w.put(dst, 0, uint(v))
}

func (w *bitWriter) flush(dst []byte) []byte {
	if w.n > 0 {
		dst = append(dst, byte(w.acc))
	}
	*w = bitWriter{}
	return dst
}

// commonKeys finds a prefix among the keys that have bitmaps.
func findCommon(keys []byte, prefix uint32) (int, bool) {
	n := len(keys) / 4
	i := sort.Search(n, func(i int) bool { return le.Uint32(keys[4*i:]) >= prefix })
	return i, i < n && le.Uint32(keys[4*i:]) == prefix
}
