package controller

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/store"
	"opentap/tap"
	"opentap/want"
)

// tapBench has two nodes: n1 with eth0 and eth1, n2 with tool0. No agent obeys; tests look at what is wished for.
func tapBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	b := newBench(t, change)
	b.Joined(agentapi.Identity{NodeID: "n2", NodeName: "host2", Version: "test"})
	b.devices("n1", "192.0.2.1", "eth0", "02:00:00:00:01:00", "eth1", "02:00:00:00:01:01")
	b.devices("n2", "192.0.2.2", "tool0", "02:00:00:00:02:00")
	b.known(t)
	return b
}

// devices has a node tell what it has: name, MAC, name, MAC …
func (b *bench) devices(nodeID, addr string, devices ...string) {
	var points []point.Point
	for i := 0; i < len(devices); i += 2 {
		points = append(points, point.Point{Name: devices[i], Kind: point.Netdev, Present: true, Up: true, MAC: devices[i+1], LinkType: 1, MTU: 1500})
	}
	b.Inventory(nodeID, points, want.Node{Underlay: []netip.Addr{netip.MustParseAddr(addr)}})
}

// known waits until the store has all that nodes told.
func (b *bench) known(t *testing.T) {
	t.Helper()
	if err := b.await(t.Context(), func() bool { return len(b.moved) == 0 }); err != nil {
		t.Fatal(err)
	}
}

func (b *bench) portID(t *testing.T, name string) string {
	t.Helper()
	v, err := b.Port(t.Context(), root, name)
	if err != nil {
		t.Fatal(err)
	}
	return v.ID
}

func (b *bench) service(t *testing.T, id auth.Identity, port string, o tap.Options) tap.ServiceView {
	t.Helper()
	made, err := b.CreateTapServices(t.Context(), id, []tap.Service{{Name: "s", PortID: port, Options: o}})
	if err != nil {
		t.Fatal(err)
	}
	return made[0]
}

func (b *bench) tapFlow(t *testing.T, id auth.Identity, port, service string, o tap.Options) tap.FlowView {
	t.Helper()
	made, err := b.CreateTapFlows(t.Context(), id, []tap.Flow{{Name: "f", PortID: port, ServiceID: service, Direction: tap.Both, Options: o}})
	if err != nil {
		t.Fatal(err)
	}
	return made[0]
}

func (b *bench) lowered(nodeID string) tap.Set {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taps.lower(nodeID)
}

func TestTapIsLoweredToBothNodes(t *testing.T) {
	b := tapBench(t, nil)
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	s := b.service(t, root, b.portID(t, "tool0"), tap.Options{Encap: tap.Geneve, Expires: expires})
	f := b.tapFlow(t, root, b.portID(t, "eth0"), s.ID, tap.Options{Filter: "tcp port 80", VLANs: "1-5", SampleN: 3, Snap: 128, RateBPS: 1e6, Priority: 7})
	n1, n2 := b.lowered("n1"), b.lowered("n2")
	if len(n1.Sources) != 1 || len(n1.Sinks) != 0 || len(n2.Sources) != 0 || len(n2.Sinks) != 1 {
		t.Fatalf("n1 %+v, n2 %+v", n1, n2)
	}
	src, sink := n1.Sources[0], n2.Sinks[0]
	if src.ID != f.ID || src.Device.Name != "eth0" || src.Options.Filter != "tcp port 80" || src.Options.Snap != 128 || src.To.Remote != netip.MustParseAddr("192.0.2.2") || src.To.Encap != tap.Geneve || src.To.TunnelID != s.TunnelID {
		t.Errorf("source %+v", src)
	}
	if !src.Options.Expires.Equal(expires) {
		t.Errorf("the source outlives its service: %v", src.Options.Expires)
	}
	if sink.ID != s.ID || sink.Device.Name != "tool0" || sink.TunnelID != s.TunnelID || len(sink.From) != 1 || sink.From[0] != netip.MustParseAddr("192.0.2.1") {
		t.Errorf("sink %+v", sink)
	}
	if got := b.trail.actions(); got != "tap.service.create:allowed tap.flow.create:allowed" {
		t.Errorf("audit %s", got)
	}
	// The status is that of both ends.
	b.Actual("n1", b.revision, nil, true)
	b.Actual("n2", b.revision, nil, true)
	b.TapStates("n1", []tap.Status{{ID: f.ID, State: tap.Active, Counts: tap.Counts{Seen: 3, Mirrored: 3}}})
	if v, _ := b.TapFlow(t.Context(), root, f.ID); v.Status != tap.Down || v.Reason == "" {
		t.Errorf("active though the sink said nothing: %s %q", v.Status, v.Reason)
	}
	b.TapStates("n2", []tap.Status{{ID: s.ID, State: tap.Failed, Reason: "tool0 is down"}})
	if v, _ := b.TapFlow(t.Context(), root, f.ID); v.Status != tap.Error || !strings.Contains(v.Reason, "tool0 is down") {
		t.Errorf("sink failed: %s %q", v.Status, v.Reason)
	}
	b.TapStates("n2", []tap.Status{{ID: s.ID, State: tap.Active}})
	if v, _ := b.TapFlow(t.Context(), root, "f"); v.Status != tap.Up || v.Counts.Mirrored != 3 || v.Reason != "" {
		t.Errorf("both active: %s %q %+v", v.Status, v.Reason, v.Counts)
	}
	b.Left("n2")
	if v, _ := b.TapFlow(t.Context(), root, f.ID); v.Status != tap.Up || !strings.Contains(v.Reason, "not connected") {
		t.Errorf("a node away: %s %q", v.Status, v.Reason)
	}
}

