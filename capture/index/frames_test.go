package index

import (
	"fmt"
	"math/rand/v2"
)

func pick[T any](r *rand.Rand, s ...T) T { return s[r.IntN(len(s))] }

func genAddr4(r *rand.Rand) uint32 { return 0x0a000000 | uint32(r.IntN(3))<<8 | uint32(r.IntN(40)) }

func genAddr6(r *rand.Rand) []byte {
	a := make([]byte, 16)
	a[0], a[1], a[15] = 0x20, 0x01, byte(r.IntN(40))
	return a
}

func genPort(r *rand.Rand) uint16 { return uint16(r.IntN(60) + 50) }

// genFrame makes an Ethernet frame, or a raw datagram, of any sort that filters tell apart; often cut or damaged.
func genFrame(r *rand.Rand, raw bool) []byte {
	var b []byte
	if !raw {
		b = append(b, 2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2)
		for range pick(r, 0, 0, 0, 0, 0, 1, 1, 2, 3, 9) {
			b = be.AppendUint16(b, pick[uint16](r, 0x8100, 0x88a8, 0x9100))
			b = be.AppendUint16(b, uint16(r.IntN(12))|uint16(r.IntN(16))<<12)
		}
	}
	typ := func(t uint16) {
		if !raw {
			b = be.AppendUint16(b, t)
		}
	}
	switch k := r.IntN(14); {
	case k < 6:
		typ(0x0800)
		b = append(b, genIPv4(r)...)
	case k < 9 || raw:
		typ(0x86dd)
		b = append(b, genIPv6(r)...)
	case k == 9:
		typ(pick[uint16](r, 0x0806, 0x8035))
		b = append(b, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1)
		b = be.AppendUint32(b, genAddr4(r))
		b = append(b, 2, 0, 0, 0, 0, 2)
		b = be.AppendUint32(b, genAddr4(r))
	case k == 10:
		typ(0x8847)
		for n := pick(r, 1, 1, 2, 3, 17); n > 0; n-- {
			e := uint32(r.IntN(20))<<12 | 64
			if n == 1 {
				e |= 0x100
			}
			b = be.AppendUint32(b, e)
		}
		if r.IntN(2) == 0 {
			b = append(b, genIPv4(r)...)
		} else {
			b = append(b, genIPv6(r)...)
		}
	case k == 11:
		typ(0x8864)
		b = append(b, 0x11, 0, 0, byte(r.IntN(3)), 0, 40, 0)
		if r.IntN(2) == 0 {
			b = append(append(b, 0x21), genIPv4(r)...)
		} else {
			b = append(append(b, 0x57), genIPv6(r)...)
		}
	case k == 12:
		typ(uint16(r.IntN(1501)))
		b = append(b, 0xaa, 0xaa, 3, 0, 0, 0, 8, 0)
		b = append(b, genIPv4(r)...)
	default:
		typ(pick[uint16](r, 0x88cc, 0x8847, 0x8863, 0x8137, 0x809b, 0x80f3, 0x1234))
		b = append(b, make([]byte, r.IntN(40))...)
	}
	switch r.IntN(6) {
	case 0:
		b = b[:r.IntN(len(b)+1)]
	case 1:
		for range 1 + r.IntN(3) {
			b[r.IntN(len(b))] = byte(r.Uint32())
		}
	}
	return b
}

func genIPv4(r *rand.Rand) []byte {
	proto := pick[byte](r, 6, 17, 132, 1, 2, 47, 50, 89, 103)
	words := pick(r, 5, 5, 5, 6, 15, 3)
	h := make([]byte, 20)
	h[0] = 0x40 | byte(words)
	h[9] = proto
	be.PutUint16(h[6:], pick[uint16](r, 0, 0, 0, 0x4000, 0x2000, 0x2003, 100))
	be.PutUint32(h[12:], genAddr4(r))
	be.PutUint32(h[16:], genAddr4(r))
	if words > 5 {
		h = append(h, make([]byte, 4*(words-5))...)
	}
	return append(h, genL4(r, proto)...)
}

