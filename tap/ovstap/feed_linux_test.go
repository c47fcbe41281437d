package ovstap

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/nettest"
	"opentap/tap"
)

// quietFor is how long it must be quiet until all copies are heard: the userspace datapath takes its time on a busy machine.
const quietFor = 700 * time.Millisecond

// feedLab is an Open vSwitch with two ports, p0 and q0, whose owners are at p1 and q1, a tool at t1 behind t0, which is in no bridge, and a driver.
type feedLab struct {
	*vswitch
	owner, other, tool *nettest.NS
	d                  tap.Driver
}

func newFeedLab(t *testing.T) *feedLab {
	t.Helper()
	t.Parallel()
	l := &feedLab{vswitch: newVswitch(t), owner: nettest.NewNS(t), other: nettest.NewNS(t), tool: nettest.NewNS(t)}
	l.feeds = true
	l.plug("p0", l.owner, "p1")
	l.plug("q0", l.other, "q1")
	nettest.Veth(t, l.ns, "t0", l.tool, "t1")
	l.d = l.open()
	t.Cleanup(func() {
		l.ns.Do(func() {
			if _, err := l.d.Prune(context.Background(), func(string) bool { return false }); err != nil {
				t.Errorf("prune at the end: %v", err)
			}
			if err := l.d.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
		if left := l.left(); left != "" {
			t.Errorf("left: %s", left)
		}
	})
	return l
}

// plug lays a cable from an owner to a port of the bridge.
func (v *vswitch) plug(port string, ns *nettest.NS, far string) {
	v.t.Helper()
	nettest.Veth(v.t, v.ns, port, ns, far)
	v.vsctl("add-port", "br0", port)
	v.await("port "+port, func() bool {
		return strings.TrimSpace(v.vsctl("get", "Interface", port, "admin_state")) == "up" && strings.TrimSpace(v.vsctl("get", "Interface", port, "ofport")) != "-1"
	})
}

// left names what of ours is there.
func (l *feedLab) left() string {
	out := strings.Fields(l.vsctl("--bare", "--columns=name", "find", "Mirror", "external_ids:opentap=agent"))
	out = append(out, strings.Fields(l.vsctl("--bare", "--columns=name", "find", "Port", "external_ids:opentap=agent"))...)
	links, err := l.ns.Netlink().LinkList()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, k := range links {
		if strings.HasPrefix(k.Attrs().Name, "ot") {
			out = append(out, k.Attrs().Name)
		}
	}
	return strings.Join(out, " ")
}

func (l *feedLab) try(s tap.Source) (note string, err error) {
	l.ns.Do(func() { note, err = l.d.UpdateSource(context.Background(), s) })
	return note, err
}

func (l *feedLab) update(s tap.Source) {
	l.t.Helper()
	if note, err := l.try(s); err != nil || note != "" {
		l.t.Fatalf("%q, %v", note, err)
	}
}

func source(id string, dir tap.Direction, o tap.Options) tap.Source {
	return tap.Source{ID: id, Device: tap.Device{Name: "p0"}, Direction: dir, Options: o, To: tap.Target{Device: tap.Device{Name: "t0"}}}
}

// heard sends frames from one place until a copy of the last is there, and returns what the tool heard. Frames are few: none is lost.
func (l *feedLab) heard(e *nettest.Ear, from *nettest.NS, dev string, frames ...[]byte) [][]byte {
	l.t.Helper()
	nettest.NewSender(l.t, from, dev).Send(frames...)
	return e.All(quietFor)
}

// TestNetnsFeedOptions: what a mirror cannot do, the taps at a feed do, each for itself, and count.
func TestNetnsFeedOptions(t *testing.T) {
	l := newFeedLab(t)
	e := nettest.NewEar(t, l.tool, "t1")
	ssh, dns := nettest.Packet{DstPort: 22, Payload: make([]byte, 400)}.Bytes(), nettest.Packet{DstPort: 53}.Bytes()
	send := func() [][]byte { return l.heard(e, l.owner, "p1", ssh, dns, ssh) }
	l.update(source("a", tap.Out, tap.Options{Filter: "udp port 53"}))
	if got := send(); len(got) != 1 || !bytes.Equal(got[0], dns) {
		t.Errorf("with a filter the tool hears %x", got)
	}
	l.update(source("b", tap.Both, tap.Options{Filter: "udp port 22", Snap: 100}))
	got := send()
	slices.SortFunc(got, func(a, b []byte) int { return len(a) - len(b) })
	if len(got) != 3 || !bytes.Equal(got[0], dns) || !bytes.Equal(got[1], ssh[:100]) || !bytes.Equal(got[2], ssh[:100]) {
		t.Errorf("with two taps the tool hears %x", got)
	}
	l.update(source("c", tap.Out, tap.Options{RateBPS: 8000, Burst: uint64(len(ssh))}))
	l.update(source("d", tap.Out, tap.Options{SampleN: 1 << 30}))
	send()
	for _, want := range []struct {
		id                                     string
		seen, notMatched, sampledOut, mirrored uint64
	}{{"a", 9, 6, 0, 3}, {"b", 6, 2, 0, 4}, {"d", 3, 0, 3, 0}} {
		c, err := l.d.Counts(want.id)
		if err != nil || c.Seen != want.seen || c.NotMatched != want.notMatched || c.SampledOut != want.sampledOut || c.Mirrored != want.mirrored || len(c.Errors) > 0 {
			t.Errorf("counts of %s are %+v, %v; want %+v", want.id, c, err, want)
		}
	}
	if c, err := l.d.Counts("c"); err != nil || c.Seen != 3 || c.RateLimited == 0 || c.Mirrored == 0 {
		t.Errorf("counts of the one with a rate limit are %+v, %v", c, err)
	}
	if n := strings.Count(l.vsctl("--columns=name", "list", "Mirror"), "name"); n != 2 {
		t.Errorf("%d mirrors for two directions of one port", n)
	}
	l.ns.Do(func() {
		for _, id := range []string{"a", "c", "d"} {
			if err := l.d.Delete(context.Background(), id); err != nil {
				t.Error(err)
			}
		}
	})
	if got := send(); len(got) != 2 {
		t.Errorf("with one tap left the tool hears %d frames", len(got))
	}
}

// TestNetnsFeedDirections: each direction is copied as it passes the port, whatever the bridge makes of its tags.
func TestNetnsFeedDirections(t *testing.T) {
	l := newFeedLab(t)
	e := nettest.NewEar(t, l.tool, "t1")
	l.vsctl("set", "port", "p0", "tag=10") // p0 is in VLAN 10, untagged; q0 has all VLANs, tagged
	long := make([]byte, 60)               // no padding that a tag would change
	out := nettest.Packet{DstPort: 1, Payload: long}.Bytes()
	in := nettest.Packet{SrcPort: 2, Payload: long, Tags: []nettest.Tag{{TCI: 10}}}
	tagged := in.Bytes()
	in.Tags = nil
	for _, tt := range []struct {
		dir  tap.Direction
		want [][]byte
	}{{tap.Out, [][]byte{out}}, {tap.In, [][]byte{in.Bytes()}}, {tap.Both, [][]byte{out, in.Bytes()}}} {
		l.update(source("a", tt.dir, tap.Options{}))
		got := l.heard(e, l.owner, "p1", out)
		got = append(got, l.heard(e, l.other, "q1", tagged)...)
		if !slices.EqualFunc(got, tt.want, bytes.Equal) {
			t.Errorf("%s at a port in a VLAN: %x, want %x", tt.dir, got, tt.want)
		}
	}
	trunk := source("b", tap.In, tap.Options{VLANs: "10-11"})
	trunk.Device.Name = "q0"
	l.update(trunk)
	other := nettest.Packet{Tags: []nettest.Tag{{TCI: 12}}}.Bytes()
	l.ns.Do(func() {
		if err := l.d.Delete(context.Background(), "a"); err != nil {
			t.Error(err)
		}
	})
	got := append(l.heard(e, l.owner, "p1", out), l.heard(e, l.other, "q1", other)...)
	if want := (nettest.Packet{DstPort: 1, Payload: long, Tags: []nettest.Tag{{TCI: 10}}}).Bytes(); len(got) != 1 || !bytes.Equal(got[0], want) {
		t.Errorf("in VLANs 10 and 11 of a trunk there is %x, want %x", got, want)
	}
	l.vsctl("clear", "port", "p0", "tag")
	l.update(source("a", tap.Out, tap.Options{})) // as the reconciler does each ten seconds
	p12 := other
	if got := l.heard(e, l.owner, "p1", p12); len(got) != 1 || !bytes.Equal(got[0], p12) {
		t.Errorf("at a port that became a trunk there is %x, want %x", got, p12)
	}
}

// TestNetnsFeedTunnels: copies of both directions go to another host in each encapsulation, and tshark reads them there.
func TestNetnsFeedTunnels(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("needs tshark")
	}
	l := newFeedLab(t)
	peer := nettest.NewNS(t)
	nettest.Veth(t, l.ns, "u0", peer, "u1")
	for ns, x := range map[*nettest.NS][2]string{l.ns: {"u0", "198.51.100.1/24"}, peer: {"u1", "198.51.100.2/24"}} {
		a, err := netlink.ParseAddr(x[1])
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(ns.Netlink().LinkSetMTU(ns.Link(x[0]), 1700), ns.Netlink().AddrAdd(ns.Link(x[0]), a)); err != nil {
			t.Fatal(err)
		}
	}
	e := nettest.NewEar(t, peer, "u1")
	for _, tt := range []struct {
		encap   tap.Encap
		fields  string // of tshark: the tunnel id, the inner port, and what tells the direction
		out, in string
	}{
		{tap.VXLAN, "vxlan.vni udp.dstport", "677 4789,4711", "677 4789,4712"},
		{tap.GRE, "gre.key udp.dstport", "0x000002a5 4711", "0x000002a5 4712"},
		{tap.ERSPAN1, "erspan.spanid udp.dstport", "677 4711", "677 4712"},
		{tap.ERSPAN2, "erspan.spanid udp.dstport erspan.index", "677 4711 2", "677 4712 1"},
		{tap.Geneve, "geneve.vni udp.dstport geneve.options", "0x0002a5 6081,4711 ff54010102", "0x0002a5 6081,4712 ff54010101"},
	} {
		s := source("a", tap.Both, tap.Options{Filter: "udp portrange 4711-4712"})
		s.To = tap.Target{Remote: netip.MustParseAddr("198.51.100.2"), Encap: tt.encap, TunnelID: 677}
		l.update(s)
		var lines []string
		for _, f := range append(l.heard(e, l.owner, "p1", nettest.Packet{DstPort: 4711}.Bytes(), nettest.Packet{DstPort: 4713}.Bytes()),
			l.heard(e, l.other, "q1", nettest.Packet{DstPort: 4712}.Bytes())...) {
			if line := decode(t, f, tt.fields); line != "" {
				lines = append(lines, line)
			}
		}
		if len(lines) != 2 || !strings.HasPrefix(lines[0], tt.out) || !strings.HasPrefix(lines[1], tt.in) {
			t.Errorf("%s: tshark reads %q, want %q and %q", tt.encap, lines, tt.out, tt.in)
		}
	}
}

// decode has tshark read fields of a frame; "" if it lacks the first of them.
func decode(t *testing.T, frame []byte, fields string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "frame.pcap")
	head := []byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 1, 0, 0, 0}
	n := byte(len(frame) & 0xff)
	m := byte(len(frame) >> 8)
	if err := os.WriteFile(file, slices.Concat(head, make([]byte, 8), []byte{n, m, 0, 0, n, m, 0, 0}, frame), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-r", file, "-Tfields", "-Eseparator=/s"}
	for f := range strings.FieldsSeq(fields) {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", args...).Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	line := strings.TrimRight(string(out), "\n")
	if strings.HasPrefix(line, " ") {
		return ""
	}
	return strings.TrimSpace(line)
}

// TestNetnsFeedOfPortWithoutDevice: a port that is no kernel device is tapped as others are; to one, a mirror leads itself and does
// what mirrors can.
func TestNetnsFeedOfPortWithoutDevice(t *testing.T) {
	l := newFeedLab(t)
	for _, p := range []string{"v0", "v1"} {
		l.vsctl("add-port", "br0", p, "--", "set", "interface", p, "type=dummy", "options:tx_pcap="+filepath.Join(l.dir, p+".pcap"))
	}
	e := nettest.NewEar(t, l.tool, "t1")
	s := source("a", tap.Out, tap.Options{Filter: "udp port 53"})
	s.Device.Name = "v0"
	l.update(s)
	dns, ssh := nettest.Packet{DstPort: 53}.Bytes(), nettest.Packet{DstPort: 22}.Bytes()
	for _, f := range [][]byte{ssh, dns} {
		l.run("ovs-appctl", "-t", filepath.Join(l.dir, "sw.ctl"), "netdev-dummy/receive", "v0", hex.EncodeToString(f))
	}
	if got := e.All(quietFor); len(got) != 1 || !bytes.Equal(got[0], dns) {
		t.Errorf("from a port that is no device the tool hears %x", got)
	}
	if err := l.d.Takes(tap.Device{Name: "v1"}); err != nil {
		t.Error(err)
	}

	s = source("b", tap.Out, tap.Options{Filter: "udp port 53"})
	s.To.Device.Name = "v1"
	if _, err := l.try(s); !errors.Is(err, tap.ErrUnsupported) || !strings.Contains(fmt.Sprint(err), "no filter") {
		t.Errorf("filtered, to a port that is no device: %v", err)
	}
	s.Options = tap.Options{}
	if note, err := l.try(s); err != nil || !strings.Contains(note, "v1 carries copies only") {
		t.Errorf("to a port that is no device: %q, %v", note, err)
	}
	before := l.octets("v1.pcap")
	l.heard(e, l.owner, "p1", ssh)
	l.await("a copy at the port that is no device", func() bool { return l.octets("v1.pcap") > before })
	s.To.Device.Name = "t0" // now it goes to a device
	l.update(s)
	if got := l.heard(e, l.owner, "p1", ssh); len(got) != 1 {
		t.Errorf("after its destination changed the tool hears %d frames", len(got))
	}
	if n := strings.Count(l.vsctl("--columns=name", "list", "Mirror"), "name"); n != 2 {
		t.Errorf("%d mirrors, want the feeds of v0 and p0", n)
	}
}

func (l *feedLab) octets(file string) int64 {
	fi, err := os.Stat(filepath.Join(l.dir, file))
	if err != nil {
		return 0
	}
	return fi.Size()
}

// TestNetnsFeedLeftovers: what a crash leaves in the middle is completed or swept; rules and mirrors of others stay as they are.
func TestNetnsFeedLeftovers(t *testing.T) {
	l := newFeedLab(t)
	mgmt := filepath.Join(l.dir, "br0.mgmt")
	l.run("ovs-ofctl", "add-flow", mgmt, "cookie=7,priority=9,in_port=p0,actions=normal")
	l.vsctl("--", "--id=@p", "get", "Port", "q0", "--", "--id=@m", "create", "Mirror", "name=stranger", "select_src_port=@p", "--", "add", "Bridge", "br0", "mirrors", "@m")
	others := func() string {
		return l.run("ovs-ofctl", "--no-stats", "dump-flows", mgmt) + l.vsctl("--columns=_uuid,name,select_src_port,external_ids", "find", "Mirror", "name=stranger")
	}
	before := others()

	feed := l.d.(*both).feedName("p0", tap.Out)
	l.ns.Do(func() { // before it was marked
		if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: feed}, PeerName: feed + "x"}); err != nil {
			t.Error(err)
		}
		for _, lost := range []string{"otlost0o", "otlost1i"} { // before the database knew of it
			if err := layFeed(lost, aliasMark+"agent", 1500); err != nil {
				t.Error(err)
			}
		}
	})
	l.vsctl("add-port", "br0", "otlost1i", "--", "set", "port", "otlost1i", "external_ids:opentap=agent") // before there was a mirror
	l.update(source("a", tap.Out, tap.Options{}))
	l.ns.Do(func() {
		if _, err := l.d.Prune(context.Background(), func(id string) bool { return id == "a" }); err != nil {
			t.Error(err)
		}
	})
	if left := l.left(); strings.Contains(left, "lost") || !strings.Contains(left, feed) {
		t.Errorf("after pruning there are %s", left)
	}

	l.ns.Do(func() { // somebody takes the device away
		if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: feed}}); err == nil {
			return
		}
		k, err := netlink.LinkByName(feed)
		if err == nil {
			err = netlink.LinkDel(k)
		}
		if err != nil {
			t.Error(err)
		}
	})
	stands := true
	l.ns.Do(func() { stands = l.d.(*both).Stands("a") })
	if stands {
		t.Error("a tap stands whose feed is away")
	}
	l.update(source("a", tap.Out, tap.Options{}))
	e := nettest.NewEar(t, l.tool, "t1")
	heard := 0
	l.await("copies after the feed was made again", func() bool {
		heard += len(l.heard(e, l.owner, "p1", nettest.Packet{}.Bytes()))
		return heard > 0
	})
	if now := others(); now != before {
		t.Errorf("what is others' was\n%s and is\n%s", before, now)
	}
}

// TestNetnsFeedLimit: a tap for which a bridge has no mirror left is refused, and others go on.
func TestNetnsFeedLimit(t *testing.T) {
	l := newFeedLab(t)
	steps := []string{}
	for i := range mostMirrors - 1 {
		steps = append(steps, "--", fmt.Sprintf("--id=@m%d", i), "create", "Mirror", fmt.Sprintf("name=other%d", i), "--", "add", "Bridge", "br0", "mirrors", fmt.Sprintf("@m%d", i))
	}
	l.vsctl(steps[1:]...)
	if _, err := l.try(source("a", tap.Both, tap.Options{})); !errors.Is(err, tap.ErrUnsupported) || !strings.Contains(err.Error(), "br0 has 31 mirrors") {
		t.Errorf("33 mirrors: %v", err)
	}
	l.update(source("b", tap.Out, tap.Options{}))
	l.update(source("c", tap.Out, tap.Options{}))
	e := nettest.NewEar(t, l.tool, "t1")
	if got := l.heard(e, l.owner, "p1", nettest.Packet{}.Bytes()); len(got) != 2 {
		t.Errorf("two taps at the last mirror give %d copies", len(got))
	}
}
