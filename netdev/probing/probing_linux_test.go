package probing

import (
	"context"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/fault"
	"opentap/internal/nettest"
	"opentap/want"
	"opentap/wire/probe"
)

// network is two hosts on one cable: near, which probes, and far, which answers as a kernel does.
type network struct {
	t         *testing.T
	near, far *nettest.NS
}

func newNetwork(t *testing.T) *network {
	n := &network{t: t, near: nettest.NewNS(t), far: nettest.NewNS(t)}
	nettest.Veth(t, n.near, "eth0", n.far, "eth0")
	n.address(n.near, "eth0", "192.0.2.1/24", "2001:db8::1/64")
	n.address(n.far, "eth0", "192.0.2.2/24", "2001:db8::2/64")
	n.near.Ready("eth0")
	return n
}

func (n *network) address(ns *nettest.NS, device string, addrs ...string) {
	n.t.Helper()
	n.set(ns, "/proc/sys/net/ipv6/conf/"+device+"/disable_ipv6", "0")
	for _, a := range addrs {
		addr, err := netlink.ParseAddr(a)
		if err != nil {
			n.t.Fatal(err)
		}
		addr.Flags = 2 // IFA_F_NODAD
		if err := ns.Netlink().AddrAdd(ns.Link(device), addr); err != nil {
			n.t.Fatal(err)
		}
	}
}

// set writes a file of a namespace's /proc/sys.
func (n *network) set(ns *nettest.NS, file, value string) {
	n.t.Helper()
	var err error
	if ns.Do(func() { err = os.WriteFile(file, []byte(value), 0) }); err != nil {
		n.t.Fatal(err)
	}
}

// probe runs a probe at near.
func (n *network) probe(p want.Probe) (r want.ProbeReport, err error) {
	n.t.Helper()
	q := want.ProbeRun{Probe: p, Device: "eth0"}
	if err := probe.Fill(&q.Probe); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(n.t.Context(), time.Minute)
	defer cancel()
	n.near.Do(func() { r, err = Run(ctx, q) })
	return r, err
}

func (n *network) must(p want.Probe) want.ProbeReport {
	n.t.Helper()
	if p.Interval == 0 {
		p.Interval = want.Duration(10 * time.Millisecond)
	}
	if p.Wait == 0 {
		p.Wait = want.Duration(20 * time.Second) // it ends when all is answered
	}
	r, err := n.probe(p)
	if err != nil {
		n.t.Fatalf("%+v: %v", p, err)
	}
	return r
}

var (
	far4 = netip.MustParseAddr("192.0.2.2")
	far6 = netip.MustParseAddr("2001:db8::2")
)

// A kernel answers each ping with what was in it, in both families.
func TestNetnsPing(t *testing.T) {
	n := newNetwork(t)
	size := 1000
	for _, target := range []netip.Addr{far4, far6} {
		r := n.must(want.Probe{Kind: want.ProbePing, Target: target, Count: 4, Size: &size, Pattern: []byte("tap")})
		if r.Sent != 4 || r.Answered != 4 || r.Lost != 0 || r.RTT == nil || r.RTT.Min <= 0 || r.RTT.Min > r.RTT.Median || r.RTT.Median > r.RTT.Max || len(r.Answers) != 4 {
			t.Fatalf("%s: %+v", target, r)
		}
		for i, a := range r.Answers {
			if a.Number != i+1 || a.Outcome != want.ProbeReply || a.From != target || a.TTL != 64 || a.Damaged || a.Again != 0 || a.Octets < 1028 {
				t.Errorf("%+v", a)
			}
		}
	}
	if r := n.must(want.Probe{Kind: want.ProbePing, Target: far4, Count: 1}); r.ResolvedBy != "arp" && r.ResolvedBy != "kernel" || r.TargetMAC != n.far.Link("eth0").Attrs().HardwareAddr.String() {
		t.Errorf("%+v", r)
	}
	mac := "02:00:00:00:00:99" // nobody's
	r, err := n.probe(want.Probe{Kind: want.ProbePing, Target: far4, Count: 2, TargetMAC: mac, Interval: want.Duration(time.Millisecond), Wait: want.Duration(100 * time.Millisecond)})
	if err != nil || r.Lost != 2 || r.ResolvedBy != "request" || r.TargetMAC != mac || r.RTT != nil {
		t.Errorf("%v, %+v", err, r)
	}
}

