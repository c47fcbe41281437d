package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// Custom option kinds and magics of docs/format/segment.md.
const (
	kindHead  = 1
	kindChunk = 2
	kindSeal  = 3

	formatVersion = 1

	magicHead  = "OTSG"
	magicChunk = "OTCH"
	magicSeal  = "OTSE"

	customHead = uint32(pcap.OptionCustomBinaryDrop) // low half of an option's first word; the length is the high half
)

// Flags of a chunk.
const (
	flagSeal            = 1
	flagRecovered       = 2
	flagFilterUncounted = 4
)

// Sizes of docs/format/segment.md.
const (
	chunkHeaderSize = 336 // B of a chunk with packets
	fieldsStart     = 24  // the part of a header that the chunk table keeps
	fieldsEnd       = 280
	sealOption      = 328
	sealOptionEnd   = 396
	accountStart    = 128
	accountSize     = 8 * (7 + droppedSlots)
	droppedSlots    = 12

	// minPad is the least number of octets by which the last packet block can be padded to the end of the page.
	minPad = pcap.MinPadding
)

// The account of a chunk has room for droppedSlots reasons; more need another format version.
var _ [droppedSlots - ledger.NumReasons]struct{}

// zeroCRC stands for a checksum field while the sum is made. Never written.
var zeroCRC [4]byte

var le = binary.LittleEndian

// ChunkHeader is what the header of a chunk says, and where the chunk is.
type ChunkHeader struct {
	Segment  uint32 // number of the segment
	Sequence uint32 // number of the chunk in its segment, from 0
	Offset   int64  // of the chunk in the file
	Length   int    // octets of the whole chunk, a multiple of Page
	Header   int    // octets before the first packet block
	Last     uint32 // offset in the chunk of the last, padded packet block; 0 = no packets
	Lane     uint32 // that it was appended by: within a lane chunks are in the order of time

	Packets      uint32
	PacketOctets uint32 // octets of the Enhanced Packet Blocks without padding: what they take in any other pcapng file
	Octets       uint64 // of the packets, on the wire
	StoredOctets uint64 // of the packets, as stored
	Before       uint64 // packets in the recording before this chunk

	// Earliest and Latest bound the packet times, which need not be in order. 0 without packets.
	Earliest packet.Timestamp
	Latest   packet.Timestamp

	Account   ledger.Account // cumulative, when the chunk was closed
	BodyCRC   uint32         // crc32c
	HeaderCRC uint32
	RecordID  uint64 // the recording's random id

	flags uint32
	time  packet.Timestamp // of the statistics block
}

// Seal reports whether the chunk ends its segment. A seal has no packets.
func (h *ChunkHeader) Seal() bool { return h.flags&flagSeal != 0 }

// Recovered reports whether the segment was sealed by Recover.
func (h *ChunkHeader) Recovered() bool { return h.flags&flagRecovered != 0 }

// End is the offset in the file of what follows the chunk.
func (h *ChunkHeader) End() int64 { return h.Offset + int64(h.Length) }

// put writes the header into b, of which the first h.Header octets are the header. A chunk without packets is all
// header; extra is then put behind the statistics options (the seal), and the rest is padding. Sets h.HeaderCRC.
func (h *ChunkHeader) put(b []byte, extra []byte) {
	b = b[:h.Header]
	le.PutUint32(b[0:], pcap.BlockStatistics)
	le.PutUint32(b[4:], uint32(h.Header))
	le.PutUint32(b[8:], 0)
	putTime(b[12:], h.time)
	le.PutUint32(b[20:], customHead|(fieldsEnd-fieldsStart)<<16)
	le.PutUint32(b[24:], pcap.PEN)
	le.PutUint16(b[28:], kindChunk)
	le.PutUint16(b[30:], formatVersion)
	copy(b[32:36], magicChunk)
	flags := h.flags &^ flagFilterUncounted
	if h.Account.FilterUncounted {
		flags |= flagFilterUncounted
	}
	le.PutUint32(b[36:], flags)
	le.PutUint32(b[40:], 0)
	le.PutUint32(b[44:], h.BodyCRC)
	le.PutUint32(b[48:], uint32(h.Header))
	le.PutUint32(b[52:], uint32(h.Length))
	le.PutUint32(b[56:], h.Segment)
	le.PutUint32(b[60:], h.Sequence)
	le.PutUint64(b[64:], h.RecordID)
	le.PutUint32(b[72:], h.Packets)
	le.PutUint32(b[76:], h.PacketOctets)
	le.PutUint32(b[80:], h.Last)
	le.PutUint32(b[84:], h.Lane)
	le.PutUint64(b[88:], uint64(h.Earliest))
	le.PutUint64(b[96:], uint64(h.Latest))
	le.PutUint64(b[104:], h.Octets)
	le.PutUint64(b[112:], h.StoredOctets)
	le.PutUint64(b[120:], h.Before)
	a := &h.Account
	putAccount(b[accountStart:], a)
	o := b[fieldsEnd:]
	le.PutUint32(o[0:], 2|8<<16) // isb_starttime
	putTime(o[4:], h.Earliest)
	le.PutUint32(o[12:], 3|8<<16) // isb_endtime
	putTime(o[16:], h.Latest)
	le.PutUint32(o[24:], 4|8<<16) // isb_ifrecv
	le.PutUint64(o[28:], a.Seen)
	le.PutUint32(o[36:], 5|8<<16) // isb_ifdrop
	le.PutUint64(o[40:], a.DroppedTotal())
	if rest := b[sealOption : h.Header-8]; len(rest) >= 8+len(extra) {
		pad := rest[copy(rest, extra):]
		le.PutUint32(pad, customHead|uint32(len(pad)-4)<<16)
		le.PutUint32(pad[4:], pcap.PEN)
		clear(pad[8:])
	}
	le.PutUint32(b[h.Header-8:], 0) // opt_endofopt
	le.PutUint32(b[h.Header-4:], uint32(h.Header))
	h.HeaderCRC = crc32.Checksum(b, castagnoli)
	le.PutUint32(b[40:], h.HeaderCRC)
}

