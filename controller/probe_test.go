package controller

import (
	"context"
	"encoding/json"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

// newProber is a bench whose node answers each probe with one frame.
func newProber(t *testing.T, projects ...want.Project) (*bench, *[]want.ProbeRun) {
	t.Helper()
	b := newBench(t, func(c *Config) { c.Projects = projects })
	b.Inventory("n1", []point.Point{
		{Node: "host1", Name: "eth0", Kind: point.Netdev, Present: true, Up: true, Default: true, LinkType: 1},
		{Node: "host1", Name: "eth1", Kind: point.Netdev, Present: true, Up: true, LinkType: 1},
		{Node: "host1", Name: "warm", Kind: point.Sensor, Present: true},
	}, want.Node{})
	var runs []want.ProbeRun
	b.hub.live = func(ctx context.Context, _ <-chan struct{}, _ string, spec want.LiveSpec, w io.Writer) error {
		if spec.Look == nil || spec.Look.Probe == nil {
			<-ctx.Done()
			return ctx.Err()
		}
		runs = append(runs, *spec.Look.Probe)
		return json.NewEncoder(w).Encode(want.ProbeReport{Node: "host1", Device: spec.Look.Probe.Device, Sent: 1})
	}
	return b, &runs
}

var someone = netip.MustParseAddr("192.0.2.7")

// Who may not administer sends nothing, unless his project may, and then from the device's own addresses, out of what he sees, to one host.
func TestProbeTakesAnAdministrator(t *testing.T) {
	ping := want.Probe{Point: "eth0", Kind: want.ProbePing, Target: someone}
	b, runs := newProber(t)
	if _, err := b.Probe(t.Context(), alice, ping); !fault.Is(err, fault.Forbidden) {
		t.Error(err)
	}
	r, err := b.Probe(t.Context(), root, ping)
	if err != nil || r.Device != "eth0" || len(*runs) != 1 || (*runs)[0].OwnOnly || (*runs)[0].Count == 0 {
		t.Fatalf("%v, %+v, %+v", err, r, *runs)
	}
	if a := b.trail.actions(); !strings.Contains(a, "probe:denied") || !strings.Contains(a, "probe:allowed") {
		t.Error(a)
	}

	b, runs = newProber(t, want.Project{Name: "red", ProjectRequest: want.ProjectRequest{Points: []string{"host1/eth0"}, Probe: true}}, want.Project{Name: "blue", ProjectRequest: want.ProjectRequest{Points: []string{"*"}}})
	if _, err := b.Probe(t.Context(), alice, ping); err != nil || len(*runs) != 1 || !(*runs)[0].OwnOnly {
		t.Errorf("%v, %+v", err, *runs)
	}
	other, group := ping, ping
	other.Point, group.AllowGroup = "eth1", true
	for name, x := range map[string]struct {
		id   auth.Identity
		p    want.Probe
		kind fault.Kind
	}{
		"a point that is not seen": {alice, other, fault.NotFound},
		"a group":                  {alice, group, fault.Forbidden},
		"a project without":        {bob, ping, fault.Forbidden},
		"a viewer":                 {eve, ping, fault.Forbidden},
	} {
		if _, err := b.Probe(t.Context(), x.id, x.p); fault.KindOf(err) != x.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(*runs) != 1 {
		t.Errorf("%d probes ran", len(*runs))
	}
}

func TestProbeIsRefused(t *testing.T) {
	b, runs := newProber(t)
	for says, p := range map[string]want.Probe{
		"is a sensor":      {Point: "warm", Kind: want.ProbePing, Target: someone},
		"goes to a port":   {Kind: want.ProbeUDP, Target: someone},
		"many may answer":  {Kind: want.ProbePing, Target: netip.MustParseAddr("224.0.0.1")},
		"it can be 1 to":   {Kind: want.ProbePing, Target: someone, Count: 1001},
		"100 seconds":      {Kind: want.ProbePing, Target: someone, Count: 1000, Interval: want.Duration(time.Second)},
		"none of ping":     {Kind: "flood", Target: someone},
		"target's family":  {Kind: want.ProbePing, Target: someone, Source: netip.MustParseAddr("2001:db8::1")},
		"one host":         {Kind: want.ProbePing, Target: someone, Source: netip.MustParseAddr("255.255.255.255")},
		"address of a gro": {Kind: want.ProbePing, Target: someone, SourceMAC: "01:00:5e:00:00:01"},
	} {
		if _, err := b.Probe(t.Context(), root, p); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	if len(*runs) != 0 {
		t.Error(*runs)
	}
	p := want.Probe{Kind: want.ProbePing, Target: someone, Count: 1000, Interval: want.Duration(time.Millisecond)}
	for range probeBudget / 1000 {
		if _, err := b.Probe(t.Context(), root, p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.Probe(t.Context(), root, p); !fault.Is(err, fault.Exhausted) {
		t.Error(err)
	}
}
