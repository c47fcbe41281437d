package controller

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/tap"
)

// end is what a node says of a source or sink that was wished for at the revision. c.mu is held.
func (c *Controller) end(role, nodeID, id string, rev int64) (tap.End, tap.Condition, string) {
	if nodeID == fabricNode {
		return c.switchEnd(role, id, rev)
	}
	e := tap.End{Role: role, NodeID: nodeID, Node: nodeID}
	if p := c.taps.nodes[nodeID]; p != nil {
		e.Node = p.Node
	}
	n := c.nodes[nodeID]
	if n == nil {
		e.Status = tap.Status{ID: id, State: tap.Pending, Reason: "node " + e.Node + " has not been heard of since this controller began"}
		return e, tap.Down, e.Reason
	}
	e.Node = n.id.NodeName
	st, ok := n.taps[id]
	away := ""
	if !n.connected {
		away = "node " + e.Node + " is not connected; it goes on with what it knows, and this is its last word"
	}
	switch {
	case !ok || n.revision < rev:
		e.Status = tap.Status{ID: id, State: tap.Pending, Reason: "node " + e.Node + " has not taken it yet"}
		if away != "" {
			e.Reason = away
		}
		return e, tap.Down, e.Reason
	case st.State == tap.Active:
		e.Status = st
		return e, tap.Up, away
	case st.State == tap.Failed:
		e.Status = st
		return e, tap.Error, onNode(e.Node, st.Reason, "it cannot be made there")
	case st.State == tap.Expired:
		e.Status = st
		return e, tap.Down, "its time is over"
	}
	e.Status = st
	return e, tap.Down, onNode(e.Node, st.Reason, "it is being made")
}

func onNode(node, reason, otherwise string) string {
	if reason == "" {
		reason = otherwise
	}
	return "node " + node + ": " + reason
}

// judge puts together what the ends say: active if one of the sources is and the sink is. What is wrong is said first.
func judge(r *tap.Report, sources, sinks []tap.Condition, reasons []string) {
	has := slices.Contains[[]tap.Condition]
	switch {
	case has(sources, tap.Up) && (len(sinks) == 0 || has(sinks, tap.Up)):
		r.Status = tap.Up
	case !has(sources, tap.Up) && has(sources, tap.Error), len(sinks) > 0 && !has(sinks, tap.Up) && has(sinks, tap.Error):
		r.Status = tap.Error
	default:
		r.Status = tap.Down
	}
	var said []string
	for _, s := range reasons {
		if s != "" && !slices.Contains(said, s) {
			said = append(said, s)
		}
	}
	r.Reason = strings.Join(said, "; ")
	for _, e := range r.Ends {
		if e.Note != "" && !slices.Contains(r.Notes, e.Note) {
			r.Notes = append(r.Notes, e.Note)
		}
		if e.Role == "source" {
			r.Counts.Add(&e.Counts)
			r.Gaps = append(r.Gaps, e.Gaps...)
		}
	}
	slices.SortFunc(r.Gaps, func(a, b tap.Gap) int { return a.From.Compare(b.From) })
}

func (c *Controller) portName(id string) string {
	if p := c.taps.port(id); p != nil {
		return p.Name
	}
	return ""
}

// serviceView shows a service. Its counts are those of its flows: a tool on its source's own node has no counters. c.mu is held.
func (c *Controller) serviceView(s *storedService) tap.ServiceView {
	v := tap.ServiceView{Service: s.Service, Port: c.portName(s.Service.PortID), Flows: len(c.taps.flowsTo[s.Service.ID])}
	v.Report = c.serviceReport(s)
	for id := range c.taps.flowsTo[s.Service.ID] {
		if f := c.taps.flows[id]; f != nil {
			r := c.flowReport(f)
			v.Counts.Add(&r.Counts)
		}
	}
	return v
}