// putAccount writes the accountSize octets of an account, without FilterUncounted.
func putAccount(b []byte, a *ledger.Account) {
	for i, v := range [...]uint64{a.Seen, a.Captured, a.Filtered, a.SampledOut, a.RateLimited, a.Octets, a.StoredOctets} {
		le.PutUint64(b[8*i:], v)
	}
	b = b[8*7 : accountSize]
	clear(b)
	for i, v := range a.Dropped {
		le.PutUint64(b[8*i:], v)
	}
}

func getAccount(b []byte, a *ledger.Account) {
	for i, p := range [...]*uint64{&a.Seen, &a.Captured, &a.Filtered, &a.SampledOut, &a.RateLimited, &a.Octets, &a.StoredOctets} {
		*p = le.Uint64(b[8*i:])
	}
	for i := range a.Dropped {
		a.Dropped[i] = le.Uint64(b[8*(7+i):])
	}
}

func putTime(b []byte, t packet.Timestamp) {
	le.PutUint32(b, uint32(uint64(t)>>32))
	le.PutUint32(b[4:], uint32(t))
}

// parse fills h from the start of a chunk at offset; b need not hold more than Page octets. limit is the largest chunk
// of the file. It returns what is wrong, or "". The header's checksum is verified, the body's is not.
func (h *ChunkHeader) parse(b []byte, offset int64, limit int) string {
	if len(b) < chunkHeaderSize {
		return "file ends inside the chunk's header"
	}
	if !bytes.Equal(b[32:36], []byte(magicChunk)) || le.Uint32(b) != pcap.BlockStatistics {
		return "no chunk header"
	}
	if v := le.Uint16(b[30:]); le.Uint32(b[24:]) != pcap.PEN || le.Uint16(b[28:]) != kindChunk || v != formatVersion {
		return "chunk header of another kind or version"
	}
	n := int(le.Uint32(b[4:]))
	if n < chunkHeaderSize || n > Page || n > len(b) {
		return "impossible header length"
	}
	b = b[:n]
	crc := crc32.Update(0, castagnoli, b[:40])
	crc = crc32.Update(crc, castagnoli, zeroCRC[:])
	crc = crc32.Update(crc, castagnoli, b[44:])
	if crc != le.Uint32(b[40:]) {
		return "header checksum mismatch"
	}
	return h.fields(b[fieldsStart:fieldsEnd], offset, limit)
}

