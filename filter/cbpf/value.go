package cbpf

import "encoding/binary"

// Ancillary offsets of the kernel's extended loads (linux/filter.h: SKF_AD_OFF + SKF_AD_*).
const (
	ancBase        = 0xfffff000
	ancPktType     = ancBase + 4
	ancVLANTag     = ancBase + 44
	ancVLANPresent = ancBase + 48
	ancVLANTPID    = ancBase + 60
)

// beyond is an offset that no frame has; reading there rejects the packet.
const beyond = 0x7ffffff0

// exprKind says what an expr computes.
type exprKind uint8

const (
	xConst exprKind = iota
	xLen
	xAbs // size octets at off
	xInd // size octets at off + a
	xMSH // size octets at off + 4*(octet base & 15) [+ a]
	xBin // a op b
	xNeg // -a
	xMem // memory word slot
	xSft // size octets at off + memory word slot [+ a]
	xSMH // size octets at off + memory word slot + 4*(octet base + memory word slot & 15) [+ a]
)

// Memory words.
const (
	shiftWord      = 15 // the length of the tags, in a compact program
	innerWord      = 14 // where the payload of the outermost tunnel begins; of the next, the word below
	geneveFrame    = 12 // behind geneve: where the frame begins that it carries
	geneveLinkType = 11 // its EtherType
	geneveNetwork  = 10 // its network header
	transportWord  = 9  // where the transport header is in which inner looks for a tunnel; of the tunnel in it, the word below
	allWords       = 16
)

// expr computes the accumulator. Exprs are immutable.
type expr struct {
	kind exprKind
	size uint8
	slot uint8  // xMem, xSft, xSMH
	op   uint16 // xBin: BPF_ALU operation
	off  uint32 // xConst: the value
	base uint32
	a, b *expr
}

// BPF ALU operations.
const (
	aluAdd = 0x00
	aluSub = 0x10
	aluMul = 0x20
	aluDiv = 0x30
	aluOr  = 0x40
	aluAnd = 0x50
	aluLsh = 0x60
	aluRsh = 0x70
	aluNeg = 0x80
	aluMod = 0x90
	aluXor = 0xa0
)

func constant(v uint32) *expr { return &expr{kind: xConst, off: v} }

func abs(off uint32, size uint8) *expr { return &expr{kind: xAbs, off: off, size: size} }

// combine makes a op b, folding constants.
func combine(op uint16, a, b *expr) *expr {
	if a.kind == xConst && b.kind == xConst {
		if v, ok := calculate(op, a.off, b.off); ok {
			return constant(v)
		}
	}
	if (op == aluDiv || op == aluMod) && b.kind == xConst && b.off == 0 {
		return abs(beyond, 1) // rejects, as the division would; kernels refuse to load a division by the constant 0
	}
	return &expr{kind: xBin, op: op, a: a, b: b}
}

// calculate is the ALU. ok is false where the kernel would reject the packet or where kernels differ.
func calculate(op uint16, x, y uint32) (v uint32, ok bool) {
	switch op {
	case aluAdd:
		return x + y, true
	case aluSub:
		return x - y, true
	case aluMul:
		return x * y, true
	case aluDiv:
		if y == 0 {
			return 0, false
		}
		return x / y, true
	case aluMod:
		if y == 0 {
			return 0, false
		}
		return x % y, true
	case aluOr:
		return x | y, true
	case aluAnd:
		return x & y, true
	case aluXor:
		return x ^ y, true
	case aluLsh:
		return x << (y & 31), y < 32
	case aluRsh:
		return x >> (y & 31), y < 32
	}
	return 0, false
}

func negate(a *expr) *expr {
	if a.kind == xConst {
		return constant(-a.off)
	}
	return &expr{kind: xNeg, a: a}
}

// bound is the largest value that e can have.
func bound(e *expr) uint64 {
	const all = 0xffffffff
	switch e.kind {
	case xConst:
		return uint64(e.off)
	case xAbs, xInd, xMSH, xSft, xSMH:
		return 1<<(8*uint64(e.size)) - 1
	case xBin:
		a, b := bound(e.a), bound(e.b)
		switch e.op {
		case aluAnd:
			return min(a, b)
		case aluAdd:
			return min(a+b, all)
		case aluMul:
			if a < 1<<16 && b < 1<<16 {
				return min(a*b, all)
			}
		case aluDiv, aluRsh, aluMod:
			return a
		case aluLsh:
			if e.b.kind == xConst {
				return min(a<<(e.b.off&31), all)
			}
		}
	}
	return all
}

// appendKey writes a unique description of e, used to find equal ones.
func (e *expr) appendKey(b []byte) []byte {
	b = append(b, byte(e.kind), e.size, e.slot, byte(e.op))
	b = binary.BigEndian.AppendUint32(b, e.off)
	b = binary.BigEndian.AppendUint32(b, e.base)
	for _, s := range [...]*expr{e.a, e.b} {
		if s == nil {
			b = append(b, 0)
			continue
		}
		b = append(b, 1)
		b = s.appendKey(b)
	}
	return b
}

// words says which memory words e reads: bit n for word n.
func (e *expr) words() uint32 {
	w := uint32(0)
	if e.kind == xMem || e.kind == xSft || e.kind == xSMH {
		w = 1 << e.slot
	}
	for _, s := range [...]*expr{e.a, e.b} {
		if s != nil {
			w |= s.words()
		}
	}
	return w
}

// mayReject reports whether computing e can reject the packet: all but constants, len, memory and ancillary data.
func (e *expr) mayReject() bool {
	switch e.kind {
	case xConst, xLen, xMem:
		return false
	case xAbs:
		return e.off < ancBase
	case xNeg:
		return e.a.mayReject()
	case xBin:
		if (e.op == aluDiv || e.op == aluMod) && e.b.kind != xConst {
			return true
		}
		return e.a.mayReject() || e.b.mayReject()
	}
	return true
}
