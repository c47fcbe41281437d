package probe

import (
	"encoding/binary"
	"net/netip"

	"opentap/packet"
	"opentap/want"
)

// minFrame is the shortest Ethernet frame without FCS, octets (IEEE 802.3).
const minFrame = 60

// TCP flags, RFC 9293 section 3.1.
const (
	flagSYN = 2
	flagRST = 4
	flagACK = 16
)

// ICMP types, RFC 792 and RFC 4443.
const (
	echoReply, echoRequest   = 0, 8
	echoRequest6, echoReply6 = 128, 129
)

// sourcePort is the port that a frame comes from. Frames count from 0.
func (p *Plan) sourcePort(n int) uint16 {
	if len(p.Ports) == 1 {
		return p.Ports[0]
	}
	return p.Ports[n]
}

// first is the sequence number of a SYN: different for each frame, and not to be guessed.
func (p *Plan) first(n int) uint32 { return p.Token + uint32(n)*0x9e3779b1 }

// Frame appends frame n, with correct lengths and checksums.
func (p *Plan) Frame(b []byte, n int) []byte {
	switch p.Kind {
	case want.ProbePing:
		typ := byte(echoRequest)
		if p.Dst.Is6() {
			typ = echoRequest6
		}
		return p.icmp(b, n, typ, 0, uint16(p.Token), uint16(n), p.Payload)
	case want.ProbeUDP:
		b, ip := p.head(b, n, packet.ProtoUDP, 8+len(p.Payload))
		at := len(b)
		b = be.AppendUint16(b, p.sourcePort(n))
		b = be.AppendUint16(b, p.Port)
		b = be.AppendUint16(b, uint16(8+len(p.Payload)))
		b = append(append(b, 0, 0), p.Payload...)
		c := checksum(b[at:], p.pseudo(packet.ProtoUDP, len(b)-at))
		if c == 0 { // RFC 768: all ones stands for a sum of zero
			c = 0xffff
		}
		be.PutUint16(b[at+6:], c)
		return finish(b, ip)
	}
	return p.tcp(b, n, p.first(n), flagSYN)
}

// Reset appends the segment that takes back what a SYN-ACK to frame n has begun.
func (p *Plan) Reset(b []byte, n int) []byte { return p.tcp(b, n, p.first(n)+1, flagRST) }

