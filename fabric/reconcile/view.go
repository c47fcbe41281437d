package reconcile

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"opentap/fabric"
	"opentap/want"
	"opentap/wire/of13"
)

// counters are a switch's rules as last read, by key.
func counters(a *fabric.Actual) map[string]*of13.FlowStats {
	out := make(map[string]*of13.FlowStats)
	if a == nil {
		return out
	}
	for i := range a.Rules {
		f := &a.Rules[i]
		if f.Table == 0 {
			out[(&fabric.Rule{Priority: f.Priority, Match: f.Match}).Key()] = f
		}
	}
	return out
}

// View shows the fabric as it was when it was last looked at. With fresh the switches are read first.
func (e *Engine) View(ctx context.Context, fresh bool) (want.FabricView, error) {
	if fresh && !e.Leads() {
		if err := e.reconcile(ctx); err != nil { // which only looks
			return want.FabricView{}, err
		}
	} else if fresh {
		e.Count(ctx)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	v := want.FabricView{Switches: []want.FabricSwitchView{}, Links: []want.FabricLinkView{}, Policies: []want.FabricPolicyView{}}
	l := e.layout
	if l != nil {
		v.Fabric = l.Fabric
		v.Fabric.Policies = slices.DeleteFunc(slices.Clone(l.Fabric.Policies), func(p want.FabricPolicy) bool { return p.Tap != "" })
	}
	v.Switches = e.switchViews()
	if l == nil {
		return v, nil
	}
	for _, k := range e.topology.Links(l, time.Now()) {
		v.Links = append(v.Links, want.FabricLinkView{
			A: l.Name(k.A), B: l.Name(k.B), Up: k.Up, Confirmed: k.Confirmed, Static: k.Static, Seen: k.Seen, Problem: k.Problem,
		})
	}
	v.Policies = e.policyViews(e.intent)
	return v, nil
}

// switchViews shows all switches, those of the description first. e.mu is held.
func (e *Engine) switchViews() []want.FabricSwitchView {
	all := make(map[uint64]bool)
	if e.layout != nil {
		for _, dpid := range e.layout.Switches() {
			all[dpid] = true
		}
	}
	for dpid := range e.switches {
		all[dpid] = true
	}
	out := make([]want.FabricSwitchView, 0, len(all))
	for dpid := range all {
		v := want.FabricSwitchView{DPID: want.DPID(dpid)}
		named := e.layout != nil && e.layout.Knows(dpid)
		if named {
			v.Name = e.layout.SwitchName(dpid)
		}
		if e.intent != nil {
			v.Rules = len(holdingOf(e.intent, dpid).Rules)
		}
		m := e.switches[dpid]
		if m == nil {
			v.Problem = "it has not connected yet"
			out = append(out, v)
			continue
		}
		v.Since, v.Software, v.Role, v.Foreign, v.InSync, v.Checked, v.Problem = m.since, m.desc.Software, m.role, m.foreign, m.inSync, m.checked, m.problem
		if s := m.session; s != nil {
			v.Connected, v.Address = true, s.Remote().String()
			for n, p := range s.Ports() {
				if n >= of13.PortMax {
					continue
				}
				sp := want.SwitchPort{Number: n, Name: p.Name, Up: p.Up(), SpeedKbps: p.SpeedKbps}
				if named {
					sp.Use = e.layout.Use(fabric.Endpoint{Switch: dpid, Port: n})
				}
				v.Ports = append(v.Ports, sp)
			}
			slices.SortFunc(v.Ports, func(a, b want.SwitchPort) int { return cmp.Compare(a.Number, b.Number) })
		} else if v.Problem == "" {
			v.Problem = "it is not connected; its rules stay in it"
		}
		if !named && e.layout != nil && v.Problem == "" {
			v.Problem = "the fabric's description does not have it"
		}
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b want.FabricSwitchView) int {
		return cmp.Or(cmp.Compare(boolInt(a.Name == ""), boolInt(b.Name == "")), cmp.Compare(a.Name, b.Name), cmp.Compare(a.DPID, b.DPID))
	})
	return out
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// policyViews shows the policies of the description with what became of them. e.mu is held.
func (e *Engine) policyViews(intent *fabric.Intent) []want.FabricPolicyView {
	out := []want.FabricPolicyView{}
	if e.layout == nil {
		return out
	}
	counts := make(map[uint64]map[string]*of13.FlowStats)
	for dpid, m := range e.switches {
		counts[dpid] = counters(m.actual)
	}
	for _, p := range e.layout.Fabric.Policies {
		v := want.FabricPolicyView{FabricPolicy: p, State: want.PolicyPending, Reason: "the switches do not have it yet", Split: e.layout.Split(&p)}
		if s := e.sums[p.Name]; s != nil {
			v.Packets, v.Octets, v.Seen = s.packets, s.octets, s.seen
		}
		if last, ok := e.probes[p.Name]; ok {
			v.Probed = &last
		}
		if intent != nil {
			if o, ok := intent.Outcome(p.Name); ok {
				v.State, v.Reason, v.Rules = o.State, o.Reason, o.Rules
				e.judge(&v, intent)
				if why := e.probedBadly(p.Name); why != "" && v.State != want.PolicyInfeasible && v.State != want.PolicyPending {
					v.State, v.Reason = want.PolicyDegraded, strings.Join(append(nonEmpty(v.Reason), why), "; ")
				}
				e.count(&v, intent, counts)
			}
		}
		out = append(out, v)
	}
	return out
}

// judge turns pending into active, or says what is missing. e.mu is held.
func (e *Engine) judge(v *want.FabricPolicyView, intent *fabric.Intent) {
	if v.State == want.PolicyInfeasible {
		switch away := e.away(); {
		case !strings.Contains(v.Reason, fabric.NoWay):
		case len(away) > 0:
			v.State, v.Reason = want.PolicyPending, "not connected: "+strings.Join(away, ", ")
		case e.fresh(time.Now()):
			v.State, v.Reason = want.PolicyPending, v.Reason+", as far as is known: links are still being discovered"
		}
		return
	}
	var missing []string
	say := func(format string, args ...any) {
		if s := fmt.Sprintf(format, args...); !slices.Contains(missing, s) {
			missing = append(missing, s)
		}
	}
	ready := true
	for dpid, h := range intent.Switches {
		if !slices.ContainsFunc(sortedRules(h), func(r *fabric.Rule) bool { return slices.Contains(r.Policies, v.Name) }) {
			continue
		}
		m := e.switches[dpid]
		switch {
		case m == nil || m.session == nil && m.holding == nil:
			ready = false
			say("%s is not connected", e.nameLocked(dpid))
		case m.session == nil:
			say("%s is not connected; its rules stay in it", e.nameLocked(dpid))
		case !m.inSync:
			ready = false
			say("%s: %s", e.nameLocked(dpid), cmp.Or(m.problem, "not brought up to date yet"))
		}
	}
	for _, p := range intent.Paths {
		if !slices.Contains(p.Policies, v.Name) {
			continue
		}
		e.checkPort(p.From, say)
		alive := 0
		for _, n := range p.Outputs {
			if e.checkPort(fabric.Endpoint{Switch: p.Switch, Port: n}, say) {
				alive++
			}
		}
	}
	slices.Sort(missing)
	if len(missing) > 0 {
		v.Reason = strings.Join(append(nonEmpty(v.Reason), missing...), "; ")
		if ready {
			v.State = want.PolicyDegraded
		}
		return
	}
	if v.State == want.PolicyPending && ready {
		v.State, v.Reason = want.PolicyActive, ""
	}
}

// away are the switches of the description that are not connected. e.mu is held.
func (e *Engine) away() []string {
	var out []string
	for _, dpid := range e.layout.Switches() {
		if m := e.switches[dpid]; m == nil || m.session == nil {
			out = append(out, e.nameLocked(dpid))
		}
	}
	return out
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func sortedRules(h *fabric.Holding) []*fabric.Rule {
	out := make([]*fabric.Rule, 0, len(h.Rules))
	for _, r := range h.Rules {
		out = append(out, r)
	}
	return out
}

// checkPort says what is wrong with a port that is in use. e.mu is held.
func (e *Engine) checkPort(at fabric.Endpoint, say func(string, ...any)) bool {
	m := e.switches[at.Switch]
	if m == nil || m.session == nil {
		return false
	}
	p, ok := m.session.Ports()[at.Port]
	switch {
	case !ok:
		say("%s does not exist: the switch has no such port", e.layout.Name(at))
	case !p.Up():
		say("%s is down", e.layout.Name(at))
	default:
		return true
	}
	return false
}

// count fills in where the policy's packets are seen. e.mu is held.
func (e *Engine) count(v *want.FabricPolicyView, intent *fabric.Intent, counts map[uint64]map[string]*of13.FlowStats) {
	type place struct {
		dpid uint64
		rule *fabric.Rule
	}
	seen := make(map[place]bool)
	add := func(dpid uint64, r *fabric.Rule) {
		if seen[place{dpid, r}] {
			return
		}
		seen[place{dpid, r}] = true
		hop := want.FabricHop{Switch: e.nameLocked(dpid), What: r.Why}
		if f := counts[dpid][r.Key()]; f != nil {
			hop.Packets, hop.Octets = f.Packets, f.Octets
		}
		// The cables between two switches are one place.
		if n := len(v.Hops); n > 0 && v.Hops[n-1].Switch == hop.Switch && v.Hops[n-1].What == hop.What {
			v.Hops[n-1].Packets += hop.Packets
			v.Hops[n-1].Octets += hop.Octets
			return
		}
		v.Hops = append(v.Hops, hop)
	}
	for _, p := range intent.Paths {
		if !slices.Contains(p.Policies, v.Name) {
			continue
		}
		add(p.From.Switch, p.Cell)
		for _, h := range p.Hops {
			for _, r := range h.Rules {
				add(h.Switch, r)
			}
		}
	}
}

// Drift returns the drift log, oldest first.
func (e *Engine) Drift() []want.FabricDrift {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]want.FabricDrift{}, e.drift...)
}