func TestNoAuditNoTap(t *testing.T) {
	b := tapBench(t, nil)
	b.trail.err = errors.New("disk full")
	if _, err := b.CreateTapServices(t.Context(), root, []tap.Service{{PortID: b.portID(t, "tool0")}}); !fault.Is(err, fault.Unavailable) {
		t.Fatalf("error %v", err)
	}
	if list, err := b.TapServices(t.Context(), root); err != nil || len(list) != 0 {
		t.Errorf("made all the same: %v, %v", list, err)
	}
}

func TestARenamedDeviceStaysThePort(t *testing.T) {
	b := tapBench(t, nil)
	id := b.portID(t, "eth0")
	b.devices("n1", "192.0.2.1", "lan0", "02:00:00:00:01:00", "eth1", "02:00:00:00:01:01")
	b.known(t)
	if got := b.portID(t, "lan0"); got != id {
		t.Errorf("renamed: %s, was %s", got, id)
	}
	b.devices("n1", "192.0.2.1", "lan0", "02:00:00:00:01:00", "eth0", "02:00:00:00:01:99")
	b.known(t)
	if got := b.portID(t, "eth0"); got == id {
		t.Error("another device of the old name is the same port")
	}
	b.devices("n1", "192.0.2.1", "eth1", "02:00:00:00:01:77")
	b.known(t)
	b.devices("n1", "192.0.2.1", "eth1", "02:00:00:00:01:88")
	b.known(t)
	first := b.portID(t, "eth1")
	b.devices("n1", "192.0.2.1")
	b.known(t)
	b.devices("n1", "192.0.2.1", "eth1", "02:00:00:00:01:66")
	b.known(t)
	if got := b.portID(t, "eth1"); got != first {
		t.Error("a device that was made anew is another port")
	}
}

// TestAForgottenNodeComesAgain: its devices are ports again when it has joined again, as they were at the first time.
func TestAForgottenNodeComesAgain(t *testing.T) {
	b := tapBench(t, nil)
	come := func() {
		b.Joined(agentapi.Identity{NodeID: "n9", NodeName: "host9"})
		b.devices("n9", "192.0.2.9", "eth9", "02:00:00:00:09:00")
		b.known(t)
		b.portID(t, "eth9")
	}
	come()
	b.Left("n9")
	if err := b.forgetPlaces(t.Context(), "n9"); err != nil {
		t.Fatal(err)
	}
	if err := b.await(t.Context(), func() bool { return b.taps.nodes["n9"] == nil }); err != nil {
		t.Fatal(err)
	}
	come()
}

func TestPortsAreKnownByWhatHostsCallThem(t *testing.T) {
	b := tapBench(t, nil)
	name, red := "vm", "red"
	made, err := b.CreatePorts(t.Context(), alice, []tap.PortWish{{Name: &name}})
	if err != nil {
		t.Fatal(err)
	}
	id := made[0].ID
	if made[0].Present || made[0].Project != red {
		t.Errorf("made %+v", made[0])
	}
	b.devices("n1", "192.0.2.1", "tap"+id[:11], "fe:16:3e:00:00:01")
	b.known(t)
	if v, err := b.Port(t.Context(), alice, id); err != nil || !v.Present || v.Node != "host1" || v.Device != "tap"+id[:11] {
		t.Errorf("by Neutron's name: %+v, %v", v, err)
	}
	b.Inventory("n1", []point.Point{{Name: "veth7", Kind: point.Netdev, Present: true, MAC: "fe:16:3e:00:00:02", IfaceID: id}}, want.Node{})
	b.known(t)
	if v, err := b.Port(t.Context(), alice, id); err != nil || v.Device != "veth7" {
		t.Errorf("by iface-id: %+v, %v", v, err)
	}
	node := "host1"
	if _, err := b.CreatePorts(t.Context(), alice, []tap.PortWish{{Node: &node}}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a tenant binds a port: %v", err)
	}
}

