package reconcile

import (
	"context"
	"strings"
	"testing"
	"time"

	"opentap/fault"
	"opentap/internal/await"
	"opentap/want"
)

func TestNetnsProbe(t *testing.T) {
	d := newDemon(t)
	c := d.control(&memory{}, "")
	f := three()
	f.Policies = []want.FabricPolicy{
		{Name: "all", From: []string{"span", "line"}, To: []string{"far", "ids", "near"}},
	}
	c.Want(layout(t, f))
	d.connect(c)
	c.active(t)
	c.quiet(t)
	ears := d.ears("h1", "h2", "h4", "h5", "h9", "h10", "h11")
	probe := func() map[string]want.ProbeResult {
		t.Helper()
		list, err := c.Probe(context.Background(), "all")
		if err != nil {
			t.Fatal(err)
		}
		out := make(map[string]want.ProbeResult)
		for _, r := range list {
			out[r.From+">"+r.To] = r
		}
		return out
	}
	got := probe()
	if len(got) != 6 {
		t.Errorf("%d results: %v", len(got), got)
	}
	for k, r := range got {
		if r.Result != "delivered" {
			t.Errorf("%s: %+v", k, r)
		}
	}
	if hops := strings.Join(got["s1/5>ids"].Hops, " "); hops != "s1 s3 s2" {
		t.Errorf("hops %s", hops)
	}
	for h, e := range ears {
		if n := len(heard(e)); n != 0 {
			t.Errorf("%s got %d frames of probes", h, n)
		}
	}
	if r := c.verify(t); !r.OK {
		t.Errorf("the probes leave something behind: %+v", r)
	}
	// A rule of the copies is gone.
	d.ovs.Ofctl("del-flows", "s2", "dl_vlan=2001")
	if r := probe()["s1/5>ids"]; r.Result != "lost" || !strings.Contains(r.Detail, "s2 does not hold") {
		t.Errorf("%+v", r)
	}
	c.turn1(t)
	// Somebody drops everything at s3.
	d.ovs.Ofctl("add-flow", "s3", "priority=65535,actions=drop")
	if r := probe()["s1/5>far"]; r.Result != "lost" || r.Detail != "after s1" {
		t.Errorf("%+v", r)
	}
	// Somebody doubles what s3 sends to s2.
	d.ovs.Ofctl("--strict", "del-flows", "s3", "priority=65535")
	d.ovs.Ofctl("add-flow", "s1", "priority=65535,in_port=5,actions=push_vlan:0x8100,set_field:6097->vlan_vid,output:6,output:7")
	if r := probe()["s1/5>far"]; r.Result != "duplicated" {
		t.Errorf("%+v", r)
	}
	d.ovs.Ofctl("--strict", "del-flows", "s1", "priority=65535,in_port=5")
	// Somebody lets it out elsewhere.
	d.ovs.Ofctl("add-flow", "s1", "priority=65535,in_port=5,actions=output:8,push_vlan:0x8100,set_field:6097->vlan_vid,output:6")
	if r := probe()["s1/5>far"]; r.Result != "leaked" && r.Result != "duplicated" {
		t.Errorf("%+v", r)
	}
	d.ovs.Ofctl("--strict", "del-flows", "s1", "priority=65535,in_port=5")
	// The tool is unplugged.
	d.hosts.Down("h11")
	await.Until(t, "lost at a port that is down", func() bool {
		r := probe()["s1/5>far"]
		return r.Result == "lost" && strings.Contains(r.Detail, "s3/11 is down")
	})
	if _, err := c.Probe(context.Background(), "none"); !fault.Is(err, fault.NotFound) {
		t.Error(err)
	}
}

func TestNetnsProbesByThemselves(t *testing.T) {
	d := newDemon(t)
	c := d.controlWith(&memory{}, "", func(cfg *Config) { cfg.Probe = 100 * time.Millisecond })
	f := three()
	f.Policies = []want.FabricPolicy{{Name: "p", From: []string{"span"}, To: []string{"far"}}}
	c.Want(layout(t, f))
	d.connect(c)
	policy := func() want.FabricPolicyView {
		v, _ := c.View(context.Background(), false)
		return v.Policies[0]
	}
	await.Until(t, "probed", func() bool {
		p := policy()
		return p.Probed != nil && p.Probed.Result == want.ProbeDelivered && p.State == want.PolicyActive
	})
	// Somebody drops at s3 what comes from s1. No rule of ours is gone.
	d.ovs.Ofctl("add-flow", "s3", "priority=65535,actions=drop")
	await.Until(t, "the loss is told", func() bool {
		p := policy()
		return p.State == want.PolicyDegraded && strings.Contains(p.Reason, "a probe was lost: s1/5 to far: after s1")
	})
	if n := c.Tally(); n.Probes[want.ProbeLost] == 0 || n.Probes[want.ProbeDelivered] == 0 || n.Policies[want.PolicyDegraded] != 1 || len(n.Switches) != 3 || n.Switches[0].Echo == 0 {
		t.Errorf("%+v", n)
	}
	d.ovs.Ofctl("--strict", "del-flows", "s3", "priority=65535")
	await.Until(t, "it is whole again", func() bool { return policy().State == want.PolicyActive })
}
