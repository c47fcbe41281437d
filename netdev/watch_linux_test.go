package netdev

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"opentap/packet"
	"opentap/point"
)

// enterNetns moves the test's goroutine to a thread in a network namespace of its own. The thread ends with the goroutine
// and takes the namespace with it.
func enterNetns(t *testing.T) {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread must not serve anybody else
	ns, err := netns.New()
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs CAP_SYS_ADMIN (network namespace)")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
}

// addVeth makes a pair of devices in the namespace of the calling thread.
func addVeth(t *testing.T, a, b string) {
	t.Helper()
	la := netlink.NewLinkAttrs()
	la.Name = a
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: la, PeerName: b}); err != nil {
		t.Fatalf("create veth %s: %v", a, err)
	}
}

func link(t *testing.T, name string) netlink.Link {
	t.Helper()
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatalf("find %s: %v", name, err)
	}
	return l
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func find(points []point.Point, name string) *point.Point {
	i := slices.IndexFunc(points, func(p point.Point) bool { return p.Name == name })
	if i < 0 {
		return nil
	}
	return &points[i]
}

func TestNetnsList(t *testing.T) {
	enterNetns(t)
	addVeth(t, "tap0", "peer0")
	must(t, netlink.LinkSetAlias(link(t, "tap0"), "uplink to the core"))
	must(t, netlink.LinkAddAltName(link(t, "tap0"), "a-rather-long-alternative-name"))
	must(t, netlink.LinkSetMTU(link(t, "tap0"), 1400))

	points, err := List()
	must(t, err)
	p := find(points, "tap0")
	if p == nil || len(points) != 3 {
		t.Fatalf("got %d devices, want lo, tap0, peer0: %+v", len(points), points)
	}
	if p.Up || p.Default || !p.Present || p.MTU != 1400 || p.Driver != "veth" || p.LinkType != uint16(packet.LinkEthernet) || p.NoPcap != "" || p.Since.IsZero() {
		t.Errorf("tap0 = %+v", *p)
	}
	if want := []string{"uplink to the core", "a-rather-long-alternative-name"}; !slices.Equal(p.Aliases, want) {
		t.Errorf("aliases %q, want %q", p.Aliases, want)
	}
	if p.MAC != link(t, "tap0").Attrs().HardwareAddr.String() {
		t.Errorf("MAC %q", p.MAC)
	}
	if _, err := DefaultRoute(); !errors.Is(err, ErrNoDefaultRoute) {
		t.Errorf("DefaultRoute in an empty namespace: %v", err)
	}

	must(t, netlink.LinkSetUp(link(t, "tap0")))
	must(t, netlink.LinkSetUp(link(t, "peer0")))
	if points, err = List(); err != nil {
		t.Fatal(err)
	}
	p = find(points, "tap0")
	if p.SpeedBPS != 10_000_000_000 { // veth claims 10 Gbit/s, drivers/net/veth.c
		t.Errorf("tap0's speed is %d", p.SpeedBPS)
	}
	if got := SpeedBPS("tap0"); got != p.SpeedBPS {
		t.Errorf("SpeedBPS = %d, want %d", got, p.SpeedBPS)
	}
	if SpeedBPS("gone") != 0 || SpeedBPS("a-name-longer-than-the-kernel-takes") != 0 || SpeedBPS("") != 0 {
		t.Error("a device that is not there has a speed")
	}
}

func TestNetnsDefaultRoute(t *testing.T) {
	enterNetns(t)
	addVeth(t, "a", "b")
	addVeth(t, "c", "d")
	for i, n := range []string{"a", "b", "c", "d"} {
		must(t, netlink.AddrAdd(link(t, n), &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, byte(i), 1), Mask: net.CIDRMask(24, 32)}}))
		must(t, netlink.LinkSetUp(link(t, n)))
	}
	defaultOf := func() string {
		t.Helper()
		points, err := List()
		must(t, err)
		name := ""
		for _, p := range points {
			if p.Default {
				name += p.Name
			}
		}
		return name
	}
	// The kernel works the state of a new carrier out later: linkwatch, net/core/link_watch.c.
	for deadline := time.Now().Add(10 * time.Second); defaultOf() != "b"; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatalf("default without a route is %q, want b, the first that is up", defaultOf())
		}
	}
	add := func(dev string, gw net.IP, metric int) {
		t.Helper()
		must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, dev).Attrs().Index, Gw: gw, Priority: metric}))
	}
	add("a", net.IPv4(10, 0, 0, 254), 200)
	add("c", net.IPv4(10, 0, 2, 254), 100)
	if got, err := DefaultRoute(); err != nil || got != "c" {
		t.Errorf("DefaultRoute = %q, %v; want c, which has the lower metric", got, err)
	}
	if got := defaultOf(); got != "c" {
		t.Errorf("default is %q, want c", got)
	}
}

