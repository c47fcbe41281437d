package cbpf

import (
	"opentap/filter"
	"opentap/packet"
)

// aluOf maps the language's operations to BPF's.
var aluOf = [...]uint16{
	filter.OpAdd: aluAdd, filter.OpSub: aluSub, filter.OpMul: aluMul, filter.OpDiv: aluDiv, filter.OpMod: aluMod,
	filter.OpAnd: aluAnd, filter.OpOr: aluOr, filter.OpXor: aluXor, filter.OpShl: aluLsh, filter.OpShr: aluRsh,
}

// relation lowers a comparison. First come the checks that the protocols whose octets are read are there, then guards,
// then the comparison. As in libpcap, the checks of a value to the right of an operator are left out.
func (l *lowerer) relation(r *filter.Relation) cond {
	var c condAnd
	left, check := l.arith(r.L, &c)
	c2 := condAnd{}
	right, check2 := l.arith(r.R, &c2)
	checks := append(check, check2...)
	guards := append(c, c2...)
	op, negated := cmpEQ, false
	switch r.Op {
	case filter.RelNE:
		negated = true
	case filter.RelGT:
		op = cmpGT
	case filter.RelGE:
		op = cmpGE
	case filter.RelLT:
		op, negated = cmpGE, true
	case filter.RelLE:
		op, negated = cmpGT, true
	}
	if left.kind == xConst && right.kind != xConst && op == cmpEQ {
		left, right = right, left
	}
	var t cond
	if right.kind == xConst {
		t = l.test(left, 0xffffffff, op, right.off)
	} else {
		t = condTest(l.g.test(test{val: l.g.value(left, 0xffffffff), rhs: l.g.value(right, 0xffffffff), op: op}))
	}
	if negated {
		t = condNot{t}
	}
	return append(append(append(condAnd{}, checks...), guards...), t)
}

// arith lowers a value. checks are the protocol checks that belong before it; guards are added to *guards.
func (l *lowerer) arith(a filter.Arith, guards *condAnd) (x *expr, checks condAnd) {
	switch a := a.(type) {
	case *filter.Const:
		return constant(a.V), nil
	case *filter.Len:
		if l.compact && l.o.Target == Kernel {
			l.fail(0, "", "the length cannot be tested in a compact program for the kernel")
		}
		length := &expr{kind: xLen}
		if l.meta {
			length = combine(aluAdd, length, constant(4))
		}
		if l.depth > 0 { // where a tag is in the metadata, the payload's offset does not count it either
			length = combine(aluSub, &expr{kind: xLen}, &expr{kind: xMem, slot: l.sc.start})
		}
		return length, nil
	case *filter.Neg:
		x, checks = l.arith(a.X, guards)
		return negate(x), checks
	case *filter.Binary:
		left, checks := l.arith(a.L, guards)
		right, dropped := l.arith(a.R, guards)
		if len(dropped) > 0 && l.strictMeta() && l.sc.network < 16 {
			l.fail(0, "write the packet's octets to the left of the operator, and the number to the right",
				"octets to the right of an operator are read without checking the protocol, which a kernel filter cannot do on tagged frames")
		}
		if a.Op == filter.OpShl || a.Op == filter.OpShr {
			return shift(aluOf[a.Op], left, right), checks
		}
		return combine(aluOf[a.Op], left, right), checks
	case *filter.Load:
		return l.load(a, guards)
	}
	return constant(0), nil
}