func genL4(r *rand.Rand, proto byte) []byte {
	if proto == 17 && r.IntN(3) == 0 { // tunnels
		h := be.AppendUint16(nil, genPort(r))
		h = be.AppendUint16(h, pick[uint16](r, 4789, 6081, 2152))
		h = append(h, 0, 50, 0, 0, 8, 0, 0, 0, 0, 0, 7, 0)
		h = append(h, 2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 4, 8, 0)
		return append(h, genIPv4(r)...)
	}
	h := be.AppendUint16(nil, genPort(r))
	h = be.AppendUint16(h, genPort(r))
	return append(h, make([]byte, r.IntN(30))...)
}

func genIPv6(r *rand.Rand) []byte {
	h := make([]byte, 8)
	h[0] = 0x60
	h = append(append(h, genAddr6(r)...), genAddr6(r)...)
	proto := pick[byte](r, 6, 17, 132, 58, 59, 50)
	at := 6
	for range pick(r, 0, 0, 0, 1, 2, 9) {
		ext := pick[byte](r, 0, 43, 60, 44, 51)
		h[at] = ext
		at = len(h)
		e := make([]byte, 8)
		if ext == 44 {
			be.PutUint16(e[2:], pick[uint16](r, 0, 1, 8))
		}
		h = append(h, e...)
	}
	h[at] = proto
	return append(h, genL4(r, proto)...)
}

func ip4(a uint32) string { return fmt.Sprintf("%d.%d.%d.%d", a>>24, a>>16&255, a>>8&255, a&255) }

// genExpr makes a filter. Not all have a meaning on every link.
func genExpr(r *rand.Rand, depth int) string {
	dir := pick(r, "", "", "src ", "dst ", "src or dst ", "src and dst ")
	if depth > 0 {
		switch r.IntN(4) {
		case 0:
			return "(" + genExpr(r, depth-1) + " and " + genExpr(r, depth-1) + ")"
		case 1:
			return "(" + genExpr(r, depth-1) + " or " + genExpr(r, depth-1) + ")"
		case 2:
			if r.IntN(3) == 0 {
				return "not (" + genExpr(r, depth-1) + ")"
			}
			return genExpr(r, depth-1) + " and " + genExpr(r, depth-1)
		}
	}
	switch r.IntN(20) {
	case 0, 1, 2:
		return pick(r, "", "ip ", "arp ") + dir + "host " + ip4(genAddr4(r))
	case 3:
		return dir + fmt.Sprintf("host 2001::%x", r.IntN(40))
	case 4:
		bits := 8 + r.IntN(25)
		return dir + fmt.Sprintf("net %s/%d", ip4(genAddr4(r)&^(1<<(32-bits)-1)), bits)
	case 5:
		return "net 2001::20/" + pick(r, "123", "124", "127", "128")
	case 6, 7:
		return pick(r, "", "tcp ", "udp ", "sctp ") + dir + fmt.Sprintf("port %d", genPort(r))
	case 8:
		lo := genPort(r)
		return pick(r, "", "udp ") + dir + fmt.Sprintf("portrange %d-%d", lo, int(lo)+r.IntN(400))
	case 9:
		return pick(r, "tcp", "udp", "sctp", "icmp", "icmp6", "igmp", "arp", "rarp", "ip", "ip6", "ah", "esp", "pim", "stp", "ipx", "atalk", "aarp")
	case 10:
		return pick(r, "ip proto ", "ip6 proto ", "proto ") + pick(r, "6", "17", "58", "44", "0", "89", "47")
	case 11:
		return "ether proto " + pick(r, "0x88cc", "0x8100", "0x0800", "0x8863", "0x8137", "0x1234", "0x86dd", "100", "1505")
	case 12, 13:
		return "vlan" + pick(r, "", " 3", " 7", " 11")
	case 14:
		return "mpls" + pick(r, "", " 3")
	case 15:
		return pick(r, "pppoes", "pppoes 1", "pppoed")
	case 16:
		return pick(r, "tcp[13] & 2 != 0", "udp[2:2] = 60", "icmp[0] != 8", "ip[8] < 64", "ip6[6] = 17", "icmp6[0] = 128", "ether[0] = 2", "arp[7] = 1", "ip[0] & 15 != 5 + tcp[12]")
	case 17:
		return pick(r, "broadcast", "multicast", "ip multicast", "ip6 multicast", "less 60", "greater 80")
	case 18:
		return "ether host 02:00:00:00:00:01"
	default:
		return pick(r, "vlan 3-7,11", "inner(host "+ip4(genAddr4(r))+")", "geneve", "inner(port 60)", "llc", "iso", "inbound", "vxlan", "gre")
	}
}
