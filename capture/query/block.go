package query

import (
	"encoding/binary"

	"opentap/packet"
	"opentap/pcap"
)

var le = binary.LittleEndian

const epbHeader = 28

// block is one Enhanced Packet Block of a chunk, without padding.
type block struct {
	ts      packet.Timestamp
	origLen uint32
	data    []byte
	raw     []byte // the whole block
}

// parse reads the block that b starts with. It reports false where b holds no such block.
func (k *block) parse(b []byte) bool {
	if len(b) < epbHeader+4 || le.Uint32(b) != pcap.BlockPacket {
		return false
	}
	n, capLen := uint64(le.Uint32(b[4:])), uint64(le.Uint32(b[20:]))
	if n > uint64(len(b)) || n%4 != 0 || n < epbHeader+4 || capLen > n-epbHeader-4 {
		return false
	}
	k.ts = packet.Timestamp(uint64(le.Uint32(b[12:]))<<32 | uint64(le.Uint32(b[16:])))
	k.origLen = le.Uint32(b[24:])
	k.data = b[epbHeader : epbHeader+capLen : epbHeader+capLen]
	k.raw = b[:n:n]
	return true
}

func (k *block) direction() pcap.Direction {
	if int(le.Uint32(k.raw[4:])) == pcap.PacketSize(len(k.data), pcap.DirectionUnknown) {
		return pcap.DirectionUnknown
	}
	var p pcap.Packet
	if pcap.DecodePacket(k.raw[8:len(k.raw)-4], &p) != nil {
		return pcap.DirectionUnknown
	}
	return p.Direction
}

// unpad removes the padding of the last block of a chunk and returns the chunk's packet blocks. b is the whole chunk.
// It reports false where the header and the block contradict each other.
func (p *piece) unpad(b []byte) ([]byte, bool) {
	body := b[p.header:]
	return unpad(body, int64(p.last)-int64(p.header), int64(p.header)+int64(p.epb)-int64(p.last))
}

// unpadSpans is unpad for the spans of the piece, read one after the other.
func (p *piece) unpadSpans(b []byte) ([]byte, bool) {
	s := p.spans[len(p.spans)-1]
	if s.To != p.length {
		return b, true
	}
	if p.last < s.From {
		return nil, false
	}
	return unpad(b, int64(len(b))-int64(s.To-p.last), int64(p.header)+int64(p.epb)-int64(p.last))
}

// unpad removes the padding of the last block of body, at at, which is size octets without it.
func unpad(body []byte, at, size int64) ([]byte, bool) {
	if at < 0 || at+epbHeader+4 > int64(len(body)) || size < epbHeader+4 || at+size > int64(len(body)) {
		return nil, false
	}
	k := body[at:]
	bare := epbHeader + (int64(le.Uint32(k[20:]))+3)&^3 + 4
	if size < bare {
		return nil, false
	}
	le.PutUint32(k[4:], uint32(size))
	if size >= bare+4 {
		le.PutUint32(k[size-8:], 0) // opt_endofopt, where the padding option began
	}
	le.PutUint32(k[size-4:], uint32(size))
	return body[:at+size], true
}

// maxFiller is the longest single block of a filler in octets: readers, ours among them, refuse very long blocks.
const maxFiller = 256 << 10

// appendFiller appends Interface Statistics Blocks of exactly n octets, n >= 32 and a multiple of 4, which stand for
// packets that cannot be read any more: so the output keeps its size and stays a valid file. The first says text.
func appendFiller(dst []byte, iface uint32, ts packet.Timestamp, n int, text string) []byte {
	for ; n > 2*maxFiller; n -= maxFiller {
		dst, text = appendFillerBlock(dst, iface, ts, maxFiller, text), ""
	}
	return appendFillerBlock(dst, iface, ts, n, text)
}

func appendFillerBlock(dst []byte, iface uint32, ts packet.Timestamp, n int, text string) []byte {
	at := len(dst)
	s := pcap.Stats{Interface: int(iface), Time: ts}
	const room = 8 + pcap.MinPadding // option header and end of options; the least padding
	if n >= 24+room+len(text)+4 {
		s.Comment = text
	}
	dst = pcap.AppendStats(dst, &s)
	for left := n - (len(dst) - at); left > 0; left = n - (len(dst) - at) {
		if left < pcap.MinPadding {
			return appendBareStats(dst[:at], iface, ts, n)
		}
		pad := min(left, 32768)
		if left-pad < pcap.MinPadding {
			pad = left
		}
		dst = pcap.Pad(dst, at, pad)
	}
	return dst
}

// appendBareStats appends a statistics block of n octets, 24 < n < 24 + MinPadding, whose options are only their end.
func appendBareStats(dst []byte, iface uint32, ts packet.Timestamp, n int) []byte {
	dst = le.AppendUint32(dst, pcap.BlockStatistics)
	dst = le.AppendUint32(dst, uint32(n))
	dst = le.AppendUint32(dst, iface)
	dst = le.AppendUint32(dst, uint32(uint64(ts)>>32))
	dst = le.AppendUint32(dst, uint32(ts))
	dst = append(dst, make([]byte, n-24)...)
	return le.AppendUint32(dst, uint32(n))
}
