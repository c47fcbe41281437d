package reconcile

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"opentap/fabric"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/want"
)

// verify asks for a report.
func (c *controller) verify(t *testing.T) want.FabricReport {
	t.Helper()
	r, err := c.Verify(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// turn has the switches looked at once more.
func (c *controller) turn1(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := c.Await(ctx); err != nil {
		t.Fatal(err)
	}
}

// quiet waits until the engine does nothing by itself any more, so that it does not mend what a test spoils before the test looks.
func (c *controller) quiet(t *testing.T) {
	t.Helper()
	last, since := uint64(0), time.Now()
	await.Until(t, "quiet", func() bool {
		c.mu.Lock()
		n := c.turns
		c.mu.Unlock()
		if n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > 1500*time.Millisecond
	})
}

// ready is a fabric with the seed's scenario in the switches.
func ready(t *testing.T, f want.Fabric) (*demon, *controller) {
	t.Helper()
	d := newDemon(t)
	c := d.control(&memory{}, "")
	c.Want(layout(t, f))
	d.connect(c)
	c.active(t)
	return d, c
}

func finds(r want.FabricReport, kind, has string) bool {
	for _, f := range r.Findings {
		if f.Kind == kind && strings.Contains(f.Text+f.Intended+f.Actual, has) {
			return true
		}
	}
	return false
}

func TestNetnsVerifyFindsEachKindOfDrift(t *testing.T) {
	f := seed()
	f.Policies[0].RateKbps = 5000
	d, c := ready(t, f)
	c.quiet(t)
	groups := d.ovs.Ofctl("dump-groups", "s1")
	_, rest, _ := strings.Cut(groups, "group_id=")
	id, _, ok := strings.Cut(rest, ",")
	if !ok {
		t.Fatal(groups)
	}
	_, rest, _ = strings.Cut(d.ovs.Ofctl("dump-meters", "s3"), "meter=")
	meter, _, ok := strings.Cut(rest, " ")
	if !ok {
		t.Fatal("no meter in s3")
	}
	if r := c.verify(t); !r.OK || r.Rules < 30 || r.Switches != 3 {
		t.Fatalf("before: %+v", r)
	}
	foreign := []string{"table=0,priority=31000,in_port=1,cookie=0x99,tcp,actions=drop", "table=0,priority=7,in_port=5,cookie=0x98,actions=drop"}
	for _, tt := range []struct {
		name, kind, has string
		spoil           func()
		repaired        bool
	}{
		{"a rule is gone", want.FindingMissing, "mirror-h1 at s1/1", func() { d.ovs.Ofctl("--strict", "del-flows", "s1", "priority=30001,in_port=1") }, true},
		{"a rule does something else", want.FindingChanged, "output:3", func() { d.ovs.Ofctl("mod-flows", "s1", "in_port=2,actions=output:3") }, true},
		{"a rule would vanish", want.FindingChanged, "vanish", func() {
			d.ovs.Ofctl("add-flow", "s2", "cookie=0x7a9000200000001,priority=30000,in_port=1,hard_timeout=120,actions=output:2")
		}, true},
		{"a rule too many", want.FindingExtra, "in_port=9", func() {
			d.ovs.Ofctl("add-flow", "s2", "cookie=0x7a9000100000001,priority=40000,in_port=9,actions=output:2")
		}, true},
		{"somebody else's rule in the place of ours", want.FindingChanged, "somebody else", func() {
			d.ovs.Ofctl("add-flow", "s2", "cookie=0x5,priority=30000,in_port=2,actions=drop")
		}, true},
		{"a group is gone, and with it the rule", want.FindingMissing, "group 0x", func() { d.ovs.Ofctl("del-groups", "s1", "group_id="+id) }, true},
		{"a group does something else", want.FindingChanged, "group 0x", func() {
			d.ovs.Ofctl("mod-group", "s1", "group_id="+id+",type=ff,bucket=watch_port:6,actions=output:6")
		}, true},
		{"a group too many", want.FindingExtra, "group 0x7a9", func() {
			d.ovs.Ofctl("add-group", "s3", fmt.Sprintf("group_id=%d,type=all,bucket=actions=output:1", 0x07a90005))
		}, true},
		{"a meter does something else", want.FindingChanged, "meter " + meter, func() {
			d.ovs.Ofctl("mod-meter", "s3", "meter="+meter+",kbps,band=type=drop,rate=7")
		}, true},
		{"a meter is gone, and with it the rule", want.FindingMissing, "meter " + meter, func() { d.ovs.Ofctl("del-meter", "s3", "meter="+meter) }, true},
		{"a meter too many", want.FindingExtra, "meter 31999", func() { d.ovs.Ofctl("add-meter", "s3", "meter=31999,kbps,band=type=drop,rate=7") }, true},
		{"a foreign rule in the way", want.FindingForeign, "cookie 0x99", func() { d.ovs.Ofctl("add-flow", "s1", foreign[0]) }, false},
		{"a port is down", want.FindingPort, "s3/11 is down", func() {
			d.hosts.Down("h11")
			await.Until(t, "port down", func() bool { return finds(c.verify(t), want.FindingPort, "s3/11 is down") })
		}, false},
		{"a cable is cut", want.FindingLink, "s1/8 – s3/3 is down", func() {
			d.switches.Down("s1-eth8")
			await.Until(t, "link down", func() bool { return finds(c.verify(t), want.FindingLink, "s1/8") })
		}, false},
		{"a switch is gone", want.FindingUnreachable, "not connected", func() {
			d.ovs.Controller("s2")
			await.Until(t, "switch gone", func() bool { return finds(c.verify(t), want.FindingUnreachable, "not connected") })
		}, false},
	} {
		before := len(c.Drift())
		tt.spoil()
		if r := c.verify(t); r.OK || !finds(r, tt.kind, tt.has) {
			t.Errorf("%s: %+v", tt.name, r)
		}
		c.turn1(t)
		if !tt.repaired {
			continue
		}
		if r := c.verify(t); !r.OK {
			t.Errorf("%s: not mended: %+v", tt.name, r)
		}
		if drift := c.Drift(); len(drift) <= before || drift[len(drift)-1].Done != "repaired" {
			t.Errorf("%s: the drift log has %+v", tt.name, drift[before:])
		}
	}
	d.ovs.Ofctl("add-flow", "s1", foreign[1])
	c.turn1(t)
	for _, f := range foreign {
		cookie := f[strings.Index(f, "cookie=") : strings.Index(f, "cookie=")+11]
		if flows := d.ovs.Ofctl("dump-flows", "s1"); !strings.Contains(flows, cookie+",") {
			t.Errorf("the foreign rule %s was touched:\n%s", cookie, flows)
		}
	}
}

// stream sends numbered frames from a host until stop is called, which returns how many were sent.
func (d *demon) stream(host string, every time.Duration) (stop func() int) {
	done, sent := make(chan struct{}), make(chan int)
	s := nettest.NewSender(d.t, d.hosts, host)
	go func() {
		n := 0
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				sent <- n
				return
			case <-tick.C:
				s.Send(numbered(n))
				n++
			}
		}
	}()
	return func() int { close(done); return <-sent }
}

