package taptest

import (
	"errors"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/nettest"
)

// NewFar makes another host and a cable from it to the node's namespace, whose end is called far0 there.
func NewFar(t testing.TB, node *nettest.NS) *Far {
	t.Helper()
	ns := nettest.NewNS(t)
	nettest.Veth(t, node, "far0", ns, "far1")
	f := &Far{Here: netip.MustParseAddr("198.51.100.1"), Addr: netip.MustParseAddr("198.51.100.2"), Stranger: netip.MustParseAddr("198.51.100.3")}
	for _, e := range []struct {
		ns   *nettest.NS
		dev  string
		addr []netip.Addr
	}{{node, "far0", []netip.Addr{f.Here}}, {ns, "far1", []netip.Addr{f.Addr, f.Stranger}}} {
		link := e.ns.Link(e.dev)
		err := e.ns.Netlink().LinkSetMTU(link, 1700) // a frame and what carries it
		for _, a := range e.addr {
			err = errors.Join(err, e.ns.Netlink().AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(24, 32)}}))
		}
		if err != nil {
			t.Fatalf("lay the cable to another host: %v", err)
		}
	}
	ear := nettest.NewEar(t, ns, "far1")
	f.Hear = func() [][]byte { return ear.All(200 * time.Millisecond) }
	f.Send = func(from netip.Addr, port uint16, payloads ...[]byte) {
		t.Helper()
		var err error
		ns.Do(func() { err = send(netip.AddrPortFrom(from, 0), netip.AddrPortFrom(f.Here, port), payloads) })
		if err != nil {
			t.Fatalf("send from another host: %v", err)
		}
	}
	return f
}

func send(from, to netip.AddrPort, payloads [][]byte) error {
	c, err := net.DialUDP("udp", net.UDPAddrFromAddrPort(from), net.UDPAddrFromAddrPort(to))
	if err != nil {
		return err
	}
	for _, p := range payloads {
		if _, e := c.Write(p); e != nil && !errors.Is(e, syscall.ECONNREFUSED) { // nobody listens for what no sink takes
			err = errors.Join(err, e)
		}
	}
	return errors.Join(err, c.Close())
}
