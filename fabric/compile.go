package fabric

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"opentap/want"
	"opentap/wire/of13"
)

// Compile computes what the switches shall have. Policies named in refused are left out for the reason given there. Tags of
// new ways are taken from tags, which is changed.
func Compile(l *Layout, links []Link, tags *Tags, refused map[string]string, now time.Time) *Intent {
	c := &compiler{
		l: l, tags: tags, now: now, maze: newMaze(links), out: &Intent{Switches: make(map[uint64]*Holding), Ways: make(map[string]bool)},
		ways: make(map[string]*way), services: make(map[string]*chained), trouble: make(map[string][]string), served: make(map[string]bool),
	}
	for _, dpid := range l.switches {
		c.out.Switches[dpid] = newHolding()
	}
	c.base(links)
	for i := range l.Fabric.Policies {
		p := &l.Fabric.Policies[i]
		if reason, no := refused[p.Name]; no {
			c.infeasible(p.Name, "%s", reason)
		}
	}
	for _, in := range c.ingresses() {
		c.ingress(in)
	}
	c.returns()
	c.outcomes()
	return c.out
}

type compiler struct {
	l        *Layout
	tags     *Tags
	now      time.Time
	maze     *maze
	out      *Intent
	ways     map[string]*way
	services map[string]*chained // by service, whose output is spoken for
	queue    []string            // services whose return port has no rule yet
	dead     map[string]string   // policies that cannot be: why
	trouble  map[string][]string // policies that are not whole: why
	served   map[string]bool     // policies with a copy somewhere
}

// dest is one tool, and how it gets its copies.
type dest struct {
	tool     string
	truncate int
	kbps     int
	services string // still to pass, separated by commas
}

func (c *compiler) infeasible(policy, format string, args ...any) {
	if c.dead == nil {
		c.dead = make(map[string]string)
	}
	if c.dead[policy] == "" {
		c.dead[policy] = fmt.Sprintf(format, args...)
	}
}

func (c *compiler) degrade(policies []string, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	for _, p := range policies {
		if !slices.Contains(c.trouble[p], text) {
			c.trouble[p] = append(c.trouble[p], text)
		}
	}
}

func inPort(p uint32) of13.Match { return of13.Uint(of13.InPort, uint64(p)) }

// rule makes a rule of ours.
func rule(kind uint64, priority uint16, m of13.Match, why string, do ...of13.Action) *Rule {
	return &Rule{Priority: priority, Match: m, Do: of13.Instructions{Apply: do}, Cookie: cookie(kind, why), Why: why}
}

// base gives every switch what it has whatever the policies are.
func (c *compiler) base(links []Link) {
	for _, h := range c.out.Switches {
		h.add(rule(kindDiscovery, prioDiscovery, discoveryMatch(), "discovery frames come to the controller",
			of13.Output{Port: of13.PortController, MaxLen: of13.ToControllerIn}))
	}
	for e, role := range c.l.roles {
		h := c.out.Switches[e.Switch]
		peer, paired := c.l.peers[e]
		var r *Rule
		switch {
		case paired:
			r = rule(kindPair, prioPort, inPort(e.Port), fmt.Sprintf("what enters by %s leaves by %s", c.l.Name(e), c.l.Name(peer)), of13.Output{Port: peer.Port})
		case role == roleDelivery, role == roleService && c.returnName(e) == "":
			r = rule(kindBase, prioDelivery, inPort(e.Port), "a tool at "+c.l.Name(e)+" can send nothing into the fabric")
		default:
			r = rule(kindBase, prioPort, inPort(e.Port), "what no policy wants of "+c.l.Name(e)+" goes nowhere")
		}
		r.Ingress = true
		h.add(r)
	}
	for _, k := range links {
		for _, e := range [...]Endpoint{k.A, k.B} {
			c.out.Switches[e.Switch].add(rule(kindBase, prioCore, inPort(e.Port), "what has no tag of a way goes nowhere from "+c.l.Name(e)))
		}
	}
}

// returnName is the service whose output comes back by a port.
func (c *compiler) returnName(e Endpoint) string {
	for name, back := range c.l.returns {
		if back == e {
			return name
		}
	}
	return ""
}

// entry is a port by which policies take traffic.
type entry struct {
	at       Endpoint
	policies []int // in the order of the layout
}

