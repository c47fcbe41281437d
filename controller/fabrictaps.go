package controller

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fabric"
	"opentap/fabric/reconcile"
	"opentap/fault"
	"opentap/tap"
	"opentap/tap/oftap"
	"opentap/want"
)

// countTaps is the time between readings of the counters of taps that the fabric carries.
const countTaps = 2 * time.Second

// fabricRoom is what oftap asks.
var _ oftap.Fabric = (*fabricRoom)(nil)

// Layout implements oftap.Fabric.
func (r *fabricRoom) Layout() *fabric.Layout {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.layout
}

// Carried implements oftap.Fabric.
func (r *fabricRoom) Carried() []oftap.Wish {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wishes)
}

// Carry implements oftap.Fabric.
func (r *fabricRoom) Carry(list []oftap.Wish) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wishes, r.carries = list, true
	r.weave()
}

// weave tells the engine what is wanted: the description, and what taps need. Before both are known nothing is touched. r.mu is held.
func (r *fabricRoom) weave() {
	if r.engine == nil || r.seen == 0 || !r.carries {
		return
	}
	l, refused := oftap.With(r.layout, r.wishes)
	r.refused = refused
	r.engine.Want(l)
}

// Settle implements oftap.Fabric.
func (r *fabricRoom) Settle(ctx context.Context) error { return r.theEngine().Await(ctx) }

// View implements oftap.Fabric.
func (r *fabricRoom) View(ctx context.Context, fresh bool) (want.FabricView, error) {
	e := r.theEngine()
	if fresh {
		e.Count(ctx)
	}
	return e.View(ctx, false)
}

func (r *fabricRoom) theEngine() *reconcile.Engine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.engine
}

// tapStatus is what is known of a tap's part in the fabric. ok is false when it was not told of yet as it is since the revision.
func (r *fabricRoom) tapStatus(id string, rev int64) (tap.Status, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, ok := r.taps[id]
	return s, ok && r.tapsRev >= rev
}

// carryTaps has the fabric carry the taps that begin or end at its ports, until ctx ends.
func (c *Controller) carryTaps(ctx context.Context) {
	r := c.fabric
	d := oftap.New(r)
	var list []oftap.Wish
	var sinks []tap.Sink
	var rev int64
	began := false
	count := time.NewTicker(countTaps)
	defer count.Stop()
	fresh := false
	for ctx.Err() == nil {
		turned := r.theEngine().Turned()
		c.mu.Lock()
		now, changed := c.revision, c.changed
		var newList []oftap.Wish
		var newSinks []tap.Sink
		if now != rev {
			newList, newSinks = c.taps.switchWishes()
		}
		c.mu.Unlock()
		if now != rev && now > 0 {
			if !began || !reflect.DeepEqual(list, newList) || !reflect.DeepEqual(sinks, newSinks) {
				list, sinks, began = newList, newSinks, true
				d.Replace(list, sinks)
			}
			rev = now
		}
		r.mu.Lock()
		refused := r.refused
		r.mu.Unlock()
		if states, err := d.Statuses(ctx, fresh && len(list) > 0, refused); err == nil {
			c.takeTapStates(states, rev)
		}
		fresh = false
		for waiting := true; waiting && ctx.Err() == nil; {
			select {
			case <-ctx.Done():
			case <-turned:
				waiting = false
			case <-count.C:
				fresh, waiting = true, false
			case <-changed:
				c.mu.Lock()
				waiting, changed = c.revision == rev, c.changed
				c.mu.Unlock()
			}
		}
	}
}

// takeTapStates takes note of what the fabric says of taps.
func (c *Controller) takeTapStates(states []tap.Status, rev int64) {
	r := c.fabric
	r.mu.Lock()
	same := len(states) == len(r.taps) && rev == r.tapsRev
	fresh := make(map[string]tap.Status, len(states))
	for _, s := range states {
		old := r.taps[s.ID]
		same = same && old.State == s.State && old.Reason == s.Reason && old.Note == s.Note && reflect.DeepEqual(old.Counts, s.Counts)
		fresh[s.ID] = s
	}
	r.taps, r.tapsRev = fresh, rev
	r.mu.Unlock()
	if !same {
		c.mu.Lock()
		c.tell()
		c.mu.Unlock()
	}
}