func TestTunnelIDsComeInTurn(t *testing.T) {
	b := tapBench(t, nil)
	port := b.portID(t, "tool0")
	first := b.service(t, root, port, tap.Options{})
	if err := b.DeleteTapService(t.Context(), root, first.ID); err != nil {
		t.Fatal(err)
	}
	if next := b.service(t, root, port, tap.Options{}); next.TunnelID == first.TunnelID {
		t.Errorf("the id %d was handed out again at once", next.TunnelID)
	}
	if _, err := b.store.Txn(t.Context(), nil, []store.Op{store.Put(tunnelNext, []byte(fmt.Sprint(tunnelsMax-1)))}); err != nil {
		t.Fatal(err)
	}
	last := b.service(t, root, port, tap.Options{})
	if around := b.service(t, root, port, tap.Options{}); last.TunnelID != tunnelsMax-1 || around.TunnelID != 1 {
		t.Errorf("at the end: %d, then %d", last.TunnelID, around.TunnelID)
	}
}

func TestTapQuotas(t *testing.T) {
	b := tapBench(t, func(c *Config) { c.Taps = TapQuota{Services: 2, Flows: 1, Mirrors: 1} })
	port, src := b.portID(t, "tool0"), b.portID(t, "eth0")
	s := b.service(t, root, port, tap.Options{})
	if _, err := b.CreateTapServices(t.Context(), root, []tap.Service{{PortID: port}, {PortID: port}}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("two more services: %v", err)
	}
	b.service(t, root, port, tap.Options{})
	b.tapFlow(t, root, src, s.ID, tap.Options{})
	var r *tap.Refusal
	if _, err := b.CreateTapFlows(t.Context(), root, []tap.Flow{{PortID: src, ServiceID: s.ID, Direction: tap.In}}); !errors.As(err, &r) || r.Cause != tap.OverQuota {
		t.Errorf("a flow more: %v", err)
	}
}

