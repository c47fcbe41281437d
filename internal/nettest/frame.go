package nettest

import (
	"encoding/binary"
	"net/netip"
)

// Protocol numbers and EtherTypes that the builder knows (IANA).
const (
	ICMP   = 1
	TCP    = 6
	UDP    = 17
	ICMPv6 = 58

	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherIPv6 = 0x86dd
	EtherVLAN = 0x8100 // 802.1Q customer tag
	EtherQinQ = 0x88a8 // 802.1ad service tag
)

// MinFrame is the shortest Ethernet frame without FCS, octets.
const MinFrame = 60

// Tag is one 802.1Q or 802.1ad tag.
type Tag struct {
	TPID uint16 // 0 = EtherVLAN
	TCI  uint16 // priority, DEI, VLAN id
}

// Packet describes one frame; Bytes builds it. The zero value of every field is usable: addresses 192.0.2.1 →
// 192.0.2.2 (RFC 5737), MACs 02:00:00:00:00:01 → 02:00:00:00:00:02, UDP.
type Packet struct {
	SrcMAC, DstMAC [6]byte
	NoEthernet     bool  // begin with the IP header
	NoPad          bool  // do not pad Ethernet to MinFrame
	Tags           []Tag // outermost first

	Src, Dst netip.Addr // IPv4 or IPv6 as Dst says
	Proto    uint8      // 0 = UDP
	TOS, TTL uint8      // TTL 0 = 64
	ID       uint32     // IPv4 identification, IPv6 fragment identification
	DF       bool

	SrcPort, DstPort   uint16
	TCPFlags           uint8
	Seq, Ack           uint32
	ICMPType, ICMPCode uint8
	Payload            []byte // after the transport header; of another protocol, after the IP header
}

// Bytes builds the frame with correct lengths and checksums.
func (p Packet) Bytes() []byte {
	p.fill()
	l4 := p.transport()
	return p.frame(l4, 0, false, false)
}

// Fragments builds the frames of the datagram cut into fragments with at most size octets of IP payload each; size
// is rounded down to a multiple of 8.
func (p Packet) Fragments(size int) [][]byte {
	p.fill()
	l4 := p.transport()
	size = max(size&^7, 8)
	var out [][]byte
	for off := 0; off < len(l4); off += size {
		end := min(off+size, len(l4))
		out = append(out, p.frame(l4[off:end], uint16(off), end < len(l4), true))
	}
	return out
}

func (p *Packet) fill() {
	if p.SrcMAC == [6]byte{} {
		p.SrcMAC = [6]byte{2, 0, 0, 0, 0, 1}
	}
	if p.DstMAC == [6]byte{} {
		p.DstMAC = [6]byte{2, 0, 0, 0, 0, 2}
	}
	if !p.Dst.IsValid() {
		p.Dst = netip.AddrFrom4([4]byte{192, 0, 2, 2})
		if p.Src.IsValid() && p.Src.Is6() {
			p.Dst = netip.MustParseAddr("2001:db8::2")
		}
	}
	if !p.Src.IsValid() {
		p.Src = netip.AddrFrom4([4]byte{192, 0, 2, 1})
		if p.Dst.Is6() {
			p.Src = netip.MustParseAddr("2001:db8::1")
		}
	}
	if p.Proto == 0 {
		p.Proto = UDP
	}
	if p.TTL == 0 {
		p.TTL = 64
	}
}