// ingresses are the ports that policies look at.
func (c *compiler) ingresses() []entry {
	at := make(map[Endpoint][]int)
	for i := range c.l.Fabric.Policies {
		p := &c.l.Fabric.Policies[i]
		if c.dead[p.Name] != "" {
			continue
		}
		for _, name := range p.From {
			e := c.l.at[name]
			ends := []Endpoint{e}
			switch p.Direction {
			case want.BothSides:
				ends = append(ends, c.l.peers[e])
			case want.Egress: // what leaves by a port has entered by the other one of the pair
				ends[0] = c.l.peers[e]
			}
			for _, e := range ends {
				if !slices.Contains(at[e], i) {
					at[e] = append(at[e], i)
				}
			}
		}
	}
	var out []entry
	for e, list := range at {
		out = append(out, entry{e, list})
	}
	// Who is named first has the first choice of services.
	slices.SortFunc(out, func(a, b entry) int { return cmp.Or(cmp.Compare(a.policies[0], b.policies[0]), a.at.compare(b.at)) })
	return out
}

// cell is a part of a port's traffic, and the policies that want it.
type cell struct {
	match    of13.Match
	policies []int
}

func sameCell(a, b cell) bool       { return slices.Equal(a.policies, b.policies) }
func matchOfCell(x cell) of13.Match { return x.match }

func (c *compiler) policy(i int) *want.FabricPolicy { return &c.l.Fabric.Policies[i] }

// cells cuts the traffic of a port into parts that the same policies want: the product of the policies' decisions.
func (c *compiler) cells(in entry) []cell {
	cells := []cell{{match: inPort(in.at.Port)}}
	for _, i := range in.policies {
		p := c.policy(i)
		d, _, err := c.l.lowered(p)
		if err != nil {
			c.infeasible(p.Name, "%s", err)
			continue
		}
		var next []cell
		for _, x := range cells {
			for _, k := range d {
				m, ok := x.match.And(k.match)
				if !ok {
					continue
				}
				y := cell{m, x.policies}
				if k.yes {
					y.policies = append(slices.Clip(x.policies), i)
				}
				if next = append(next, y); len(next) > 2*maxClauses {
					break
				}
			}
		}
		if len(next) <= 2*maxClauses {
			next = simplify(next, matchOfCell, sameCell)
		}
		if len(next) > maxClauses {
			c.infeasible(p.Name, "where it meets the other policies of %s it would take more than %d rules", c.l.Name(in.at), maxClauses)
			continue
		}
		cells = next
	}
	for k := range cells {
		cells[k].policies = c.exclusive(cells[k].policies)
	}
	return simplify(cells, matchOfCell, sameCell)
}

// exclusive leaves the one policy that takes its packets alone, if there is one: that of the highest priority, and among
// equals the first.
func (c *compiler) exclusive(list []int) []int {
	best := -1
	for _, i := range list {
		if p := c.policy(i); p.Exclusive && (best < 0 || p.Priority > c.policy(best).Priority) {
			best = i
		}
	}
	if best < 0 {
		return list
	}
	return []int{best}
}

