package packet

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
)

// icmpPairs gives the type that answers an ICMP type, and icmp6Pairs an ICMPv6 type, as the Community ID specification
// lists them. Types that are not listed have no answer: such flows are one-way.
var (
	icmpPairs  = map[uint8]uint8{8: 0, 0: 8, 13: 14, 14: 13, 15: 16, 16: 15, 17: 18, 18: 17, 10: 9, 9: 10}
	icmp6Pairs = map[uint8]uint8{128: 129, 129: 128, 133: 134, 134: 133, 135: 136, 136: 135, 130: 131, 131: 130, 139: 140, 140: 139, 144: 145, 145: 144}
)

// CommunityID returns the flow hash of Community ID version 1 ("1:…"), which is the same in both directions and in other
// tools with the same seed (usually 0); it is "" for a frame without a whole IP header. Ports are part of it for TCP,
// UDP and SCTP, type and code for ICMP; other protocols, and fragments without ports, are hashed by addresses alone.
//
// Source: https://github.com/corelight/community-id-spec.
func (p *Parsed) CommunityID(seed uint16) string {
	if !p.IsIP() {
		return ""
	}
	src, dst := p.Src[:], p.Dst[:]
	if p.Layers&LayerIPv4 != 0 {
		src, dst = src[12:], dst[12:]
	}
	var (
		a, b     uint16 // ports, or type and code
		hasPorts bool
		oneWay   bool
	)
	switch {
	case p.Layers&LayerTransport != 0 && (p.Proto == ProtoTCP || p.Proto == ProtoUDP || p.Proto == ProtoSCTP):
		a, b, hasPorts = p.SrcPort, p.DstPort, true
	case p.Layers&LayerICMP != 0:
		pairs := icmpPairs
		if p.Proto == ProtoICMP6 {
			pairs = icmp6Pairs
		}
		answer, ok := pairs[p.ICMPType]
		if !ok {
			answer, oneWay = p.ICMPCode, true
		}
		a, b, hasPorts = uint16(p.ICMPType), uint16(answer), true
	}
	if c := bytes.Compare(src, dst); !oneWay && (c > 0 || c == 0 && a > b) {
		src, dst, a, b = dst, src, b, a
	}
	var buf [2 + 16 + 16 + 2 + 4]byte
	h := be.AppendUint16(buf[:0], seed)
	h = append(h, src...)
	h = append(h, dst...)
	h = append(h, p.Proto, 0)
	if hasPorts {
		h = be.AppendUint16(h, a)
		h = be.AppendUint16(h, b)
	}
	sum := sha1.Sum(h)
	var out [2 + 28]byte
	copy(out[:], "1:")
	base64.StdEncoding.Encode(out[2:], sum[:])
	return string(out[:])
}
