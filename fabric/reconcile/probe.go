package reconcile

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"opentap/fabric"
	"opentap/fabric/session"
	"opentap/fault"
	"opentap/want"
	"opentap/wire/of13"
)

// How long a probe is waited for, and how long others of it after it has come.
const (
	probeWait  = time.Second
	probeTwins = 50 * time.Millisecond
)

// probe is a probe that is under way.
type probe struct {
	mark fabric.Mark
	seen chan fabric.Endpoint // where it came by; has room
}

// probed takes a frame if it is a probe's.
func (e *Engine) probed(at fabric.Endpoint, m *of13.PacketIn) bool {
	mark, ok := e.seal.Probed(m.Data)
	if !ok {
		return false
	}
	e.mu.Lock()
	p := e.probing
	e.mu.Unlock()
	if p != nil && p.mark == mark {
		select {
		case p.seen <- at:
		default: // there are more than enough to say what is wrong
		}
	}
	return true
}

// probeAlways probes all policies again and again, until ctx ends.
func (e *Engine) probeAlways(ctx context.Context) {
	for pause(ctx, e.cfg.Probe) {
		if !e.Leads() {
			continue
		}
		e.mu.Lock()
		var names []string
		if e.intent != nil {
			for _, o := range e.intent.Policies {
				if o.State != want.PolicyInfeasible {
					names = append(names, o.Name)
				}
			}
		}
		e.mu.Unlock()
		for _, name := range names {
			if _, err := e.Probe(ctx, name); err != nil && ctx.Err() == nil {
				e.log.Debug("a policy cannot be probed now", "policy", name, "err", err)
			}
		}
	}
}

// severity orders results of probes, the worst last.
var severity = []string{want.ProbeDelivered, want.ProbeSkipped, want.ProbeLost, want.ProbeDuplicated, want.ProbeLeaked}

// keepProbe takes note of what became of a probe.
func (e *Engine) keepProbe(policy string, list []want.ProbeResult) {
	e.mu.Lock()
	defer e.mu.Unlock()
	worst := want.FabricProbed{At: time.Now().UTC(), Result: want.ProbeDelivered}
	for i := range list {
		r := &list[i]
		e.tally.Probes[r.Result]++
		if slices.Index(severity, r.Result) > slices.Index(severity, worst.Result) {
			worst.Result, worst.Detail = r.Result, strings.TrimSuffix(fmt.Sprintf("%s to %s: %s", r.From, r.To, r.Detail), ": ")
		}
	}
	if before := e.probes[policy].Result; before != worst.Result && (before != "" || worst.Result != want.ProbeDelivered) {
		e.log.Info("probes of a policy have another result", "policy", policy, "result", worst.Result, "detail", worst.Detail)
	}
	e.probes[policy] = worst
}

// probedBadly says why a policy that is probed by itself is not whole. e.mu is held.
func (e *Engine) probedBadly(policy string) string {
	p, ok := e.probes[policy]
	if e.cfg.Probe == 0 || !ok || p.Result == want.ProbeDelivered || p.Result == want.ProbeSkipped {
		return ""
	}
	return strings.TrimSpace("a probe was " + p.Result + ": " + p.Detail)
}

// Probe sends a marked frame along each path of a policy, one after the other, and says what became of it.
func (e *Engine) Probe(ctx context.Context, policy string) ([]want.ProbeResult, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	e.mu.Lock()
	l, intent, leads := e.layout, e.intent, e.term != 0
	e.mu.Unlock()
	if l == nil {
		return nil, noFabric()
	}
	if !leads {
		return nil, &fault.Error{Kind: fault.Unavailable, Msg: "another controller leads the fabric: only it can probe", Hint: "ask that one", RetryAfter: 5 * time.Second}
	}
	if !slices.ContainsFunc(l.Fabric.Policies, func(p want.FabricPolicy) bool { return p.Name == policy }) {
		return nil, fault.New(fault.NotFound, "there is no policy %q", policy)
	}
	if intent == nil {
		return nil, &fault.Error{Kind: fault.Unavailable, Msg: "the switches have not been brought up to date yet", RetryAfter: time.Second}
	}
	sessions := e.sessions()
	actual, _ := e.read(ctx, sessions)
	out := []want.ProbeResult{}
	done := make(map[string]bool)
	for i := range intent.Paths {
		p := &intent.Paths[i]
		key := fmt.Sprint(p.From, p.Tool, p.Tag)
		if !slices.Contains(p.Policies, policy) || done[key] {
			continue
		}
		done[key] = true
		r := want.ProbeResult{Policy: policy, From: l.Name(p.From), To: p.Tool}
		e.follow(ctx, l, p, &r, sessions, actual)
		out = append(out, r)
	}
	if len(out) == 0 {
		o, _ := intent.Outcome(policy)
		return nil, fault.New(fault.Conflict, "the policy has no path: it is %s: %s", o.State, o.Reason)
	}
	if ctx.Err() == nil {
		e.keepProbe(policy, out)
	}
	return out, ctx.Err()
}