// dests are where the policies' copies go: each tool once. Of several wishes for one tool the one that leaves most of the packets counts.
func (c *compiler) dests(list []int) []dest {
	var out []dest
	for _, i := range list {
		p := c.policy(i)
		for _, tool := range p.To {
			d := dest{tool, p.Truncate, p.RateKbps, strings.Join(p.Services, ",")}
			at := slices.IndexFunc(out, func(o dest) bool { return o.tool == tool })
			if at < 0 {
				out = append(out, d)
				continue
			}
			out[at].truncate, out[at].kbps = more(out[at].truncate, d.truncate), more(out[at].kbps, d.kbps)
		}
	}
	slices.SortFunc(out, func(a, b dest) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// more is the greater of two limits; 0 is none.
func more(a, b int) int {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// String tells destinations apart.
func (d dest) String() string {
	s := d.tool
	if d.truncate > 0 {
		s += fmt.Sprintf(" cut to %d", d.truncate)
	}
	if d.kbps > 0 {
		s += fmt.Sprintf(" at most %d kbit/s", d.kbps)
	}
	if d.services != "" {
		s += " through " + d.services
	}
	return s
}

func (c *compiler) names(list []int) []string {
	out := make([]string, len(list))
	for k, i := range list {
		out[k] = c.policy(i).Name
	}
	return out
}

// ingress makes the rules of a port by which policies take traffic.
func (c *compiler) ingress(in entry) {
	var forward []of13.Action
	if peer, paired := c.l.peers[in.at]; paired {
		forward = []of13.Action{of13.Output{Port: peer.Port}}
	}
	cells := c.cells(in)
	// A cell comes before the later ones that it overlaps with, and nothing else of it matters: so priorities stay few and stable.
	rank := make([]int, len(cells))
	for i := len(cells) - 1; i >= 0; i-- {
		for j := i + 1; j < len(cells); j++ {
			if rank[j] >= rank[i] && cells[i].match.Overlaps(cells[j].match) {
				rank[i] = rank[j] + 1
			}
		}
	}
	for i, x := range cells {
		if i == len(cells)-1 && len(x.policies) == 0 {
			break // the port's own rule does the same
		}
		if rank[i]+prioCell > prioCellEnd {
			for _, p := range c.names(x.policies) {
				c.infeasible(p, "the rules of %s cannot be put in order: too many overlap", c.l.Name(in.at))
			}
			continue
		}
		names := c.names(x.policies)
		why := fmt.Sprintf("%s at %s", strings.Join(names, " + "), c.l.Name(in.at))
		if len(names) == 0 {
			why = "what no policy wants at " + c.l.Name(in.at)
		}
		r := rule(kindCell, uint16(prioCell+rank[i]), x.match, why)
		r.Ingress, r.Policies = true, names
		r.Do.Apply = append(r.Do.Apply, forward...)
		c.copies(in.at, r, c.dests(x.policies), len(forward) == 0)
		c.out.Switches[in.at.Switch].add(r)
	}
}

// copies has a rule send copies to destinations. alone is true when nothing else is done with the packets, so that the whole rule
// may be limited.
func (c *compiler) copies(at Endpoint, r *Rule, dests []dest, alone bool) {
	h := c.out.Switches[at.Switch]
	var far [][]dest // each list shares a way
	free := -1       // the list without limits
	for _, d := range c.chain(r.Policies, dests) {
		sw, ok := c.place(d)
		switch {
		case !ok:
			c.degrade(r.Policies, "%s has no port", d.tool)
		case sw != at.Switch && d.kbps == 0 && free >= 0:
			far[free] = append(far[free], d)
		case sw != at.Switch:
			if d.kbps == 0 {
				free = len(far)
			}
			far = append(far, []dest{d})
		case d.kbps > 0 && !(alone && len(dests) == 1):
			c.degrade(r.Policies, "rate_kbps cannot be kept at %s: a switch limits a whole rule, and this one does other things as well; use a tool at another switch", c.l.Name(at))
		default:
			if d.kbps > 0 {
				r.Do.Meter = h.meter(&Limit{uint32(d.kbps), r.Why + ": " + d.String()})
			}
			r.Do.Apply = append(r.Do.Apply, c.deliver(h, d, 0)...)
			c.serve(at, r, d, nil)
		}
	}
	pushed := false
	for _, list := range far {
		for _, w := range c.way(at.Switch, list, r.Policies) {
			if !pushed {
				r.Do.Apply = append(r.Do.Apply, of13.PushVLAN{EtherType: 0x8100})
				pushed = true
			}
			r.Do.Apply = append(r.Do.Apply, of13.SetVLAN(w.tag))
			r.Do.Apply = append(r.Do.Apply, c.onward(w, at.Switch)...)
			for _, d := range list {
				c.serve(at, r, d, w)
			}
		}
	}
}

// serve takes note of a path.
func (c *compiler) serve(at Endpoint, r *Rule, d dest, w *way) {
	for _, p := range r.Policies {
		c.served[p] = true
	}
	sw, _ := c.place(d)
	p := Path{From: at, Tool: d.tool, Policies: r.Policies, Cell: r, Switch: sw, Outputs: c.ports(d)}
	if w != nil {
		p.Tag = w.tag
		before := at.Switch
		for _, s := range w.tree.line(at.Switch, sw) {
			p.Hops = append(p.Hops, Hop{s, w.rules[s], c.step(w, before, s)})
			before = s
		}
	}
	c.out.Paths = append(c.out.Paths, p)
}

// servicePrefix marks a destination that is a service. No tool has such a name.
const servicePrefix = "service:"

// chained is what a service's output is for.
type chained struct {
	rest     []dest
	policies []string
}

// chain replaces destinations behind services by the first service. What comes back from a service has lost its way: so a service
// can stand in one chain only.
func (c *compiler) chain(policies []string, dests []dest) []dest {
	var out []dest
	first := make(map[string][]dest)
	for _, d := range dests {
		if d.services == "" {
			out = append(out, d)
			continue
		}
		name, rest, _ := strings.Cut(d.services, ",")
		d.services = rest
		first[name] = append(first[name], d)
	}
	for _, name := range sortedKeys(first) {
		rest := first[name]
		have := c.services[name]
		if have == nil {
			have = &chained{rest: rest}
			c.services[name] = have
			c.queue = append(c.queue, name)
		}
		if !slices.Equal(have.rest, rest) {
			c.degrade(policies, "the service %s works for %s already, and what it gives back cannot be told apart", name, strings.Join(have.policies, ", "))
			continue
		}
		for _, p := range policies {
			if !slices.Contains(have.policies, p) {
				have.policies = append(have.policies, p)
			}
		}
		out = append(out, dest{tool: servicePrefix + name})
	}
	return out
}

// returns makes the rules for what services give back.
func (c *compiler) returns() {
	for len(c.queue) > 0 {
		name := c.queue[0]
		c.queue = c.queue[1:]
		s, back := c.services[name], c.l.returns[name]
		r := rule(kindCell, prioCell, inPort(back.Port), fmt.Sprintf("%s, back from %s", strings.Join(s.policies, " + "), name))
		r.Ingress, r.Policies = true, s.policies
		c.copies(back, r, s.rest, true)
		c.out.Switches[back.Switch].add(r)
	}
}

// ports are where a destination is.
func (c *compiler) ports(d dest) []uint32 {
	if name, ok := strings.CutPrefix(d.tool, servicePrefix); ok {
		return []uint32{c.l.at[name].Port}
	}
	if t, ok := c.l.Fabric.Tools[d.tool]; ok {
		var out []uint32
		for _, m := range t.Members {
			out = append(out, c.l.at[m].Port)
		}
		return out
	}
	if e, ok := c.l.at[d.tool]; ok {
		return []uint32{e.Port}
	}
	return nil
}

// place is the switch where a destination is.
func (c *compiler) place(d dest) (uint64, bool) {
	name := d.tool
	if s, ok := strings.CutPrefix(name, servicePrefix); ok {
		name = s
	} else if t, ok := c.l.Fabric.Tools[name]; ok {
		name = t.Members[0]
	}
	e, ok := c.l.at[name]
	return e.Switch, ok
}

// deliver is what gives a destination at this switch its copy, without tag. popped is the length of a tag that was taken off just
// before: Open vSwitch takes it off after it has measured what to cut (lib/odp-execute.c: OVS_ACTION_ATTR_TRUNC). Octets.
func (c *compiler) deliver(h *Holding, d dest, popped int) []of13.Action {
	out := func(port uint32) of13.Action {
		if d.truncate > 0 {
			return of13.Truncate{Port: uint16(port), MaxLen: uint32(d.truncate + popped)}
		}
		return of13.Output{Port: port}
	}
	ports := c.ports(d)
	if len(ports) == 1 {
		return []of13.Action{out(ports[0])}
	}
	g := &Bucketed{Kind: of13.GroupSelect, Why: d.tool + " shares the load"}
	for _, p := range ports {
		g.Buckets = append(g.Buckets, of13.Bucket{Weight: 1, WatchPort: p, WatchGroup: of13.GroupAny, Do: []of13.Action{out(p)}})
	}
	return []of13.Action{of13.Group{ID: h.group(g)}}
}

// outcomes says what became of each policy.
func (c *compiler) outcomes() {
	rules := make(map[string]int)
	for _, h := range c.out.Switches {
		for _, r := range h.Rules {
			for _, p := range r.Policies {
				rules[p]++
			}
		}
	}
	for i := range c.l.Fabric.Policies {
		name := c.l.Fabric.Policies[i].Name
		o := Outcome{Name: name, State: want.PolicyPending, Rules: rules[name]}
		switch trouble := strings.Join(c.trouble[name], "; "); {
		case c.dead[name] != "":
			o.State, o.Reason = want.PolicyInfeasible, c.dead[name]
		case trouble != "" && !c.served[name]:
			o.State, o.Reason = want.PolicyInfeasible, trouble
		case trouble != "":
			o.State, o.Reason = want.PolicyDegraded, trouble
		}
		c.out.Policies = append(c.out.Policies, o)
	}
}