func numbered(n int) []byte {
	return nettest.Packet{SrcPort: 4000, DstPort: 4001, Payload: binary.BigEndian.AppendUint32([]byte("number"), uint32(n))}.Bytes()
}

// missing returns how many numbered frames did not come, and how many came more than once.
func numbers(frames [][]byte, sent int) (lost, twice int) {
	seen := make([]int, sent)
	for _, f := range frames {
		if len(f) >= 52 && string(f[42:48]) == "number" {
			if n := int(binary.BigEndian.Uint32(f[48:])); n < sent {
				seen[n]++
			}
		}
	}
	for _, k := range seen {
		switch {
		case k == 0:
			lost++
		case k > 1:
			twice++
		}
	}
	return lost, twice
}

func TestNetnsCutCableLosesAHandful(t *testing.T) {
	d, c := ready(t, seed())
	peer, tool := nettest.NewEar(t, d.hosts, "h2"), nettest.NewEar(t, d.hosts, "h11")
	stop := d.stream("h1", 2*time.Millisecond)
	pause(context.Background(), 200*time.Millisecond)
	// The cable that tag 2001 begins with, and then the next two.
	for _, port := range []string{"s1-eth7", "s1-eth8", "s1-eth9"} {
		d.switches.Down(port)
		pause(context.Background(), 300*time.Millisecond)
	}
	sent := stop()
	lost, twice := numbers(peer.All(300*time.Millisecond), sent)
	if lost != 0 || twice != 0 {
		t.Errorf("of %d frames of the pair %d are lost and %d came twice", sent, lost, twice)
	}
	lost, twice = numbers(tool.All(300*time.Millisecond), sent)
	t.Logf("of %d copies %d were lost while three cables were cut", sent, lost)
	if lost > 30 || twice != 0 {
		t.Errorf("of %d copies %d are lost and %d came twice", sent, lost, twice)
	}
	if r := c.verify(t); finds(r, want.FindingMissing, "") || finds(r, want.FindingPolicy, "") {
		t.Errorf("%+v", r)
	}
}

