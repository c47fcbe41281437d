package main

import (
	"strings"
	"testing"
)

func TestStatsAndRatios(t *testing.T) {
	if lo, mid, hi := stats([]float64{3, 1, 2, 10}); lo != 1 || mid != 2.5 || hi != 10 {
		t.Errorf("stats = %v %v %v, want 1 2.5 10", lo, mid, hi)
	}
	for _, tt := range []struct {
		name       string
		ours, peer float64
		better     string
		want       string
	}{
		{"less is better, and is less", 0.1, 0.3, lower, "0.33: 3.0× better"},
		{"less is better, and is more", 0.3, 0.1, lower, "3.00: 3.0× worse"},
		{"more is better, and is more", 4, 2, higher, "2.00: 2.0× better"},
		{"more is better, and is less", 2, 4, higher, "0.50: 2.0× worse"},
		{"nothing measured", 0, 4, higher, "-"},
	} {
		if got := ratioText(tt.ours, tt.peer, tt.better); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestTableLeavesOutToolsWithoutFigures(t *testing.T) {
	var sb strings.Builder
	table{{task: "a task", unit: "s", better: lower, digits: 1, series: []*series{
		{tool: "ours", values: []float64{1, 2, 3}}, {tool: "missing"}, {tool: "peer", values: []float64{4}},
	}}}.print(&sb)
	if out := sb.String(); strings.Contains(out, "missing") || !strings.Contains(out, "0.50: 2.0× better") {
		t.Errorf("table:\n%s", out)
	}
}
