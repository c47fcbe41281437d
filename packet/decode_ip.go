package packet

func (p *Parsed) ipv4(b []byte, off int) {
	h := b[off:]
	if len(h) < ipv4Header {
		p.Defect = DefectTruncated
		return
	}
	total, hlen := uint32(be.Uint16(h[2:])), int(h[0]&15)*4
	if total == 0 {
		total = p.OrigLen - uint32(off)
	}
	if h[0]>>4 != 4 || hlen < ipv4Header || total < uint32(hlen) {
		p.Defect = DefectMalformed
		return
	}
	p.Layers |= LayerIPv4
	p.TOS, p.TTL, p.Proto = h[1], h[8], h[9]
	p.IPOctets = total
	p.FragID = uint32(be.Uint16(h[4:]))
	p.Src[10], p.Src[11] = 0xff, 0xff
	p.Dst[10], p.Dst[11] = 0xff, 0xff
	copy(p.Src[12:16], h[12:16])
	copy(p.Dst[12:16], h[16:20])
	if frag := be.Uint16(h[6:]); frag&0x3fff != 0 {
		p.Layers |= LayerFragment
		p.FragOff = frag & 0x1fff * 8
		p.MoreFrag = frag&0x2000 != 0
	}
	if len(h) < hlen {
		p.Defect = DefectTruncated
		return
	}
	if p.FragOff == 0 {
		p.transport(b, off+hlen, off)
	}
}

func (p *Parsed) ipv6(b []byte, off int) {
	h := b[off:]
	if len(h) < ipv6Header {
		p.Defect = DefectTruncated
		return
	}
	if h[0]>>4 != 6 {
		p.Defect = DefectMalformed
		return
	}
	p.Layers |= LayerIPv6
	p.TOS = uint8(be.Uint16(h) >> 4)
	p.Proto, p.TTL = h[6], h[7]
	p.Src = [16]byte(h[8:24])
	p.Dst = [16]byte(h[24:40])
	p.IPOctets = ipv6Header + uint32(be.Uint16(h[4:]))
	if p.IPOctets == ipv6Header {
		if rest := p.OrigLen - uint32(off); rest > ipv6Header+65535 {
			p.IPOctets = rest
		}
		if p.Proto == extHopByHop {
			p.jumbo(h[ipv6Header:])
		}
	}
	p.extensions(b, off+ipv6Header, off)
}

// jumbo looks for the jumbo payload option (RFC 2675 section 2) in the hop-by-hop header h begins with.
func (p *Parsed) jumbo(h []byte) {
	if len(h) < 8 {
		return
	}
	h = h[2:min(len(h), 8+int(h[1])*8)]
	for len(h) > 0 {
		if h[0] == 0 { // Pad1
			h = h[1:]
			continue
		}
		if len(h) < 2 || len(h) < 2+int(h[1]) {
			return
		}
		if h[0] == 0xc2 && h[1] == 4 {
			if n := be.Uint32(h[2:]); n > 65535 && n < 1<<32-ipv6Header {
				p.IPOctets = ipv6Header + n
			}
			return
		}
		h = h[2+int(h[1]):]
	}
}

// extensions follows IPv6 extension headers from off on; the datagram begins at ip.
func (p *Parsed) extensions(b []byte, off, ip int) {
	for range maxExtensions {
		var size int // of the extension header
		switch p.Proto {
		default:
			p.transport(b, off, ip)
			return
		case extNone:
			return
		case extHopByHop, extRouting, extOptions, extMobility, extFragment, extAH:
		}
		if !p.holds(b, off, ip, 8) {
			return
		}
		h := b[off:]
		switch p.Proto {
		case extFragment: // RFC 8200 section 4.5
			size = 8
			frag := be.Uint16(h[2:])
			p.FragID = be.Uint32(h[4:])
			if frag&0xfff9 != 0 { // all zero: an atomic fragment (RFC 6946), which is whole
				p.Layers |= LayerFragment
				p.FragOff = frag &^ 7
				p.MoreFrag = frag&1 != 0
			}
		case extAH: // RFC 4302 section 2.2
			size = (int(h[1]) + 2) * 4
		case extMobility: // the last header, unless a later standard lets it carry something
			if h[0] == extNone {
				p.L4Offset = uint16(off)
				return
			}
			size = (int(h[1]) + 1) * 8
		default:
			size = (int(h[1]) + 1) * 8
		}
		if size < 8 {
			p.Defect = DefectMalformed
			return
		}
		if !p.holds(b, off, ip, size) {
			return
		}
		p.Proto = h[0]
		if p.FragOff != 0 {
			return
		}
		off += size
	}
	p.Defect = DefectMalformed
}

// holds reports whether n octets from off on are both in the datagram, which begins at ip, and in b; if they are not,
// it sets Defect. A fragment that ends too early is cut, not malformed: its rest may come.
func (p *Parsed) holds(b []byte, off, ip, n int) bool {
	if uint64(off-ip)+uint64(n) > uint64(p.IPOctets) {
		p.Defect = DefectMalformed
		if p.Layers&LayerFragment != 0 {
			p.Defect = DefectTruncated
		}
		return false
	}
	if len(b)-off < n {
		p.Defect = DefectTruncated
		return false
	}
	return true
}
