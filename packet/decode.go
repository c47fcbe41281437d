package packet

import "encoding/binary"

// EtherTypes that Decode follows.
const (
	EtherTypeIPv4  = 0x0800
	EtherTypeARP   = 0x0806
	EtherTypeIPv6  = 0x86dd
	EtherTypeVLAN  = 0x8100 // IEEE 802.1Q customer tag
	EtherTypeQinQ  = 0x88a8 // IEEE 802.1ad service tag
	EtherTypeOldQ  = 0x9100 // service tag before 802.1ad
	EtherTypeMPLS  = 0x8847
	EtherTypeMPLSM = 0x8848 // MPLS with upstream-assigned label (RFC 5332)
	EtherTypePPPoE = 0x8864 // PPPoE session (RFC 2516)
)

// IP protocol numbers that Decode follows.
const (
	ProtoICMP    = 1
	ProtoTCP     = 6
	ProtoUDP     = 17
	ProtoDCCP    = 33
	ProtoICMP6   = 58
	ProtoSCTP    = 132
	ProtoUDPLite = 136
)

// IPv6 extension headers, RFC 8200 section 4.
const (
	extHopByHop = 0
	extRouting  = 43
	extFragment = 44
	extAH       = 51
	extNone     = 59
	extOptions  = 60
	extMobility = 135 // RFC 6275 section 6.1
)

// Bounds on how many headers of one sort are followed. A frame with more is DefectMalformed.
const (
	maxTags       = 8
	maxLabels     = 16
	maxExtensions = 12
)

const (
	ethernetHeader = 14
	tagLength      = 4
	minEtherType   = 1536 // below, the field is an 802.3 length

	ipv4Header = 20
	ipv6Header = 40
)

var be = binary.BigEndian

// Decode fills p from a frame, of which origLen octets were on the wire and frame holds the first ones. It sets every
// field but Time, reads frame only while it runs, and allocates nothing. It never fails: what cannot be decoded is left
// out of Layers, and Defect says why if the frame, not its protocol, is to blame. A link type other than LinkEthernet
// and LinkRaw, and an 802.3 frame with a length instead of an EtherType, decode to no network layer and no defect.
//
// An IPv4 total length of 0 is what the kernel gives for a segment larger than 65535 octets and some adapters for any
// segment they still have to cut (TSO): the datagram is then the rest of the frame, counted by origLen. An IPv6 payload
// length of 0 means the jumbo payload option's length (RFC 2675), or, without that option, the rest of the frame if
// that is too much for the field; else it means what it says.
//
// Ports, and the ICMP type and code, are taken when their own octets are there, even if the rest of that header is cut.
func (p *Parsed) Decode(link LinkType, frame []byte, origLen uint32) {
	if origLen < uint32(len(frame)) {
		origLen = uint32(len(frame)) // a frame has no fewer octets on the wire than were captured
	}
	*p = Parsed{Time: p.Time, OrigLen: origLen, CapLen: uint32(len(frame)), Link: link}
	if len(frame) > 65535 {
		frame = frame[:65535] // no header lies further: see the bounds; and so every offset fits
	}
	switch link {
	case LinkEthernet:
		p.ethernet(frame)
	case LinkRaw:
		p.raw(frame, 0)
	}
}

func (p *Parsed) ethernet(b []byte) {
	if len(b) < ethernetHeader {
		p.Defect = DefectTruncated
		return
	}
	p.Layers = LayerEthernet
	p.DstMAC = MAC(b[0:6])
	p.SrcMAC = MAC(b[6:12])
	typ, off := be.Uint16(b[12:]), ethernetHeader
	if typ == EtherTypeVLAN || typ == EtherTypeQinQ || typ == EtherTypeOldQ {
		if typ, off = p.tags(b, typ); off == 0 {
			return
		}
	}
	if typ < minEtherType {
		typ = 0
	}
	p.EtherType, p.L3Offset = typ, uint16(off)
	switch typ {
	case EtherTypeIPv4:
		p.ipv4(b, off)
	case EtherTypeIPv6:
		p.ipv6(b, off)
	case EtherTypeARP:
		p.Layers |= LayerARP
		if len(b)-off < 8 || len(b)-off < 8+2*(int(b[off+4])+int(b[off+5])) { // RFC 826
			p.Defect = DefectTruncated
		}
	case EtherTypeMPLS, EtherTypeMPLSM:
		p.mpls(b, off)
	case EtherTypePPPoE:
		p.pppoe(b, off)
	}
}

// tags reads the VLAN tags from the first on, whose tag protocol is typ. It returns the EtherType after the last tag
// and the offset of what follows, or an offset of 0 after setting Defect.
func (p *Parsed) tags(b []byte, typ uint16) (uint16, int) {
	off := ethernetHeader
	for n := 0; typ == EtherTypeVLAN || typ == EtherTypeQinQ || typ == EtherTypeOldQ; n++ {
		p.EtherType = typ
		if n == maxTags {
			p.Defect = DefectMalformed
			return 0, 0
		}
		if len(b)-off < tagLength {
			p.Defect = DefectTruncated
			return 0, 0
		}
		if int(p.VLANCount) < len(p.VLANs) {
			p.VLANs[p.VLANCount] = be.Uint16(b[off:])
			p.VLANCount++
			p.Layers |= LayerVLAN
		}
		typ = be.Uint16(b[off+2:])
		off += tagLength
	}
	return typ, off
}

// mpls follows a label stack (RFC 3032) to an IP datagram. The label does not say what follows the stack, so the first
// four bits decide (RFC 4928): 4 and 6 are IP, anything else is left alone.
func (p *Parsed) mpls(b []byte, off int) {
	for n := range maxLabels {
		if len(b)-off < 4 {
			p.Defect = DefectTruncated
			return
		}
		entry := be.Uint32(b[off:])
		off += 4
		if n == 0 {
			p.Layers |= LayerMPLS
			p.MPLSLabel = entry >> 12
		}
		if entry&0x100 == 0 { // not the bottom of the stack
			continue
		}
		p.L3Offset = uint16(off)
		if len(b) == off {
			p.Defect = DefectTruncated
			return
		}
		switch b[off] >> 4 {
		case 4:
			p.ipv4(b, off)
		case 6:
			p.ipv6(b, off)
		}
		return
	}
	p.Defect = DefectMalformed
}

// pppoe follows a PPPoE session header and a PPP protocol number (RFC 2516 section 4, RFC 1661 section 2).
func (p *Parsed) pppoe(b []byte, off int) {
	if len(b)-off < 8 {
		p.Defect = DefectTruncated
		return
	}
	if b[off] != 0x11 || b[off+1] != 0 {
		p.Defect = DefectMalformed
		return
	}
	proto := be.Uint16(b[off+6:])
	off += 8
	p.L3Offset = uint16(off)
	switch proto {
	case 0x0021:
		p.ipv4(b, off)
	case 0x0057:
		p.ipv6(b, off)
	}
}

// raw decodes a datagram whose version field says what it is.
func (p *Parsed) raw(b []byte, off int) {
	p.L3Offset = uint16(off)
	if len(b) == off {
		p.Defect = DefectTruncated
		return
	}
	switch b[off] >> 4 {
	case 4:
		p.ipv4(b, off)
	case 6:
		p.ipv6(b, off)
	default:
		p.Defect = DefectMalformed
	}
}
