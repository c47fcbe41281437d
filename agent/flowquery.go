package agent

import (
	"context"
	"encoding/json"
	"io"
	"slices"

	"opentap/fault"
	"opentap/flow"
	"opentap/flow/query"
	"opentap/packet"
	"opentap/want"
)

// mostGroups bounds what one question may have us keep at one time.
const mostGroups = 1 << 18

// showFlows answers a question for flow records that are kept: with the records, or with one line of JSON that has the groups.
// The flows that are still open count as they are now.
func (a *Agent) showFlows(ctx context.Context, q want.FlowQuery, w io.Writer) error {
	match, err := query.NewFilter(q.Filter)
	if err != nil {
		return &fault.Error{Kind: fault.Invalid, Field: "filter", Msg: err.Error()}
	}
	var from, to packet.Timestamp
	if !q.From.IsZero() {
		from = packet.TimestampOf(q.From)
	}
	if !q.To.IsZero() {
		to = packet.TimestampOf(q.To)
	}
	if !q.Group {
		out, err := flowForm(w, q.Format)
		if err != nil {
			return err
		}
		if err := a.eachFlow(ctx, q.Points, from, to, func(r *flow.Record) error {
			if !match.Match(r) {
				return nil
			}
			return out.Write(r)
		}); err != nil {
			return err
		}
		return out.Close()
	}
	c, err := query.NewCounter(query.Config{By: q.By, Metric: q.Metric, Filter: match, MaxKeys: mostGroups})
	if err != nil {
		return &fault.Error{Kind: fault.Invalid, Field: "by", Msg: err.Error()}
	}
	if err := a.eachFlow(ctx, q.Points, from, to, c.Add); err != nil {
		return err
	}
	t := c.Total()
	out := want.FlowTop{By: q.By, Groups: []want.FlowGroup{}, Total: want.FlowGroup{Bytes: t.Octets, Packets: t.Packets, Flows: t.Flows}, Records: c.Records()}
	for _, g := range c.Top(0) {
		out.Groups = append(out.Groups, want.FlowGroup{Key: g.Key, Bytes: g.Octets, Packets: g.Packets, Flows: g.Flows})
	}
	return json.NewEncoder(w).Encode(out)
}

// eachFlow calls fn with the flow records of points, none meaning all, that touch a time, and with the flows that are open.
func (a *Agent) eachFlow(ctx context.Context, points []string, from, to packet.Timestamp, fn func(*flow.Record) error) error {
	for _, l := range a.flows.all() {
		if len(points) > 0 && !slices.Contains(points, l.point) {
			continue
		}
		var open []flow.Record
		if l.open != nil {
			l.open(func(r *flow.Record) {
				if r.Last >= from && (to == 0 || r.First < to) {
					open = append(open, *r)
				}
			})
		}
		upto, err := l.settle()
		if err != nil {
			return err
		}
		if err := l.each(ctx, upto, from, to, fn); err != nil {
			return err
		}
		for i := range open {
			if err := fn(&open[i]); err != nil {
				return err
			}
		}
	}
	return nil
}
