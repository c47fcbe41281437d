package cbpf

import (
	"fmt"

	"golang.org/x/net/bpf"
)

// BPF opcode parts (linux/bpf_common.h).
const (
	opLdImm  = 0x00
	opLdLen  = 0x80
	opLdAbs  = 0x20 // | size
	opLdInd  = 0x40 // | size
	opLdMem  = 0x60
	opLdxMem = 0x61
	opLdxMSH = 0xb1
	opSt     = 0x02
	opAlu    = 0x04
	opJa     = 0x05
	opJmp    = 0x05
	opRetK   = 0x06
	opTax    = 0x07
	srcX     = 0x08
	sizeH    = 0x08
	sizeB    = 0x10
)

func sizeBits(n uint8) uint16 {
	switch n {
	case 1:
		return sizeB
	case 2:
		return sizeH
	}
	return 0
}

// registers say which value the accumulator holds and which header length X holds, -1 if unknown.
type registers struct {
	a int32
	x int64
}

var unknown = registers{-1, -1}

// holds is registers.x when X holds a memory word.
func holds(slot uint8) int64 { return -2 - int64(slot) }

// emit lays the graph out. Code is written from the end, so that the distance of every jump is known when it is written.
func (g *graph) emit(root int32, snapLen uint32) ([]bpf.RawInstruction, error) {
	order := g.reachable(root)
	entry := g.registersAt(root, order)
	rev := []bpf.RawInstruction{{Op: opRetK, K: 0}, {Op: opRetK, K: snapLen}}
	if root == nodeAccept {
		return []bpf.RawInstruction{{Op: opRetK, K: snapLen}}, nil
	}
	if root == nodeReject {
		return []bpf.RawInstruction{{Op: opRetK, K: 0}}, nil
	}
	start := make(map[int32]int, len(order)+2) // where a node's code begins in rev
	start[nodeReject], start[nodeAccept] = 0, 1
	for _, n := range order {
		code, jump, err := g.code(n, entry[n])
		if err != nil {
			return nil, err
		}
		nd := g.nodes[n]
		st, sf := start[nd.t], start[nd.f]
		if g.tests[nd.test].op == cmpSto {
			if d := len(rev) - 1 - st; d > 0 {
				rev = append(rev, bpf.RawInstruction{Op: opJa, K: uint32(d)})
			}
			for i := len(code) - 1; i >= 0; i-- {
				rev = append(rev, code[i])
			}
			start[n] = len(rev) - 1
			continue
		}
		// A jump reaches 255 instructions; further ways go through an unconditional jump beside it.
		if len(rev)-1-sf > 254 {
			rev = append(rev, bpf.RawInstruction{Op: opJa, K: uint32(len(rev) - 1 - sf)})
			sf = len(rev) - 1
		}
		if len(rev)-1-st > 255 {
			rev = append(rev, bpf.RawInstruction{Op: opJa, K: uint32(len(rev) - 1 - st)})
			st = len(rev) - 1
		}
		jump.Jt, jump.Jf = uint8(len(rev)-1-st), uint8(len(rev)-1-sf)
		rev = append(rev, jump)
		for i := len(code) - 1; i >= 0; i-- {
			rev = append(rev, code[i])
		}
		start[n] = len(rev) - 1
		if len(rev) > 4*MaxInstructions {
			break
		}
	}
	if len(rev) > MaxInstructions {
		return nil, fmt.Errorf("compile filter: %w: it needs more than %d instructions, the most that a kernel takes",
			ErrTooBig, MaxInstructions)
	}
	for i, j := 0, len(rev)-1; i < j; i, j = i+1, j-1 {
		rev[i], rev[j] = rev[j], rev[i]
	}
	return rev, nil
}

// reachable lists the nodes that root leads to, every node after the ones it leads to.
func (g *graph) reachable(root int32) []int32 {
	var order []int32
	seen := map[int32]bool{nodeReject: true, nodeAccept: true}
	type frame struct {
		n    int32
		next int
	}
	var stack []frame
	push := func(n int32) {
		if !seen[n] {
			seen[n] = true
			stack = append(stack, frame{n: n})
		}
	}
	push(root)
	for len(stack) > 0 {
		f := &stack[len(stack)-1]
		f.next++
		switch f.next {
		case 1:
			push(g.nodes[f.n].t)
		case 2:
			push(g.nodes[f.n].f)
		default:
			order = append(order, f.n)
			stack = stack[:len(stack)-1]
		}
	}
	return order
}

// registersAt finds what the registers hold at the entry of each node, whichever way it was reached.
func (g *graph) registersAt(root int32, order []int32) map[int32]registers {
	in := make(map[int32]registers, len(order))
	in[root] = unknown
	for i := len(order) - 1; i >= 0; i-- {
		n := order[i]
		out := g.after(n, in[n])
		for _, to := range [2]int32{g.nodes[n].t, g.nodes[n].f} {
			if to <= nodeAccept {
				continue
			}
			r, ok := in[to]
			if !ok {
				in[to] = out
				continue
			}
			if r.a != out.a {
				r.a = -1
			}
			if r.x != out.x {
				r.x = -1
			}
			in[to] = r
		}
	}
	return in
}