func TestTapsGoWhenTheirTimeIsOver(t *testing.T) {
	b := tapBench(t, nil)
	s := b.service(t, root, b.portID(t, "tool0"), tap.Options{})
	soon := time.Now().Add(300 * time.Millisecond)
	f := b.tapFlow(t, root, b.portID(t, "eth0"), s.ID, tap.Options{Expires: soon})
	if got := b.lowered("n1").Sources; len(got) != 1 || !got[0].Options.Expires.Equal(soon) {
		t.Fatalf("lowered %+v", got)
	}
	if err := b.await(t.Context(), func() bool { return b.taps.flows[f.ID] == nil }); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(b.trail.actions(), "tap.flow.expire:allowed") {
		t.Errorf("audit %s", b.trail.actions())
	}
	if _, err := b.CreateTapFlows(t.Context(), root, []tap.Flow{{PortID: b.portID(t, "eth0"), ServiceID: s.ID, Direction: tap.In, Options: tap.Options{Expires: time.Now().Add(-time.Second)}}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("expired when it was made: %v", err)
	}
}

func TestManyFlowsGoWithTheirService(t *testing.T) {
	b := tapBench(t, nil)
	s := b.service(t, root, b.portID(t, "tool0"), tap.Options{})
	src := b.portID(t, "eth0")
	for range 5 {
		var list []tap.Flow
		for range 60 { // more than one transaction deletes
			list = append(list, tap.Flow{PortID: src, ServiceID: s.ID, Direction: tap.In})
		}
		if _, err := b.CreateTapFlows(t.Context(), root, list); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.DeleteTapService(t.Context(), root, s.ID); err != nil {
		t.Fatal(err)
	}
	kvs, _, err := b.store.List(t.Context(), flowPrefix)
	if err != nil || len(kvs) != 0 {
		t.Errorf("%d flows are left, %v", len(kvs), err)
	}
	if n := b.lowered("n1"); len(n.Sources) != 0 {
		t.Errorf("wished for: %d", len(n.Sources))
	}
}

func TestATapDeviceIsMadeForTheTool(t *testing.T) {
	b := tapBench(t, nil)
	name, node := "tap-tool", "host2"
	made, err := b.CreatePorts(t.Context(), root, []tap.PortWish{{Name: &name, Node: &node}})
	if err != nil {
		t.Fatal(err)
	}
	s := b.service(t, root, made[0].ID, tap.Options{Device: true})
	b.tapFlow(t, root, b.portID(t, "eth0"), s.ID, tap.Options{})
	_, err = b.CreateTapFlows(t.Context(), alice, []tap.Flow{{PortID: made[0].ID, ServiceID: s.ID, Direction: tap.In}})
	if !fault.Is(err, fault.NotFound) {
		t.Errorf("another project's: %v", err)
	}
	if got := b.lowered("n2").Sinks; len(got) != 1 || !got[0].Make || got[0].Device.Name != "tap-tool" {
		t.Errorf("sinks %+v", got)
	}
	if got := b.lowered("n1").Sources; len(got) != 1 || !got[0].To.Remote.IsValid() {
		t.Errorf("sources %+v", got)
	}
	b.devices("n2", "192.0.2.2", "tool0", "02:00:00:00:02:00", "tap-tool", "02:00:00:00:02:01") // it was made
	b.known(t)
	if got := b.lowered("n2").Sinks; len(got) != 1 || !got[0].Make {
		t.Errorf("once it is there: %+v", got)
	}
	if _, err := b.CreateTapServices(t.Context(), root, []tap.Service{{PortID: b.portID(t, "tool0"), Options: tap.Options{Device: true}}}); !fault.Is(err, fault.Invalid) {
		t.Errorf("for a port that is only found: %v", err)
	}
}

func TestNoWayBetweenNodes(t *testing.T) {
	b := tapBench(t, nil)
	s := b.service(t, root, b.portID(t, "tool0"), tap.Options{})
	f := b.tapFlow(t, root, b.portID(t, "eth0"), s.ID, tap.Options{})
	b.devices("n2", "2001:db8::2", "tool0", "02:00:00:00:02:00")
	b.known(t)
	if v, err := b.TapFlow(t.Context(), root, f.ID); err != nil || v.Status != tap.Error || !strings.Contains(v.Reason, "no address") {
		t.Errorf("%s %q, %v", v.Status, v.Reason, err)
	}
}

func TestNeutronSaysWhosePortsAre(t *testing.T) {
	b := tapBench(t, nil)
	const one, two = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"
	ports := []tap.Port{{ID: one, Name: "web", Project: "red", MAC: "02:00:00:00:01:00", Node: "host1"}, {ID: two, Project: "red", MAC: "02:00:00:00:02:00", Node: "host2"}}
	if err := b.SyncPorts(t.Context(), ports); err != nil {
		t.Fatal(err)
	}
	before := b.trail.actions()
	if err := b.SyncPorts(t.Context(), ports); err != nil || b.trail.actions() != before {
		t.Errorf("the same once more: %v, %s", err, b.trail.actions())
	}
	v, err := b.Port(t.Context(), alice, one)
	if err != nil || v.Device != "eth0" || v.Project != "red" || v.Origin != tap.Neutron {
		t.Fatalf("%+v, %v", v, err)
	}
	s := b.service(t, alice, two, tap.Options{})
	b.tapFlow(t, alice, one, s.ID, tap.Options{})
	if got := b.lowered("n1").Sources; len(got) != 1 || got[0].Device.MAC == "" {
		t.Errorf("wished for: %+v", got)
	}
	blue := "blue"
	if _, err := b.UpdatePort(t.Context(), root, one, tap.PortWish{Project: &blue}); !fault.Is(err, fault.Conflict) {
		t.Errorf("changed here: %v", err)
	}
	if err := b.DeletePort(t.Context(), root, one); !fault.Is(err, fault.Conflict) {
		t.Errorf("deleted here: %v", err)
	}
	if err := b.SyncPorts(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Port(t.Context(), alice, one); err != nil {
		t.Errorf("a Neutron that shows nothing took it away: %v", err)
	}
	select {
	case <-b.Disputed():
		t.Error("a port is in dispute that is where it belongs")
	default:
	}
	b.devices("n2", "192.0.2.2", "tool0", "02:00:00:00:02:00", "tap"+one[:11], "02:00:00:00:02:01") // it moves there
	b.known(t)
	if v, err := b.Port(t.Context(), alice, one); err != nil || v.Device != "eth0" {
		t.Errorf("before Neutron knows: %+v, %v", v, err)
	}
	select {
	case <-b.Disputed():
	default:
		t.Error("Neutron is not asked whether the port has moved")
	}
	ports[0].Node = "host2.example.org"
	if err := b.SyncPorts(t.Context(), ports); err != nil {
		t.Fatal(err)
	}
	if v, err := b.Port(t.Context(), alice, one); err != nil || v.Device != "tap"+one[:11] {
		t.Errorf("once Neutron knows: %+v, %v", v, err)
	}
	ports[0].Project = "blue" // it was given away there
	if err := b.SyncPorts(t.Context(), ports); err != nil {
		t.Fatal(err)
	}
	if got := b.lowered("n1").Sources; len(got) != 0 {
		t.Errorf("another project's port is still copied: %+v", got)
	}
	if err := b.SyncPorts(t.Context(), ports[1:]); err != nil {
		t.Fatal(err)
	}
	if list, err := b.TapFlows(t.Context(), root); err != nil || len(list) != 0 {
		t.Errorf("flows of a port that is gone: %v, %v", list, err)
	}
}
