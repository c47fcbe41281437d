package controller

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

// flowNode is a node that is asked for flow records, and the points there.
type flowNode struct {
	id, name string
	points   []string
	since    time.Time
	away     bool
}

// maxGroups is how many groups a question may ask for; all of them are had as records.
const maxGroups = 10000

// OpenFlows opens the flow records that are kept at all times: of unknown size, to be written once.
func (c *Controller) OpenFlows(ctx context.Context, id auth.Identity, q want.FlowQuery) (*want.Retrieval, error) {
	nodes, err := c.planFlows(ctx, id, &q, "flows.read")
	if err != nil {
		return nil, err
	}
	if q.Format == "" {
		q.Format = want.CSV
	}
	if q.Format != want.CSV && q.Format != want.NDJSON {
		return nil, fault.Field("format", "%q: flow records that are kept are had as csv or ndjson; a capture of kind netflow has more", q.Format)
	}
	for _, n := range nodes {
		if n.away { // half an answer would look like a whole one
			return nil, &fault.Error{Kind: fault.Unavailable, Msg: "node " + n.name + " is not connected", Hint: "name the points of others", RetryAfter: 5 * time.Second}
		}
	}
	return &want.Retrieval{
		Format: q.Format, FileName: "opentap-flows" + q.Format.Extension(), Size: -1,
		Write: func(ctx context.Context, w io.Writer, _, _ int64) error {
			for i, n := range nodes {
				part := q
				part.Points = n.points
				out := w
				if i > 0 && q.Format == want.CSV {
					out = &headless{w: w}
				}
				if err := c.hub.Stream(ctx, c.liveEnd, n.id, n.name, want.LiveSpec{Look: &want.Look{Flows: &part}}, out); err != nil {
					return err
				}
			}
			return nil
		},
		Close: func() error { return nil },
	}, nil
}

// headless lets through what comes after the first line.
type headless struct {
	w    io.Writer
	past bool
}