// follow sends one probe and fills in the result.
func (e *Engine) follow(ctx context.Context, l *fabric.Layout, p *fabric.Path, r *want.ProbeResult, sessions map[uint64]*session.Session, actual map[uint64]*fabric.Actual) {
	switches := []uint64{p.From.Switch}
	for _, h := range p.Hops {
		switches = append(switches, h.Switch)
	}
	for i, dpid := range switches {
		if sessions[dpid] == nil || actual[dpid] == nil {
			r.Result, r.Detail = want.ProbeSkipped, l.SwitchName(dpid)+" is not connected"
			return
		}
		// The probe has rules of its own: those of the copies must be there as well.
		rules := []*fabric.Rule{p.Cell}
		if i > 0 {
			rules = p.Hops[i-1].Rules
		}
		if lacks := missingRule(rules, actual[dpid]); lacks != nil {
			r.Result, r.Detail = want.ProbeLost, fmt.Sprintf("%s does not hold as it should: %s", l.SwitchName(dpid), lacks.Why)
			return
		}
		r.Hops = append(r.Hops, l.SwitchName(dpid))
	}
	r.Hops = nil
	var b [2]byte
	_, _ = rand.Read(b[:])
	x := &probe{mark: fabric.Mark(binary.BigEndian.Uint16(b[:])), seen: make(chan fabric.Endpoint, 64)}
	e.mu.Lock()
	e.probing = x
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.probing = nil
		e.mu.Unlock()
		for _, s := range sessions {
			_, _ = s.Send(fabric.ForgetProbes()) // what stays is found and removed by the next comparison
		}
	}()
	for dpid, rules := range l.ProbeRules(p, x.mark) {
		s := sessions[dpid]
		if s == nil {
			continue
		}
		var msgs []of13.Message
		for _, rule := range rules {
			msgs = append(msgs, rule.Add())
		}
		if err := s.Commit(ctx, msgs); err != nil {
			r.Result, r.Detail = want.ProbeSkipped, l.SwitchName(dpid)+": "+err.Error()
			return
		}
	}
	start := time.Now()
	if _, err := sessions[p.From.Switch].Send(&of13.PacketOut{
		InPort: p.From.Port, Do: []of13.Action{of13.Output{Port: of13.PortTable}}, Data: e.seal.Probe(x.mark),
	}); err != nil {
		r.Result, r.Detail = want.ProbeSkipped, err.Error()
		return
	}
	x.judge(ctx, l, p, r, start)
	if r.Result != want.ProbeDelivered {
		return
	}
	var down []string
	e.mu.Lock()
	alive := false
	for _, n := range p.Outputs {
		alive = e.checkPort(fabric.Endpoint{Switch: p.Switch, Port: n}, func(format string, args ...any) { down = append(down, fmt.Sprintf(format, args...)) }) || alive
	}
	e.mu.Unlock()
	if r.Detail = strings.Join(down, "; "); !alive {
		r.Result = want.ProbeLost
	}
}

// missingRule returns a rule that the switch does not have, or has otherwise.
func missingRule(rules []*fabric.Rule, a *fabric.Actual) *fabric.Rule {
	have := counters(a)
	for _, r := range rules {
		if f := have[r.Key()]; f == nil || !f.Do.Equal(&r.Do) {
			return r
		}
	}
	return nil
}

// judge waits for the probe and says what became of it.
func (x *probe) judge(ctx context.Context, l *fabric.Layout, p *fabric.Path, r *want.ProbeResult, start time.Time) {
	counts := make([]int, len(p.Hops)+1) // by place on the path, the filter switch first
	stray := make(map[fabric.Endpoint]int)
	place := func(at fabric.Endpoint) int {
		if at == p.From && len(p.Hops) == 0 {
			return 0
		}
		for i, h := range p.Hops {
			for _, rule := range h.Rules {
				if n, _ := rule.Match.Uint(of13.InPort); h.Switch == at.Switch && uint32(n) == at.Port {
					return i + 1
				}
			}
		}
		return -1
	}
	timer := time.NewTimer(probeWait)
	defer timer.Stop()
	for waiting := true; waiting; {
		select {
		case at := <-x.seen:
			i := place(at)
			if i < 0 {
				stray[at]++
				continue
			}
			counts[i]++
			if i == len(counts)-1 {
				if counts[i] == 1 {
					r.Micros = time.Since(start).Microseconds()
				}
				timer.Reset(probeTwins)
			}
		case <-timer.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	last := l.SwitchName(p.From.Switch)
	r.Hops = []string{last}
	for i, h := range p.Hops {
		if counts[i+1] == 0 {
			break
		}
		last = l.SwitchName(h.Switch)
		r.Hops = append(r.Hops, last)
	}
	switch {
	case len(stray) > 0:
		r.Result = want.ProbeLeaked
		for at := range stray {
			r.Detail = "it came in by " + l.Name(at)
		}
	case slices.Max(counts) > 1:
		r.Result, r.Detail = want.ProbeDuplicated, fmt.Sprintf("%d times", slices.Max(counts))
	case counts[len(counts)-1] == 0:
		r.Result, r.Detail = want.ProbeLost, "after "+last
	default:
		r.Result = want.ProbeDelivered
	}
}
