package flow

import (
	"encoding/binary"
	"math/bits"

	"opentap/packet"
)

// TCP flags, RFC 9293 section 3.1.
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// key is the Flow Key in host order: comparable, free of pointers, six words.
type key struct {
	src, dst [2]uint64 // big-endian halves, so that the order of keys is the order of addresses
	// mid, from the top: source port 16, destination port 16, protocol 8, kind 8, outer VLAN identifier 16.
	mid   uint64
	inner uint16 // inner VLAN identifier
}

// Bits of the kind octet of a key.
const (
	kindV6     = 1 << 0
	kindNoPort = 1 << 1 // ports not known
)

func (k *key) ports() (src, dst uint16) { return uint16(k.mid >> 48), uint16(k.mid >> 32) }
func (k *key) proto() uint8             { return uint8(k.mid >> 24) }
func (k *key) kind() uint8              { return uint8(k.mid >> 16) }

// hasPorts says whether a protocol's first octets are what a Flow Key calls ports.
func hasPorts(proto uint8) bool {
	switch proto {
	case packet.ProtoTCP, packet.ProtoUDP, packet.ProtoICMP, packet.ProtoICMP6, packet.ProtoSCTP, packet.ProtoDCCP, packet.ProtoUDPLite:
		return true
	}
	return false
}

// fill builds the key of p as sent. It reports whether the ports are unknown.
func (k *key) fill(p *packet.Parsed) (portsUnknown bool) {
	k.src[0] = binary.BigEndian.Uint64(p.Src[0:8])
	k.src[1] = binary.BigEndian.Uint64(p.Src[8:16])
	k.dst[0] = binary.BigEndian.Uint64(p.Dst[0:8])
	k.dst[1] = binary.BigEndian.Uint64(p.Dst[8:16])
	var ports uint64
	kind := uint64(0)
	if p.Layers&packet.LayerIPv6 != 0 {
		kind = kindV6
	}
	switch {
	case p.Layers&packet.LayerTransport != 0:
		ports = uint64(p.SrcPort)<<16 | uint64(p.DstPort)
	case p.Layers&packet.LayerICMP != 0:
		ports = uint64(p.ICMPType)<<8 | uint64(p.ICMPCode)
	case hasPorts(p.Proto):
		kind |= kindNoPort
		portsUnknown = true
	}
	var outer, inner uint64
	if p.VLANCount > 0 {
		outer = uint64(p.VLANs[0] & 0x0fff)
		if p.VLANCount > 1 {
			inner = uint64(p.VLANs[1] & 0x0fff)
		}
	}
	k.mid = ports<<32 | uint64(p.Proto)<<24 | kind<<16 | outer
	k.inner = uint16(inner)
	return portsUnknown
}

// unite turns the keys of both directions into one. It reports whether it swapped the ends.
//
// The ends are ordered by address, then port. ICMP queries and replies (RFC 792, RFC 950, RFC 4443) share the key of the
// query, ordered by who asks, so that two hosts that ping each other make two flows; other ICMP messages have no
// opposite and stay as sent.
func (k *key) unite() (swapped bool) {
	proto := k.proto()
	if (proto == packet.ProtoICMP || proto == packet.ProtoICMP6) && k.kind()&kindNoPort == 0 {
		query, ok := icmpQuery(proto, uint8(k.mid>>40))
		if ok {
			k.mid = k.mid&^(0xff<<40) | uint64(query)<<40
			k.src, k.dst = k.dst, k.src
		}
		return ok
	}
	sp, dp := k.ports()
	switch {
	case k.src[0] != k.dst[0]:
		swapped = k.src[0] > k.dst[0]
	case k.src[1] != k.dst[1]:
		swapped = k.src[1] > k.dst[1]
	default:
		swapped = sp > dp
	}
	if swapped {
		k.swap()
	}
	return swapped
}

func (k *key) swap() {
	k.src, k.dst = k.dst, k.src
	sp, dp := k.ports()
	k.mid = k.mid&0xffffffff | uint64(dp)<<48 | uint64(sp)<<32
}

// icmpQuery returns the query type a reply type answers.
func icmpQuery(proto, typ uint8) (query uint8, isReply bool) {
	if proto == packet.ProtoICMP6 {
		if typ == 129 { // echo reply, RFC 4443 section 4.2
			return 128, true
		}
		return 0, false
	}
	switch typ {
	case 0: // echo reply
		return 8, true
	case 14: // timestamp reply
		return 13, true
	case 16: // information reply
		return 15, true
	case 18: // address mask reply, RFC 950
		return 17, true
	}
	return 0, false
}

// icmpReply is the opposite of icmpQuery.
func icmpReply(proto, typ uint8) uint8 {
	if proto == packet.ProtoICMP6 {
		return 129
	}
	if typ == 8 {
		return 0
	}
	return typ + 1
}

// secret keys the hash. It is drawn for each table, so that nobody who sends packets can aim them at one slot; no
// output depends on it.
type secret [4]uint64

// hash folds the key with 64x64→128 bit multiplications, each operand masked by secret words.
func (s *secret) hash(k *key) uint32 {
	h1, l1 := bits.Mul64(k.src[0]^s[0], k.src[1]^s[1])
	h2, l2 := bits.Mul64(k.dst[0]^s[2], k.dst[1]^s[3])
	h3, l3 := bits.Mul64(k.mid^s[1]^h1^l2, uint64(k.inner)^s[2]^l1^bits.RotateLeft64(h2, 32))
	h := h3 ^ l3
	h, l := bits.Mul64(h^s[3], 0x9e3779b97f4a7c15)
	h ^= l
	return uint32(h ^ h>>32)
}