// Write implements io.Writer.
func (h *headless) Write(p []byte) (int, error) {
	rest := p
	if !h.past {
		_, after, ok := bytes.Cut(p, []byte{'\n'})
		if !ok {
			return len(p), nil
		}
		h.past, rest = true, after
	}
	if len(rest) > 0 {
		if _, err := h.w.Write(rest); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// TopFlows adds up the flow records that are kept, by keys. Nodes that cannot be asked are named in the answer.
func (c *Controller) TopFlows(ctx context.Context, id auth.Identity, q want.FlowQuery) (want.FlowTop, error) {
	q.Group = true
	if q.Metric == "" {
		q.Metric = "bytes"
	}
	if q.Top < 0 || q.Top > maxGroups {
		return want.FlowTop{}, fault.Field("top", "is %d; it can be 1 to %d", q.Top, maxGroups)
	}
	nodes, err := c.planFlows(ctx, id, &q, "flows.top")
	if err != nil {
		return want.FlowTop{}, err
	}
	out := want.FlowTop{By: append([]string{}, q.By...), Groups: []want.FlowGroup{}, Points: []string{}}
	groups := make(map[string]*want.FlowGroup)
	for _, n := range nodes {
		if n.away {
			out.Missing = append(out.Missing, n.name+": not connected")
			continue
		}
		part := q
		part.Points = n.points
		var b bytes.Buffer
		if err := c.hub.Stream(ctx, c.liveEnd, n.id, n.name, want.LiveSpec{Look: &want.Look{Flows: &part}}, &b); err != nil {
			if ctx.Err() != nil || fault.Is(err, fault.Invalid) || len(nodes) == 1 {
				return want.FlowTop{}, err
			}
			out.Missing = append(out.Missing, n.name+": "+err.Error())
			continue
		}
		var t want.FlowTop
		if err := json.Unmarshal(b.Bytes(), &t); err != nil {
			return want.FlowTop{}, fault.New(fault.Internal, "node %s answered in a form that is not understood: %v", n.name, err)
		}
		out.Records += t.Records
		out.Total.Add(&t.Total)
		if out.Since.IsZero() || !n.since.IsZero() && n.since.Before(out.Since) {
			out.Since = n.since
		}
		for i := range t.Groups {
			g := &t.Groups[i]
			k := strings.Join(g.Key, "\x00")
			if have := groups[k]; have != nil {
				have.Add(g)
			} else {
				groups[k] = g
			}
		}
		for _, p := range n.points {
			out.Points = append(out.Points, n.name+"/"+p)
		}
	}
	for _, g := range groups {
		out.Groups = append(out.Groups, *g)
	}
	slices.SortFunc(out.Groups, func(a, b want.FlowGroup) int {
		return cmp.Or(cmp.Compare(b.By(q.Metric), a.By(q.Metric)), slices.Compare(a.Key, b.Key))
	})
	if most := cmp.Or(q.Top, maxGroups); len(out.Groups) > most {
		out.Groups = out.Groups[:most]
	}
	out.Total.Key = []string{}
	return out, nil
}

// planFlows finds who has the records, and writes down that somebody reads them.
func (c *Controller) planFlows(ctx context.Context, id auth.Identity, q *want.FlowQuery, action string) ([]*flowNode, error) {
	if !id.May(auth.ReadPayload) {
		return nil, c.refuse(ctx, id, action, strings.Join(q.Points, ","), auth.ReadPayload)
	}
	switch {
	case !q.To.IsZero() && !q.To.After(q.From):
		return nil, fault.Field("to", "is not after from")
	case len(q.Points) > maxPoints:
		return nil, fault.Field("point", "names %d points, at most %d are taken", len(q.Points), maxPoints)
	case len(q.By) > 8:
		return nil, fault.Field("by", "has %d keys, at most 8 are taken", len(q.By))
	}
	if q.Filter != "" {
		if _, err := parseFilter(q.Filter, false); err != nil {
			return nil, err
		}
	}
	nodes, err := c.flowNodes(id, q.Points)
	if err != nil {
		return nil, err
	}
	if len(nodes) == 0 {
		return nil, &fault.Error{
			Kind: fault.NotFound, Msg: "no flow records are kept anywhere",
			Hint: "name devices under flows, or an address under collectors, in the configuration",
		}
	}
	var names []string
	for _, n := range nodes {
		for _, p := range n.points {
			names = append(names, n.name+"/"+p)
		}
	}
	return nodes, c.record(ctx, id, action, strings.Join(names, ","), id.Project, map[string]string{
		"filter": q.Filter, "from": timeOrNone(q.From), "to": timeOrNone(q.To), "by": strings.Join(q.By, ","),
	})
}

// flowNodes resolves points, none meaning all that keep flow records and the caller sees; sorted by node.
func (c *Controller) flowNodes(id auth.Identity, names []string) ([]*flowNode, error) {
	wanted := make(map[string][]string) // node → points; used when names are given
	set := c.setFor(id)
	for _, name := range names {
		p, err := set.Resolve(name)
		if err != nil {
			var f *fault.Error
			if errors.As(err, &f) && (f.Field == "" || f.Field == "points") {
				f.Field = "point"
			}
			return nil, err
		}
		if !slices.Contains(wanted[p.Node], p.Name) {
			wanted[p.Node] = append(wanted[p.Node], p.Name)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*flowNode
	project, narrow := c.restricted(id)
	for nodeID, n := range c.nodes {
		f := &flowNode{id: nodeID, name: n.id.NodeName, away: !n.connected}
		for _, s := range n.facts.FlowStores {
			if len(names) > 0 && !slices.Contains(wanted[f.name], s.Point) {
				continue
			}
			if narrow && !c.seesPoint(&project, nodeID, &point.Point{Node: f.name, Name: s.Point, Kind: point.Netdev}) {
				continue
			}
			f.points = append(f.points, s.Point)
			if f.since.IsZero() || !s.Since.IsZero() && s.Since.Before(f.since) {
				f.since = s.Since
			}
		}
		for _, p := range wanted[f.name] {
			if !slices.Contains(f.points, p) {
				return nil, &fault.Error{
					Kind: fault.NotFound, Field: "point", Msg: "no flow records of " + p + " on node " + f.name + " are kept",
					Hint: "name it under flows in the configuration, or start a capture of kind netflow",
				}
			}
		}
		if len(f.points) > 0 {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b *flowNode) int { return cmp.Compare(a.name, b.name) })
	return out, nil
}