// after says what the registers hold behind node n.
func (g *graph) after(n int32, in registers) registers {
	t := g.tests[g.nodes[n].test]
	x := g.values[t.val].x
	out := registers{a: t.val, x: in.x}
	switch {
	case t.rhs >= 0:
		out.x = -1
	case in.a == t.val, in.a == g.values[t.val].full:
	case x.kind == xMSH && x.a == nil:
		out.x = int64(x.base)
	case x.kind == xSft && x.a == nil:
		out.x = holds(x.slot)
	case x.kind != xAbs && x.kind != xLen && x.kind != xMem:
		out.x = -1
	}
	if t.op == cmpSto && t.k <= 0xff && out.x == holds(uint8(t.k)) {
		out.x = -1
	}
	return out
}

// code returns the instructions of node n before its jump, and the jump.
func (g *graph) code(n int32, in registers) (code []bpf.RawInstruction, jump bpf.RawInstruction, err error) {
	t := g.tests[g.nodes[n].test]
	v := g.values[t.val]
	jump = bpf.RawInstruction{Op: opJmp | uint16(t.op), K: t.k}
	c := coder{limit: g.words}
	switch {
	case t.rhs >= 0:
		c.eval(g.values[t.rhs].x, 0)
		c.put(opSt, 0)
		c.eval(v.x, 1)
		c.put(opLdxMem, 0)
		jump.Op |= srcX
		jump.K = 0
		return c.code, jump, c.err
	case in.a == t.val && t.op != cmpSto:
		return nil, jump, nil
	case in.a == v.full:
	case v.x.kind == xMSH && v.x.a == nil && in.x == int64(v.x.base):
		c.put(opLdInd|sizeBits(v.x.size), v.x.off)
	case v.x.kind == xSft && v.x.a == nil && in.x == holds(v.x.slot):
		c.put(opLdInd|sizeBits(v.x.size), v.x.off)
	default:
		c.eval(v.x, 0)
	}
	if v.mask != 0xffffffff {
		c.put(opAlu|aluAnd, v.mask)
	}
	if t.op == cmpSto {
		c.put(opSt, t.k)
	}
	return c.code, jump, c.err
}

// coder writes straight code.
type coder struct {
	code  []bpf.RawInstruction
	limit uint32 // memory words below it may be used
	err   error
}

func (c *coder) put(op uint16, k uint32) {
	c.code = append(c.code, bpf.RawInstruction{Op: op, K: k})
}

// eval leaves x in the accumulator, using memory words from slot on. X is overwritten.
func (c *coder) eval(x *expr, slot uint32) {
	if slot >= c.limit {
		c.err = fmt.Errorf("compile filter: %w: a calculation needs more than %d memory words", ErrTooBig, c.limit)
		return
	}
	switch x.kind {
	case xConst:
		c.put(opLdImm, x.off)
	case xLen:
		c.put(opLdLen, 0)
	case xAbs:
		c.put(opLdAbs|sizeBits(x.size), x.off)
	case xInd:
		c.eval(x.a, slot)
		c.put(opTax, 0)
		c.put(opLdInd|sizeBits(x.size), x.off)
	case xMSH:
		if x.a != nil {
			c.eval(x.a, slot)
		}
		c.put(opLdxMSH, x.base)
		if x.a != nil {
			c.put(opAlu|aluAdd|srcX, 0)
			c.put(opTax, 0)
		}
		c.put(opLdInd|sizeBits(x.size), x.off)
	case xMem:
		c.put(opLdMem, uint32(x.slot))
	case xSft:
		if x.a != nil {
			c.eval(x.a, slot)
		}
		c.put(opLdxMem, uint32(x.slot))
		if x.a != nil {
			c.put(opAlu|aluAdd|srcX, 0)
			c.put(opTax, 0)
		}
		c.put(opLdInd|sizeBits(x.size), x.off)
	case xSMH:
		if x.a != nil {
			c.eval(x.a, slot)
			c.put(opSt, slot)
		}
		c.put(opLdxMem, uint32(x.slot))
		c.put(opLdInd|sizeB, x.base)
		c.put(opAlu|aluAnd, 15)
		c.put(opAlu|aluLsh, 2)
		c.put(opAlu|aluAdd|srcX, 0)
		if x.a != nil {
			c.put(opLdxMem, slot)
			c.put(opAlu|aluAdd|srcX, 0)
		}
		c.put(opTax, 0)
		c.put(opLdInd|sizeBits(x.size), x.off)
	case xNeg:
		c.eval(x.a, slot)
		// Multiplying by -1 is the same as BPF_NEG, which not every interpreter has (x/net/bpf's skips it).
		c.put(opAlu|aluMul, 0xffffffff)
	case xBin:
		if x.b.kind == xConst {
			c.eval(x.a, slot)
			c.put(opAlu|x.op, x.b.off)
			return
		}
		c.eval(x.b, slot)
		c.put(opSt, slot)
		c.eval(x.a, slot+1)
		c.put(opLdxMem, slot)
		c.put(opAlu|x.op|srcX, 0)
	}
}
