package index

import "opentap/packet"

// How many headers of a sort are followed. A frame with more is opaque.
const (
	maxTags       = 8
	maxLabels     = 16
	maxExtensions = 8
)

func isTag(t uint16) bool { return t == 0x8100 || t == 0x88a8 || t == 0x9100 }

// frame adds the keys of one frame. It looks where the programs of filter/cbpf can look, in any mode, and as they do
// minds only whether the octets are there: no version, length or checksum.
func (b *Builder) frame(f []byte) {
	if b.link == packet.LinkRaw {
		if len(f) > 0 {
			b.datagram(f, 0)
		}
		return
	}
	if len(f) < 14 {
		return // no condition that is indexed can hold
	}
	typ, off := be.Uint16(f[12:]), 14
	for n := 0; isTag(typ); n++ {
		if n == maxTags {
			b.add(keyOpaque())
			return
		}
		b.add(KeyTagged())
		if len(f) < off+2 {
			return
		}
		b.add(KeyVLAN(be.Uint16(f[off:])))
		if len(f) < off+4 {
			return
		}
		typ = be.Uint16(f[off+2:])
		off += 4
	}
	if typ != b.lastType {
		b.lastType = typ
		b.add(KeyType(typ))
	}
	switch typ {
	case 0x0800:
		b.ipv4(f[off:])
	case 0x86dd:
		b.ipv6(f[off:])
	case 0x0806, 0x8035: // RFC 826, for IPv4 over Ethernet
		if len(f) >= off+18 {
			b.add(KeyIPv4(be.Uint32(f[off+14:])))
		}
		if len(f) >= off+28 {
			b.add(KeyIPv4(be.Uint32(f[off+24:])))
		}
	case 0x8847:
		b.mpls(f, off)
	case 0x8864:
		if len(f) < off+8 {
			return
		}
		switch be.Uint16(f[off+6:]) {
		case 0x0021:
			b.add(KeyType(0x0800))
			b.ipv4(f[off+8:])
		case 0x0057:
			b.add(KeyType(0x86dd))
			b.ipv6(f[off+8:])
		}
	}
}

func (b *Builder) mpls(f []byte, off int) {
	for range maxLabels {
		if len(f) < off+3 {
			return
		}
		bottom := f[off+2]&1 != 0
		off += 4
		if bottom {
			if len(f) > off {
				b.datagram(f, off)
			}
			return
		}
	}
	b.add(keyOpaque())
}

// datagram is IPv4 or IPv6 as its first four bits say; f[off] is there.
func (b *Builder) datagram(f []byte, off int) {
	switch f[off] >> 4 {
	case 4:
		b.add(KeyType(0x0800))
		b.ipv4(f[off:])
	case 6:
		b.add(KeyType(0x86dd))
		b.ipv6(f[off:])
	}
}

func hasPorts(proto uint8) bool { return proto == 6 || proto == 17 || proto == 132 }

func (b *Builder) ipv4(h []byte) {
	if len(h) < 10 {
		return
	}
	proto := h[9]
	b.proto(proto)
	if len(h) >= 16 {
		b.add(KeyIPv4(be.Uint32(h[12:])))
	}
	if len(h) >= 20 {
		b.add(KeyIPv4(be.Uint32(h[16:])))
	}
	if hasPorts(proto) && be.Uint16(h[6:])&0x1fff == 0 {
		b.ports(h, 4*int(h[0]&15))
	}
}

func (b *Builder) ports(h []byte, off int) {
	if len(h) >= off+2 {
		b.add(KeyPort(be.Uint16(h[off:])))
	}
	if len(h) >= off+4 {
		b.add(KeyPort(be.Uint16(h[off+2:])))
	}
}

func (b *Builder) proto(p uint8) {
	if w := &b.protos[p>>6]; *w&(1<<(p&63)) == 0 {
		*w |= 1 << (p & 63)
		b.add(KeyProto(p))
	}
}

func (b *Builder) ipv6(h []byte) {
	if len(h) < 7 {
		return
	}
	next := h[6]
	b.proto(next)
	if len(h) >= 24 {
		b.add(KeyIPv6(h[8:]))
	}
	if len(h) >= 40 {
		b.add(KeyIPv6(h[24:]))
	}
	// Today's programs look at most at the next header of a fragment; what is found behind the other headers costs
	// little, and lets them learn to look further.
	off := 40
	for range maxExtensions {
		if hasPorts(next) {
			b.ports(h, off)
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
		b.proto(next)
		off += size
	}
	b.add(keyOpaque())
}
