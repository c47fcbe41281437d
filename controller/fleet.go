package controller

import (
	"cmp"
	"context"
	"slices"
	"sort"
	"strings"
	"time"

	"opentap/agentapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

var _ agentapi.Fleet = (*Controller)(nil)

// Joined implements agentapi.Fleet.
func (c *Controller) Joined(id agentapi.Identity) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[id.NodeID]
	if n == nil {
		n = &node{}
		c.nodes[id.NodeID] = n
	}
	n.id, n.connected, n.since = id, true, time.Now().UTC()
	c.tellNodes()
	c.tell()
}

// Left implements agentapi.Fleet.
func (c *Controller) Left(nodeID string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[nodeID]; n != nil {
		n.connected, n.since = false, time.Now().UTC()
		c.tellNodes()
	}
	c.tell()
}

// Inventory implements agentapi.Fleet.
func (c *Controller) Inventory(nodeID string, points []point.Point, facts want.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeID]
	if n == nil {
		return
	}
	for i := range points {
		points[i].Node = n.id.NodeName
	}
	n.points, n.facts, n.told = points, facts, true
	c.moved[nodeID] = true
	c.tellNodes()
	c.tell()
}

// Actual implements agentapi.Fleet.
func (c *Controller) Actual(nodeID string, revision int64, statuses []want.Status, complete bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[nodeID]
	if n == nil {
		return
	}
	n.revision = revision
	if revision > c.revision {
		c.ahead[nodeID] = true
	}
	if complete {
		clear(n.early)
	}
	for _, s := range statuses {
		if e := c.captures[s.UID]; e != nil {
			c.take(e, s, nodeID)
			continue
		}
		// Another controller told the agent of it before our watch told us.
		if n.early == nil {
			n.early = make(map[string]want.Status)
		}
		if len(n.early) < maxEarly {
			n.early[s.UID] = s
		}
	}
	c.tell()
}

// maxEarly bounds what is kept of captures that are not known here; an agent can name any.
const maxEarly = 4096

// take takes over what a node says of a capture; it speaks for its own captures alone. c.mu is held.
func (c *Controller) take(e *entry, s want.Status, nodeID string) {
	if e.NodeID != nodeID || e.Final != nil {
		return
	}
	before := c.status[s.UID]
	if before.State.Final() && !s.State.Final() {
		return // older: a change that was still on its way when all was told
	}
	c.count(e.Capture.Kind, &before, &s)
	c.status[s.UID] = s
	if s.State.Final() {
		c.ended[s.UID] = true
	}
}

// takeEarly takes over what was said of a capture before it was known here. c.mu is held.
func (c *Controller) takeEarly(e *entry) {
	n := c.nodes[e.NodeID]
	if n == nil {
		return
	}
	if s, ok := n.early[e.Capture.UID]; ok {
		delete(n.early, e.Capture.UID)
		c.take(e, s, e.NodeID)
	}
}

// Desired implements agentapi.Fleet.
func (c *Controller) Desired(ctx context.Context, nodeID string) (agentapi.Desired, error) {
	if err := c.Ready(ctx); err != nil {
		return agentapi.Desired{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []want.Capture
	for _, e := range c.byNode[nodeID] {
		k := e.Capture
		if e.Final != nil && k.StopAt.IsZero() {
			k.StopAt = e.Final.Ended // what has ended stays so, also for an agent that has lost its memory
		}
		out = append(out, k)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].UID < out[j].UID })
	d := agentapi.Desired{Revision: c.revision, Captures: out, Recorders: c.desiredRecorders(nodeID), Taps: c.taps.lower(nodeID)}
	if c.members != nil {
		e := c.members.Epoch()
		d.Epoch, d.Replaces = e.ID, e.Replaces
	}
	return d, nil
}

// Nodes lists the hosts with agents.
func (c *Controller) Nodes(ctx context.Context, id auth.Identity) ([]want.Node, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.refuse(ctx, id, "node.list", "", auth.SeeMetadata)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodesFor(id), nil
}

