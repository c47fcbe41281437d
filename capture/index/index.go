// Package index says which blocks of a recording's chunks can hold a packet that a filter selects.
//
// Runs in: agent | tools
//
// docs/format/index.md is the format. A Builder turns chunks into parts, a Part answers, a Cond is what a filter needs.
// What a packet is indexed under follows from where the filter's programs look, not from whether its headers are sound, so
// that a packet that a filter selects is always found: an answer may name blocks without such a packet, never the reverse.
package index

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/bits"
)

// BlockOctets is about how much of a chunk is one block: the least that is read.
const BlockOctets = 16 << 10

// Limits of a part. A part is closed by the first one it reaches; a chunk is never in two.
const (
	PartOctets = 32 << 20 // of chunks
	partChunks = 1024
	partKeys   = 400 << 10 // of blocks, one counted again in each
	maxBlocks  = 1 << 16
)

// ErrDamaged says that a part does not read back as it was written. It means nothing about the packets: they are read
// without it.
var ErrDamaged = errors.New("index part is damaged")

var (
	le         = binary.LittleEndian
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

// Key is the hash of what packets are looked up by. Equal things have equal keys; the reverse holds nearly always.
type Key uint32

// Kinds of keys, as the format has them.
const (
	kindIPv4   = 1
	kindPort   = 2
	kindProto  = 3
	kindType   = 4
	kindVLAN   = 5
	kindOpaque = 6

	anyVLAN = 0x1000
)

func mix(x uint64) Key {
	x *= 0x9e3779b97f4a7c15
	x ^= x >> 32
	x *= 0xd6e8feb86659fd93
	return Key(x >> 32)
}

func key(kind, v uint64) Key { return mix(kind<<56 | v) }

// KeyIPv4 is an IPv4 address, of IP or ARP, as source or destination.
func KeyIPv4(a uint32) Key { return key(kindIPv4, uint64(a)) }

// KeyIPv6 is an IPv6 address, as source or destination. a holds at least 16 octets.
func KeyIPv6(a []byte) Key {
	return key6(be.Uint64(a), be.Uint64(a[8:]))
}

func key6(hi, lo uint64) Key {
	return mix(hi*0xa0761d6478bd642f + bits.RotateLeft64(lo, 32)*0xe7037ed1a0b428db + 0x8ebc6af09c88c6e3)
}

// KeyPort is a port of TCP, UDP or SCTP, as source or destination.
func KeyPort(p uint16) Key { return key(kindPort, uint64(p)) }

// KeyProto is a protocol number of IPv4, or a next header of IPv6.
func KeyProto(p uint8) Key { return key(kindProto, uint64(p)) }

// KeyType is an EtherType, behind all tags; behind MPLS and PPPoE that of IPv4 and IPv6 too.
func KeyType(t uint16) Key { return key(kindType, uint64(t)) }

// KeyVLAN is the id of a tag at any depth.
func KeyVLAN(id uint16) Key { return key(kindVLAN, uint64(id&0xfff)) }

// KeyTagged is any VLAN tag.
func KeyTagged() Key { return key(kindVLAN, anyVLAN) }

// keyTagged is KeyTagged, which tagged packets all have.
var keyTagged = KeyTagged()

// keyOpaque is a packet that was not followed to the end of its headers: its blocks are part of every answer.
func keyOpaque() Key { return key(kindOpaque, 0) }

// Mark is where a block of a chunk starts: a packet block's offset in the chunk, and the crc32c of the chunk's body up
// to there. So a block can be checked without the rest of the chunk: the sum, continued over it, is the next Mark's.
type Mark struct {
	Offset uint32
	CRC    uint32
}
