package reconcile

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/want"
)

// ears listens at hosts.
func (d *demon) ears(hosts ...string) map[string]*nettest.Ear {
	out := make(map[string]*nettest.Ear)
	for _, h := range hosts {
		out[h] = nettest.NewEar(d.t, d.hosts, h)
	}
	return out
}

// heard returns what came, without discovery frames.
func heard(e *nettest.Ear) [][]byte {
	var out [][]byte
	for _, f := range e.All(250 * time.Millisecond) {
		if f[12] != 0x88 || f[13] != 0xcc {
			out = append(out, f)
		}
	}
	return out
}

func tcp(src, dst string, sport, dport uint16) []byte {
	return nettest.Packet{
		Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), Proto: nettest.TCP, SrcPort: sport, DstPort: dport, Payload: make([]byte, 200),
	}.Bytes()
}

func udp(src, dst string, sport, dport uint16) []byte {
	return nettest.Packet{Src: netip.MustParseAddr(src), Dst: netip.MustParseAddr(dst), SrcPort: sport, DstPort: dport, Payload: make([]byte, 200)}.Bytes()
}

// three is a fabric with a passive tap at h5, tools at h11 (s3), h10 and h9 (s2), and h4 at the tap's own switch.
func three() want.Fabric {
	return want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}, "s2": {DPID: 2}, "s3": {DPID: 3}},
		Pairs:    []want.FabricPair{{"s1/1", "s1/2"}},
		Ports: map[string]want.FabricPort{
			"line": {At: "s1/1", Role: want.RoleFilter}, "span": {At: "s1/5", Role: want.RoleFilter},
			"near": {At: "s1/4", Role: want.RoleDelivery}, "far": {At: "s3/11", Role: want.RoleDelivery},
			"a": {At: "s2/4", Role: want.RoleDelivery}, "b": {At: "s2/5", Role: want.RoleDelivery},
		},
		Tools: map[string]want.FabricTool{"ids": {Members: []string{"a", "b"}}},
	}
}