// A datagram to a port where somebody listens is answered by him, one to another port by the kernel, with ICMP.
func TestNetnsUDP(t *testing.T) {
	n := newNetwork(t)
	for _, target := range []netip.Addr{far4, far6} {
		var echo net.PacketConn
		var err error
		if n.far.Do(func() { echo, err = net.ListenPacket("udp", netip.AddrPortFrom(target, 7).String()) }); err != nil {
			t.Fatal(err)
		}
		go func() {
			b := make([]byte, 2048)
			for {
				k, from, err := echo.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = echo.WriteTo(b[:k], from)
			}
		}()
		size := 20
		for _, source := range []uint16{0, 4000} {
			r := n.must(want.Probe{Kind: want.ProbeUDP, Target: target, Port: 7, Count: 5, Size: &size, SourcePort: source})
			if r.Answered != 5 || r.Outcomes[want.ProbeReply] != 5 {
				t.Errorf("%s from %d: %+v", target, source, r)
			}
		}
		echo.Close()
		r := n.must(want.Probe{Kind: want.ProbeUDP, Target: target, Port: 9, Count: 1})
		if r.Refused != 1 || r.Answers[0].Outcome != want.ProbeUnreachable || !strings.HasPrefix(r.Answers[0].Text, "port unreachable") || r.Answers[0].From != target {
			t.Errorf("%s: %+v", target, r)
		}
	}
}

// A SYN finds out whether somebody listens, and leaves nothing behind: the host's kernel, or for an address that is nobody's the probe,
// takes it back.
func TestNetnsTCP(t *testing.T) {
	n := newNetwork(t)
	for _, target := range []netip.Addr{far4, far6} {
		var l net.Listener
		var err error
		if n.far.Do(func() { l, err = net.Listen("tcp", netip.AddrPortFrom(target, 80).String()) }); err != nil {
			t.Fatal(err)
		}
		r := n.must(want.Probe{Kind: want.ProbeTCPSYN, Target: target, Port: 80, Count: 3})
		if r.Outcomes[want.ProbeOpen] != 3 || r.Answered != 3 {
			t.Errorf("%s: %+v", target, r)
		}
		r = n.must(want.Probe{Kind: want.ProbeTCPSYN, Target: target, Port: 81, Count: 3})
		if r.Outcomes[want.ProbeClosed] != 3 || r.Answered != 3 {
			t.Errorf("%s: %+v", target, r)
		}
		l.Close()
	}
}

// The connection that a SYN-ACK began is reset, once, by whoever the address belongs to.
func TestNetnsTCPIsTakenBack(t *testing.T) {
	n := newNetwork(t)
	var l net.Listener
	var err error
	if n.far.Do(func() { l, err = net.Listen("tcp", "192.0.2.2:80") }); err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	foreign := netip.MustParseAddr("192.0.2.77")
	if err := n.far.Netlink().NeighSet(&netlink.Neigh{
		LinkIndex: n.far.Link("eth0").Attrs().Index, IP: foreign.AsSlice(), HardwareAddr: n.near.Link("eth0").Attrs().HardwareAddr, State: netlink.NUD_PERMANENT,
	}); err != nil {
		t.Fatal(err)
	}
	ear := nettest.NewEar(t, n.far, "eth0")
	for _, source := range []netip.Addr{{}, foreign} {
		r := n.must(want.Probe{Kind: want.ProbeTCPSYN, Target: far4, Port: 80, Count: 1, Source: source})
		if r.Outcomes[want.ProbeOpen] != 1 || r.Answers[0].Again != 0 {
			t.Fatalf("%+v", r)
		}
		resets := 0
		for end := time.Now().Add(20 * time.Second); resets == 0 && time.Now().Before(end); {
			for _, f := range ear.All(100 * time.Millisecond) {
				if len(f) >= 54 && f[12] == 8 && f[13] == 0 && f[23] == 6 && f[47]&4 != 0 && netip.AddrFrom4([4]byte(f[26:30])) == r.Source {
					resets++
				}
			}
		}
		if resets != 1 {
			t.Errorf("source %v: %d segments with RST", source, resets)
		}
	}
}

// What a router on the way says is told in words.
func TestNetnsErrorsOfARouter(t *testing.T) {
	n := newNetwork(t)
	beyond := netip.MustParseAddr("198.51.100.9")
	n.set(n.far, "/proc/sys/net/ipv4/ip_forward", "1")
	route := &netlink.Route{LinkIndex: n.near.Link("eth0").Attrs().Index, Gw: net.ParseIP("192.0.2.2"), Dst: &net.IPNet{IP: net.ParseIP("198.51.100.0").To4(), Mask: net.CIDRMask(24, 32)}}
	if err := n.near.Netlink().RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	r := n.must(want.Probe{Kind: want.ProbePing, Target: beyond, Count: 1})
	if a := r.Answers[0]; a.Outcome != want.ProbeUnreachable || a.Text != "network unreachable" || a.From != far4 || r.Via != far4 {
		t.Errorf("%+v", r)
	}
	onward := &netlink.Route{LinkIndex: n.far.Link("eth0").Attrs().Index, Dst: route.Dst, Scope: netlink.SCOPE_LINK}
	if err := n.far.Netlink().RouteAdd(onward); err != nil {
		t.Fatal(err)
	}
	r = n.must(want.Probe{Kind: want.ProbeTCPSYN, Port: 80, Target: beyond, Count: 1, TTL: 1})
	if a := r.Answers[0]; a.Outcome != want.ProbeExpired || a.From != far4 {
		t.Errorf("%+v", r)
	}
}

