package bpftap

import (
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// TestNetnsStrangersWithItsIndex: when a tool's device is gone and a stranger's device gets its index, no copy comes there, even before anybody
// has noticed; and when it returns with the index that it had, copies are asked for again.
func TestNetnsStrangersWithItsIndex(t *testing.T) {
	for _, way := range []struct {
		name string
		o    tap.Options
		far  bool // the tool is at another host
	}{
		{name: "local"},
		{name: "cut", o: tap.Options{Snap: 50}},
		{name: "out of a tunnel", far: true},
	} {
		t.Run(way.name, func(t *testing.T) {
			l := newLab(t, "")
			at := l // where the tool is
			source, sink := local("a", tap.Out, way.o), tap.Sink{}
			if way.far {
				l.underlay(1700)
				at = l.second()
				sink = tap.Sink{ID: "a", Device: tap.Device{Name: "t0"}, Encap: tap.VXLAN, TunnelID: tunnelID, From: listOf("198.51.100.1")}
				at.sink(sink)
				source = remote("b", tap.VXLAN, "198.51.100.2", way.o)
			}
			l.source(source)
			sender := nettest.NewSender(t, l.owner, "p1")
			send := func() { sender.Send(nettest.Packet{DstPort: 4711, Payload: []byte("not for strangers")}.Bytes()) }
			atTool := nettest.NewEar(t, at.tool, "t1")
			send()
			if atTool.Next(10*time.Second) == nil {
				t.Fatalf("the tool hears nothing; %+v", at.counts("a"))
			}
			index := at.host.Link("t0").Attrs().Index
			at.host.Delete("t0")

			stranger := nettest.NewNS(t)
			veth(t, at.host, "x0", index, stranger, "x1")
			atStranger := nettest.NewEar(t, stranger, "x1")
			await.Until(t, "copies are lost for want of a device", func() bool {
				send()
				return at.counts("a").Errors["no_device"] > 0
			})
			for _, f := range atStranger.All(200 * time.Millisecond) {
				if len(f) > 13 && f[12] == 8 && f[13] == 0 {
					t.Fatalf("a stranger hears %x", f)
				}
			}
			var stands bool
			at.host.Do(func() { stands = at.d.Stands("a") })
			if stands {
				t.Error("it is said to stand")
			}

			at.host.Delete("x0")
			veth(t, at.host, "t0", index, at.tool, "t1")
			atTool = nettest.NewEar(t, at.tool, "t1")
			if way.far {
				at.sink(sink)
			} else {
				at.source(source)
			}
			send()
			if atTool.Next(10*time.Second) == nil {
				t.Fatalf("with its device back the tool hears nothing; %+v", at.counts("a"))
			}
			at.host.Do(func() { stands = at.d.Stands("a") })
			if !stands {
				t.Error("it is said not to stand")
			}
		})
	}
}

// veth lays a cable whose end in a has this index.
func veth(t *testing.T, a *nettest.NS, nameA string, index int, b *nettest.NS, nameB string) {
	t.Helper()
	a.Quiet()
	b.Quiet()
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.Index = nameA, index
	if err := a.Netlink().LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: nameB, PeerNamespace: netlink.NsFd(b.Handle())}); err != nil {
		t.Fatalf("lay %s with the index %d: %v", nameA, index, err)
	}
	a.Up(nameA)
	b.Up(nameB)
	a.Ready(nameA)
	b.Ready(nameB)
	if got := a.Link(nameA).Attrs().Index; got != index {
		t.Fatalf("%s has the index %d, not %d", nameA, got, index)
	}
}