// nodeList shows the nodes, sorted by name. c.mu is held.
func (c *Controller) nodeList() []want.Node {
	out := make([]want.Node, 0, len(c.nodes))
	for _, n := range c.nodes {
		f := n.facts
		f.Name, f.ID, f.Version = n.id.NodeName, n.id.NodeID, n.id.Version
		f.Recordings = nil // Recorders tells them
		f.Connected, f.Since, f.Revision = n.connected, n.since, n.revision
		for _, e := range c.byNode[n.id.NodeID] {
			f.Behind = f.Behind || e.rev > n.revision && e.Final == nil
		}
		if !n.connected {
			f.Problems = append([]string{"its agent is not connected"}, f.Problems...)
		}
		out = append(out, f)
	}
	out = c.enrolled(out)
	slices.SortFunc(out, byName)
	return out
}

func byName(a, b want.Node) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.ID, b.ID))
}

// points returns all points of all nodes. c.mu is held.
func (c *Controller) points() []point.Point {
	var out []point.Point
	for _, n := range c.nodes {
		for _, p := range n.points {
			if !n.connected {
				p.Present = false
			}
			out = append(out, p)
		}
	}
	sortPoints(out)
	return out
}

func sortPoints(out []point.Point) {
	sort.Slice(out, func(i, j int) bool {
		if out[i].Node != out[j].Node {
			return out[i].Node < out[j].Node
		}
		if out[i].Kind != out[j].Kind {
			return out[i].Kind < out[j].Kind
		}
		return out[i].Name < out[j].Name
	})
}

// Points lists the observation points of all nodes.
func (c *Controller) Points(ctx context.Context, id auth.Identity) ([]point.Point, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.refuse(ctx, id, "point.list", "", auth.SeeMetadata)
	}
	return c.setFor(id).Points(), nil
}

// set resolves names as of now. It is made again when points have changed: those of thousands of nodes take a while.
func (c *Controller) set() *point.Set {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.named == nil {
		c.named = point.NewSet(c.points(), c.cfg.Aliases, c.cfg.DefaultPoint)
	}
	return c.named
}

// Capabilities says what can be captured here now.
func (c *Controller) Capabilities(ctx context.Context, id auth.Identity) (want.Capabilities, error) {
	if !id.May(auth.SeeMetadata) {
		return want.Capabilities{}, c.refuse(ctx, id, "capabilities", "", auth.SeeMetadata)
	}
	set := c.setFor(id)
	out := want.Capabilities{
		Name: c.cfg.Name, Version: c.cfg.Version, RetentionDefault: want.Duration(c.cfg.Retention),
		RetentionMax: want.Duration(c.cfg.RetentionMax), MaxDuration: want.Duration(c.cfg.DurationMax), Missing: make(map[string]string),
		Formats: make(map[want.Kind][]want.Format),
	}
	if p, err := set.Resolve(""); err == nil {
		out.DefaultPoint = p.Name
	}
	netdevs, quantities := false, make(map[string]bool)
	for _, p := range set.Points() {
		netdevs = netdevs || p.Kind == point.Netdev
		if p.Kind == point.Sensor {
			quantities[p.Quantity] = true
		}
	}
	c.mu.Lock()
	for _, n := range c.nodes {
		out.QuotaBytes += n.facts.QuotaBytes
		for k, why := range n.facts.Missing {
			out.Missing[k] = why
		}
	}
	c.mu.Unlock()
	if _, _, _, err := c.theFabric(); fault.Is(err, fault.Unsupported) {
		out.Missing["fabric"] = err.Error()
	}
	add := func(k want.Kind, have bool, why string) {
		if missing := out.Missing[string(k)]; missing != "" || !have {
			if missing == "" {
				out.Missing[string(k)] = why
			}
			return
		}
		out.Kinds = append(out.Kinds, k)
		out.Formats[k] = want.FormatsOf(k)
	}
	for _, k := range []want.Kind{want.Packets, want.Flows, want.Counters} {
		add(k, netdevs, "no node reports a network device")
	}
	add(want.Sensor, len(quantities) > 0, "no node reports a sensor")
	for _, q := range SensorKinds {
		add(want.Kind(q), quantities[q], "no node reports a "+q+" sensor")
	}
	return out, nil
}
