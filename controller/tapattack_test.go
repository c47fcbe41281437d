package controller

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// says has a node tell of one device, and nothing else.
func (b *bench) says(t *testing.T, nodeID string, p point.Point) {
	t.Helper()
	p.Kind, p.Present, p.LinkType, p.MTU = point.Netdev, true, 1, 1500
	addr := netip.AddrFrom4([4]byte{192, 0, 2, nodeID[1] - '0'})
	b.Inventory(nodeID, []point.Point{p}, want.Node{Underlay: []netip.Addr{addr}})
	b.known(t)
}

// declared is a port that somebody declared.
func (b *bench) declaredPort(t *testing.T, by auth.Identity, w tap.PortWish) string {
	t.Helper()
	made, err := b.CreatePorts(t.Context(), by, []tap.PortWish{w})
	if err != nil {
		t.Fatal(err)
	}
	return made[0].ID
}

func ptr[T any](v T) *T { return &v }

// goesTo is where copies of the one flow go that n1 has: a node's address.
func (b *bench) goesTo(t *testing.T) netip.Addr {
	t.Helper()
	set := b.lowered("n1")
	if len(set.Sources) != 1 {
		t.Fatalf("n1 shall copy %+v", set.Sources)
	}
	return set.Sources[0].To.Remote
}

// A node that lies about its devices does not get the copies for a port that another node has.
func TestALyingNodeGetsNoCopies(t *testing.T) {
	b := tapBench(t, nil)
	b.Joined(agentapi.Identity{NodeID: "n3", NodeName: "host3", Version: "test"})
	honest := netip.MustParseAddr("192.0.2.2")
	src := b.declaredPort(t, root, tap.PortWish{Name: ptr("src"), Project: ptr("red"), Node: ptr("host1"), Device: ptr("eth0")})
	bound := b.declaredPort(t, root, tap.PortWish{Name: ptr("bound"), Project: ptr("red"), Node: ptr("host2"), Device: ptr("tool0")})
	s := b.service(t, alice, bound, tap.Options{})
	b.tapFlow(t, alice, src, s.ID, tap.Options{})
	for what, lie := range map[string]point.Point{
		"iface-id":             {Name: "evil", MAC: "02:00:00:00:03:00", IfaceID: bound},
		"iface-id in capitals": {Name: "evil", MAC: "02:00:00:00:03:00", IfaceID: strings.ToUpper(bound)},
		"Neutron's name":       {Name: "tap" + bound[:11], MAC: "02:00:00:00:03:00"},
		"MAC":                  {Name: "evil", MAC: "02:00:00:00:02:00"},
	} {
		b.says(t, "n3", lie)
		if got := b.goesTo(t); got != honest {
			t.Errorf("%s: copies for a port of host2 go to %s", what, got)
		}
		if sinks := b.lowered("n3").Sinks; len(sinks) != 0 {
			t.Errorf("%s: host3 is told of %+v", what, sinks)
		}
	}
	b.says(t, "n3", point.Point{Name: "own", MAC: "02:00:00:00:03:01"})

	// A tenant's port, of which nobody said where it is, and a port that is no more than a device.
	if err := b.DeleteTapService(t.Context(), alice, s.ID); err != nil {
		t.Fatal(err)
	}
	loose := b.declaredPort(t, alice, tap.PortWish{Name: ptr("loose")})
	b.says(t, "n2", point.Point{Name: "veth9", MAC: "02:00:00:00:02:09", IfaceID: loose})
	s = b.service(t, alice, loose, tap.Options{})
	b.tapFlow(t, alice, src, s.ID, tap.Options{})
	b.says(t, "n3", point.Point{Name: "evil", MAC: "02:00:00:00:03:00", IfaceID: loose})
	if got := b.goesTo(t); got != honest {
		t.Errorf("copies for a port that host2 has go to %s", got)
	}
	if got := b.trail.actions(); !strings.Contains(got, "port.move:allowed") {
		t.Errorf("nothing is written down of a port that turned up: %s", got)
	}
	b.Left("n2") // its agent is restarted
	b.recheckRivals()
	b.known(t)
	if got := b.goesTo(t); got != honest {
		t.Errorf("copies go to %s as soon as the node that has the port is away", got)
	}
	b.mu.Lock()
	b.nodes["n2"].since = time.Now().Add(-rivalPatience) // it stays away
	b.mu.Unlock()
	b.recheckRivals()
	if err := b.await(t.Context(), func() bool { return len(b.taps.rivals) == 0 }); err != nil {
		t.Fatal(err)
	}
	if got := b.goesTo(t); got != netip.MustParseAddr("192.0.2.3") {
		t.Errorf("a port that came to another host when its own died: copies go to %s", got)
	}
}