func TestNetnsPolicies(t *testing.T) {
	web, dns, ssh := tcp("10.0.0.1", "10.9.0.2", 4000, 80), udp("10.0.0.1", "10.9.0.3", 4000, 53), tcp("10.0.0.1", "10.9.0.2", 4000, 22)
	v6 := nettest.Packet{Src: netip.MustParseAddr("2001:db8::1"), Dst: netip.MustParseAddr("2001:db8::2"), Proto: nettest.TCP, SrcPort: 5, DstPort: 80}.Bytes()
	inTag := nettest.Packet{Proto: nettest.TCP, SrcPort: 5, DstPort: 80, Tags: []nettest.Tag{{TCI: 100}}, Payload: make([]byte, 100)}.Bytes()
	all := [][]byte{web, dns, ssh, v6, inTag}
	policy := func(name, from, filter string, to ...string) want.FabricPolicy {
		return want.FabricPolicy{Name: name, From: []string{from}, Filter: filter, To: to}
	}
	with := func(p want.FabricPolicy, change func(*want.FabricPolicy)) want.FabricPolicy {
		change(&p)
		return p
	}
	d := newDemon(t)
	c := d.control(&memory{}, "")
	c.Want(layout(t, three()))
	d.connect(c)
	await.Until(t, "links", func() bool {
		v, _ := c.View(context.Background(), false)
		return len(v.Links) == 10
	})
	ears := d.ears("h1", "h2", "h3", "h4", "h6", "h7", "h8", "h9", "h10", "h11")
	send := map[string]*nettest.Sender{"h1": nettest.NewSender(t, d.hosts, "h1"), "h2": nettest.NewSender(t, d.hosts, "h2"), "h5": nettest.NewSender(t, d.hosts, "h5")}
	for _, tt := range []struct {
		name     string
		policies []want.FabricPolicy
		from     string
		want     map[string][][]byte
	}{
		{"everything of a passive tap, far", []want.FabricPolicy{policy("p", "span", "", "far")}, "h5", map[string][][]byte{"h11": all}},
		{"to a tool at the same switch", []want.FabricPolicy{policy("p", "span", "", "near")}, "h5", map[string][][]byte{"h4": all}},
		{"over two switches", []want.FabricPolicy{policy("p", "span", "", "a")}, "h5", map[string][][]byte{"h9": all}},
		{"near and far and farther at once", []want.FabricPolicy{policy("p", "span", "", "near", "far", "a")}, "h5", map[string][][]byte{"h4": all, "h11": all, "h9": all}},
		{"a filter, IPv4 and IPv6, tagged and not", []want.FabricPolicy{policy("p", "span", "tcp port 80", "far")}, "h5", map[string][][]byte{"h11": {web, v6, inTag}}},
		{"what a filter leaves out", []want.FabricPolicy{policy("p", "span", "not tcp port 80 and not vlan", "far")}, "h5", map[string][][]byte{"h11": {dns, ssh}}},
		{"a network and a range", []want.FabricPolicy{policy("p", "span", "dst net 10.9.0.2/31 and portrange 22-79", "far")}, "h5", map[string][][]byte{"h11": {dns, ssh}}},
		{"a VLAN", []want.FabricPolicy{policy("p", "span", "vlan 100 and tcp", "far")}, "h5", map[string][][]byte{"h11": {inTag}}},
		{
			"policies that overlap give a tool one copy",
			[]want.FabricPolicy{policy("p", "span", "tcp", "far", "near"), policy("q", "span", "port 80 or port 53", "far", "a")},
			"h5",
			map[string][][]byte{"h11": all, "h4": {web, ssh, v6, inTag}, "h9": {web, dns, v6, inTag}},
		},
		{
			"an exclusive one takes its packets alone",
			[]want.FabricPolicy{policy("p", "span", "", "far"), with(policy("q", "span", "port 80", "near"), func(p *want.FabricPolicy) { p.Exclusive = true })},
			"h5",
			map[string][][]byte{"h11": {dns, ssh}, "h4": {web, v6, inTag}},
		},
		{
			"the higher of two exclusive ones", []want.FabricPolicy{
				with(policy("p", "span", "tcp", "far"), func(p *want.FabricPolicy) { p.Exclusive = true }),
				with(policy("q", "span", "port 80", "near"), func(p *want.FabricPolicy) { p.Exclusive, p.Priority = true, 5 }),
			}, "h5", map[string][][]byte{"h11": {ssh}, "h4": {web, v6, inTag}},
		},
		{
			"cut",
			[]want.FabricPolicy{with(policy("p", "span", "udp", "far"), func(p *want.FabricPolicy) { p.Truncate = 64 })},
			"h5",
			map[string][][]byte{"h11": {dns[:64]}},
		},
		{
			"cut for one, whole for another",
			[]want.FabricPolicy{with(policy("p", "span", "udp", "far"), func(p *want.FabricPolicy) { p.Truncate = 64 }), policy("q", "span", "udp", "a")},
			"h5",
			map[string][][]byte{"h11": {dns[:64]}, "h9": {dns}},
		},
		{"a pair forwards what is mirrored and what is not", []want.FabricPolicy{policy("p", "line", "port 80", "far")}, "h1", map[string][][]byte{"h2": all, "h11": {web, v6, inTag}}},
		{
			"what leaves by a port, too",
			[]want.FabricPolicy{with(policy("p", "line", "port 80", "far"), func(p *want.FabricPolicy) { p.Direction = want.BothSides })},
			"h2",
			map[string][][]byte{"h1": all, "h11": {web, v6, inTag}},
		},
		{"and not, without being asked", []want.FabricPolicy{policy("p", "line", "port 80", "far")}, "h2", map[string][][]byte{"h1": all}},
	} {
		f := three()
		f.Policies = tt.policies
		c.Want(layout(t, f))
		c.turn1(t)
		c.active(t)
		if r := c.verify(t); !r.OK {
			t.Errorf("%s: %+v", tt.name, r)
		}
		d.ovs.Settle()
		send[tt.from].Send(all...)
		for _, h := range []string{"h11", "h1", "h2", "h3", "h4", "h6", "h7", "h8", "h9", "h10"} {
			wait := 20 * time.Millisecond
			if len(tt.want[h]) > 0 {
				wait = 200 * time.Millisecond
			}
			var got [][]byte
			for _, f := range ears[h].All(wait) {
				if f[12] != 0x88 || f[13] != 0xcc {
					got = append(got, f)
				}
			}
			if !sameFrames(got, tt.want[h]) {
				t.Errorf("%s: %s got %d frames, want %d: %x", tt.name, h, len(got), len(tt.want[h]), got)
			}
		}
	}
	// Nobody wants anything any more.
	c.Want(nil)
	c.turn1(t)
	for _, s := range []string{"s1", "s2", "s3"} {
		if flows := d.ovs.Ofctl("dump-flows", s) + d.ovs.Ofctl("dump-groups", s); strings.Contains(flows, "0x7a9") || strings.Contains(flows, "actions") {
			t.Errorf("%s still has\n%s", s, flows)
		}
	}
}

