package fabric

import (
	"fmt"
	"slices"
	"strings"

	"opentap/wire/of13"
)

// way is a tree of switches along which copies with one tag travel.
type way struct {
	tag   uint16
	tree  *tree
	rules map[uint64][]*Rule
}

// maze is who is connected with whom.
type maze struct {
	cables map[[2]uint64][]Link // by switches, lower first; sorted
	next   map[uint64][]uint64  // neighbours, sorted
}

func newMaze(links []Link) *maze {
	m := &maze{cables: make(map[[2]uint64][]Link), next: make(map[uint64][]uint64)}
	for _, k := range links { // they are sorted
		pair := [2]uint64{k.A.Switch, k.B.Switch}
		m.cables[pair] = append(m.cables[pair], k)
	}
	for pair := range m.cables {
		m.next[pair[0]] = append(m.next[pair[0]], pair[1])
		m.next[pair[1]] = append(m.next[pair[1]], pair[0])
	}
	for _, list := range m.next {
		slices.Sort(list)
	}
	return m
}

// between are the cables of two switches.
func (m *maze) between(a, b uint64) []Link {
	if a > b {
		a, b = b, a
	}
	return m.cables[[2]uint64{a, b}]
}

// Costs of going from one switch to the next.
const (
	costHop      = 1
	costFlapping = 1000 // when there is no other way
	costNever    = 1 << 30
)

func (m *maze) cost(a, b uint64) int {
	best := costNever
	for _, k := range m.between(a, b) {
		switch {
		case !k.Up:
		case k.Problem != "" && !k.Confirmed && !k.Static || strings.HasPrefix(k.Problem, "changed more"):
			best = min(best, costFlapping)
		default:
			best = min(best, costHop)
		}
	}
	return best
}

// tree is the cheapest way from a root to every switch that can be reached.
type tree struct {
	root   uint64
	parent map[uint64]uint64
}

// cheapest computes it (Dijkstra). Among equals the lower datapath id wins, so that the same fabric gives the same tree.
func (m *maze) cheapest(root uint64) *tree {
	t := &tree{root: root, parent: make(map[uint64]uint64)}
	cost := map[uint64]int{root: 0}
	done := make(map[uint64]bool)
	for {
		at, best := uint64(0), costNever
		for s, c := range cost {
			if !done[s] && (c < best || c == best && s < at) {
				at, best = s, c
			}
		}
		if best == costNever {
			return t
		}
		done[at] = true
		for _, n := range m.next[at] {
			c := m.cost(at, n)
			if c == costNever || done[n] {
				continue
			}
			if have, ok := cost[n]; !ok || best+c < have {
				cost[n], t.parent[n] = best+c, at
			}
		}
	}
}

// line is the switches from the root to one, without the root; nil when it cannot be reached.
func (t *tree) line(root, to uint64) []uint64 {
	var out []uint64
	for at := to; at != root; {
		p, ok := t.parent[at]
		if !ok {
			return nil
		}
		out = append(out, at)
		at = p
	}
	slices.Reverse(out)
	return out
}

// prune leaves what leads to the switches given.
func (t *tree) prune(to []uint64) *tree {
	out := &tree{root: t.root, parent: make(map[uint64]uint64)}
	for _, s := range to {
		for _, at := range t.line(t.root, s) {
			out.parent[at] = t.parent[at]
		}
	}
	return out
}

// children are the next switches, sorted.
func (t *tree) children(at uint64) []uint64 {
	var out []uint64
	for s, p := range t.parent {
		if p == at {
			out = append(out, s)
		}
	}
	slices.Sort(out)
	return out
}

// NoWay begins the reason of a policy whose tool cannot be reached over the links that are known.
const NoWay = "there is no way"