func (l *lowerer) load(a *filter.Load, guards *condAnd) (*expr, condAnd) {
	index, checks := l.arith(a.Index, guards)
	if index.kind != xConst && l.o.Target == Kernel && bound(index) > 0xffff {
		// The kernel adds modulo 2^32 and takes large offsets for requests of metadata.
		g := l.test(index, 0xffffffff, cmpGT, 0xffff)
		if t, ok := g.(condTest); ok {
			*guards = append(*guards, condGuard(t))
		}
	}
	switch a.Proto {
	case filter.Link:
		return l.etherLoad(a, index), checks
	case filter.TCP, filter.UDP, filter.SCTP, filter.ICMP, filter.IGMP, filter.IGRP, filter.PIM, filter.VRRP, filter.CARP:
		layer, num, _ := a.Proto.Meaning()
		c := condAnd{l.linkType(0x0800, a.Pos)}
		c = append(append(c, checks...), l.proto(layer, num, a.Pos), l.firstFragment())
		if index.kind == xConst {
			return l.transport(nil, index.off, a.Size), c
		}
		return l.transport(index, 0, a.Size), c
	case filter.ICMP6:
		c := append(condAnd{l.linkType(0x86dd, a.Pos)}, checks...)
		c = append(c, l.test(l.at(l.sc.network+6, 1), 0xffffffff, cmpEQ, 58))
		return l.networkLoad(index, 40, a.Size), c
	}
	layer, num, _ := a.Proto.Meaning()
	return l.networkLoad(index, 0, a.Size), append(checks, l.proto(layer, num, a.Pos))
}

// networkLoad reads at index + off from the network header.
func (l *lowerer) networkLoad(index *expr, off uint32, size uint8) *expr {
	if index.kind == xConst {
		if index.off >= beyond-1024 {
			return abs(beyond, size)
		}
		return l.at(l.sc.network+off+index.off, size)
	}
	at := l.sc.network + off
	if l.strictMeta() && at >= 16 {
		at -= 4
	}
	kind := xInd
	if l.sc.net != 0 {
		kind = xSft
	}
	l.known()
	return &expr{kind: kind, slot: l.sc.net, size: size, off: at, a: index}
}

// shift moves a by b bits; more than 31 leave nothing. Kernels do not agree on that, so the program never shifts by more:
// the result is multiplied by 1 or 0.
func shift(op uint16, a, b *expr) *expr {
	if b.kind == xConst {
		if b.off > 31 {
			return combine(aluAnd, a, constant(0))
		}
		return combine(op, a, b)
	}
	fits := combine(aluRsh, combine(aluSub, combine(aluRsh, b, constant(5)), constant(1)), constant(31))
	return combine(aluMul, combine(op, a, combine(aluAnd, b, constant(31))), fits)
}

// etherLoad reads from the start of the frame. In tag-transparent mode the tags are not there.
func (l *lowerer) etherLoad(a *filter.Load, index *expr) *expr {
	shift := 4 * uint32(l.tags)
	if l.o.Strict || l.sc.link != packet.LinkEthernet {
		shift = 0
	}
	if l.sc.geneve && (!l.o.Strict || index.kind != xConst) {
		l.fail(a.Pos, "use inner(...)", "octets of the frame behind geneve are read in strict mode at a fixed offset only")
	}
	if l.depth > 0 || l.sc.geneve {
		if index.kind == xConst && (shift == 0 || index.off+uint32(a.Size) <= 12 || index.off >= 12 && index.off < beyond-1024) {
			if index.off >= 12 {
				return l.frame(index.off+shift, a.Size)
			}
			return l.frame(index.off, a.Size)
		}
	}
	if index.kind == xConst {
		switch {
		case shift == 0 && !l.compact:
			return l.at(index.off, a.Size)
		case index.off >= beyond-1024:
			return abs(beyond, a.Size)
		case index.off >= 12:
			return l.shifted(index.off+shift, a.Size)
		case index.off+uint32(a.Size) <= 12:
			return l.frame(index.off, a.Size)
		}
		return joinOctets(a.Size, func(i uint32) *expr {
			if o := index.off + i; o >= 12 {
				return l.shifted(o+shift, 1)
			}
			return l.frame(index.off+i, 1)
		})
	}
	if l.sc.link == packet.LinkEthernet && (!l.o.Strict || l.o.Target == Kernel && l.depth == 0) {
		l.fail(a.Pos, "use a fixed offset, or ip[...]", "a computed offset into ether is supported in strict mode on files only")
	}
	if l.sc.start != 0 {
		return &expr{kind: xSft, slot: l.sc.start, size: a.Size, a: index}
	}
	return &expr{kind: xInd, size: a.Size, a: index}
}

// shifted reads behind the tags: off is right already unless the program is a compact one.
func (l *lowerer) shifted(off uint32, size uint8) *expr {
	if l.compact {
		return l.at(off, size)
	}
	return l.frame(off, size)
}