// ofTap is the flow that a policy with this name would belong to.
func ofTap(policy string) (flow string, ok bool) {
	id, ok := strings.CutPrefix(policy, oftap.Prefix)
	if !ok || len(id) < 36 || !tap.IsUUID(id[:36]) {
		return "", false
	}
	return id[:36], true
}

// byHand refuses what is not for people to set in policies.
func byHand(f *want.Fabric) error {
	for i := range f.Policies {
		p := &f.Policies[i]
		if flow, ok := ofTap(p.Name); ok {
			return &fault.Error{Kind: fault.Conflict, Field: "policies", Msg: "policies called " + oftap.Prefix + " and an id belong to tap flows", Hint: "opentap tap flow show " + flow}
		}
		if p.Tap != "" || p.ExactAt != "" {
			return fault.Field("policies", "%s: tap and exact_at are not for people to set", p.Name)
		}
	}
	return nil
}

// mayNotEnd refuses to change a policy that belongs to a tap flow.
func mayNotEnd(policy string) error {
	if flow, ok := ofTap(policy); ok {
		return &fault.Error{Kind: fault.Conflict, Msg: "the policy belongs to a tap flow, and comes and goes with it", Hint: "opentap tap flow delete " + flow}
	}
	return nil
}

// ownPolicies leaves out the policies of taps that are not the caller's to see.
func (c *Controller) ownPolicies(id auth.Identity, list []want.FabricPolicyView) []want.FabricPolicyView {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.DeleteFunc(list, func(p want.FabricPolicyView) bool { return p.Tap != "" && !c.seesTap(id, p.Name) })
}

// seesTap reports whether the caller may see the flow of a policy. c.mu is held.
func (c *Controller) seesTap(id auth.Identity, policy string) bool {
	flow, _ := ofTap(policy)
	f := c.taps.flows[flow]
	return id.May(auth.Administer) || f != nil && mine(id, f.Flow.Project)
}

// hidden reports whether a text speaks of a tap that is not the caller's to see.
func (c *Controller) hidden(id auth.Identity, texts ...string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range texts {
		for at := strings.Index(s, oftap.Prefix); at >= 0; at = strings.Index(s, oftap.Prefix) {
			s = s[at:]
			if _, ok := ofTap(s); ok && !c.seesTap(id, s) {
				return true
			}
			s = s[len(oftap.Prefix):]
		}
	}
	return false
}

// judgeExact has policies say when the agent behind a delivery port does not do its part. c.mu is held.
func (c *Controller) judgeExact(list []want.FabricPolicyView) {
	n := c.taps.nodes[fabricNode]
	if n == nil {
		return
	}
	for i := range n.Devices {
		d := &n.Devices[i]
		node, _, _ := fabric.CutPlace(d.Switch.LeadsTo)
		if d.Switch.Into == "" {
			continue
		}
		why := "node " + node + " is not known: nothing comes to " + d.Switch.Into + " there"
		if id, ok := c.taps.byNode[node]; ok {
			_, _, why = c.end("source", id, d.PortID+intoSuffix, 0)
		}
		if why == "" {
			continue
		}
		for k := range list {
			p := &list[k]
			if p.Tap != "" || !slices.ContainsFunc(p.To, func(name string) bool { return c.fabric.delivers(name, d.Name) }) {
				continue
			}
			if p.State == want.PolicyActive {
				p.State = want.PolicyDegraded
			}
			p.Reason = strings.TrimPrefix(p.Reason+"; "+why, "; ")
		}
	}
}

// delivers reports whether a destination of policies is at a port, SWITCH/PORT, or shares it.
func (r *fabricRoom) delivers(name, at string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.wanted.Ports[name].At == at {
		return true
	}
	return slices.ContainsFunc(r.wanted.Tools[name].Members, func(m string) bool { return r.wanted.Ports[m].At == at })
}

// FabricTally is what monitoring is told of the fabric; nil = this server takes no switches.
func (c *Controller) FabricTally() *want.FabricTally {
	if c.fabric == nil {
		return nil
	}
	e := c.fabric.theEngine()
	if e == nil {
		return nil
	}
	t := e.Tally()
	return &t
}