// way returns the way from a switch to destinations at others, as a list of none or one, and makes the rules along it.
func (c *compiler) way(from uint64, dests []dest, policies []string) []*way {
	all := c.maze.cheapest(from)
	var ends []uint64
	var reached []dest
	for _, d := range dests {
		sw, _ := c.place(d)
		if all.line(from, sw) == nil {
			c.degrade(policies, NoWay+" from %s to %s", c.l.SwitchName(from), c.l.SwitchName(sw))
			continue
		}
		reached = append(reached, d)
		ends = append(ends, sw)
	}
	if len(reached) == 0 {
		return nil
	}
	t := all.prune(ends)
	key := wayKey(t, reached)
	w := c.ways[key]
	if w == nil {
		tag, err := c.tags.take(key, c.now)
		if err != nil {
			c.degrade(policies, "%s", err)
			return nil
		}
		w = &way{tag: tag, tree: t, rules: make(map[uint64][]*Rule)}
		c.ways[key] = w
		c.out.Ways[key] = true
		for s := range t.parent {
			c.pass(w, s, reached)
		}
	}
	for _, list := range w.rules {
		for _, r := range list {
			for _, p := range policies {
				if !slices.Contains(r.Policies, p) {
					r.Policies = append(r.Policies, p)
					slices.Sort(r.Policies)
				}
			}
		}
	}
	return []*way{w}
}

// wayKey names a way: by its switches and by what is at its ends. One that goes elsewhere has another name and so another
// tag: it can be built beside the old one.
func wayKey(t *tree, dests []dest) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%x", t.root)
	var hops []uint64
	for s := range t.parent {
		hops = append(hops, s)
	}
	slices.Sort(hops)
	for _, s := range hops {
		fmt.Fprintf(&b, " %x>%x", t.parent[s], s)
	}
	for _, d := range dests {
		b.WriteString(" | " + d.String())
	}
	return b.String()
}

// pass makes the rules of a switch on a way: on to the next ones with the tag, and to the tools here without.
func (c *compiler) pass(w *way, at uint64, dests []dest) {
	h := c.out.Switches[at]
	do := of13.Instructions{Apply: c.onward(w, at)}
	var here []string
	for _, d := range dests {
		if sw, _ := c.place(d); sw != at {
			continue
		}
		if len(here) == 0 {
			do.Apply = append(do.Apply, of13.PopVLAN{})
		}
		if d.kbps > 0 {
			do.Meter = h.meter(&Limit{uint32(d.kbps), fmt.Sprintf("tag %d: %s", w.tag, d)})
		}
		do.Apply = append(do.Apply, c.deliver(h, d, 4)...)
		here = append(here, strings.TrimPrefix(d.tool, servicePrefix))
	}
	why := fmt.Sprintf("copies with tag %d from %s", w.tag, c.l.SwitchName(w.tree.root))
	for _, n := range w.tree.children(at) {
		why += " on to " + c.l.SwitchName(n)
	}
	if len(here) > 0 {
		why += " to " + strings.Join(here, ", ")
	}
	for _, k := range c.maze.between(w.tree.parent[at], at) {
		e, _ := k.other(at)
		r := &Rule{
			Priority: prioCell, Match: and(inPort(e.Port), of13.Uint(of13.VLANVID, uint64(w.tag)|of13.VLANPresent)), Do: do,
			Cookie: cookie(kindWay, why), Why: why,
		}
		h.add(r)
		w.rules[at] = append(w.rules[at], r)
	}
}

// onward sends tagged copies to the next switches of a way.
func (c *compiler) onward(w *way, at uint64) []of13.Action {
	var out []of13.Action
	for _, n := range w.tree.children(at) {
		out = append(out, c.step(w, at, n))
	}
	return out
}

// step sends tagged copies to one of the next switches. Where there are several cables a group takes the first that is up;
// ways with different tags begin with different ones.
func (c *compiler) step(w *way, at, next uint64) of13.Action {
	cables := c.maze.between(at, next)
	if len(cables) == 1 {
		e, _ := cables[0].other(at)
		return of13.Output{Port: e.Port}
	}
	g := &Bucketed{Kind: of13.GroupFailover, Why: fmt.Sprintf("from %s to %s by the first cable that is up", c.l.SwitchName(at), c.l.SwitchName(next))}
	for i := range cables {
		e, _ := cables[(int(w.tag)+i)%len(cables)].other(at)
		g.Buckets = append(g.Buckets, of13.Bucket{WatchPort: e.Port, WatchGroup: of13.GroupAny, Do: []of13.Action{of13.Output{Port: e.Port}}})
	}
	return of13.Group{ID: c.out.Switches[at].group(g)}
}