// Verify reads the switches and compares. It changes nothing.
func (e *Engine) Verify(ctx context.Context) (want.FabricReport, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	if _, err := e.assume(ctx); err != nil {
		return want.FabricReport{}, err
	}
	at, ok := e.situation()
	if !ok || len(at.layout.Switches()) == 0 {
		return want.FabricReport{}, noFabric()
	}
	e.mu.Lock()
	at.refused = e.leftOut(time.Time{}) // a verification tries nothing
	e.mu.Unlock()
	intent := fabric.Compile(at.layout, at.links, at.tags, at.refused, at.now)
	actual, errs := e.read(ctx, e.sessions())
	r := want.FabricReport{Checked: time.Now().UTC(), Findings: []want.FabricFinding{}}
	find := func(kind, name, format string, args ...any) {
		r.Findings = append(r.Findings, want.FabricFinding{Kind: kind, Switch: name, Text: fmt.Sprintf(format, args...)})
	}
	for _, dpid := range at.layout.Switches() {
		name, h, a := at.layout.SwitchName(dpid), intent.Switches[dpid], actual[dpid]
		switch {
		case errs[dpid] != nil:
			find(want.FindingUnreachable, name, "it cannot be read: %s", errs[dpid])
			continue
		case a == nil:
			find(want.FindingUnreachable, name, "it is not connected: nothing is known of its rules")
			continue
		}
		if e.isSlave(dpid) {
			find(want.FindingUnreachable, name, "%s", anotherLeads)
		}
		r.Switches++
		r.Rules += len(h.Rules)
		r.Findings = append(r.Findings, fabric.Diff(h, a).Findings(name, h, a)...)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.saw(actual)
	for _, k := range at.links {
		switch {
		case !k.Up:
			find(want.FindingLink, "", "the link %s – %s is down: %s", at.layout.Name(k.A), at.layout.Name(k.B), k.Problem)
		case k.Problem != "":
			find(want.FindingLink, "", "the link %s – %s: %s", at.layout.Name(k.A), at.layout.Name(k.B), k.Problem)
		}
	}
	for _, p := range at.layout.Endpoints() {
		e.checkPort(p, func(format string, args ...any) {
			find(want.FindingPort, at.layout.SwitchName(p.Switch), format, args...)
		})
	}
	for _, p := range e.policyViews(intent) {
		if p.State != want.PolicyActive {
			find(want.FindingPolicy, "", "policy %s is %s: %s", p.Name, p.State, p.Reason)
		}
	}
	for _, i := range e.findings {
		if age := time.Since(i.at); age < time.Minute {
			f := i.finding
			f.Text += fmt.Sprintf(" (%d times, the last %s ago)", i.count, age.Round(time.Second))
			r.Findings = append(r.Findings, f)
		}
	}
	for host, x := range e.rejected {
		if age := time.Since(x.at); age < time.Minute {
			find(want.FindingUnreachable, "", "a switch at %s was refused: %s", host, x.why)
		}
	}
	slices.SortStableFunc(r.Findings, func(a, b want.FabricFinding) int {
		return cmp.Or(cmp.Compare(a.Switch, b.Switch), cmp.Compare(a.Kind, b.Kind))
	})
	r.OK = len(r.Findings) == 0
	return r, nil
}

// Plan computes what another description would change in the switches as they are now. It changes nothing.
func (e *Engine) Plan(ctx context.Context, l *fabric.Layout) (want.FabricPlan, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	at, _ := e.situation()
	e.mu.Lock()
	at.links, at.tags, at.now = e.topology.Links(l, time.Now()), e.tags.Clone(), time.Now()
	e.mu.Unlock()
	refused := make(map[string]string)
	intent := fabric.Compile(l, at.links, at.tags, refused, at.now)
	for over := limited(l, intent); over != nil; over = limited(l, intent) {
		for k, v := range over {
			refused[k] = v
		}
		intent = fabric.Compile(l, at.links, at.tags, refused, at.now)
	}
	actual, errs := e.read(ctx, e.sessions())
	p := want.FabricPlan{Switches: []want.FabricSwitchPlan{}, Policies: []want.FabricPolicyView{}}
	all := slices.Clone(l.Switches())
	for dpid := range actual {
		if !slices.Contains(all, dpid) {
			all = append(all, dpid)
		}
	}
	for _, dpid := range all {
		h := holdingOf(intent, dpid)
		s := want.FabricSwitchPlan{Switch: l.SwitchName(dpid), New: len(h.Rules), Changes: []want.RuleChange{}}
		a := actual[dpid]
		switch {
		case errs[dpid] != nil:
			s.Problem = errs[dpid].Error()
		case a == nil:
			s.Problem = "it is not connected: what it has is not known"
		}
		if a == nil {
			a = &fabric.Actual{}
		}
		for i := range a.Rules {
			if fabric.Ours(a.Rules[i].Cookie) {
				s.Old++
			}
		}
		s.Changes = append(s.Changes, changes(h, a)...)
		if len(s.Changes) > 0 || l.Knows(dpid) {
			p.Switches = append(p.Switches, s)
		}
	}
	for _, o := range intent.Policies {
		i := slices.IndexFunc(l.Fabric.Policies, func(p want.FabricPolicy) bool { return p.Name == o.Name })
		if o.State == want.PolicyInfeasible && len(actual) < len(l.Switches()) && strings.Contains(o.Reason, fabric.NoWay) {
			o.State, o.Reason = want.PolicyPending, "not all switches are connected, and the links are not known"
		}
		wish := l.Fabric.Policies[i]
		p.Policies = append(p.Policies, want.FabricPolicyView{FabricPolicy: wish, State: o.State, Reason: o.Reason, Rules: o.Rules, Split: l.Split(&wish)})
	}
	return p, nil
}

// changes lists what would come, go and change.
func changes(h *fabric.Holding, a *fabric.Actual) []want.RuleChange {
	d := fabric.Diff(h, a)
	var out []want.RuleChange
	for _, r := range d.Missing {
		out = append(out, want.RuleChange{Verb: "add", What: "rule", Text: r.String(), Why: r.Why})
	}
	for i := range d.Changed {
		c := &d.Changed[i]
		out = append(out, want.RuleChange{Verb: "change", What: "rule", Text: c.Want.String(), Was: fabric.RuleText(&c.Have), Why: c.Want.Why})
	}
	for i := range d.Extra {
		out = append(out, want.RuleChange{Verb: "remove", What: "rule", Text: fabric.RuleText(&d.Extra[i])})
	}
	for _, id := range d.MissingGroups {
		out = append(out, want.RuleChange{Verb: "add", What: "group", Text: fmt.Sprintf("0x%x %s", id, h.Groups[id]), Why: h.Groups[id].Why})
	}
	for _, id := range d.ChangedGroups {
		out = append(out, want.RuleChange{Verb: "change", What: "group", Text: fmt.Sprintf("0x%x %s", id, h.Groups[id]), Why: h.Groups[id].Why})
	}
	for _, g := range d.ExtraGroups {
		out = append(out, want.RuleChange{Verb: "remove", What: "group", Text: fmt.Sprintf("0x%x %s", g.ID, of13.BucketsString(g.Kind, g.Buckets))})
	}
	for _, id := range d.MissingMeters {
		out = append(out, want.RuleChange{Verb: "add", What: "meter", Text: fmt.Sprintf("%d %s", id, h.Meters[id]), Why: h.Meters[id].Why})
	}
	for _, id := range d.ChangedMeters {
		out = append(out, want.RuleChange{Verb: "change", What: "meter", Text: fmt.Sprintf("%d %s", id, h.Meters[id]), Why: h.Meters[id].Why})
	}
	for _, m := range d.ExtraMeters {
		out = append(out, want.RuleChange{Verb: "remove", What: "meter", Text: fmt.Sprintf("%d", m.ID)})
	}
	return out
}