// fields is parse for octets fieldsStart to fieldsEnd alone, as the chunk table keeps them.
func (h *ChunkHeader) fields(f []byte, offset int64, limit int) string {
	if len(f) != fieldsEnd-fieldsStart {
		return "short header"
	}
	var b [fieldsEnd]byte
	copy(b[fieldsStart:], f)
	*h = ChunkHeader{
		Offset:       offset,
		flags:        le.Uint32(b[36:]),
		HeaderCRC:    le.Uint32(b[40:]),
		BodyCRC:      le.Uint32(b[44:]),
		Header:       int(le.Uint32(b[48:])),
		Length:       int(le.Uint32(b[52:])),
		Segment:      le.Uint32(b[56:]),
		Sequence:     le.Uint32(b[60:]),
		RecordID:     le.Uint64(b[64:]),
		Packets:      le.Uint32(b[72:]),
		PacketOctets: le.Uint32(b[76:]),
		Last:         le.Uint32(b[80:]),
		Lane:         le.Uint32(b[84:]),
		Earliest:     packet.Timestamp(le.Uint64(b[88:])),
		Latest:       packet.Timestamp(le.Uint64(b[96:])),
		Octets:       le.Uint64(b[104:]),
		StoredOctets: le.Uint64(b[112:]),
		Before:       le.Uint64(b[120:]),
	}
	a := &h.Account
	getAccount(b[accountStart:], a)
	a.FilterUncounted = h.flags&flagFilterUncounted != 0
	h.time = h.Latest
	switch {
	case h.Length < Page || h.Length > limit || h.Length%Page != 0:
		return "impossible chunk length"
	case h.Packets == 0 && (h.Header != h.Length || h.Last != 0 || h.PacketOctets != 0):
		return "chunk without packets has a body"
	case h.Packets > 0 && (h.Header != chunkHeaderSize || h.Seal() || int(h.Last) < h.Header || int(h.Last) > h.Length-32 ||
		int(h.PacketOctets) > h.Length-h.Header || uint64(h.PacketOctets) < uint64(h.Packets)*32 || h.StoredOctets > uint64(h.PacketOctets)):
		return "chunk header contradicts itself"
	}
	return ""
}

// verify checks a whole chunk against the header it was found by. It returns what is wrong, or "".
func (h *ChunkHeader) verify(b []byte) string {
	var now ChunkHeader
	if msg := now.parse(b[:min(len(b), Page)], h.Offset, max(h.Length, Page)); msg != "" {
		return msg
	}
	if now.HeaderCRC != h.HeaderCRC || now.Length != len(b) {
		return "another chunk than before"
	}
	if crc32.Checksum(b[h.Header:], castagnoli) != h.BodyCRC {
		return "body checksum mismatch"
	}
	return ""
}

// totals are the sums over the chunks of a segment, as its seal keeps them.
type totals struct {
	chunks, chain    uint32
	packets          uint64
	earliest, latest packet.Timestamp
	octets, stored   uint64
	crc              [4]byte // scratch: would be an allocation a chunk as a local
}

func (t *totals) add(h *ChunkHeader) {
	le.PutUint32(t.crc[:], h.HeaderCRC)
	t.chunks++
	t.chain = crc32.Update(t.chain, castagnoli, t.crc[:])
	if h.Packets == 0 {
		return
	}
	if t.packets == 0 || h.Earliest < t.earliest {
		t.earliest = h.Earliest
	}
	if t.packets == 0 || h.Latest > t.latest {
		t.latest = h.Latest
	}
	t.packets += uint64(h.Packets)
	t.octets += h.Octets
	t.stored += h.StoredOctets
}

// putSeal writes the seal chunk h, of one page, with the totals of its segment into b.
func putSeal(b []byte, h *ChunkHeader, t *totals) {
	h.flags |= flagSeal
	h.Sequence, h.Length, h.Header = t.chunks, Page, Page
	h.Packets, h.PacketOctets, h.Last, h.Octets, h.StoredOctets, h.BodyCRC = 0, 0, 0, 0, 0, 0
	h.Earliest, h.Latest, h.time = 0, 0, t.latest
	var o [sealOptionEnd - sealOption]byte
	le.PutUint32(o[0:], customHead|uint32(len(o)-4)<<16)
	le.PutUint32(o[4:], pcap.PEN)
	le.PutUint16(o[8:], kindSeal)
	le.PutUint16(o[10:], formatVersion)
	copy(o[12:16], magicSeal)
	le.PutUint32(o[16:], t.chunks)
	le.PutUint32(o[20:], t.chain)
	le.PutUint64(o[24:], t.packets)
	le.PutUint64(o[32:], uint64(t.earliest))
	le.PutUint64(o[40:], uint64(t.latest))
	le.PutUint64(o[48:], t.octets)
	le.PutUint64(o[56:], t.stored)
	h.put(b, o[:])
}

// parseSeal fills h and t from a page at offset, and reports whether it is a whole seal.
func parseSeal(b []byte, offset int64, h *ChunkHeader, t *totals) bool {
	if len(b) != Page || h.parse(b, offset, Page) != "" || !h.Seal() {
		return false
	}
	o := b[sealOption:sealOptionEnd]
	if le.Uint16(o[8:]) != kindSeal || le.Uint16(o[10:]) != formatVersion || string(o[12:16]) != magicSeal {
		return false
	}
	*t = totals{
		chunks: le.Uint32(o[16:]), chain: le.Uint32(o[20:]), packets: le.Uint64(o[24:]),
		earliest: packet.Timestamp(le.Uint64(o[32:])), latest: packet.Timestamp(le.Uint64(o[40:])),
		octets: le.Uint64(o[48:]), stored: le.Uint64(o[56:]),
	}
	return t.chunks == h.Sequence
}
