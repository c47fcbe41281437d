package controller

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/store/mem"
	"opentap/tap"
	"opentap/tap/oftap"
	"opentap/want"
)

// switchBench has tapBench's nodes and a fabric: filter port s1/1, delivery port s2/1, cables from s1/5 to host2's eth9 and from host1's
// eth1 to s1/6.
func switchBench(t *testing.T, policies ...want.FabricPolicy) *bench {
	t.Helper()
	b := tapBench(t, nil)
	b.devices("n2", "192.0.2.2", "tool0", "02:00:00:00:02:00", "tool1", "02:00:00:00:02:01", "eth9", "02:00:00:00:02:09")
	b.known(t)
	b.describe(t, "", policies...)
	return b
}

// describe stores where ports of switches are, as SetFabric does.
func (b *bench) describe(t *testing.T, into string, policies ...want.FabricPolicy) {
	t.Helper()
	f := want.Fabric{Policies: policies, Ports: map[string]want.FabricPort{
		"line": {At: "s1/1", Role: want.RoleFilter}, "far": {At: "s2/1", Role: want.RoleDelivery},
		"down": {At: "s1/5", Role: want.RoleDelivery, LeadsTo: "host2/eth9", Into: into}, "up": {At: "s1/6", Role: want.RoleFilter, LeadsTo: "host1/eth1"},
	}}
	value, err := json.Marshal(fabricPlaces(&f, nil, time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	rev, err := b.store.Txn(t.Context(), nil, []store.Op{store.Put(placePrefix+fabricNode, value)})
	if err == nil {
		err = b.await(t.Context(), func() bool { return b.revision >= rev })
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (b *bench) wishes() (list []oftap.Wish, sinks []tap.Sink) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.taps.switchWishes()
}

func (b *bench) give(t *testing.T, project string, ports ...string) {
	t.Helper()
	for _, p := range ports {
		if _, err := b.UpdatePort(t.Context(), root, p, tap.PortWish{Project: &project}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSwitchPortsAreTheirProjects(t *testing.T) {
	b := switchBench(t)
	if v, err := b.Port(t.Context(), root, "s1/1"); err != nil || v.Node != fabricNode || v.Device != "s1/1" || !v.Present {
		t.Fatalf("%v %+v", err, v)
	}
	if _, err := b.Port(t.Context(), alice, "s1/1"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a tenant sees a port that nobody gave to its project: %v", err)
	}
	id := b.portID(t, "s1/1")
	b.give(t, "red", "s1/1", "s2/1")
	s := b.service(t, alice, b.portID(t, "s2/1"), tap.Options{})
	if _, err := b.CreateTapFlows(t.Context(), bob, []tap.Flow{{PortID: id, ServiceID: s.ID, Direction: tap.Both}}); !fault.Is(err, fault.NotFound) {
		t.Errorf("another tenant: %v", err)
	}
	f := b.tapFlow(t, alice, id, s.ID, tap.Options{Filter: "tcp"})
	list, sinks := b.wishes()
	if len(list) != 1 || list[0].ID != f.ID || list[0].Device.Name != "s1/1" || list[0].To.Device.Name != "s2/1" || list[0].ExactAt != "" || len(sinks) != 1 {
		t.Fatalf("%+v %+v", list, sinks)
	}
	policy := want.FabricPolicyView{FabricPolicy: want.FabricPolicy{Name: oftap.Prefix + f.ID, Tap: f.ID}}
	for _, tt := range []struct {
		id   auth.Identity
		sees bool
	}{{alice, true}, {eve, true}, {bob, false}, {root, true}} {
		if got := len(b.ownPolicies(tt.id, []want.FabricPolicyView{policy})) == 1; got != tt.sees {
			t.Errorf("%s sees the policy: %v", tt.id.Name, got)
		}
		if got := b.hidden(tt.id, "a rule of "+policy.Name+" at s1/1"); got == tt.sees {
			t.Errorf("hidden from %s: %v", tt.id.Name, got)
		}
	}
	// A port that is given to somebody else is no longer copied, at once.
	b.give(t, "blue", "s2/1")
	if list, _ := b.wishes(); len(list) != 0 {
		t.Errorf("it goes on: %+v", list)
	}
	b.give(t, "red", "s2/1")
	if list, _ := b.wishes(); len(list) != 1 {
		t.Errorf("%+v", list)
	}
	if err := b.DeleteTapFlow(t.Context(), alice, f.ID); err != nil {
		t.Fatal(err)
	}
	if list, _ := b.wishes(); len(list) != 0 {
		t.Errorf("it is deleted: %+v", list)
	}
	if !strings.Contains(b.trail.actions(), "tap.flow.create:allowed") {
		t.Error(b.trail.actions())
	}
}

func TestCablesLeadToHosts(t *testing.T) {
	b := switchBench(t)
	b.give(t, "red", "s1/1", "host2/tool0", "host2/tool1")
	source := b.portID(t, "s1/1")
	s := b.service(t, alice, b.portID(t, "host2/tool0"), tap.Options{})
	flow := tap.Flow{Name: "f", PortID: source, ServiceID: s.ID, Direction: tap.Out, Options: tap.Options{Filter: "tcp and len > 100", SampleN: 10}}
	refused := func(has string) {
		t.Helper()
		if _, err := b.CreateTapFlows(t.Context(), alice, []tap.Flow{flow}); !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), has) {
			t.Errorf("%v, want %s", err, has)
		}
	}
	refused("the service's project's") // nobody gave the cable to red
	b.give(t, "red", "s1/5")
	made, err := b.CreateTapFlows(t.Context(), alice, []tap.Flow{flow})
	if err != nil {
		t.Fatal(err)
	}
	list, _ := b.wishes()
	if len(list) != 1 || list[0].To.Device.Name != "s1/5" || list[0].ExactAt != "host2/tool0" {
		t.Fatalf("%+v", list)
	}
	set := b.lowered("n2")
	if len(set.Sources) != 1 || set.Sources[0].ID != made[0].ID+relaySuffix || set.Sources[0].Device.Name != "eth9" || set.Sources[0].Direction != tap.Arriving ||
		set.Sources[0].To.Device.Name != "tool0" || set.Sources[0].Options.Filter != flow.Options.Filter || set.Sources[0].Options.SampleN != 10 {
		t.Fatalf("%+v", set.Sources)
	}
	// Another service cannot be told from it behind the same cable.
	flow.ServiceID = b.service(t, alice, b.portID(t, "host2/tool1"), tap.Options{}).ID
	refused("serves nothing else")
	if err := b.DeleteTapFlow(t.Context(), alice, made[0].ID); err != nil {
		t.Fatal(err)
	}
	if _, err := b.CreateTapFlows(t.Context(), alice, []tap.Flow{flow}); err != nil {
		t.Errorf("when the cable is free: %v", err)
	}
	// Where a policy's copies go on into a device, the cable is no tap's.
	b.describe(t, "tool0", want.FabricPolicy{Name: "p", From: []string{"line"}, To: []string{"down"}, Filter: "udp"})
	if list, _ := b.wishes(); len(list) != 0 {
		t.Errorf("%+v", list)
	}
	if set := b.lowered("n2"); len(set.Sources) != 1 || set.Sources[0].Options.Filter != "(udp)" || set.Sources[0].To.Device.Name != "tool0" || set.Sources[0].Device.Name != "eth9" {
		t.Errorf("%+v", set.Sources)
	}
	// The cable is taken out of the description.
	b.describe(t, "")
	if list, _ := b.wishes(); len(list) != 1 {
		t.Errorf("%+v", list)
	}
}

// A service at the very device that a cable leads to has its copies there: no agent has a part in it, and it comes before others.
func TestServiceAtTheEndOfACable(t *testing.T) {
	b := switchBench(t)
	source := b.portID(t, "s1/1")
	relayed := b.service(t, root, b.portID(t, "host2/tool0"), tap.Options{})
	b.tapFlow(t, root, source, relayed.ID, tap.Options{})
	if list, _ := b.wishes(); len(list) != 1 || list[0].ExactAt == "" {
		t.Fatalf("%+v", list)
	}
	direct := b.service(t, root, b.portID(t, "host2/eth9"), tap.Options{})
	f := b.tapFlow(t, root, source, direct.ID, tap.Options{})
	list, _ := b.wishes()
	if len(list) != 1 || list[0].ID != f.ID || list[0].To.Device.Name != "s1/5" || list[0].ExactAt != "" {
		t.Errorf("%+v", list)
	}
	if set := b.lowered("n2"); len(set.Sources) != 0 {
		t.Errorf("%+v", set.Sources)
	}
}

func TestCopiesOfHostsGoToSwitches(t *testing.T) {
	b := switchBench(t)
	s := b.service(t, root, b.portID(t, "s2/1"), tap.Options{})
	f := b.tapFlow(t, root, b.portID(t, "host1/eth0"), s.ID, tap.Options{Filter: "len > 9"})
	if set := b.lowered("n1"); len(set.Sources) != 1 || set.Sources[0].To.Device.Name != "eth1" || set.Sources[0].To.Remote.IsValid() || set.Sources[0].Options.Filter != "len > 9" {
		t.Errorf("%+v", set.Sources)
	}
	list, _ := b.wishes()
	if len(list) != 1 || list[0].ID != f.ID+switchSuffix || list[0].Device.Name != "s1/6" || list[0].Direction != tap.Out || list[0].To.Device.Name != "s2/1" || list[0].Options.Filter != "" {
		t.Errorf("%+v", list)
	}
	if v, err := b.TapFlow(t.Context(), root, f.ID); err != nil || v.Status == tap.Up || !strings.Contains(v.Reason, "takes no OpenFlow switches") {
		t.Errorf("%v %+v", err, v.Report)
	}
	if _, err := b.EstimateTapFlow(t.Context(), root, tap.Flow{PortID: b.portID(t, "s1/1"), ServiceID: s.ID, Direction: tap.Out}); !fault.Is(err, fault.Unsupported) {
		t.Error(err)
	}
	mirror := tap.Mirror{PortID: b.portID(t, "s1/1"), Directions: map[tap.Direction]uint32{tap.In: 1}, Remote: netip.MustParseAddr("192.0.2.9"), Type: tap.GRE}
	if _, err := b.CreateTapMirrors(t.Context(), root, []tap.Mirror{mirror}); !fault.Is(err, fault.Unsupported) {
		t.Error(err)
	}
	// The device that leads to the fabric is not itself tapped for it.
	if _, err := b.CreateTapFlows(t.Context(), root, []tap.Flow{{PortID: b.portID(t, "host1/eth1"), ServiceID: s.ID, Direction: tap.Both}}); !fault.Is(err, fault.Unsupported) {
		t.Error(err)
	}
	// Without a cable it is refused, with what is missing.
	if _, err := b.CreateTapFlows(t.Context(), root, []tap.Flow{{PortID: b.portID(t, "host2/tool0"), ServiceID: s.ID, Direction: tap.Both}}); !fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), "leads_to") {
		t.Error(err)
	}
}

func TestPoliciesOfTapsAreNotForPeople(t *testing.T) {
	c, _ := weave(t, mem.New(mem.Config{}))
	name := oftap.Prefix + newUUID()
	f := aFabric()
	f.Policies[0].Name = name
	if _, err := c.SetFabric(t.Context(), boss, f, false); !fault.Is(err, fault.Conflict) {
		t.Error(err)
	}
	f = aFabric()
	f.Policies[0].ExactAt = "n/d"
	if _, err := c.SetFabric(t.Context(), boss, f, false); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
	if _, err := c.SetFabric(t.Context(), boss, aFabric(), false); err != nil {
		t.Fatal(err)
	}
	if _, _, err := c.SetFabricPolicy(t.Context(), boss, name, aFabric().Policies[0]); err == nil {
		t.Error("a policy of a tap is made by hand")
	}
	if err := c.DeleteFabricPolicy(t.Context(), boss, name); !fault.Is(err, fault.Conflict) || !strings.Contains(err.(*fault.Error).Hint, "tap flow delete") {
		t.Error(err)
	}
}
