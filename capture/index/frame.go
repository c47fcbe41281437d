package index

// How many headers of a sort are followed. A frame with more is opaque.
const (
	maxTags       = 8
	maxLabels     = 16
	maxExtensions = 8
)

func isTag(t uint16) bool { return t == 0x8100 || t == 0x88a8 || t == 0x9100 }

// Frame adds the keys of one frame. It looks where the programs of filter/cbpf can look, in any mode, and as they do
// minds only whether the octets are there: no version, length or checksum. It does not keep f.
func (s *Scanner) Frame(f []byte) {
	// Most frames, in short: no tag, IPv4 without options or IPv6 without extensions, ports.
	if len(f) >= 38 && !s.raw {
		switch le.Uint32(f[12:]) & 0xffffff {
		case 0x450008:
			if be.Uint16(f[20:])&0x1fff == 0 && hasPorts(f[23]) {
				s.flow4(be.Uint32(f[26:]), be.Uint32(f[30:]), be.Uint32(f[34:]), f[23])
				return
			}
		case 0x60dd86:
			if len(f) >= 58 && hasPorts(f[20]) {
				s.flow6(f[22:54], be.Uint32(f[54:]), f[20])
				return
			}
		}
	}
	s.any(f)
}

// any is Frame for a frame of any sort.
func (s *Scanner) any(f []byte) {
	s.out.reserve()
	if s.raw {
		if len(f) > 0 {
			s.datagram(f, 0)
		}
		return
	}
	if len(f) < 14 {
		return // no condition that is indexed can hold
	}
	typ, off := be.Uint16(f[12:]), 14
	for n := 0; isTag(typ); n++ {
		if n == maxTags {
			s.add(keyOpaque())
			return
		}
		s.add(keyTagged)
		if len(f) < off+2 {
			return
		}
		if id := uint32(be.Uint16(f[off:])); id != s.lastTag {
			s.lastTag = id
			s.add(KeyVLAN(uint16(id)))
		}
		if len(f) < off+4 {
			return
		}
		typ = be.Uint16(f[off+2:])
		off += 4
	}
	s.etherType(typ)
	switch typ {
	case 0x0800:
		s.ipv4(f[off:])
	case 0x86dd:
		s.ipv6(f[off:])
	case 0x0806, 0x8035: // RFC 826, for IPv4 over Ethernet
		if len(f) >= off+18 {
			s.add(KeyIPv4(be.Uint32(f[off+14:])))
		}
		if len(f) >= off+28 {
			s.add(KeyIPv4(be.Uint32(f[off+24:])))
		}
	case 0x8847:
		s.mpls(f, off)
	case 0x8864:
		if len(f) < off+8 {
			return
		}
		switch be.Uint16(f[off+6:]) {
		case 0x0021:
			s.add(KeyType(0x0800))
			s.ipv4(f[off+8:])
		case 0x0057:
			s.add(KeyType(0x86dd))
			s.ipv6(f[off+8:])
		}
	}
}

func (s *Scanner) etherType(t uint16) {
	if uint32(t) != s.lastType {
		s.lastType = uint32(t)
		s.add(KeyType(t))
	}
}

func (s *Scanner) mpls(f []byte, off int) {
	for range maxLabels {
		if len(f) < off+3 {
			return
		}
		bottom := f[off+2]&1 != 0
		off += 4
		if bottom {
			if len(f) > off {
				s.datagram(f, off)
			}
			return
		}
	}
	s.add(keyOpaque())
}

// datagram is IPv4 or IPv6 as its first four bits say; f[off] is there.
func (s *Scanner) datagram(f []byte, off int) {
	switch f[off] >> 4 {
	case 4:
		s.add(KeyType(0x0800))
		s.ipv4(f[off:])
	case 6:
		s.add(KeyType(0x86dd))
		s.ipv6(f[off:])
	}
}

func hasPorts(proto uint8) bool { return proto == 6 || proto == 17 || proto == 132 }

func (s *Scanner) ipv4(h []byte) {
	if len(h) < 10 {
		return
	}
	proto := h[9]
	ported := hasPorts(proto) && be.Uint16(h[6:])&0x1fff == 0
	at := 4 * int(h[0]&15)
	if ported && len(h) >= 20 && len(h) >= at+4 {
		s.flow4(be.Uint32(h[12:]), be.Uint32(h[16:]), be.Uint32(h[at:]), proto)
		return
	}
	s.proto(proto)
	if len(h) >= 16 {
		s.add(KeyIPv4(be.Uint32(h[12:])))
	}
	if len(h) >= 20 {
		s.add(KeyIPv4(be.Uint32(h[16:])))
	}
	if ported {
		s.ports(h, at)
	}
}

func (s *Scanner) ports(h []byte, off int) {
	if len(h) >= off+2 {
		s.add(KeyPort(be.Uint16(h[off:])))
	}
	if len(h) >= off+4 {
		s.add(KeyPort(be.Uint16(h[off+2:])))
	}
}

func (s *Scanner) proto(p uint8) {
	if w := &s.protos[p>>6]; *w&(1<<(p&63)) == 0 {
		*w |= 1 << (p & 63)
		s.add(KeyProto(p))
	}
}

func (s *Scanner) ipv6(h []byte) {
	if len(h) < 7 {
		return
	}
	next := h[6]
	if hasPorts(next) && len(h) >= 44 {
		s.flow6(h[8:40], be.Uint32(h[40:]), next)
		return
	}
	s.proto(next)
	if len(h) >= 24 {
		s.add(KeyIPv6(h[8:]))
	}
	if len(h) >= 40 {
		s.add(KeyIPv6(h[24:]))
	}
	// Today's programs look at most at the next header of a fragment; what is found behind the other headers costs
	// little, and lets them learn to look further.
	off := 40
	for range maxExtensions {
		if hasPorts(next) {
			s.ports(h, off)
			return
		}
		size := 0
		switch next {
		case 0, 43, 60, 135:
			if len(h) >= off+2 {
				size = 8 + 8*int(h[off+1])
			}
		case 44:
			size = 8
		case 51:
			if len(h) >= off+2 {
				size = 4 * (int(h[off+1]) + 2)
			}
		}
		if size == 0 || len(h) <= off {
			return
		}
		next = h[off]
		s.proto(next)
		off += size
	}
	s.add(keyOpaque())
}
