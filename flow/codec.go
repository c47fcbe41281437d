package flow

import (
	"encoding/binary"
	"errors"
	"fmt"

	"opentap/packet"
)

// RecordCodec turns flow records into the rows of a record.Log and back (docs/format/record.md). The zero value is ready,
// and safe for use by several goroutines.
type RecordCodec struct{}

// recordVersion changes with every change of the row.
const recordVersion = 1

// Bits of the first octet of a row.
const (
	rowV6           = 1 << 0
	rowPortsUnknown = 1 << 1
	rowVLAN         = 1 << 2 // both VLAN identifiers follow
	rowReverse      = 1 << 3 // the reverse direction follows
	rowMACs         = 1 << 4
	rowFragments    = 1 << 5
	rowSampling     = 1 << 6
	rowKnown        = 1<<7 - 1
)

// Schema names the row and its version.
func (RecordCodec) Schema() (name string, version uint16) { return "opentap.flow", recordVersion }

// Append appends the row of r to dst.
func (RecordCodec) Append(dst []byte, r *Record) []byte {
	var bits byte
	set := func(on bool, bit byte) {
		if on {
			bits |= bit
		}
	}
	set(r.Version == 6, rowV6)
	set(r.PortsUnknown, rowPortsUnknown)
	set(r.VLAN|r.InnerVLAN != 0, rowVLAN)
	set(r.RevPackets|r.RevOctets != 0 || r.RevTCPFlags|r.RevTOS != 0, rowReverse)
	set(r.SrcMAC != packet.MAC{} || r.DstMAC != packet.MAC{}, rowMACs)
	set(r.Fragments != 0, rowFragments)
	set(r.Sampling != 0, rowSampling)

	dst = append(dst, bits, r.Proto, r.TOS, r.TCPFlags, r.ICMPType, r.ICMPCode, byte(r.EndReason))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.First))
	dst = binary.AppendUvarint(dst, uint64(r.Last)-uint64(r.First))
	if bits&rowV6 != 0 {
		dst = append(dst, r.Src[:]...)
		dst = append(dst, r.Dst[:]...)
	} else {
		dst = append(dst, r.Src[12:]...)
		dst = append(dst, r.Dst[12:]...)
	}
	dst = binary.LittleEndian.AppendUint16(dst, r.SrcPort)
	dst = binary.LittleEndian.AppendUint16(dst, r.DstPort)
	dst = binary.AppendUvarint(dst, r.Packets)
	dst = binary.AppendUvarint(dst, r.Octets)
	if bits&rowVLAN != 0 {
		dst = binary.LittleEndian.AppendUint16(dst, r.VLAN)
		dst = binary.LittleEndian.AppendUint16(dst, r.InnerVLAN)
	}
	if bits&rowReverse != 0 {
		dst = append(dst, r.RevTCPFlags, r.RevTOS)
		dst = binary.AppendUvarint(dst, r.RevPackets)
		dst = binary.AppendUvarint(dst, r.RevOctets)
	}
	if bits&rowMACs != 0 {
		dst = append(dst, r.SrcMAC[:]...)
		dst = append(dst, r.DstMAC[:]...)
	}
	if bits&rowFragments != 0 {
		dst = binary.AppendUvarint(dst, r.Fragments)
	}
	if bits&rowSampling != 0 {
		dst = binary.LittleEndian.AppendUint32(dst, r.Sampling)
	}
	return dst
}

var errShortRow = errors.New("flow row ends early")

// Decode fills all of r from one row.
func (RecordCodec) Decode(src []byte, r *Record) error {
	if len(src) < 15 {
		return errShortRow
	}
	bits := src[0]
	if bits&^rowKnown != 0 {
		return fmt.Errorf("flow row has unknown parts %#x", bits&^rowKnown)
	}
	*r = Record{
		Version: 4, Proto: src[1], TOS: src[2], TCPFlags: src[3], ICMPType: src[4], ICMPCode: src[5], EndReason: EndReason(src[6]),
		First: packet.Timestamp(binary.LittleEndian.Uint64(src[7:])), PortsUnknown: bits&rowPortsUnknown != 0,
	}
	c := cursor{b: src[15:]}
	r.Last = packet.Timestamp(uint64(r.First) + c.uvarint())
	if bits&rowV6 != 0 {
		r.Version = 6
		copy(r.Src[:], c.take(16))
		copy(r.Dst[:], c.take(16))
	} else {
		r.Src = [16]byte{10: 255, 11: 255}
		r.Dst = r.Src
		copy(r.Src[12:], c.take(4))
		copy(r.Dst[12:], c.take(4))
	}
	r.SrcPort, r.DstPort = c.uint16(), c.uint16()
	r.Packets, r.Octets = c.uvarint(), c.uvarint()
	if bits&rowVLAN != 0 {
		r.VLAN, r.InnerVLAN = c.uint16(), c.uint16()
	}
	if bits&rowReverse != 0 {
		f := c.take(2)
		if f != nil {
			r.RevTCPFlags, r.RevTOS = f[0], f[1]
		}
		r.RevPackets, r.RevOctets = c.uvarint(), c.uvarint()
	}
	if bits&rowMACs != 0 {
		copy(r.SrcMAC[:], c.take(6))
		copy(r.DstMAC[:], c.take(6))
	}
	if bits&rowFragments != 0 {
		r.Fragments = c.uvarint()
	}
	if bits&rowSampling != 0 {
		if p := c.take(4); p != nil {
			r.Sampling = binary.LittleEndian.Uint32(p)
		}
	}
	switch {
	case c.short:
		return errShortRow
	case len(c.b) != 0:
		return fmt.Errorf("flow row has %d octets too many", len(c.b))
	case r.Last < r.First:
		return errors.New("flow row ends before it begins")
	}
	return nil
}

// cursor reads from b; after the end it gives zeros and short is set.
type cursor struct {
	b     []byte
	short bool
}

func (c *cursor) take(n int) []byte {
	if len(c.b) < n {
		c.b, c.short = nil, true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) uint16() uint16 {
	p := c.take(2)
	if p == nil {
		return 0
	}
	return binary.LittleEndian.Uint16(p)
}

func (c *cursor) uvarint() uint64 {
	v, n := binary.Uvarint(c.b)
	if n <= 0 {
		c.b, c.short = nil, true
		return 0
	}
	c.b = c.b[n:]
	return v
}
