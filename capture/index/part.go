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
	partVersion = 2
	partMake    = 1 // how parts are made within the version: another make answers the same with other octets
	partFixed   = 64

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
	groupBits     uint8
	rice          uint8
}

// bucketBits is how many bits of a key number its bucket.
func (h *partHead) bucketBits() uint8 { return uint8(bits.Len32(h.buckets) - 1) }

// valueBits is how many bits of a key tell it from others of its bucket.
func (h *partHead) valueBits() uint8 { return h.prefixBits - h.bucketBits() }

// groups is how many groups of blocks there are.
func (h *partHead) groups() uint32 { return (h.blocks + 1<<h.groupBits - 1) >> h.groupBits }

func (h *partHead) bitmapSize() int { return int(h.groups()+63) / 64 * 8 }

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
	b[56], b[57], b[58], b[59] = h.prefixBits, h.groupBits, h.rice, partMake
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
		prefixBits: b[56], groupBits: b[57], rice: b[58],
	}
	if h.front > MaxFront || h.length > 1<<30 || h.chunks > MaxFront/8 || h.blocks > maxBlocks || h.buckets > MaxFront/8 ||
		h.common > MaxFront/4 || bits.OnesCount32(h.buckets) != 1 || h.prefixBits == 0 || h.prefixBits > 32 || h.bucketBits() > h.prefixBits ||
		h.groupBits > 16 || h.rice > 16 {
		return false
	}
	front := partFixed + 8*uint64(h.chunks) + uint64(h.common)*uint64(4+h.bitmapSize()) + 8*uint64(h.buckets)
	return uint64(h.front) == front && uint64(h.length) >= front+8*uint64(h.blocks) && uint64(h.first)+uint64(h.chunks) < 1<<32
}

// Outdated reports whether an index file that begins with b is of an older version of the format, or of an older make: no damage,
// but not what would be built now. Those of an older make answer as well; those of an older version are not read.
func Outdated(b []byte) bool {
	if len(b) < partFixed || string(b[:4]) != partMagic {
		return false
	}
	version := le.Uint16(b[4:])
	return version < partVersion || version == partVersion && b[59] < partMake
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

// findCommon finds a prefix among the keys that have bitmaps.
func findCommon(keys []byte, prefix uint32) (int, bool) {
	n := len(keys) / 4
	i := sort.Search(n, func(i int) bool { return le.Uint32(keys[4*i:]) >= prefix })
	return i, i < n && le.Uint32(keys[4*i:]) == prefix
}
