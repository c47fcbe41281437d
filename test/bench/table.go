package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// Which way a figure is better.
const (
	lower  = "lower"
	higher = "higher"
)

// series are the figures of one tool in one task, one of each run.
type series struct {
	tool   string
	values []float64
	extra  string // said beside
}

func (s *series) add(v float64) { s.values = append(s.values, v) }

// stats returns the least, the median and the greatest value.
func stats(values []float64) (least, median, most float64) {
	if len(values) == 0 {
		return 0, 0, 0
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return v[0], (v[(n-1)/2] + v[n/2]) / 2, v[n-1]
}

// row is one task: ours first, then the peers.
type row struct {
	task   string
	unit   string
	better string // lower or higher
	digits int
	series []*series
}

// table is all there is to print.
type table []row

// print writes one line a tool: min, median and max, and ours as a ratio of its median.
func (t table) print(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, "task\tunit (better)\ttool\tmin\tmedian\tmax\truns\tours/peer\t")
	for _, r := range t {
		var ours float64
		for i, s := range r.series {
			if len(s.values) == 0 {
				continue
			}
			lo, mid, hi := stats(s.values)
			task, unit, ratio := "", "", "1"
			if i == 0 {
				task, unit, ours = r.task, fmt.Sprintf("%s (%s)", r.unit, r.better), mid
			} else {
				ratio = ratioText(ours, mid, r.better)
			}
			f := func(v float64) string { return fmt.Sprintf("%.*f", r.digits, v) }
			fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%s\n", task, unit, s.tool, f(lo), f(mid), f(hi), len(s.values), ratio, s.extra)
		}
	}
	tw.Flush()
}

// ratioText is ours/peer, and how many times better or worse that is.
func ratioText(ours, peer float64, better string) string {
	if ours <= 0 || peer <= 0 {
		return "-"
	}
	r := ours / peer
	if better == higher {
		r = peer / ours
	}
	if r <= 1 {
		return fmt.Sprintf("%.2f: %.1f× better", ours/peer, 1/r)
	}
	return fmt.Sprintf("%.2f: %.1f× worse", ours/peer, r)
}

func joinNotes(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}