func TestNetnsControllerComesAndGoesWithoutLoss(t *testing.T) {
	d := newDemon(t)
	k := &memory{}
	c := d.control(k, "")
	c.Want(layout(t, seed()))
	d.connect(c)
	c.active(t)
	peer, tool := nettest.NewEar(t, d.hosts, "h2"), nettest.NewEar(t, d.hosts, "h11")
	stop := d.stream("h1", time.Millisecond)
	c.stop()
	pause(context.Background(), 200*time.Millisecond)
	again := d.control(k, c.addr)
	again.Want(layout(t, seed()))
	again.active(t)
	again.turn1(t)
	// Another policy comes, and goes.
	f := seed()
	f.Policies = append(f.Policies, want.FabricPolicy{Name: "udp", From: []string{"h1"}, To: []string{"h11"}, Filter: "udp"})
	again.Want(layout(t, f))
	again.turn1(t)
	again.Want(layout(t, seed()))
	again.turn1(t)
	sent := stop()
	for name, ear := range map[string]*nettest.Ear{"frames of the pair": peer, "copies": tool} {
		if lost, twice := numbers(ear.All(300*time.Millisecond), sent); lost != 0 || twice != 0 {
			t.Errorf("of %d %s %d are lost and %d came twice", sent, name, lost, twice)
		}
	}
	if drift := again.Drift(); len(drift) != 0 {
		t.Errorf("a restart is no drift: %+v", drift)
	}
}

func TestNetnsNobodyIsBelievedBlindly(t *testing.T) {
	d, c := ready(t, seed())
	// A frame made up by a host, one with our look, and one of ours caught elsewhere.
	e := fabric.Endpoint{Switch: 3, Port: 1}
	forged := (fabric.Seal{Key: []byte("guess")}).Discovery(e, time.Now())
	genuine := (fabric.Seal{Key: []byte("test")}).Discovery(e, time.Now())
	s := nettest.NewSender(t, d.hosts, "h1")
	s.Send(forged, genuine)
	await.Until(t, "spoofs are reported", func() bool {
		r := c.verify(t)
		return finds(r, want.FindingSpoof, "somebody made it up") && finds(r, want.FindingSpoof, "s1/1, where no switch can be")
	})
	if v, _ := c.View(context.Background(), false); len(v.Links) != 10 {
		t.Errorf("%d links: %+v", len(v.Links), v.Links)
	}
	// A second switch with the datapath id of the first.
	d.ovs.Bridge("s4", 1)
	d.ovs.Controller("s4", "tcp:"+c.addr)
	await.Until(t, "the duplicate is reported", func() bool { return finds(c.verify(t), want.FindingDuplicate, "0000000000000001") })
	if v, _ := c.View(context.Background(), false); !v.Switches[0].Connected || len(v.Switches[0].Ports) < 10 {
		t.Errorf("the first was not kept: %+v", v.Switches[0])
	}
	d.ovs.Ctl("del-br", "s4")
	// A switch that speaks 1.0 alone.
	d.ovs.Bridge("s5", 5)
	d.ovs.Protocols("s5", "OpenFlow10")
	d.ovs.Controller("s5", "tcp:"+c.addr)
	await.Until(t, "the old version is refused", func() bool {
		return finds(c.verify(t), want.FindingUnreachable, "OpenFlow 1.0; OpenFlow 1.3 is needed")
	})
	// Somebody who speaks no OpenFlow.
	var conn net.Conn
	var err error
	d.switches.Do(func() { conn, err = net.Dial("tcp", c.addr) })
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 100)); n != 16 || err != nil { // our hello, and then the end
		t.Errorf("%d octets, %v", n, err)
	}
	if _, err := conn.Read(make([]byte, 100)); err == nil {
		t.Error("the connection stays open")
	}
}

func TestNetnsFullTableRefusesThePolicyAlone(t *testing.T) {
	d, c := ready(t, seed())
	d.ovs.Ctl("--", "--id=@t", "create", "flow_table", "flow_limit=40", "overflow_policy=refuse", "--", "set", "bridge", "s1", "flow_tables:0=@t")
	f := seed()
	f.Policies = append(f.Policies,
		want.FabricPolicy{Name: "large", From: []string{"h1"}, To: []string{"h11"}, Filter: "tcp portrange 1001-1999 or udp portrange 3-999"},
		want.FabricPolicy{Name: "small", From: []string{"h1"}, To: []string{"h11"}, Filter: "icmp"})
	c.Want(layout(t, f))
	c.turn1(t)
	states := make(map[string]string)
	await.Until(t, "judged", func() bool {
		v, _ := c.View(context.Background(), false)
		for _, p := range v.Policies {
			states[p.Name] = policyText(p)
		}
		return states["small"] == "active"
	})
	if states["mirror-h1"] != "active" || states["mirror-h7"] != "active" || !strings.HasPrefix(states["large"], "infeasible") || !strings.Contains(states["large"], "table is full (5/1); tried") {
		t.Errorf("%v", states)
	}
	// There is room again, and nobody says so: it is tried again by itself.
	d.ovs.Ctl("clear", "bridge", "s1", "flow_tables")
	await.Until(t, "tried again", func() bool {
		v, _ := c.View(context.Background(), false)
		return v.Policies[2].State == want.PolicyActive
	})
	if r := c.verify(t); !r.OK {
		t.Errorf("%+v", r)
	}
	// The same by the description's own limit.
	f.Switches["s1"] = want.FabricSwitch{DPID: 1, TableLimit: 20}
	c.Want(layout(t, f))
	await.Until(t, "limit", func() bool {
		v, _ := c.View(context.Background(), false)
		return strings.Contains(policyText(v.Policies[2]), "table_limit: s1 would need")
	})
}

