package reconcile

import (
	"cmp"
	"context"
	"maps"
	"time"

	"opentap/fabric"
	"opentap/fabric/session"
	"opentap/want"
	"opentap/wire/of13"
)

// sum is what passed for a policy since this controller knows of it.
type sum struct {
	packets, octets uint64 // matched at its filter ports
	seen            uint64 // packets of these ports, matched or not
}

// counted are counters of a rule as they were last taken into account.
type counted struct{ packets, octets uint64 }

// saw takes note of what switches have, and adds what their rules have counted since to the policies that these are for. Rules come and
// go with other policies; what they counted stays. e.mu is held.
func (e *Engine) saw(actual map[uint64]*fabric.Actual) {
	for dpid, a := range actual {
		m := e.switches[dpid]
		if m == nil {
			continue
		}
		m.actual = a
		if e.intent == nil || e.intent.Switches[dpid] == nil {
			continue // whose the rules are is not known yet
		}
		fresh := make(map[string]counted, len(a.Rules))
		ports := make(map[uint32]uint64)        // packets that came in by each port
		rules := make(map[*fabric.Rule]counted) // of rules for policies
		for i := range a.Rules {
			f := &a.Rules[i]
			if f.Table != 0 {
				continue
			}
			key := (&fabric.Rule{Priority: f.Priority, Match: f.Match}).Key()
			now, was := counted{f.Packets, f.Octets}, m.counted[key]
			fresh[key] = now
			if now.packets < was.packets { // it began anew
				was = counted{}
			}
			more := counted{now.packets - was.packets, now.octets - was.octets}
			if port, ok := f.Match.Uint(of13.InPort); ok {
				ports[uint32(port)] += more.packets
			}
			if r := e.intent.Switches[dpid].Rules[key]; r != nil && len(r.Policies) > 0 {
				rules[r] = more
			}
		}
		m.counted = fresh
		e.add(dpid, ports, rules)
	}
}

// add books what was counted at one switch. e.mu is held.
func (e *Engine) add(dpid uint64, ports map[uint32]uint64, rules map[*fabric.Rule]counted) {
	if e.layout == nil {
		return
	}
	type edge struct {
		policy string
		port   uint32
	}
	type part struct {
		policy string
		rule   *fabric.Rule
	}
	edges, parts := make(map[edge]bool), make(map[part]bool)
	for i := range e.intent.Paths {
		p := &e.intent.Paths[i]
		if p.From.Switch != dpid || !e.layout.Filter(p.From) { // what comes back from a service was counted before
			continue
		}
		for _, name := range p.Policies {
			s := e.sums[name]
			if s == nil {
				s = &sum{}
				e.sums[name] = s
			}
			if k := (edge{name, p.From.Port}); !edges[k] {
				edges[k] = true
				s.seen += ports[p.From.Port]
			}
			if k := (part{name, p.Cell}); !parts[k] {
				parts[k] = true
				s.packets += rules[p.Cell].packets
				s.octets += rules[p.Cell].octets
			}
		}
	}
}

// forget drops the sums of policies that are no more. e.mu is held.
func (e *Engine) forget() {
	keep := make(map[string]bool)
	if e.layout != nil {
		for i := range e.layout.Fabric.Policies {
			keep[e.layout.Fabric.Policies[i].Name] = true
		}
	}
	for name := range e.sums {
		if !keep[name] {
			delete(e.sums, name)
		}
	}
	for name := range e.probes {
		if !keep[name] {
			delete(e.probes, name)
		}
	}
}

// echoed takes note of how soon a switch answered.
func (e *Engine) echoed(dpid uint64, s *session.Session, took time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if m := e.switches[dpid]; m != nil && m.session == s {
		m.echo = took
	}
}

// took takes note of how long a comparison lasted.
func (e *Engine) took(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.tally.Turns++
	e.tally.Reconcile = d
}

// Tally is what monitoring is told.
func (e *Engine) Tally() want.FabricTally {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := e.tally
	out.Leads, out.Probes, out.Policies = e.term != 0, maps.Clone(e.tally.Probes), make(map[want.PolicyState]int)
	for _, p := range e.policyViews(e.intent) {
		out.Policies[p.State]++
	}
	for _, v := range e.switchViews() {
		t := want.FabricSwitchTally{Name: cmp.Or(v.Name, v.DPID.String()), Connected: v.Connected, Intended: v.Rules, Others: v.Foreign}
		if m := e.switches[uint64(v.DPID)]; m != nil {
			t.Echo, t.PacketIns, t.Dropped = m.echo, m.came, m.dropped
			if m.session != nil {
				came, dropped := m.session.PacketIns()
				t.PacketIns, t.Dropped = t.PacketIns+came, t.Dropped+dropped
			}
			if m.actual != nil {
				for i := range m.actual.Rules {
					if fabric.Ours(m.actual.Rules[i].Cookie) {
						t.Ours++
					}
				}
			}
		}
		out.Switches = append(out.Switches, t)
	}
	return out
}

// Count reads the counters of all switches.
func (e *Engine) Count(ctx context.Context) {
	e.turn.Lock()
	defer e.turn.Unlock()
	actual, _ := e.read(ctx, e.sessions())
	e.mu.Lock()
	defer e.mu.Unlock()
	e.saw(actual)
}

// Turned is closed when what is known of switches has changed. It must be taken before looking.
func (e *Engine) Turned() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.changed
}