// The id of a device's own port is no secret: who calls a device by it has not got that port.
func TestALyingNodeIsNotAnothersDevice(t *testing.T) {
	b := tapBench(t, nil)
	b.Joined(agentapi.Identity{NodeID: "n3", NodeName: "host3", Version: "test"})
	tool := b.portID(t, "tool0")
	s := b.service(t, root, tool, tap.Options{})
	b.tapFlow(t, root, b.portID(t, "eth0"), s.ID, tap.Options{})
	b.says(t, "n3", point.Point{Name: "evil", MAC: "02:00:00:00:03:00", IfaceID: tool})
	if got := b.goesTo(t); got != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("copies go to %s", got)
	}
	if v, err := b.Port(t.Context(), root, tool); err != nil || len(v.Nodes) != 1 {
		t.Errorf("the port is at %v, %v", v.Nodes, err)
	}
}

// A port that leaves one host for another takes its copies along.
func TestAPortThatMovesIsNoRival(t *testing.T) {
	b := tapBench(t, nil)
	b.Joined(agentapi.Identity{NodeID: "n3", NodeName: "host3", Version: "test"})
	src := b.declaredPort(t, root, tap.PortWish{Name: ptr("src"), Project: ptr("red"), Node: ptr("host1"), Device: ptr("eth0")})
	vm := b.declaredPort(t, alice, tap.PortWish{Name: ptr("vm")})
	b.says(t, "n2", point.Point{Name: "veth9", MAC: "02:00:00:00:02:09", IfaceID: vm})
	s := b.service(t, alice, vm, tap.Options{})
	b.tapFlow(t, alice, src, s.ID, tap.Options{})
	b.says(t, "n3", point.Point{Name: "veth1", MAC: "02:00:00:00:03:09", IfaceID: vm}) // a live migration begins
	if got := b.goesTo(t); got != netip.MustParseAddr("192.0.2.2") {
		t.Errorf("while both have it: %s", got)
	}
	b.says(t, "n2", point.Point{Name: "tool0", MAC: "02:00:00:00:02:00"}) // and is over
	if got := b.goesTo(t); got != netip.MustParseAddr("192.0.2.3") {
		t.Errorf("once it has moved: %s", got)
	}
}

// What a node says cannot keep the others from being heard.
func TestOneNodeDoesNotHoldUpTheOthers(t *testing.T) {
	b := tapBench(t, nil)
	long := strings.Repeat("x", 1<<20)
	b.Inventory("n2", []point.Point{
		{Name: long, Kind: point.Netdev, Present: true, MAC: long, IfaceID: long}, {Name: "ok", Kind: point.Netdev, Present: true, MAC: long, IfaceID: "a\nb" + long},
	}, want.Node{Underlay: make([]netip.Addr, 1000)})
	b.known(t)
	b.mu.Lock()
	p := b.taps.nodes["n2"]
	b.mu.Unlock()
	if len(p.Devices) != 1 || p.Devices[0].Name != "ok" || p.Devices[0].MAC != "" || p.Devices[0].IfaceID != "" {
		t.Errorf("stored: %d devices", len(p.Devices))
	}
	for i := range 3 * maxEarly {
		b.Actual("n2", 1, []want.Status{{UID: strings.Repeat("u", i%50) + time.Now().String()}}, false)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.nodes["n2"].early); n > maxEarly {
		t.Errorf("%d states of captures are kept that nobody knows", n)
	}
}