func over(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (c *Controller) serviceReport(s *storedService) tap.Report {
	var r tap.Report
	switch {
	case over(s.Service.Options.Expires):
		return tap.Report{Status: tap.Down, Reason: "its time is over"}
	case c.taps.port(s.Service.PortID) == nil:
		return tap.Report{Status: tap.Down, Reason: "its port is not there"}
	}
	if why := c.taps.serviceRefused(s); why != "" {
		return tap.Report{Status: tap.Error, Reason: why}
	}
	at, ok := c.taps.target(s)
	if !ok {
		return tap.Report{Status: tap.Down, Reason: "its port is on no node now"}
	}
	e, cond, why := c.end("sink", at.nodeID, s.Service.ID, s.meant)
	r.Ends = []tap.End{e}
	judge(&r, []tap.Condition{cond}, nil, []string{why})
	return r
}

// flowView shows a flow. c.mu is held.
func (c *Controller) flowView(f *storedFlow) tap.FlowView {
	v := tap.FlowView{Flow: f.Flow, Port: c.portName(f.Flow.PortID), Filtering: f.filtering}
	if s := c.taps.services[f.Flow.ServiceID]; s != nil {
		v.Service = s.Service.Name
	}
	v.Report = c.flowReport(f)
	return v
}

func (c *Controller) flowReport(f *storedFlow) tap.Report {
	s := c.taps.services[f.Flow.ServiceID]
	switch {
	case over(f.Flow.Options.Expires), s != nil && over(s.Service.Options.Expires):
		return tap.Report{Status: tap.Down, Reason: "its time is over"}
	case c.taps.port(f.Flow.PortID) == nil:
		return tap.Report{Status: tap.Down, Reason: "its source port is not there"}
	case s != nil && c.taps.port(s.Service.PortID) == nil:
		return tap.Report{Status: tap.Down, Reason: "of the service: its port is not there"}
	}
	if why := c.taps.flowRefused(f); why != "" {
		return tap.Report{Status: tap.Error, Reason: why}
	}
	var r tap.Report
	var sources []tap.Condition
	var reasons []string
	for _, at := range c.taps.places[f.Flow.PortID] {
		if _, why := c.taps.source(f, at); why != "" {
			reasons = append(reasons, why)
			if strings.HasPrefix(why, "node ") {
				sources = append(sources, tap.Error)
			}
			continue
		}
		e, cond, why := c.end("source", at.nodeID, f.Flow.ID, f.meant)
		e, cond, why = c.overCable(&r, f, at, e, cond, why)
		r.Ends = append(r.Ends, e)
		sources, reasons = append(sources, cond), append(reasons, why)
		r.Gaps = append(r.Gaps, c.moveGap(at, &e)...)
	}
	if len(c.taps.places[f.Flow.PortID]) == 0 {
		reasons = append(reasons, "its source port is on no node now")
	}
	sink := tap.Down
	if at, ok := c.taps.target(s); ok {
		e, cond, why := c.end("sink", at.nodeID, s.Service.ID, s.meant)
		r.Ends = append(r.Ends, e)
		sink, reasons = cond, append(reasons, why)
	}
	judge(&r, sources, []tap.Condition{sink}, reasons)
	if r.Status == tap.Up && len(sources) > 1 {
		r.Reason = "the port is at " + strconv.Itoa(len(sources)) + " nodes; it is copied at each"
	}
	return r
}

// mirrorView shows a mirror. c.mu is held.
func (c *Controller) mirrorView(m *storedMirror) tap.MirrorView {
	return tap.MirrorView{Mirror: m.Mirror, Port: c.portName(m.Mirror.PortID), Filtering: m.filtering, Report: c.mirrorReport(m)}
}

func (c *Controller) mirrorReport(m *storedMirror) tap.Report {
	switch {
	case over(m.Mirror.Options.Expires):
		return tap.Report{Status: tap.Down, Reason: "its time is over"}
	case c.taps.port(m.Mirror.PortID) == nil:
		return tap.Report{Status: tap.Down, Reason: "its port is not there"}
	}
	if why := c.taps.mirrorRefused(m); why != "" {
		return tap.Report{Status: tap.Error, Reason: why}
	}
	var r tap.Report
	worst := tap.Up
	var reasons []string
	places := c.taps.places[m.Mirror.PortID]
	for _, d := range sortedDirections(m.Mirror.Directions) {
		var each []tap.Condition
		for _, at := range places {
			e, cond, why := c.end("source", at.nodeID, mirrorSource(m.Mirror.ID, d), m.meant)
			r.Ends = append(r.Ends, e)
			each, reasons = append(each, cond), append(reasons, why)
			r.Gaps = append(r.Gaps, c.moveGap(at, &e)...)
		}
		switch {
		case slices.Contains(each, tap.Up):
		case slices.Contains(each, tap.Error):
			worst = tap.Error
		case worst == tap.Up:
			worst = tap.Down
		}
		if t := m.Mirror.Directions[d]; t > tap.MaxSession && (m.Mirror.Type == tap.ERSPAN1 || m.Mirror.Type == tap.ERSPAN2) {
			r.Notes = append(r.Notes, "ERSPAN carries session ids up to 1023: "+strconv.FormatUint(uint64(t), 10)+" is sent as "+strconv.FormatUint(uint64(t&tap.MaxSession), 10))
		}
	}
	if len(places) == 0 {
		worst, reasons = tap.Down, append(reasons, "its port is on no node now")
	}
	judge(&r, []tap.Condition{worst}, nil, reasons)
	return r
}

// moveGap is the time between a port's leaving one node and its being copied at the next one. c.mu is held.
func (c *Controller) moveGap(at place, e *tap.End) []tap.Gap {
	d := c.taps.devices[at]
	if d == nil || d.From == "" {
		return nil
	}
	left := d.Left
	if left.IsZero() { // it was still there when it came here; has it left since?
		if o := c.taps.nodes[c.taps.byNode[d.From]]; o != nil {
			left = goneSince(o, d)
		}
	}
	if left.IsZero() {
		return nil
	}
	g := tap.Gap{From: left, Reason: "the port moved from node " + d.From + " to node " + e.Node}
	if d.From == e.Node {
		g.Reason = "the port was away from node " + e.Node
	}
	if e.State == tap.Active {
		if g.To = e.Since; len(e.Gaps) > 0 && e.Gaps[0].From.Before(g.To) {
			g.To = e.Gaps[0].From
		}
		if !g.To.After(g.From) {
			return nil // the one began before the other ended
		}
	}
	return []tap.Gap{g}
}

// SettleTap waits a little until it is known what became of a service, flow or mirror.
func (c *Controller) SettleTap(ctx context.Context, id string) {
	c.settle(ctx, func() bool {
		var r tap.Report
		switch s, f, m := c.taps.services[id], c.taps.flows[id], c.taps.mirrors[id]; {
		case s != nil:
			r = c.serviceReport(s)
		case f != nil:
			r = c.flowReport(f)
		case m != nil:
			r = c.mirrorReport(m)
		default:
			return true
		}
		return r.Status != tap.Down || len(r.Ends) == 0
	})
}
