package main

import (
	"context"
	"strconv"
	"strings"
	"time"

	"opentap/flow/query"
	"opentap/want"
)

// kept is the question to the flow records that the server keeps.
func (q *flowsRun) kept() (want.FlowQuery, error) {
	out := want.FlowQuery{Points: q.points, Filter: q.filter, By: q.keys(), Metric: q.metric, Top: q.n}
	if _, err := query.NewFilter(q.filter); err != nil {
		return out, usageError{err}
	}
	now := time.Now()
	for _, at := range []struct {
		name, text string
		to         *time.Time
	}{{"--from", q.from, &out.From}, {"--to", q.to, &out.To}} {
		t, err := parseTime(at.text, now)
		if err != nil {
			return out, usagef("%s: %w", at.name, err)
		}
		*at.to = t
	}
	return out, nil
}

// topKept has the server add up what it keeps.
func (q *flowsRun) topKept(ctx context.Context) error {
	ask, err := q.kept()
	if err != nil {
		return err
	}
	cl, err := q.a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	t, err := cl.TopFlows(ctx, ask)
	if err != nil {
		return err
	}
	header := append(q.keys(), "bytes", "packets", "flows", "share")
	var rows [][]string
	raw := []map[string]any{}
	numbered := func(g *want.FlowGroup) []string {
		return []string{strconv.FormatUint(g.Bytes, 10), strconv.FormatUint(g.Packets, 10), strconv.FormatUint(g.Flows, 10)}
	}
	for i := range t.Groups {
		g := &t.Groups[i]
		rows = append(rows, append(append(append([]string{}, g.Key...), numbered(g)...), share(g.By(q.metric), t.Total.By(q.metric))))
		raw = append(raw, q.keptJSON(g))
	}
	if err := q.a.table(header, rows, map[string]any{"groups": raw, "total": q.keptJSON(&t.Total), "points": t.Points}); err != nil {
		return err
	}
	q.a.tell("%d records of %s: %d bytes, %d packets", t.Records, strings.Join(t.Points, ", "), t.Total.Bytes, t.Total.Packets)
	for _, m := range t.Missing {
		q.a.say("warning: %s: its records are not in the answer", m)
	}
	if !t.Since.IsZero() && !ask.From.IsZero() && t.Since.After(ask.From) {
		q.a.tell("records are kept since %s", t.Since.Local().Format(time.RFC3339))
	}
	return nil
}

func (q *flowsRun) keptJSON(g *want.FlowGroup) map[string]any {
	m := map[string]any{"bytes": g.Bytes, "packets": g.Packets, "flows": g.Flows}
	for i, v := range g.Key {
		m[q.keys()[i]] = v
	}
	return m
}

// readKept counts the records that the server keeps while they come.
func (q *flowsRun) readKept(ctx context.Context, c *query.Counter) error {
	ask, err := q.kept()
	if err != nil {
		return err
	}
	cl, err := q.a.connect()
	if err != nil {
		return err
	}
	defer cl.Close()
	r, err := cl.Flows(ctx, ask)
	if err != nil {
		return err
	}
	defer r.Close()
	return query.ReadCSV(r, c.Add)
}