func policyText(p want.FabricPolicyView) string {
	if p.Reason == "" {
		return string(p.State)
	}
	return string(p.State) + ": " + p.Reason
}

func TestNetnsControllersTakeOver(t *testing.T) {
	d := newDemon(t)
	k := &memory{}
	a, b := d.control(k, ""), d.control(k, "")
	b.Lead(0)
	for _, c := range []*controller{a, b} {
		c.Want(layout(t, seed()))
	}
	for _, s := range []string{"s1", "s2", "s3"} {
		d.ovs.Controller(s, "tcp:"+a.addr, "tcp:"+b.addr)
	}
	a.active(t)
	await.Until(t, "the one that follows sees what the other does", func() bool {
		v, err := b.View(context.Background(), true)
		return err == nil && v.Policies[0].State == want.PolicyActive && v.Policies[1].State == want.PolicyActive
	})
	roles := func(c *controller) string {
		v, _ := c.View(context.Background(), false)
		out := ""
		for _, s := range v.Switches {
			out += s.Role + " "
		}
		return out
	}
	if ra, rb := roles(a), roles(b); ra != "master master master " || rb != "slave slave slave " {
		t.Errorf("%s and %s", ra, rb)
	}
	await.Until(t, "the one that follows finds nothing wrong", func() bool { return b.verify(t).OK })
	if _, err := b.Probe(context.Background(), "mirror-h1"); err == nil {
		t.Error("the one that follows probes")
	}
	// The other is elected; the first does not know yet, and is shut out by the switches.
	peer, tool := nettest.NewEar(t, d.hosts, "h2"), nettest.NewEar(t, d.hosts, "h11")
	stop := d.stream("h1", time.Millisecond)
	b.Lead(2)
	await.Until(t, "the second is master", func() bool { return roles(b) == "master master master " })
	f := seed()
	f.Policies = f.Policies[:1]
	a.Want(layout(t, f))
	await.Until(t, "the first is told", func() bool {
		return finds(a.verify(t), want.FindingUnreachable, "another controller")
	})
	if !strings.Contains(d.ovs.Ofctl("dump-flows", "s2"), "group:") {
		t.Error("the one that was overtaken has changed a switch")
	}
	b.Want(layout(t, f))
	await.Until(t, "the second changes it", func() bool { return !strings.Contains(d.ovs.Ofctl("dump-flows", "s2"), "group:") })
	a.stop()
	b.turn1(t)
	sent := stop()
	for name, ear := range map[string]*nettest.Ear{"frames of the pair": peer, "copies": tool} {
		if lost, twice := numbers(ear.All(300*time.Millisecond), sent); lost != 0 || twice != 0 {
			t.Errorf("of %d %s %d are lost and %d came twice", sent, name, lost, twice)
		}
	}
}

func TestNetnsPortThatIsNotThere(t *testing.T) {
	f := seed()
	f.Ports["ghost"] = want.FabricPort{At: "s3/40", Role: want.RoleDelivery}
	f.Policies[0].To = []string{"h11", "ghost"}
	d := newDemon(t)
	c := d.control(&memory{}, "")
	c.Want(layout(t, f))
	d.connect(c)
	await.Until(t, "the port is told about", func() bool {
		v, _ := c.View(context.Background(), false)
		return v.Policies[0].State == want.PolicyDegraded && strings.Contains(v.Policies[0].Reason, "s3/40 does not exist") && v.Policies[1].State == want.PolicyActive
	})
	if r := c.verify(t); !finds(r, want.FindingPort, "s3/40 does not exist") {
		t.Errorf("%+v", r)
	}
	// The tool that is there gets its copies all the same.
	tool := nettest.NewEar(t, d.hosts, "h11")
	nettest.NewSender(t, d.hosts, "h1").Send(numbered(0), numbered(1))
	if lost, twice := numbers(tool.All(300*time.Millisecond), 2); lost != 0 || twice != 0 {
		t.Errorf("%d lost, %d twice", lost, twice)
	}
}