// A tenant who renames a port cannot have copies put into a device that is somebody else's.
func TestADeviceToMakeIsNotOneThatIsThere(t *testing.T) {
	b := tapBench(t, nil)
	src := b.declaredPort(t, root, tap.PortWish{Name: ptr("src"), Project: ptr("red"), Node: ptr("host1"), Device: ptr("eth0")})
	vm := b.declaredPort(t, root, tap.PortWish{Name: ptr("vm"), Project: ptr("red"), Node: ptr("host1"), MAC: ptr("02:00:00:00:77:77")})
	s := b.service(t, alice, vm, tap.Options{Device: true})
	b.tapFlow(t, alice, src, s.ID, tap.Options{})
	if _, err := b.UpdatePort(t.Context(), alice, vm, tap.PortWish{Name: ptr("eth1")}); err != nil {
		t.Fatal(err)
	}
	if set := b.lowered("n1"); len(set.Sources) != 0 || len(set.Sinks) != 0 {
		t.Errorf("copies go into the host's own eth1: %+v", set)
	}
}

// A mirror's packets must not pass for the copies that a node takes for another project.
func TestAMirrorReachesNoNode(t *testing.T) {
	b := tapBench(t, func(c *Config) { c.MirrorTo = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")} })
	src := b.declaredPort(t, root, tap.PortWish{Name: ptr("src"), Project: ptr("red"), Node: ptr("host1"), Device: ptr("eth0")})
	next := uint32(0)
	mirror := func(id auth.Identity, project, to string) error {
		next++
		m := tap.Mirror{Project: project, PortID: src, Directions: map[tap.Direction]uint32{tap.In: next}, Remote: netip.MustParseAddr(to), Type: tap.GRE}
		_, err := b.CreateTapMirrors(t.Context(), id, []tap.Mirror{m})
		return err
	}
	for _, to := range []string{"192.0.2.2", "127.0.0.1", "169.254.169.254", "fe80::1", "255.255.255.255", "198.51.100.1"} {
		if err := mirror(alice, "", to); !fault.Is(err, fault.Invalid) {
			t.Errorf("to %s: %v", to, err)
		}
	}
	if err := mirror(root, "red", "198.51.100.1"); err != nil {
		t.Errorf("an administrator: %v", err)
	}
	if err := mirror(alice, "", "192.0.2.200"); err != nil {
		t.Fatal(err)
	}
	if n := len(b.lowered("n1").Sources); n != 2 {
		t.Fatalf("%d mirrors are at work, want 2", n)
	}
	b.devices("n2", "192.0.2.200", "tool0", "02:00:00:00:02:00") // a node gets that address
	b.known(t)
	if got := b.lowered("n1").Sources; len(got) != 1 || got[0].To.Remote != netip.MustParseAddr("198.51.100.1") {
		t.Errorf("mirrored still: %+v", got)
	}
	list, err := b.TapMirrors(t.Context(), alice)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if v := list[1]; v.Status != tap.Error || !strings.Contains(v.Reason, "address of a node") {
		t.Errorf("the mirror is %s: %q", v.Status, v.Reason)
	}
}

// What an administrator taps of what is nobody's is not for the others of his project to widen, and what is changed is
// written down.
func TestOnlyAnAdministratorChangesHisTaps(t *testing.T) {
	b := tapBench(t, nil)
	operator := auth.Identity{Name: "op", Project: root.Project, Role: "owner", Rights: alice.Rights}
	s := b.service(t, root, b.portID(t, "tool0"), tap.Options{})
	f := b.tapFlow(t, root, b.portID(t, "eth0"), s.ID, tap.Options{Filter: "tcp port 80"})
	if _, err := b.UpdateTapFlow(t.Context(), operator, f.ID, tap.Change{Options: &tap.Options{}}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("the filter was taken away: %v", err)
	}
	if _, err := b.UpdateTapService(t.Context(), operator, s.ID, tap.Change{Options: &tap.Options{Encap: tap.GRE}}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("the service was changed: %v", err)
	}
	if _, err := b.UpdateTapFlow(t.Context(), operator, f.ID, tap.Change{Description: ptr("d")}); err != nil {
		t.Errorf("a description: %v", err)
	}
	if _, err := b.UpdateTapFlow(t.Context(), root, f.ID, tap.Change{Options: &tap.Options{Filter: "udp"}}); err != nil {
		t.Fatal(err)
	}
	b.trail.mu.Lock()
	defer b.trail.mu.Unlock()
	if e := b.trail.entries[len(b.trail.entries)-1]; e.Action != "tap.flow.update" || e.Details["filter"] != "udp" {
		t.Errorf("written down: %+v", e)
	}
}

// A host that was made anew has the name of the old one. Whichever order a controller learns of them in, it wishes the same.
func TestTheNewestHostHasTheName(t *testing.T) {
	old, fresh := &storedPlaces{NodeID: "b", Node: "host", rev: 1}, &storedPlaces{NodeID: "a", Node: "host", rev: 2}
	for _, order := range [][]*storedPlaces{{old, fresh}, {fresh, old}} {
		w := newWorld()
		for _, n := range order {
			w.setNode(n.NodeID, nil, n, map[string]bool{})
		}
		if got := w.byNode["host"]; got != "a" {
			t.Errorf("after %s, %s: host is %s", order[0].NodeID, order[1].NodeID, got)
		}
		w.setNode("a", fresh, nil, map[string]bool{})
		if got := w.byNode["host"]; got != "b" {
			t.Errorf("once the newest is forgotten, host is %q", got)
		}
	}
}

// A port and its taps go at once, so that none is left when a controller dies in between.
func TestAPortGoesWithItsTaps(t *testing.T) {
	b := tapBench(t, nil)
	port := b.declaredPort(t, root, tap.PortWish{Name: ptr("p"), Project: ptr("red"), Node: ptr("host1"), Device: ptr("eth0")})
	tool := b.declaredPort(t, root, tap.PortWish{Name: ptr("t"), Project: ptr("red"), Node: ptr("host2"), Device: ptr("tool0")})
	s := b.service(t, alice, tool, tap.Options{})
	b.tapFlow(t, alice, port, s.ID, tap.Options{})
	if _, err := b.CreateTapMirrors(t.Context(), alice, []tap.Mirror{{PortID: port, Directions: map[tap.Direction]uint32{tap.In: 7}, Remote: netip.MustParseAddr("198.51.100.1"), Type: tap.GRE}}); err != nil {
		t.Fatal(err)
	}
	one := b.service(t, alice, port, tap.Options{})
	b.mu.Lock()
	_, ops := b.deletionOf(port)
	b.mu.Unlock()
	gone := map[string]bool{}
	for _, op := range ops {
		gone[op.Key] = op.Delete
	}
	for id := range b.taps.flowsOf[port] {
		if !gone[flowPrefix+id] {
			t.Errorf("flow %s stays", id)
		}
	}
	if !gone[portPrefix+port] || !gone[servicePrefix+one.ID] || !gone[mirrorKey(7)] || gone[servicePrefix+s.ID] || len(ops) != 6 {
		t.Errorf("deleted at once: %v", gone)
	}
	if err := b.DeletePort(t.Context(), alice, port); err != nil {
		t.Fatal(err)
	}
	for prefix, left := range map[string]int{servicePrefix: 1, flowPrefix: 0, mirrorPrefix: 0, keyPrefix: 0, portPrefix: 1} {
		if kvs, _, err := b.store.List(t.Context(), prefix); err != nil || len(kvs) != left {
			t.Errorf("%s: %d are left, %v", prefix, len(kvs), err)
		}
	}
}