func TestNetnsWatcher(t *testing.T) {
	enterNetns(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	snapshots := make(chan []point.Point, 100)
	ended := make(chan error, 1)
	ns, err := netns.Get()
	must(t, err)
	defer func() { _ = ns.Close() }()
	go func() {
		runtime.LockOSThread()
		if err := netns.Set(ns); err != nil {
			ended <- err
			return
		}
		ended <- New(slog.New(slog.DiscardHandler)).Run(ctx, func(p []point.Point) { snapshots <- p })
	}()
	await := func(what string, ok func([]point.Point) bool) []point.Point {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case p := <-snapshots:
				if ok(p) {
					return p
				}
			case err := <-ended:
				t.Fatalf("%s: the watcher ended: %v", what, err)
			case <-deadline:
				now, err := List()
				t.Fatalf("%s: not told in 10 s; the list is now %+v, %v", what, now, err)
			}
		}
	}

	await("start", func(p []point.Point) bool { return find(p, "lo") != nil })
	addVeth(t, "v0", "v1")
	p := await("create", func(p []point.Point) bool { return find(p, "v0") != nil && find(p, "v1") != nil })
	since := find(p, "v0").Since

	must(t, netlink.LinkSetUp(link(t, "v0")))
	must(t, netlink.LinkSetUp(link(t, "v1")))
	await("up", func(p []point.Point) bool { return find(p, "v0").Up })
	must(t, netlink.LinkSetDown(link(t, "v0")))
	await("down", func(p []point.Point) bool { return !find(p, "v0").Up })

	must(t, netlink.LinkSetName(link(t, "v0"), "renamed"))
	p = await("rename", func(p []point.Point) bool { return find(p, "renamed") != nil })
	if got := find(p, "renamed").Since; !got.Equal(since) || find(p, "v0") != nil {
		t.Errorf("after the rename: since %v, want %v; the old name is there: %v", got, since, find(p, "v0") != nil)
	}
	must(t, netlink.AddrAdd(link(t, "renamed"), &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 9, 0, 1), Mask: net.CIDRMask(24, 32)}}))
	must(t, netlink.LinkSetUp(link(t, "renamed")))
	await("up again", func(p []point.Point) bool { return find(p, "renamed").Up })
	// The kernel tells of an alias only while the device is up: netdev_state_change, net/core/dev.c.
	must(t, netlink.LinkSetAlias(link(t, "renamed"), "office"))
	await("alias", func(p []point.Point) bool { return slices.Contains(find(p, "renamed").Aliases, "office") })
	must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: link(t, "renamed").Attrs().Index, Gw: net.IPv4(10, 9, 0, 2)}))
	await("default route", func(p []point.Point) bool { return find(p, "renamed").Default && !find(p, "v1").Default })

	must(t, netlink.LinkDel(link(t, "renamed")))
	await("delete", func(p []point.Point) bool { return len(p) == 1 })

	// A burst is told in few snapshots, the last of which is the truth.
	const pairs = 40
	for i := range pairs {
		addVeth(t, fmt.Sprintf("x%d", i), fmt.Sprintf("y%d", i))
	}
	told := 0
	await("burst", func(p []point.Point) bool { told++; return len(p) == 1+2*pairs })
	if told > pairs/2 {
		t.Errorf("%d devices were told in %d snapshots", 2*pairs, told)
	}

	cancel()
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run = %v after cancel, want nil", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("Run did not return after cancel")
	}
}

// An overrun socket is a reason to list, not an error.
func TestNetnsWatcherOverrun(t *testing.T) {
	enterNetns(t)
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK)
	must(t, err)
	defer s.Close()
	must(t, s.SetReceiveBufferSize(1, false)) // the kernel's minimum
	for i := range 20 {
		addVeth(t, fmt.Sprintf("x%d", i), fmt.Sprintf("y%d", i))
	}
	if _, _, err := s.Receive(); !errors.Is(err, unix.ENOBUFS) {
		t.Skipf("the socket did not overrun (%v): nothing to test", err)
	}
	addVeth(t, "more", "more2")
	for range 20 {
		addVeth(t, "z0", "z1")
		must(t, netlink.LinkDel(link(t, "z0")))
	}
	if err := New(nil).wait(t.Context(), s, false); err != nil {
		t.Errorf("wait on an overrun socket = %v, want nil", err)
	}
}

func TestRelevant(t *testing.T) {
	route := make([]byte, unix.SizeofRtMsg)
	if !relevant(unix.RTM_NEWROUTE, route) || !relevant(unix.RTM_DELLINK, nil) {
		t.Error("a change of the default route or of a device is not relevant")
	}
	route[1] = 24
	if relevant(unix.RTM_NEWROUTE, route) || relevant(unix.RTM_NEWROUTE, nil) || relevant(unix.RTM_NEWADDR, nil) {
		t.Error("a change of another route is relevant")
	}
}

func TestSpeed(t *testing.T) {
	for mbps, want := range map[uint32]uint64{0: 0, 10: 1e7, 100_000: 1e11, 0xffff: 0, 0xffffffff: 0} {
		if got := speedBPS(mbps); got != want {
			t.Errorf("speedBPS(%d) = %d, want %d", mbps, got, want)
		}
	}
}
