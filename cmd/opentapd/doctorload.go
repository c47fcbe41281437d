package main

import (
	"fmt"
	"slices"
	"strings"

	"opentap/agent"
	"opentap/ledger"
	"opentap/want"
)

// budgets bound what this program takes of its host.
func (c *config) budgets() agent.Budgets {
	return agent.Budgets{CPU: c.Governor.CPU, Memory: int64(c.Governor.Memory), Disk: int64(c.Governor.Disk)}
}

// governorFinding tells whether packets are given up to hold the budgets.
func governorFinding(b agent.Budgets, stage int, problems []string) want.Finding {
	const check = "governor"
	if b == (agent.Budgets{}) {
		return want.Finding{Check: check, Severity: want.Fine, Text: "no budgets are set: captures take what they need of this host"}
	}
	var bounds []string
	if b.CPU > 0 {
		bounds = append(bounds, fmt.Sprintf("%.2f cores", b.CPU))
	}
	if b.Memory > 0 {
		bounds = append(bounds, fmt.Sprintf("%d MiB of memory", b.Memory>>20))
	}
	if b.Disk > 0 {
		bounds = append(bounds, fmt.Sprintf("%.1f MB/s to disk", float64(b.Disk)/1e6))
	}
	budget := strings.Join(bounds, ", ")
	if stage == 0 {
		return want.Finding{Check: check, Severity: want.Fine, Text: "packets are taken whole within the budget of " + budget}
	}
	text := fmt.Sprintf("the budget of %s does not do: packets are given up, stage %d of 4", budget, stage)
	if i := slices.IndexFunc(problems, governorSays); i >= 0 {
		text = problems[i]
	}
	return want.Finding{Check: check, Severity: want.Warn, Text: text, Fix: "raise governor.cpu, .memory or .disk, or have captures and recorders take less: a filter, a snap length, fewer points"}
}

// governorSays reports whether a problem is the governor's, which has a finding of its own.
func governorSays(problem string) bool { return strings.HasPrefix(problem, "the governor holds") }

// readerFinding tells of recorders whose reader was late, and what would help: a fanout where there are processors for it and one thread
// reads now, else a larger ring.
func readerFinding(recorders []want.RecorderView, dedicated map[string]int, cpus int) want.Finding {
	const check = "readers"
	f := want.Finding{Check: check, Severity: want.Fine, Text: "no recorder has lost a packet in the kernel's ring"}
	var lost, fix []string
	for i := range recorders {
		r := &recorders[i]
		a := &r.Status.Ledger
		n := a.Dropped[ledger.Ring]
		if n == 0 {
			continue
		}
		lost = append(lost, fmt.Sprintf("%s %d of %d", r.Point, n, a.Seen-min(a.Seen, a.Filtered)))
		_, own := dedicated[r.Point]
		have := max(r.Fanout, 1)
		rings := min(2*have, cpus/2) // a reader and what writes for it take nearly two processors, docs/performance.md
		switch {
		case own:
			fix = append(fix, "more memory for "+r.Point+" in points.devices")
		case rings <= have:
			fix = append(fix, "a larger ring.blocks")
		case r.Origin == want.FromAPI:
			fix = append(fix, fmt.Sprintf("opentap recorders set %s --fanout %d", r.Point, rings))
		default:
			fix = append(fix, fmt.Sprintf("fanout: %d for the recorder of %s", rings, r.Point))
		}
	}
	if len(lost) > 0 {
		slices.Sort(fix)
		f.Severity = want.Warn
		f.Text = "readers were late, and recorders lost packets in the kernel's ring (kernel_ring): " + strings.Join(lost, ", ")
		f.Fix = strings.Join(slices.Compact(fix), "; ") + "; or a filter"
	}
	return f
}
