//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// tapFlow shows a flow by name.
func (d *daemon) tapFlow(name string) (v tap.FlowView) {
	d.t.Helper()
	if err := json.Unmarshal([]byte(d.must("tap", "flow", "show", name, "-o", "json")), &v); err != nil {
		d.t.Fatal(err)
	}
	return v
}

// tapTest has a flow test itself.
func (d *daemon) tapTest(name string) (v tap.Trial) {
	d.t.Helper()
	r := d.opentap("tap", "test", name, "-o", "json")
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		d.t.Logf("test %s: %v: %+v", name, err, r)
	}
	return v
}

// arrives sends numbered frames until one of them is heard; it returns when that was.
func arrives(t testing.TB, what string, from *nettest.Sender, at *nettest.Ear) time.Time {
	t.Helper()
	n := 0
	var when time.Time
	await.Until(t, what, func() bool {
		n++
		f := nettest.Packet{SrcPort: 4000, DstPort: 9, Payload: numbered(n, 200)}.Bytes()
		from.Send(f)
		for got := at.Next(30 * time.Millisecond); got != nil; got = at.Next(10 * time.Millisecond) {
			if bytes.Equal(got, f) {
				when = time.Now()
				return true
			}
		}
		return false
	})
	return when
}

// TestNetnsTapAcrossHosts: a flow on one host to a service on another, by every encapsulation, whichever controller they
// are connected to.
func TestNetnsTapAcrossHosts(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("brain", "", "")
	left, right := s.agent("left", c), s.agent("right", c)
	left.join(c)
	right.join(c)
	ear := nettest.NewEar(t, right.far, "wire0")
	for encap, carries := range map[string]int{"vxlan": 1464, "gre": 1472, "geneve": 1456} { // octets of a frame, where the path's MTU is 1500
		c.must("tap", "service", "create", "--port", "right/tap0", "--name", encap, "--encap", encap)
		c.must("tap", "flow", "create", "--port", "left/tap0", "--service", encap, "--name", encap)
		await.Until(t, encap+" is active", func() bool { return c.tapFlow(encap).Status == tap.Up })
		arrives(t, "copies arrive by "+encap, left.Sender, ear)
		v := c.tapFlow(encap)
		if len(v.Ends) != 2 || v.Ends[0].Node != "left" || v.Ends[1].Node != "right" {
			t.Errorf("%s: ends %+v", encap, v.Ends)
		}
		if v := c.tapTest(encap); !v.OK || v.Heard != v.Expected || v.CutTo != carries {
			t.Errorf("%s: the self-test finds %+v", encap, v)
		}
		c.must("tap", "flow", "update", encap, "--on-mtu", "drop")
		await.Until(t, "what is too long is dropped, and the self-test says so", func() bool {
			v := c.tapTest(encap)
			return v.OK && v.CutTo == 0 && v.Counted["too_long"] > 0 && v.Heard == v.Expected-int(v.Counted["too_long"])
		})
		c.must("tap", "service", "delete", encap)
		n := 1000
		await.Until(t, "nothing arrives after it was deleted", func() bool {
			n++
			left.Send(nettest.Packet{SrcPort: 4000, DstPort: 9, Payload: numbered(n, 200)}.Bytes())
			return ear.Next(100*time.Millisecond) == nil
		})
	}
	// The sink of a service says when the tool's port has gone, and so does the flow.
	c.must("tap", "service", "create", "--port", "right/tap0", "--name", "s")
	c.must("tap", "flow", "create", "--port", "left/tap0", "--service", "s", "--name", "f")
	await.Until(t, "it is active", func() bool { return c.tapFlow("f").Status == tap.Up })
	right.ns.Delete("tap0")
	await.Until(t, "the flow says that the tool's port has gone", func() bool { v := c.tapFlow("f"); return v.Status != tap.Up && v.Reason != "" })
	nettest.Veth(t, right.far, "wire0", right.ns, "tap0")
	await.Until(t, "it is active again", func() bool { return c.tapFlow("f").Status == tap.Up })
	arrives(t, "copies arrive again", left.Sender, nettest.NewEar(t, right.far, "wire0"))
}

// TestNetnsTapFollowsItsPort: a port that moves to another host is tapped there, soon, and the time between is stated.
func TestNetnsTapFollowsItsPort(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("brain", "", "")
	left, right, tool := s.agent("left", c), s.agent("right", c), s.agent("tool", c)
	for _, h := range []*machine{left, right, tool} {
		h.join(c)
	}
	vm := nettest.NewNS(t)
	nettest.Veth(t, vm, "eth0", left.ns, "vm0")
	sender := nettest.NewSender(t, vm, "eth0")
	mac := left.ns.Link("vm0").Attrs().HardwareAddr.String()
	c.must("ports", "create", "--name", "vm", "--mac", mac, "--project", "default")
	c.must("ports", "set", "tool/tap0", "--project", "default")
	c.must("tap", "service", "create", "--port", "tool/tap0", "--name", "s")
	c.must("tap", "flow", "create", "--port", "vm", "--service", "s", "--name", "f")
	ear := nettest.NewEar(t, tool.far, "wire0")
	await.Until(t, "it is active", func() bool { return c.tapFlow("f").Status == tap.Up })
	arrives(t, "copies arrive", sender, ear)

	link, err := left.ns.Netlink().LinkByName("vm0")
	if err != nil {
		t.Fatal(err)
	}
	if err := left.ns.Netlink().LinkSetNsFd(link, right.ns.Handle()); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the tap is nowhere, and says so", func() bool { v := c.tapFlow("f"); return v.Status == tap.Down && v.Reason != "" })
	moved := time.Now()
	if err := right.ns.Netlink().LinkSetUp(&netlink.GenericLink{LinkAttrs: netlink.LinkAttrs{Name: "vm0", Index: right.ns.Link("vm0").Attrs().Index}}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the port is seen on right", func() bool {
		v := c.tapFlow("f")
		return len(v.Ends) > 0 && v.Ends[0].Node == "right"
	})
	seen := time.Now()
	at := arrives(t, "copies arrive from right", sender, ear)
	t.Logf("mirrored %v after the device was up, %v after it was seen", at.Sub(moved), at.Sub(seen))
	await.Until(t, "the gap is stated", func() bool {
		v := c.tapFlow("f")
		return v.Status == tap.Up && len(v.Gaps) > 0 && v.Gaps[0].Reason == "the port moved from node left to node right" && !v.Gaps[0].To.IsZero()
	})
}