// transport builds the transport header and payload, checksum over the pseudo header included (RFC 9293 section 3.1,
// RFC 768, RFC 792, RFC 4443 section 2.3, RFC 8200 section 8.1).
func (p *Packet) transport() []byte {
	var h []byte
	at := -1 // of the checksum
	switch p.Proto {
	case UDP:
		h = make([]byte, 8)
		binary.BigEndian.PutUint16(h[4:], uint16(8+len(p.Payload)))
		at = 6
	case TCP:
		h = make([]byte, 20)
		binary.BigEndian.PutUint32(h[4:], p.Seq)
		binary.BigEndian.PutUint32(h[8:], p.Ack)
		h[12] = 5 << 4
		h[13] = p.TCPFlags
		binary.BigEndian.PutUint16(h[14:], 65535)
		at = 16
	case ICMP, ICMPv6:
		h = make([]byte, 8)
		h[0], h[1] = p.ICMPType, p.ICMPCode
		binary.BigEndian.PutUint16(h[4:], uint16(p.ID))
		binary.BigEndian.PutUint16(h[6:], uint16(p.Seq))
		at = 2
	}
	if p.Proto == UDP || p.Proto == TCP {
		binary.BigEndian.PutUint16(h, p.SrcPort)
		binary.BigEndian.PutUint16(h[2:], p.DstPort)
	}
	b := append(h, p.Payload...)
	if at < 0 {
		return b
	}
	var sum uint32
	if p.Proto != ICMP {
		sum = sum16(p.Dst.AsSlice(), sum16(p.Src.AsSlice(), uint32(p.Proto)+uint32(len(b))))
	}
	c := fold(sum16(b, sum))
	if c == 0 && p.Proto == UDP {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(b[at:], c)
	return b
}

// frame puts the network and link headers before an IP payload.
func (p *Packet) frame(payload []byte, off uint16, more, fragment bool) []byte {
	var b []byte
	etherType := uint16(EtherIPv4)
	if p.Dst.Is6() {
		etherType = EtherIPv6
	}
	if !p.NoEthernet {
		b = linkHeader(p.SrcMAC, p.DstMAC, p.Tags, etherType)
	}
	ip := len(b)
	if p.Dst.Is4() {
		b = append(b, make([]byte, 20)...)
		h := b[ip:]
		h[0], h[1] = 0x45, p.TOS
		binary.BigEndian.PutUint16(h[2:], uint16(20+len(payload)))
		binary.BigEndian.PutUint16(h[4:], uint16(p.ID))
		flags := off >> 3
		if more {
			flags |= 0x2000
		}
		if p.DF {
			flags |= 0x4000
		}
		binary.BigEndian.PutUint16(h[6:], flags)
		h[8], h[9] = p.TTL, p.Proto
		copy(h[12:], p.Src.AsSlice())
		copy(h[16:], p.Dst.AsSlice())
		binary.BigEndian.PutUint16(h[10:], fold(sum16(h, 0)))
	} else {
		n := len(payload)
		next := p.Proto
		if fragment {
			n += 8
			next = 44 // fragment header, RFC 8200 section 4.5
		}
		b = append(b, make([]byte, 40)...)
		h := b[ip:]
		binary.BigEndian.PutUint32(h, 6<<28|uint32(p.TOS)<<20)
		binary.BigEndian.PutUint16(h[4:], uint16(n))
		h[6], h[7] = next, p.TTL
		copy(h[8:], p.Src.AsSlice())
		copy(h[24:], p.Dst.AsSlice())
		if fragment {
			var f [8]byte
			f[0] = p.Proto
			if more {
				off |= 1
			}
			binary.BigEndian.PutUint16(f[2:], off)
			binary.BigEndian.PutUint32(f[4:], p.ID)
			b = append(b, f[:]...)
		}
	}
	b = append(b, payload...)
	if !p.NoEthernet && !p.NoPad {
		b = pad(b)
	}
	return b
}

// ARP builds an Ethernet broadcast that asks who has target (RFC 826).
func ARP(src [6]byte, sender, target netip.Addr, tags ...Tag) []byte {
	b := linkHeader(src, [6]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, tags, EtherARP)
	b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
	b = append(b, src[:]...)
	b = append(b, sender.AsSlice()...)
	b = append(b, 0, 0, 0, 0, 0, 0)
	b = append(b, target.AsSlice()...)
	return pad(b)
}

func linkHeader(src, dst [6]byte, tags []Tag, etherType uint16) []byte {
	b := make([]byte, 0, 1600)
	b = append(b, dst[:]...)
	b = append(b, src[:]...)
	for _, t := range tags {
		if t.TPID == 0 {
			t.TPID = EtherVLAN
		}
		b = binary.BigEndian.AppendUint16(b, t.TPID)
		b = binary.BigEndian.AppendUint16(b, t.TCI)
	}
	return binary.BigEndian.AppendUint16(b, etherType)
}

func pad(b []byte) []byte {
	for len(b) < MinFrame {
		b = append(b, 0)
	}
	return b
}

// sum16 adds b as big-endian 16-bit words (RFC 1071), the last one padded.
func sum16(b []byte, sum uint32) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