func (p *Plan) tcp(b []byte, n int, seq uint32, flags byte) []byte {
	var options []byte
	if flags&flagSYN != 0 {
		options = []byte{2, 4, 5, 0xb4} // the largest segment we would take: 1460 octets, as every host says. RFC 9293 section 3.7.1
	}
	b, ip := p.head(b, n, packet.ProtoTCP, 20+len(options))
	at := len(b)
	b = be.AppendUint16(b, p.sourcePort(n))
	b = be.AppendUint16(b, p.Port)
	b = be.AppendUint32(b, seq)
	b = be.AppendUint32(b, 0)
	b = append(b, byte(20+len(options))/4<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	b = append(b, options...)
	be.PutUint16(b[at+16:], checksum(b[at:], p.pseudo(packet.ProtoTCP, len(b)-at)))
	return finish(b, ip)
}

func (p *Plan) icmp(b []byte, n int, typ, code byte, id, seq uint16, payload []byte) []byte {
	proto, sum := uint8(packet.ProtoICMP), uint32(0)
	if p.Dst.Is6() {
		proto = packet.ProtoICMP6
		sum = p.pseudo(proto, 8+len(payload))
	}
	b, ip := p.head(b, n, proto, 8+len(payload))
	at := len(b)
	b = append(b, typ, code, 0, 0)
	b = be.AppendUint16(b, id)
	b = be.AppendUint16(b, seq)
	b = append(b, payload...)
	be.PutUint16(b[at+2:], checksum(b[at:], sum))
	return finish(b, ip)
}

// head appends the headers before a transport header, which with all that follows is length octets. ip is where the IP header begins.
func (p *Plan) head(b []byte, n int, proto uint8, length int) (out []byte, ip int) {
	etherType := uint16(packet.EtherTypeIPv4)
	if p.Dst.Is6() {
		etherType = packet.EtherTypeIPv6
	}
	b = ethernet(b, p.DstMAC, p.SrcMAC, p.VLAN, p.Priority, etherType)
	ip = len(b)
	if p.Dst.Is6() {
		b = be.AppendUint32(b, 6<<28|uint32(p.TOS)<<20)
		b = be.AppendUint16(b, uint16(length))
		b = append(b, proto, p.TTL)
		src, dst := p.Src.As16(), p.Dst.As16()
		return append(append(b, src[:]...), dst[:]...), ip
	}
	flags := uint16(0)
	if p.DontFragment {
		flags = 0x4000
	}
	b = append(b, 0x45, p.TOS)
	b = be.AppendUint16(b, uint16(20+length))
	b = be.AppendUint16(b, uint16(p.Token>>16)+uint16(n))
	b = be.AppendUint16(b, flags)
	b = append(b, p.TTL, proto, 0, 0)
	src, dst := p.Src.As4(), p.Dst.As4()
	b = append(append(b, src[:]...), dst[:]...)
	be.PutUint16(b[ip+10:], checksum(b[ip:], 0))
	return b, ip
}

// Overhead is how many octets of a frame are not payload, and how many of these are of the link.
func (p *Plan) Overhead() (all, link int) {
	link = 14
	if p.VLAN != 0 {
		link += 4
	}
	all = link + 20
	if p.Dst.Is6() {
		all = link + 40
	}
	if p.Kind == want.ProbeTCPSYN {
		return all + 24, link
	}
	return all + 8, link
}

func ethernet(b []byte, dst, src packet.MAC, vlan uint16, priority uint8, etherType uint16) []byte {
	b = append(append(b, dst[:]...), src[:]...)
	if vlan != 0 {
		b = be.AppendUint16(b, packet.EtherTypeVLAN)
		b = be.AppendUint16(b, uint16(priority)<<13|vlan)
	}
	return be.AppendUint16(b, etherType)
}

// finish fills a frame up to the shortest there is. ip is not 0: the frame has an Ethernet header.
func finish(b []byte, ip int) []byte {
	begin := ip - 14
	if begin >= 4 && be.Uint16(b[ip-6:]) == packet.EtherTypeVLAN {
		begin -= 4
	}
	for len(b)-begin < minFrame {
		b = append(b, 0)
	}
	return b
}

// pseudo is the sum of the pseudo header: RFC 9293 section 3.1, RFC 8200 section 8.1.
func (p *Plan) pseudo(proto uint8, length int) uint32 {
	return words(p.Dst.AsSlice(), words(p.Src.AsSlice(), uint32(proto)+uint32(length)))
}

// words adds up b as 16-bit words, the last one filled up: RFC 1071.
func words(b []byte, sum uint32) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func checksum(b []byte, sum uint32) uint16 {
	sum = words(b, sum)
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// Solicit appends the frame that asks who has an address: ARP (RFC 826) or neighbour solicitation (RFC 4861 section 4.3). An IPv4 source
// that is not valid asks as RFC 5227 does, for nobody to remember; an IPv6 one has to be.
func Solicit(b []byte, mac packet.MAC, src, target netip.Addr, vlan uint16, priority uint8) []byte {
	if target.Is4() {
		b = ethernet(b, packet.MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, vlan, priority, packet.EtherTypeARP)
		end := len(b)
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 1)
		b = append(b, mac[:]...)
		var from [4]byte
		if src.Is4() {
			from = src.As4()
		}
		to := target.As4()
		b = append(b, from[:]...)
		b = append(b, 0, 0, 0, 0, 0, 0)
		return finish(append(b, to[:]...), end)
	}
	t := target.As16()
	node := [16]byte{0: 0xff, 1: 2, 11: 1, 12: 0xff, 13: t[13], 14: t[14], 15: t[15]} // solicited-node, RFC 4291 section 2.7.1
	p := Plan{
		SrcMAC: mac, DstMAC: packet.MAC{0x33, 0x33, 0xff, t[13], t[14], t[15]}, Src: src, Dst: netip.AddrFrom16(node),
		VLAN: vlan, Priority: priority, TTL: 255,
	}
	body := append(append(t[:], 1, 1), mac[:]...) // and our own address
	return p.icmp(b, 0, solicitation, 0, 0, 0, body)
}

// Neighbour discovery, RFC 4861 section 4.
const (
	solicitation  = 135
	advertisement = 136
)

// Solicited reads who has an address from a frame that answers Solicit. p is what was decoded of frame.
func Solicited(frame []byte, p *packet.Parsed, target netip.Addr) (mac packet.MAC, ok bool) {
	at := int(p.L3Offset)
	if target.Is4() {
		if p.Layers&packet.LayerARP == 0 || len(frame) < at+28 {
			return mac, false
		}
		b := frame[at:]
		if be.Uint16(b) != 1 || be.Uint16(b[2:]) != packet.EtherTypeIPv4 || b[4] != 6 || b[5] != 4 || be.Uint16(b[6:]) != 2 || netip.AddrFrom4([4]byte(b[14:18])) != target {
			return mac, false
		}
		mac = packet.MAC(b[8:14])
		return mac, mac[0]&1 == 0
	}
	at = int(p.L4Offset)
	if p.Layers&packet.LayerICMP == 0 || p.Proto != packet.ProtoICMP6 || p.ICMPType != advertisement || p.TTL != 255 || len(frame) < at+24 {
		return mac, false
	}
	b := frame[at:]
	if netip.AddrFrom16([16]byte(b[8:24])) != target {
		return mac, false
	}
	for b = b[24:]; len(b) >= 8 && b[1] != 0; b = b[int(b[1])*8:] {
		if b[0] == 2 { // target link-layer address
			mac = packet.MAC(b[2:8])
			return mac, mac[0]&1 == 0
		}
		if len(b) < int(b[1])*8 {
			break
		}
	}
	return p.SrcMAC, p.SrcMAC[0]&1 == 0 // who answers need not say it twice
}
