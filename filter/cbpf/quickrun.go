package cbpf

import (
	"encoding/binary"

	"opentap/filter"
	"opentap/packet"
)

// quickOp says what a step tests.
type quickOp uint8

const (
	quickSrc4 quickOp = iota // IPv4 addresses by direction
	quickDst4
	quickHost4
	quickHost6
	quickMAC
	quickSrcPort
	quickDstPort
	quickPort
	quickProto
	quickFamily
	quickIPMulticast
	quickIP6Multicast
	quickEtherMulticast
	quickVLAN
	quickLength
	quickLoadNetwork
	quickLoadTransport
	quickProgram
)

// Bits of quickStep.set.
const (
	setTCP uint8 = 1 << iota
	setUDP
	setSCTP
	set4
	set6
	setWhole // no later fragment
)

// Ends of the steps.
const (
	yes int16 = -1
	no  int16 = -2
)

// quickStep is one test and the steps after it.
type quickStep struct {
	op     quickOp
	set    uint8
	proto  uint8
	size   uint8
	dir    filter.Dir
	rel    filter.RelOp
	off    uint16
	t, f   int16
	lo, hi uint32 // a range, or an address and its mask, or a number and the mask of what is compared with it
	*rare
}

// rare is what few steps have. It is apart so that steps are small.
type rare struct {
	mac     packet.MAC
	wide    [4]uint64 // an IPv6 address and its mask
	vlan    *filter.VLAN
	program *Matcher
}

// run takes the steps.
func (m *quick) run(h *headers) bool {
	be16, be32 := binary.BigEndian.Uint16, binary.BigEndian.Uint32
	steps, b := m.steps, h.frame[h.network:]
	ip4 := (*[20]byte)(b) // of IPv6 the first half
	for pc := m.entry; ; {
		s := &steps[pc]
		ok := false
		switch s.op {
		case quickSrc4:
			ok = h.set&set4 != 0 && be32(ip4[12:16])&s.hi == s.lo
		case quickDst4:
			ok = h.set&set4 != 0 && be32(ip4[16:20])&s.hi == s.lo
		case quickHost4:
			ok = h.set&set4 != 0 && ends(s.dir, be32(ip4[12:16])&s.hi == s.lo, be32(ip4[16:20])&s.hi == s.lo)
		case quickSrcPort:
			ok = h.set&s.set != 0 && uint32(be16(h.frame[h.port:]))-s.lo <= s.hi
		case quickDstPort:
			ok = h.set&s.set != 0 && uint32(be16(h.frame[h.port+2:]))-s.lo <= s.hi
		case quickPort:
			ok = h.set&s.set != 0 && ends(s.dir, uint32(be16(h.frame[h.port:]))-s.lo <= s.hi, uint32(be16(h.frame[h.port+2:]))-s.lo <= s.hi)
		case quickProto:
			ok = h.proto == s.proto && h.set&s.set != 0
		case quickFamily:
			ok = h.set&s.set != 0
		case quickLoadTransport:
			if h.proto == s.proto && h.set&s.set == s.set {
				v, whole := load(h.frame, h.port+int(s.off), s.size)
				if !whole {
					return false
				}
				ok = compared(s.rel, v&s.hi, s.lo)
			}
		case quickLoadNetwork:
			if h.set&s.set != 0 {
				v, whole := load(b, int(s.off), s.size)
				if !whole {
					return false
				}
				ok = compared(s.rel, v&s.hi, s.lo)
			}
		case quickLength:
			ok = compared(s.rel, h.wire&s.hi, s.lo)
		case quickHost6:
			if h.set&set6 != 0 {
				ok = ends(s.dir, s.wide6(b[8:24]), s.wide6(b[24:40]))
			}
		case quickMAC:
			ok = ends(s.dir, packet.MAC(h.frame[6:12]) == s.mac, packet.MAC(h.frame[:6]) == s.mac)
		case quickVLAN:
			if n := int(s.lo); n < int(h.tags) {
				ok = s.vlan.Has(be16(h.frame[14+4*n:]) & 0x0fff)
			}
		case quickIPMulticast:
			ok = h.set&set4 != 0 && ip4[16] >= 224
		case quickIP6Multicast:
			ok = h.set&set6 != 0 && b[24] == 255
		case quickEtherMulticast:
			ok = h.frame[0]&1 != 0
		case quickProgram:
			switch s.program.Verdict(h.frame, h.wire) {
			case Match:
				ok = true
			case Reject:
				return false
			}
		}
		// Branches, not a choice of values: the processor guesses and goes on.
		if ok {
			if pc = s.t; pc < 0 {
				return pc == yes
			}
		} else if pc = s.f; pc < 0 {
			return pc == yes
		}
	}
}

func (s *quickStep) wide6(a []byte) bool {
	return binary.BigEndian.Uint64(a)&s.wide[2] == s.wide[0] && binary.BigEndian.Uint64(a[8:])&s.wide[3] == s.wide[1]
}

func portsOf(proto uint8) uint8 {
	switch proto {
	case packet.ProtoTCP:
		return setTCP
	case packet.ProtoUDP:
		return setUDP
	case packet.ProtoSCTP:
		return setSCTP
	}
	return 0
}

// ends combines what holds of the two ends as the direction says.
func ends(d filter.Dir, src, dst bool) bool {
	switch d {
	case filter.DirSrc:
		return src
	case filter.DirDst:
		return dst
	case filter.DirBoth:
		return src && dst
	}
	return src || dst
}

// load reads octets in network order. ok is false if the frame ends before that.
func load(b []byte, off int, size uint8) (v uint32, ok bool) {
	if off+int(size) > len(b) {
		return 0, false
	}
	switch size {
	case 1:
		return uint32(b[off]), true
	case 2:
		return uint32(binary.BigEndian.Uint16(b[off:])), true
	}
	return binary.BigEndian.Uint32(b[off:]), true
}

func compared(r filter.RelOp, x, y uint32) bool {
	switch r {
	case filter.RelEQ:
		return x == y
	case filter.RelNE:
		return x != y
	case filter.RelGT:
		return x > y
	case filter.RelGE:
		return x >= y
	case filter.RelLT:
		return x < y
	}
	return x <= y
}
