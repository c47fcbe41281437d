package packet

// transport decodes the header at off, which is within b, of a datagram that begins at ip.
func (p *Parsed) transport(b []byte, off, ip int) {
	p.L4Offset = uint16(off)
	var need int // octets of the fixed header
	switch p.Proto {
	case ProtoTCP:
		need = 20
	case ProtoUDP, ProtoUDPLite, ProtoICMP:
		need = 8
	case ProtoICMP6:
		need = 4
	case ProtoSCTP, ProtoDCCP:
		need = 12
	default:
		return
	}
	h := b[off:]
	whole := p.holds(b, off, ip, need)
	if !whole {
		// Take what the datagram has of it.
		if left := uint64(p.IPOctets) - uint64(off-ip); uint64(len(h)) > left {
			h = h[:left]
		}
	}
	if p.Proto == ProtoICMP || p.Proto == ProtoICMP6 {
		if len(h) >= 2 {
			p.Layers |= LayerICMP
			p.ICMPType, p.ICMPCode = h[0], h[1]
		}
		if whole {
			p.Payload = uint16(off + need)
		}
		return
	}
	if len(h) < 4 {
		return
	}
	p.Layers |= LayerTransport
	p.SrcPort, p.DstPort = be.Uint16(h), be.Uint16(h[2:])
	switch p.Proto {
	case ProtoTCP: // RFC 9293 section 3.1
		if len(h) < 14 {
			return
		}
		need = int(h[12]>>4) * 4
		if need < 20 {
			p.Defect = DefectMalformed
			return
		}
		p.Layers |= LayerTCP
		p.TCPFlags = h[13]
	case ProtoUDP, ProtoUDPLite: // a length of 0 is a jumbo datagram (RFC 2675), a coverage of 0 is all (RFC 3828)
		if len(h) < 6 {
			return
		}
		if n := be.Uint16(h[4:]); n != 0 && n < 8 {
			p.Defect = DefectMalformed
			return
		}
	case ProtoDCCP: // RFC 4340 section 5.1
		if len(h) < 5 {
			return
		}
		if need = int(h[4]) * 4; need < 12 {
			p.Defect = DefectMalformed
			return
		}
	}
	if whole && p.holds(b, off, ip, need) {
		p.Payload = uint16(off + need)
	}
}