// A tagged probe is answered by a tagged network, and by no other.
func TestNetnsVLAN(t *testing.T) {
	n := newNetwork(t)
	link := n.far.Link("eth0")
	if err := n.far.Netlink().LinkAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0.7", ParentIndex: link.Attrs().Index}, VlanId: 7}); err != nil {
		t.Skip("the kernel has no VLAN devices:", err)
	}
	n.address(n.far, "eth0.7", "203.0.113.2/24")
	n.far.Up("eth0.7")
	target, source := netip.MustParseAddr("203.0.113.2"), netip.MustParseAddr("203.0.113.1")
	r := n.must(want.Probe{Kind: want.ProbePing, Target: target, Source: source, VLAN: 7, Priority: 5, Count: 3})
	if r.Answered != 3 || r.ResolvedBy != "arp" || r.VLAN != 7 {
		t.Errorf("%+v", r)
	}
	r, err := n.probe(want.Probe{Kind: want.ProbePing, Target: target, Source: source, VLAN: 8, Count: 2})
	if err != nil || r.Outcomes[want.ProbeUnresolved] != 2 || r.Sent != 0 || len(r.Notes) != 1 {
		t.Errorf("%v, %+v", err, r)
	}
}

func TestNetnsRefusals(t *testing.T) {
	n := newNetwork(t)
	big, fits := 1473, 1472
	if r := n.must(want.Probe{Kind: want.ProbePing, Target: far4, Count: 1, Size: &fits, DontFragment: true}); r.Answered != 1 {
		t.Errorf("%+v", r)
	}
	var busy net.PacketConn
	var err error
	if n.near.Do(func() { busy, err = net.ListenPacket("udp", "192.0.2.1:5000") }); err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	for _, x := range []struct {
		p    want.Probe
		kind fault.Kind
		says string
	}{
		{want.Probe{Kind: want.ProbePing, Target: far4, Size: &big}, fault.Invalid, "is not fragmented"},
		{want.Probe{Kind: want.ProbePing, Target: netip.MustParseAddr("192.0.2.255")}, fault.Invalid, "everybody"},
		{want.Probe{Kind: want.ProbePing, Target: netip.MustParseAddr("192.0.2.0")}, fault.Invalid, "everybody"},
		{want.Probe{Kind: want.ProbePing, Target: netip.MustParseAddr("192.0.2.1")}, fault.Invalid, "itself"},
		{want.Probe{Kind: want.ProbePing, Target: far4, Source: netip.MustParseAddr("192.0.2.255")}, fault.Invalid, "not the address of one host"},
		{want.Probe{Kind: want.ProbeUDP, Target: far4, Port: 9, SourcePort: 5000}, fault.Conflict, "the host itself"},
	} {
		if _, err := n.probe(x.p); fault.KindOf(err) != x.kind || !strings.Contains(err.Error(), x.says) {
			t.Errorf("%+v: %v", x.p, err)
		}
	}
	q := want.ProbeRun{Probe: want.Probe{Kind: want.ProbePing, Target: far4, Source: netip.MustParseAddr("192.0.2.9")}, Device: "eth0", OwnOnly: true}
	if err := probe.Fill(&q.Probe); err != nil {
		t.Fatal(err)
	}
	n.near.Do(func() {
		if _, err := Run(t.Context(), q); !fault.Is(err, fault.Forbidden) {
			t.Error(err)
		}
		q.Device = "lo"
		if _, err := Run(t.Context(), q); !fault.Is(err, fault.Unsupported) {
			t.Error(err)
		}
		q.Device = "eth9"
		if _, err := Run(t.Context(), q); !fault.Is(err, fault.Unavailable) {
			t.Error(err)
		}
	})
	n.near.Down("eth0")
	if _, err := n.probe(want.Probe{Kind: want.ProbePing, Target: far4}); !fault.Is(err, fault.Unavailable) {
		t.Error(err)
	}
}
