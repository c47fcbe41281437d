package pcap

import (
	"slices"

	"opentap/packet"
)

const (
	magicMicros = 0xa1b2c3d4
	magicNanos  = 0xa1b23c4d

	classicHeader = 24
	classicRecord = 16
)

// AppendClassicHeader appends the file header of a little-endian pcap file, version 2.4. A snapLen of 0 is written as
// MaxPacket, since readers take 0 literally.
func AppendClassicHeader(dst []byte, link packet.LinkType, snapLen uint32, nanos bool) []byte {
	magic := uint32(magicMicros)
	if nanos {
		magic = magicNanos
	}
	if snapLen == 0 {
		snapLen = MaxPacket
	}
	dst = le.AppendUint32(dst, magic)
	dst = le.AppendUint16(dst, 2)
	dst = le.AppendUint16(dst, 4)
	dst = le.AppendUint64(dst, 0) // time zone and accuracy: always 0
	dst = le.AppendUint32(dst, snapLen)
	return le.AppendUint32(dst, uint32(link))
}

// ClassicPacketSize is the number of octets AppendClassicPacket appends for capLen captured octets.
func ClassicPacketSize(capLen int) int { return classicRecord + capLen }

// AppendClassicPacket appends one packet record of a pcap file whose header said the same nanos. Without nanos the time
// is cut to microseconds. The format has 32 bits of seconds: times outside 1970 to 2106 are written modulo 2^32 s.
func AppendClassicPacket(dst []byte, ts packet.Timestamp, origLen uint32, data []byte, nanos bool) []byte {
	sec, frac := int64(ts)/1e9, int64(ts)%1e9
	if frac < 0 {
		sec, frac = sec-1, frac+1e9
	}
	if !nanos {
		frac /= 1000
	}
	n, size := len(dst), ClassicPacketSize(len(data))
	if cap(dst)-n < size {
		dst = slices.Grow(dst, size)
	}
	dst = dst[:n+size]
	b := dst[n:]
	_ = b[classicRecord-1]
	le.PutUint32(b[0:], uint32(sec))
	le.PutUint32(b[4:], uint32(frac))
	le.PutUint32(b[8:], uint32(len(data)))
	le.PutUint32(b[12:], origLen)
	copy(b[classicRecord:], data)
	return dst
}
