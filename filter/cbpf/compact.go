package cbpf

import (
	"fmt"

	"golang.org/x/net/bpf"

	"opentap/filter"
)

// compileCompact makes a tag-transparent program with one way for all shapes of frame. Its prologue measures the tags once;
// every load behind the addresses adds that length. It is a third as long as a program with a way for each shape, and
// somewhat slower. Conditions on the tags themselves, and on the length in the kernel, differ between shapes and are not
// possible in it.
func compileCompact(e *filter.Expr, o Options) ([]bpf.RawInstruction, error) {
	g := newGraph()
	l := &lowerer{
		g: g, o: o, text: e.Text, compact: true,
		sc: scope{link: o.Link, linkType: 12, network: 14, typ: shiftWord, net: shiftWord},
	}
	g.reserve(shiftWord)
	c := l.node(e.Root)
	if l.err != nil {
		return nil, l.err
	}
	body, err := g.finish(g.build(c, nodeAccept, nodeReject), o.SnapLen)
	if err != nil {
		return nil, err
	}
	p := append(prologue(o.Target), body...)
	if len(p) > MaxInstructions {
		return nil, fmt.Errorf("compile filter: %w", ErrTooBig)
	}
	return p, nil
}

// prologue stores the length of the tags in the octets, at most maxTags counting one in the metadata, in shiftWord.
func prologue(t Target) []bpf.RawInstruction {
	jeq := func(k uint32, jt, jf uint8) bpf.RawInstruction {
		return bpf.RawInstruction{Op: opJmp | uint16(cmpEQ), Jt: jt, Jf: jf, K: k}
	}
	ldh := func(off uint32) bpf.RawInstruction { return bpf.RawInstruction{Op: opLdAbs | sizeH, K: off} }
	imm := func(k uint32) bpf.RawInstruction { return bpf.RawInstruction{Op: opLdImm, K: k} }
	ja := func(k uint32) bpf.RawInstruction { return bpf.RawInstruction{Op: opJa, K: k} }
	p := []bpf.RawInstruction{
		ldh(12), jeq(tagTypes[0], 2, 0), jeq(tagTypes[1], 1, 0), jeq(tagTypes[2], 0, 6),
		ldh(16), jeq(tagTypes[0], 6, 0), jeq(tagTypes[1], 5, 0), jeq(tagTypes[2], 4, 0),
		imm(4), ja(3), // one tag
		imm(0), ja(1), // none
		imm(8), // two
		{Op: opSt, K: shiftWord},
	}
	if t != Kernel {
		return p
	}
	// With a tag in the metadata one more is looked for in the octets.
	return append([]bpf.RawInstruction{
		{Op: opLdAbs, K: ancVLANPresent},
		jeq(0, 4, 0),
		ldh(12), jeq(tagTypes[0], 10, 0), jeq(tagTypes[1], 9, 0), jeq(tagTypes[2], 8, 10),
	}, p...)
}
