package agent

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"opentap/capture"
)

// Budgets bound what this program takes of its host. 0 = no bound. What the data may take of the disk is Quota's.
type Budgets struct {
	CPU    float64 // of cores: 1.5 is one and a half
	Memory int64   // octets in memory, rings included
	Disk   int64   // octets written per second
}

func (b *Budgets) check() error {
	const leastMemory = 128 << 20
	switch {
	case b.CPU < 0 || b.CPU > 4096 || b.CPU != b.CPU:
		return fmt.Errorf("governor: cpu is %v cores; 0 (no bound) to 4096", b.CPU)
	case b.Memory < 0 || b.Memory > 0 && b.Memory < leastMemory:
		return fmt.Errorf("governor: memory is %d octets; 0 (no bound) or at least %d", b.Memory, leastMemory)
	case b.Disk < 0:
		return fmt.Errorf("governor: disk is %d octets per second; 0 (no bound) or more", b.Disk)
	}
	return nil
}

// usage is what this program took in the last period.
type usage struct {
	cpu    float64 // cores
	memory int64   // octets
	disk   int64   // octets per second
}

// stages are how it degrades, in this order.
var stages = []struct {
	capture.Restraint
	means string
}{
	{},
	{capture.Restraint{Snap: 128}, "packets are cut to 128 octets"},
	{capture.Restraint{Snap: 128, OneIn: 4}, "one in 4 packets is taken, cut to 128 octets"},
	{capture.Restraint{Snap: 128, OneIn: 16}, "one in 16 packets is taken, cut to 128 octets"},
	{capture.Restraint{Pause: true}, "no packets are taken"},
}

const (
	governEvery = time.Second
	riseAfter   = 3   // looks over a budget until the next stage
	fallAfter   = 10  // looks well below all budgets until the stage before
	fallLatest  = 300 // the most that becomes of fallAfter when load comes back each time
	below       = 0.8 // of a budget is well below
)

// governor decides on a stage. It belongs to one goroutine and knows no clock: each step is one look.
type governor struct {
	budgets     Budgets
	stage       int
	over, under int
	patience    int // looks well below until the stage before
	since       int // looks since the last step back
	why         string
}

func newGovernor(b Budgets) *governor {
	return &governor{budgets: b, patience: fallAfter, since: fallLatest}
}

// step takes one look, and reports whether the stage has changed.
func (g *governor) step(u usage) bool {
	worst, why := 0.0, ""
	for _, x := range []struct {
		used, budget float64
		text         string
	}{
		{u.cpu, g.budgets.CPU, fmt.Sprintf("%.2f of %.2f cores are used", u.cpu, g.budgets.CPU)},
		{float64(u.memory), float64(g.budgets.Memory), fmt.Sprintf("%d of %d MiB of memory are used", u.memory>>20, g.budgets.Memory>>20)},
		{float64(u.disk), float64(g.budgets.Disk), fmt.Sprintf("%.1f of %.1f MB/s are written", float64(u.disk)/1e6, float64(g.budgets.Disk)/1e6)},
	} {
		if x.budget > 0 && x.used/x.budget > worst {
			worst, why = x.used/x.budget, x.text
		}
	}
	g.since++
	switch {
	case worst > 1:
		g.over, g.under = g.over+1, 0
	case worst < below:
		g.over, g.under = 0, g.under+1
	default:
		g.over, g.under = 0, 0
	}
	switch {
	case g.over >= riseAfter && g.stage < len(stages)-1:
		if g.since < 6*fallAfter { // it had gone back too soon
			g.patience = min(2*g.patience, fallLatest)
		}
		g.stage, g.over, g.why = g.stage+1, 0, why
		return true
	case g.under >= g.patience && g.stage > 0:
		g.stage, g.under, g.since = g.stage-1, 0, 0
		return true
	case g.stage == 0 && g.since > fallLatest:
		g.patience = fallAfter
	}
	return false
}

// reason says what is given up, and why; "" = nothing is.
func (g *governor) reason() string {
	if g.stage == 0 {
		return ""
	}
	return fmt.Sprintf("the governor holds this host's budget (%s): %s, and counted", g.why, stages[g.stage].means)
}

// gauge reads what this process uses.
type gauge struct {
	last    time.Time
	cpu     time.Duration
	written int64
	primed  bool
}

// read returns the usage since the last call; false: that was the first.
func (m *gauge) read(now time.Time) (usage, bool, error) {
	var ru unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &ru); err != nil {
		return usage{}, false, fmt.Errorf("read the CPU time of this process: %w", err)
	}
	cpu := time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	memory, err := residentOctets()
	if err != nil {
		return usage{}, false, err
	}
	written := writtenOctets()
	took := now.Sub(m.last).Seconds()
	u := usage{memory: memory}
	if took > 0 {
		u.cpu, u.disk = (cpu-m.cpu).Seconds()/took, int64(float64(written-m.written)/took)
	}
	ok := m.primed
	m.last, m.cpu, m.written, m.primed = now, cpu, written, true
	return u, ok, nil
}

// residentOctets is the memory of this process that is not swapped out, proc_pid_statm(5).
func residentOctets() (int64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(b)
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/self/statm has %d fields", len(fields))
	}
	pages, err := strconv.ParseInt(string(fields[1]), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("/proc/self/statm: %w", err)
	}
	return pages * int64(os.Getpagesize()), nil
}

// writtenOctets is what this process had written to disks, proc_pid_io(5); 0 where the kernel does not count it.
func writtenOctets() int64 {
	b, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(b), "\nwrite_bytes: ")
	line, _, _ := strings.Cut(rest, "\n")
	n, _ := strconv.ParseInt(line, 10, 64) // 0 when it is not there
	return n
}

// govern keeps this program inside its budgets until ctx ends.
func (a *Agent) govern(ctx context.Context) {
	if a.cfg.Budgets == (Budgets{}) {
		return
	}
	if n := a.cfg.Budgets.Memory; n > 0 {
		defer debug.SetMemoryLimit(debug.SetMemoryLimit(n)) // garbage is collected before packets are given up for it
	}
	g, m := newGovernor(a.cfg.Budgets), &gauge{}
	t := time.NewTicker(governEvery)
	defer t.Stop()
	for {
		u, ok, err := m.read(time.Now())
		text := ""
		if err != nil {
			text = "the governor does not work: " + err.Error()
		}
		a.trouble("meter", text)
		if err == nil && ok && g.step(u) {
			a.engine.Restrain(stages[g.stage].Restraint)
			a.governed.Store(&governed{g.stage, g.reason()})
			a.trouble("governor", g.reason())
			if g.stage > 0 && a.cfg.Budgets.Memory > 0 {
				debug.FreeOSMemory() // what packets took before is not needed now
			}
			a.log.Warn("the governor changes its stage", "stage", g.stage, "of", len(stages)-1, "means", stages[g.stage].means,
				"cores", u.cpu, "memory", u.memory, "written_per_second", u.disk)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// governed is how far the governor has gone.
type governed struct {
	stage  int
	reason string // what is given up of packets, and why; "" = nothing is
}

// restraint says what is given up of packets now, and why; "" = nothing is.
func (a *Agent) restraint() string { return a.governor().reason }

// governor is how far the governor has gone.
func (a *Agent) governor() governed {
	if g := a.governed.Load(); g != nil {
		return *g
	}
	return governed{}
}
