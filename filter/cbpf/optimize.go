package cbpf

// facts are what is known on all ways to a node.
type facts struct {
	outcome []uint8  // per test: 0 unknown, 1 true, 2 false
	known   []bool   // per value: its number is known
	number  []uint32 // per value: the number
	loaded  []bool   // per value: computed before, so computing it again cannot reject
	valid   bool     // something was merged into it
}

func newFacts(tests, values int) *facts {
	return &facts{outcome: make([]uint8, tests), known: make([]bool, values), number: make([]uint32, values), loaded: make([]bool, values)}
}

func (s *facts) copyFrom(o *facts) {
	copy(s.outcome, o.outcome)
	copy(s.known, o.known)
	copy(s.number, o.number)
	copy(s.loaded, o.loaded)
	s.valid = true
}

// merge keeps what both know.
func (s *facts) merge(o *facts) {
	if !s.valid {
		s.copyFrom(o)
		return
	}
	for i, v := range o.outcome {
		if s.outcome[i] != v {
			s.outcome[i] = 0
		}
	}
	for i := range s.known {
		if !o.known[i] || s.number[i] != o.number[i] {
			s.known[i] = false
		}
		s.loaded[i] = s.loaded[i] && o.loaded[i]
	}
}

// forget drops what is known of values that read a memory word, as it is about to change.
func (g *graph) forget(s *facts, word uint32) {
	bit := uint32(1) << word
	for i, v := range g.values {
		if v.uses&bit != 0 {
			s.known[i], s.loaded[i] = false, false
		}
	}
	for i, t := range g.tests {
		if t.op == cmpSto && t.k == word || g.values[t.val].uses&bit != 0 || t.rhs >= 0 && g.values[t.rhs].uses&bit != 0 {
			s.outcome[i] = 0
		}
	}
}

// learn adds the outcome of a test.
func (g *graph) learn(s *facts, i int32, outcome bool) {
	t := g.tests[i]
	if t.op == cmpSto {
		g.forget(s, t.k)
	}
	s.outcome[i] = 2
	if outcome || t.op == cmpSto {
		s.outcome[i] = 1
	}
	v := g.values[t.val]
	s.loaded[v.full] = true
	if t.rhs >= 0 {
		s.loaded[g.values[t.rhs].full] = true
		return
	}
	if outcome && t.op == cmpEQ {
		s.known[t.val], s.number[t.val] = true, t.k
	}
}

// decided returns the outcome of a test if the facts decide it.
func (g *graph) decided(s *facts, i int32) (outcome, ok bool) {
	switch s.outcome[i] {
	case 1:
		return true, true
	case 2:
		return false, true
	}
	t := g.tests[i]
	if t.rhs >= 0 {
		return false, false
	}
	v := g.values[t.val]
	var n uint32
	switch {
	case s.known[t.val]:
		n = s.number[t.val]
	case s.known[v.full]:
		n = s.number[v.full] & v.mask
	default:
		return false, false
	}
	switch t.op {
	case cmpEQ:
		return n == t.k, true
	case cmpGT:
		return n > t.k, true
	case cmpGE:
		return n >= t.k, true
	}
	return n&t.k != 0, true
}

// optimize lets every edge skip the tests that are decided when it is taken, and returns the new entry. Skipping is only
// done where the test's value was computed before, so the same packets are rejected for being too short.
func (g *graph) optimize(root int32) int32 {
	for range 6 {
		old := root
		var changed bool
		root, changed = g.pass(root)
		root = g.share(root)
		if !changed && root == old {
			break
		}
	}
	return root
}

// share makes nodes that have become equal one, as the ways for ARP and RARP do, and drops the ones not reached.
func (g *graph) share(root int32) int32 {
	order := g.reachable(root)
	old := g.nodes
	g.nodes = []node{{test: -1}, {test: -1}}
	clear(g.nodeIdx)
	g.overflow = false
	moved := make([]int32, len(old))
	moved[nodeAccept] = nodeAccept
	for _, n := range order {
		o := old[n]
		moved[n] = g.node(o.test, moved[o.t], moved[o.f])
	}
	return moved[root]
}

func (g *graph) pass(root int32) (int32, bool) {
	if root <= nodeAccept {
		return root, false
	}
	changed := false
	in := make([]*facts, root+1)
	var free []*facts
	scratch := newFacts(len(g.tests), len(g.values))
	in[root] = newFacts(len(g.tests), len(g.values))
	in[root].valid = true
	for n := root; n > nodeAccept; n-- {
		s := in[n]
		if s == nil {
			continue
		}
		nd := g.nodes[n]
		for _, way := range [2]bool{true, false} {
			scratch.copyFrom(s)
			g.learn(scratch, nd.test, way)
			to := nd.t
			if !way {
				to = nd.f
			}
			for to > nodeAccept {
				m := g.nodes[to]
				if outcome, ok := g.decided(scratch, m.test); ok {
					to = m.f
					if outcome {
						to = m.t
					}
				} else if m.t == m.f && g.tests[m.test].op != cmpSto && g.alreadyLoaded(scratch, m.test) {
					to = m.t
				} else {
					break
				}
			}
			if way && to != nd.t {
				g.nodes[n].t, changed = to, true
			} else if !way && to != nd.f {
				g.nodes[n].f, changed = to, true
			}
			if to > nodeAccept {
				if in[to] == nil {
					if l := len(free); l > 0 {
						in[to], free = free[l-1], free[:l-1]
						in[to].valid = false
					} else {
						in[to] = newFacts(len(g.tests), len(g.values))
					}
				}
				in[to].merge(scratch)
			}
		}
		free = append(free, s)
		in[n] = nil
	}
	r := g.nodes[root]
	if r.t == r.f && !g.testRejects(r.test) {
		return r.t, true
	}
	return root, changed
}

func (g *graph) alreadyLoaded(s *facts, i int32) bool {
	t := g.tests[i]
	return s.loaded[g.values[t.val].full] && (t.rhs < 0 || s.loaded[g.values[t.rhs].full])
}
