package cbpf

import "fmt"

// cmpOp is a BPF jump condition.
type cmpOp uint8

const (
	cmpEQ  cmpOp = 0x10
	cmpGT  cmpOp = 0x20
	cmpGE  cmpOp = 0x30
	cmpSet cmpOp = 0x40
	cmpSto cmpOp = 0 // no comparison: the value is put into memory word k, and both ways are the same
)

// test compares (value & mask) with k, or value with another value.
type test struct {
	val int32 // index into graph.values
	rhs int32 // index into graph.values, or -1: k
	op  cmpOp
	k   uint32
}

// value is an expression and a mask, both interned.
type value struct {
	x    *expr
	mask uint32
	full int32  // the same expression without mask; itself if mask is all ones
	uses uint32 // bit n: memory word n is read
}

// node is one test with its two ways on. Indices 0 and 1 are the ends.
type node struct {
	test int32
	t, f int32
}

const (
	nodeReject int32 = 0
	nodeAccept int32 = 1
)

// maxNodes bounds the graph before optimization. A graph this big does not become a program of 4096 instructions.
const maxNodes = 1 << 15

// graph holds interned values, tests and nodes. Children have smaller indices than their parents.
type graph struct {
	values   []value
	valueIdx map[string]int32
	tests    []test
	testIdx  map[test]int32
	nodes    []node
	nodeIdx  map[node]int32
	keyBuf   []byte
	overflow bool
	words    uint32 // memory words from here on are taken
}

func newGraph() *graph {
	return &graph{
		words:    allWords,
		valueIdx: map[string]int32{}, testIdx: map[test]int32{}, nodeIdx: map[node]int32{},
		nodes: []node{{test: -1}, {test: -1}},
	}
}

func (g *graph) value(x *expr, mask uint32) int32 {
	g.keyBuf = x.appendKey(g.keyBuf[:0])
	g.keyBuf = fmt.Appendf(g.keyBuf, "&%x", mask)
	if i, ok := g.valueIdx[string(g.keyBuf)]; ok {
		return i
	}
	key := string(g.keyBuf)
	full := int32(-1)
	if mask != 0xffffffff {
		full = g.value(x, 0xffffffff)
	}
	i := int32(len(g.values))
	if full < 0 {
		full = i
	}
	g.values = append(g.values, value{x: x, mask: mask, full: full, uses: x.words()})
	g.valueIdx[key] = i
	return i
}

func (g *graph) test(t test) int32 {
	if i, ok := g.testIdx[t]; ok {
		return i
	}
	i := int32(len(g.tests))
	g.tests = append(g.tests, t)
	g.testIdx[t] = i
	return i
}

// node returns the node for the test with these ways on.
func (g *graph) node(testIdx, t, f int32) int32 {
	if t == f && !g.testRejects(testIdx) {
		return t
	}
	n := node{testIdx, t, f}
	if i, ok := g.nodeIdx[n]; ok {
		return i
	}
	if len(g.nodes) >= maxNodes {
		g.overflow = true
		return nodeReject
	}
	i := int32(len(g.nodes))
	g.nodes = append(g.nodes, n)
	g.nodeIdx[n] = i
	return i
}

// testRejects reports whether a node of the test must be kept even if both its ways are the same.
func (g *graph) testRejects(i int32) bool {
	t := g.tests[i]
	return t.op == cmpSto || g.values[t.val].x.mayReject() || t.rhs >= 0 && g.values[t.rhs].x.mayReject()
}

// choose builds a node that is only there to select a way: if both ways are the same, it is left away even if its load
// could reject.
func (g *graph) choose(testIdx, t, f int32) int32 {
	if t == f {
		return t
	}
	return g.node(testIdx, t, f)
}

// cond is a condition over tests.
type cond interface{}

type (
	condAnd  []cond
	condOr   []cond
	condNot  struct{ c cond }
	condTest int32
	condBool bool
	// condGuard rejects the packet, whatever is around it, if the test holds.
	condGuard int32
	// condStore puts a value into a memory word, and holds.
	condStore int32
	// condIf is yes if c holds, no otherwise. One that only selects is left away if both are the same, even if c could
	// reject.
	condIf struct {
		c, yes, no cond
		selects    bool
	}
	// condShared is built once for the same ways on.
	condShared struct {
		c     cond
		built map[[2]int32]int32
	}
)

func shared(c cond) *condShared { return &condShared{c, map[[2]int32]int32{}} }

// build returns the entry of a graph that goes to t if c holds and to f if not.
func (g *graph) build(c cond, t, f int32) int32 {
	switch c := c.(type) {
	case condAnd:
		for i := len(c) - 1; i >= 0; i-- {
			t = g.build(c[i], t, f)
		}
		return t
	case condOr:
		for i := len(c) - 1; i >= 0; i-- {
			f = g.build(c[i], t, f)
		}
		return f
	case condNot:
		return g.build(c.c, f, t)
	case condTest:
		return g.node(int32(c), t, f)
	case condStore:
		return g.node(int32(c), t, t)
	case condIf:
		t, f = g.build(c.yes, t, f), g.build(c.no, t, f)
		if c.selects && t == f {
			return t
		}
		return g.build(c.c, t, f)
	case *condShared:
		n, ok := c.built[[2]int32{t, f}]
		if !ok {
			n = g.build(c.c, t, f)
			c.built[[2]int32{t, f}] = n
		}
		return n
	case condGuard:
		return g.node(int32(c), nodeReject, t)
	case condBool:
		if c {
			return t
		}
	}
	return f
}