func TestNetnsToolsShareTheLoad(t *testing.T) {
	d := newDemon(t)
	c := d.control(&memory{}, "")
	f := three()
	f.Policies = []want.FabricPolicy{{Name: "p", From: []string{"span"}, To: []string{"ids"}}}
	c.Want(layout(t, f))
	d.connect(c)
	c.active(t)
	a, b := nettest.NewEar(t, d.hosts, "h9"), nettest.NewEar(t, d.hosts, "h10")
	s := nettest.NewSender(t, d.hosts, "h5")
	const flows = 60
	var there, back [][]byte
	for i := range flows {
		there = append(there, tcp("10.0.0.1", fmt.Sprintf("10.1.0.%d", i+1), uint16(5000+i), 80))
		back = append(back, tcp(fmt.Sprintf("10.1.0.%d", i+1), "10.0.0.1", 80, uint16(5000+i)))
	}
	s.Send(there...)
	s.Send(back...)
	atA, atB := heard(a), heard(b)
	if len(atA)+len(atB) != 2*flows || len(atA) < flows/4 || len(atB) < flows/4 {
		t.Errorf("%d and %d of %d", len(atA), len(atB), 2*flows)
	}
	// Both directions of a connection are at the same member.
	side := make(map[string]int)
	for i, list := range [][][]byte{atA, atB} {
		for _, f := range list {
			x, y := string(f[26:30])+string(f[34:36]), string(f[30:34])+string(f[36:38])
			key := min(x, y) + max(x, y)
			if was, ok := side[key]; ok && was != i {
				t.Errorf("a connection is torn apart: %x", key)
			}
			side[key] = i
		}
	}
	// A member is lost: the other takes all.
	d.hosts.Down("h10")
	await.Until(t, "the lost member is told", func() bool {
		v, _ := c.View(context.Background(), false)
		return v.Policies[0].State == want.PolicyDegraded && strings.Contains(v.Policies[0].Reason, "s2/5 is down")
	})
	// What the switch has cached of the group it revises when it comes to it.
	await.Until(t, "the other takes all", func() bool {
		s.Send(there...)
		return len(heard(a)) == flows
	})
}

func TestNetnsServiceChain(t *testing.T) {
	d := newDemon(t)
	c := d.control(&memory{}, "")
	f := three()
	// The service is at h6 and h7: what comes out at h6 is put back in at h7, marked.
	f.Ports["mark"] = want.FabricPort{At: "s2/1", Role: want.RoleService, Return: "s2/2"}
	f.Policies = []want.FabricPolicy{{Name: "p", From: []string{"span"}, To: []string{"far"}, Filter: "udp", Services: []string{"mark"}}}
	c.Want(layout(t, f))
	d.connect(c)
	c.active(t)
	in, tool := nettest.NewEar(t, d.hosts, "h6"), nettest.NewEar(t, d.hosts, "h11")
	frame := udp("10.0.0.1", "10.0.0.2", 1, 2)
	nettest.NewSender(t, d.hosts, "h5").Send(frame, tcp("10.0.0.1", "10.0.0.2", 1, 2))
	got := heard(in)
	if !sameFrames(got, [][]byte{frame}) {
		t.Fatalf("the service got %x", got)
	}
	if early := heard(tool); len(early) != 0 {
		t.Errorf("the tool got %d frames past the service", len(early))
	}
	got[0][60] = 0xee
	nettest.NewSender(t, d.hosts, "h7").Send(got...)
	if out := heard(tool); !sameFrames(out, got) {
		t.Errorf("the tool got %x", out)
	}
	// A second chain cannot be told apart, and says so.
	f.Policies = append(f.Policies, want.FabricPolicy{Name: "q", From: []string{"line"}, To: []string{"near"}, Services: []string{"mark"}})
	c.Want(layout(t, f))
	await.Until(t, "infeasible", func() bool {
		v, _ := c.View(context.Background(), false)
		return v.Policies[1].State == want.PolicyInfeasible && strings.Contains(v.Policies[1].Reason, "cannot be told apart")
	})
}

func TestNetnsRateIsKept(t *testing.T) {
	d := newDemon(t)
	c := d.control(&memory{}, "")
	f := three()
	f.Policies = []want.FabricPolicy{{Name: "p", From: []string{"line"}, To: []string{"far"}, RateKbps: 200}}
	c.Want(layout(t, f))
	d.connect(c)
	c.active(t)
	tool, peer := nettest.NewEar(t, d.hosts, "h11"), nettest.NewEar(t, d.hosts, "h2")
	frames := make([][]byte, 1000)
	for i := range frames {
		frames[i] = udp("10.0.0.1", "10.0.0.2", 1, uint16(i))
	}
	s, start, passed := nettest.NewSender(t, d.hosts, "h1"), time.Now(), 0
	for i := 0; i < len(frames); i += 10 {
		s.Send(frames[i : i+10]...)
		for range 10 { // the switch is a program: it gets no more before these have passed
			if f := peer.Next(5 * time.Second); f != nil {
				passed++
			}
		}
	}
	took := time.Since(start)
	if passed != len(frames) {
		t.Errorf("the pair passed %d of %d: the limit is not its own", passed, len(frames))
	}
	may := int(took.Seconds()*200e3/8/242*1.5) + 150 // and what is saved up
	if got := heard(tool); len(got) == 0 || len(got) > may || may < len(frames) && len(got) == len(frames) {
		t.Errorf("the tool got %d of %d in %s, and may get %d", len(got), len(frames), took, may)
	}
}
