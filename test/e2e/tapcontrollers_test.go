//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// portsAt lists ports as a controller shows them.
func portsAt(t testing.TB, c *machine) []tap.PortView {
	t.Helper()
	var list struct{ Ports []tap.PortView }
	if err := json.Unmarshal([]byte(c.must("ports", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	return list.Ports
}

// TestNetnsTapsThroughAnyController: two controllers over one etcd, each with one end of a tap. Either makes it, shows its
// status and counters as they are, tests it, and ends it; and it goes on when one is lost.
func TestNetnsTapsThroughAnyController(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	etcd := s.cluster()
	a := s.controller("a", "  advertise: '@IP:2021'\n", etcd.endpoints())
	b := s.second("b", a, etcd.endpoints())
	left, right := s.agent("left", a), s.agent("right", b)
	left.join(a)
	right.join(b)
	both := []*machine{a, b}
	for _, c := range both {
		c.awaitNode("left", "connected")
		c.awaitNode("right", "connected")
	}
	ear := nettest.NewEar(t, right.far, "wire0")
	for i, c := range both {
		other := both[1-i]
		name := "by-" + c.name()
		c.must("tap", "service", "create", "--port", "right/tap0", "--name", name)
		c.must("tap", "flow", "create", "--port", "left/tap0", "--service", name, "--name", name, "--snap", "400")
		for _, at := range both {
			await.Until(t, "controller "+at.name()+" shows that it is active", func() bool { return at.tapFlow(name).Status == tap.Up })
		}
		arrives(t, "copies arrive", left.Sender, ear)
		await.Until(t, "both show the same counters", func() bool {
			x, y := c.tapFlow(name), other.tapFlow(name)
			return x.Counts.Mirrored > 0 && x.Counts.Mirrored == y.Counts.Mirrored && len(x.Ends) == 2 && len(y.Ends) == 2
		})
		if r := other.opentap("tap", "test", name); r.code != 0 {
			t.Errorf("tested through %s: %+v", other.name(), r)
		}
		if x, y := portsAt(t, c), portsAt(t, other); !slices.EqualFunc(x, y, func(p, q tap.PortView) bool {
			return p.ID == q.ID && p.Node == q.Node && p.Device == q.Device && p.Present == q.Present && p.MTU == q.MTU && p.Services == q.Services && p.Flows == q.Flows
		}) {
			t.Errorf("ports at %s: %+v\nat %s: %+v", c.name(), x, other.name(), y)
		}
		// What goes wrong at the one's agent is known at the other.
		right.ns.Delete("tap0")
		for _, at := range both {
			await.Until(t, "controller "+at.name()+" says what is wrong", func() bool { v := at.tapFlow(name); return v.Status != tap.Up && v.Reason != "" })
		}
		nettest.Veth(t, right.far, "wire0", right.ns, "tap0")
		ear = nettest.NewEar(t, right.far, "wire0")
		for _, at := range both {
			await.Until(t, "controller "+at.name()+" shows that it is active again", func() bool { return at.tapFlow(name).Status == tap.Up })
		}
		other.must("tap", "service", "delete", name)
		await.Until(t, "it is gone at "+c.name(), func() bool { return c.opentap("tap", "flow", "show", name).code == 4 })
	}

	b.must("tap", "service", "create", "--port", "right/tap0", "--name", "s")
	b.must("tap", "flow", "create", "--port", "left/tap0", "--service", "s", "--name", "f")
	await.Until(t, "it is active", func() bool { return b.tapFlow("f").Status == tap.Up })
	a.kill()
	arrives(t, "copies arrive while a controller is lost", left.Sender, ear)
	await.Until(t, "the agent is at the other, and its end is known", func() bool {
		v := b.tapFlow("f")
		return v.Status == tap.Up && !strings.Contains(v.Reason, "not connected") && b.node("left").Connected
	})
	if v := b.tapFlow("f"); len(v.Gaps) != 0 {
		t.Errorf("the flow has gaps: %+v", v.Gaps)
	}
}

// TestNetnsTapsLoseNoAcknowledgedChange: members of etcd are killed while taps are made and deleted through both controllers;
// what was acknowledged is so, and the host does that and nothing else.
func TestNetnsTapsLoseNoAcknowledgedChange(t *testing.T) {
	t.Parallel()
	if os.Getenv("OPENTAP_LONG") == "" {
		t.Skip("needs OPENTAP_LONG=1: it takes a minute")
	}
	s := newSite(t)
	etcd := s.cluster()
	a := s.controller("a", "  advertise: '@IP:2021'\n", etcd.endpoints())
	b := s.second("b", a, etcd.endpoints())
	left, right := s.agent("left", a), s.agent("right", b)
	left.join(a)
	right.join(b)
	a.awaitNode("right", "connected")
	b.awaitNode("left", "connected")
	source := a.portNamed("left/tap0")
	service := a.ask(201, "POST", "/v2.0/taas/tap_services", m{"tap_service": m{"port_id": a.portNamed("right/tap0")}}).resource(t, "tap_service", "id")

	load := newChurn([]*machine{a, b}, func(c *machine, _, i int) string {
		made := c.try("POST", "/v2.0/taas/tap_flows", m{"tap_flow": m{"source_port": source, "tap_service_id": service, "direction": "OUT", "name": fmt.Sprint(i)}})
		if made.Status != 201 {
			return ""
		}
		return made.resource(t, "tap_flow", "id")
	}, func(i int) bool { return i%8 == 0 }, // most go again: the host copies for all that are there
		func(c *machine, id string) bool {
			return c.try("DELETE", "/v2.0/taas/tap_flows/"+id, nil).Status == 204
		})
	load.killEach(t, etcd)
	for _, c := range []*machine{a, b} {
		await.Until(t, "controller "+c.name()+" shows all that was acknowledged, and that it is so", func() bool {
			var list struct {
				Flows []struct{ ID, Status string } `json:"tap_flows"`
			}
			c.ask(200, "GET", "/v2.0/taas/tap_flows", nil).decode(t, &list)
			have := map[string]string{}
			for _, f := range list.Flows {
				have[f.ID] = f.Status
			}
			return load.holds(func(id string) bool { return have[id] == "ACTIVE" }, func(id string) bool { return have[id] != "" })
		})
	}
}
