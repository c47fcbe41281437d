package cbpf

import (
	"encoding/binary"

	"opentap/filter"
	"opentap/packet"
)

// quick decides on packets by their headers, in few steps. The steps are for packets that are IPv4, or IPv6 without extension
// headers, behind at most two VLAN tags; once the headers were found, a quickStep is a comparison or two. What a quickStep cannot
// decide, and other packets, are left to the interpreter of the classic program, whose verdict the steps equal on every
// packet.
type quick struct {
	raw    bool // frames are bare IP packets
	strict bool
	steps  []quickStep
	entry  int16
}

// newQuick makes the steps of e; nil if there are none.
func newQuick(e *filter.Expr, o Options) *quick {
	if e == nil || e.Root == nil {
		return nil
	}
	c := quickener{o: o}
	entry, err := c.build(e.Root, yes, no)
	if err != nil || !c.useful || entry < 0 {
		return nil
	}
	return &quick{raw: o.Link == packet.LinkRaw, strict: o.Strict, steps: c.steps, entry: entry}
}

// headers is where the headers of a packet are, and what they say that many steps ask for.
type headers struct {
	frame   []byte
	wire    uint32
	network int   // offset of the IP header
	port    int   // offset of the transport header; not for later fragments
	set     uint8 // setTCP, setUDP or setSCTP if there are ports; set4 or set6; setWhole
	proto   uint8
	tags    uint8
}

// find looks for the headers. It returns false for packets that the steps are not for: what they read must be there, and be
// what the classic program reads.
func (h *headers) find(raw, strict bool) bool {
	b := h.frame
	var typ uint16
	if raw {
		if len(b) < 20 {
			return false
		}
		switch b[0] >> 4 {
		case 4:
			typ = packet.EtherTypeIPv4
		case 6:
			typ = packet.EtherTypeIPv6
		}
	} else {
		if len(b) < 34 {
			return false
		}
		typ = binary.BigEndian.Uint16(b[12:])
		at := 14
		for !strict && h.tags < 2 && (typ == packet.EtherTypeVLAN || typ == packet.EtherTypeQinQ || typ == packet.EtherTypeOldQ) {
			typ = binary.BigEndian.Uint16(b[at+2:])
			at += 4
			h.tags++
		}
		h.network = at
		b = b[at:]
	}
	switch typ {
	case packet.EtherTypeIPv4:
		if len(b) < 20 {
			return false
		}
		h.proto, h.set = b[9], set4
		if binary.BigEndian.Uint16(b[6:])&0x1fff != 0 {
			return true
		}
		h.set |= setWhole
		size := int(b[0]&15) * 4
		h.port = h.network + size
		if t := portsOf(h.proto); t != 0 {
			h.set |= t
			return len(b) >= size+4
		}
		return true
	case packet.EtherTypeIPv6:
		if len(b) < 40 {
			return false
		}
		h.proto, h.set = b[6], set6|setWhole
		h.port = h.network + 40
		if t := portsOf(h.proto); t != 0 {
			h.set |= t
			return len(b) >= 44
		}
		return h.proto != 44 // a fragment header, behind which the protocol is looked for
	}
	return false
}
