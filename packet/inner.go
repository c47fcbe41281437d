package packet

// IP protocols and UDP ports of the tunnels that Inner looks into.
const (
	protoIPIP = 4  // IPv4 in IP, RFC 2003
	protoIPv6 = 41 // IPv6 in IP, RFC 2473, RFC 4213
	protoGRE  = 47 // RFC 2784, RFC 2890

	portGTPU   = 2152 // 3GPP TS 29.281
	portVXLAN  = 4789 // RFC 7348
	portGeneve = 6081 // RFC 8926

	etherTypeBridged = 0x6558 // Ethernet in GRE or Geneve, RFC 1701
)

// Inner decodes into in what the frame carries in a tunnel: VXLAN, Geneve, GRE, GTP-U, IPIP and IPv6 in IP. p is what
// Decode made of the same frame. It reports false, and leaves in alone, when the frame is no such tunnel, a later
// fragment of one, or cut or broken before the inner packet begins.
//
// in gets the time of p; its OrigLen and CapLen are those of the inner packet, and its offsets count from the inner
// packet's beginning, which is at offset at of frame. A tunnel in a tunnel is met by calling Inner again.
func (p *Parsed) Inner(in *Parsed, frame []byte) (at int, ok bool) {
	if !p.IsIP() || p.L4Offset == 0 || p.Layers&LayerFragment != 0 && p.FragOff != 0 {
		return 0, false
	}
	b := frame[:min(len(frame), 65535)]
	off := int(p.L4Offset)
	if off > len(b) {
		return 0, false
	}
	link := LinkRaw
	switch p.Proto {
	case protoIPIP, protoIPv6:
	case protoGRE:
		off, link = gre(b, off)
	case ProtoUDP:
		if p.Payload == 0 {
			return 0, false
		}
		off, link = udpTunnel(b, int(p.Payload), p.DstPort)
	default:
		return 0, false
	}
	if off == 0 || link == 0 || off >= len(b) {
		return 0, false
	}
	if link == LinkRaw {
		if v := b[off] >> 4; v != 4 && v != 6 {
			return 0, false
		}
	}
	// The outer datagram may end before the frame does: what follows is padding.
	end := min(uint64(p.OrigLen), uint64(p.L3Offset)+uint64(p.IPOctets))
	if uint64(off) >= end {
		return 0, false
	}
	b = b[:min(uint64(len(b)), end)]
	in.Time = p.Time
	in.Decode(link, b[off:], uint32(end)-uint32(off))
	return off, true
}

// gre returns where a GRE packet's payload begins and what it is; 0 when it cannot be followed.
func gre(b []byte, off int) (int, LinkType) {
	if len(b)-off < 4 {
		return 0, 0
	}
	flags, typ := be.Uint16(b[off:]), be.Uint16(b[off+2:])
	if flags&0x4007 != 0 { // source routes (RFC 1701) and versions other than 0
		return 0, 0
	}
	off += 4
	for _, bit := range [...]uint16{0x8000, 0x2000, 0x1000} { // checksum, key, sequence number
		if flags&bit != 0 {
			off += 4
		}
	}
	return off, carried(typ)
}

// carried says how a payload named by an EtherType begins; 0 when it cannot be followed.
func carried(typ uint16) LinkType {
	switch typ {
	case EtherTypeIPv4, EtherTypeIPv6:
		return LinkRaw
	case etherTypeBridged:
		return LinkEthernet
	}
	return 0
}

// udpTunnel is gre for tunnels that a UDP port names.
func udpTunnel(b []byte, off int, port uint16) (int, LinkType) {
	switch port {
	case portVXLAN:
		if len(b)-off < 8 || b[off]&0x08 == 0 { // the network identifier must be valid
			return 0, 0
		}
		return off + 8, LinkEthernet
	case portGeneve:
		if len(b)-off < 8 || b[off]>>6 != 0 {
			return 0, 0
		}
		return off + 8 + int(b[off]&0x3f)*4, carried(be.Uint16(b[off+2:]))
	case portGTPU:
		return gtpu(b, off), LinkRaw
	}
	return 0, 0
}

// maxGTPExtensions bounds the extension headers followed.
const maxGTPExtensions = 8

// gtpu returns where the user's datagram of a G-PDU begins (3GPP TS 29.281 section 5).
func gtpu(b []byte, off int) int {
	if len(b)-off < 8 || b[off]>>4 != 3 || b[off+1] != 255 { // version 1, GTP; G-PDU
		return 0
	}
	flags := b[off]
	off += 8
	if flags&7 == 0 {
		return off
	}
	if len(b)-off < 4 {
		return 0
	}
	next := b[off+3]
	off += 4
	if flags&4 == 0 {
		return off
	}
	for range maxGTPExtensions {
		if next == 0 {
			return off
		}
		if len(b) == off || b[off] == 0 || len(b)-off < int(b[off])*4 {
			return 0
		}
		off += int(b[off]) * 4
		next = b[off-1]
	}
	return 0
}
