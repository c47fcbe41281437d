package fabric

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"opentap/fault"
	"opentap/want"
	"opentap/wire/of13"
)

func aFabric() want.Fabric {
	return want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}, "s2": {DPID: 2}, "s3": {DPID: 3}},
		Links: []want.FabricLink{
			{A: "s1/6", B: "s3/1"}, {A: "s1/7", B: "s3/2"}, {A: "s2/6", B: "s3/6"},
		},
		Pairs: []want.FabricPair{{"s1/1", "s1/2"}},
		Ports: map[string]want.FabricPort{
			"line": {At: "s1/1", Role: want.RoleFilter}, "span": {At: "s1/5", Role: want.RoleFilter},
			"far": {At: "s3/11", Role: want.RoleDelivery}, "a": {At: "s2/4", Role: want.RoleDelivery}, "b": {At: "s2/5", Role: want.RoleDelivery},
			"svc": {At: "s3/12", Role: want.RoleService, Return: "s3/13"},
		},
		Tools:    map[string]want.FabricTool{"ids": {Members: []string{"a", "b"}}},
		Policies: []want.FabricPolicy{{Name: "p", From: []string{"line"}, To: []string{"far", "ids"}}},
	}
}

func TestMistakesNameTheField(t *testing.T) {
	for _, tt := range []struct {
		field, has string
		spoil      func(f *want.Fabric)
	}{
		{"switches.s2.dpid", "s1 as well", func(f *want.Fabric) { f.Switches["s2"] = want.FabricSwitch{DPID: 1} }},
		{"switches.s 2", "letters", func(f *want.Fabric) { f.Switches["s 2"] = want.FabricSwitch{DPID: 9} }},
		{"switches.s1.table_limit", "negative", func(f *want.Fabric) { f.Switches["s1"] = want.FabricSwitch{DPID: 1, TableLimit: -1} }},
		{"links[0].a", "no switch", func(f *want.Fabric) { f.Links[0].A = "s9/1" }},
		{"links[0].a", "not SWITCH/PORT", func(f *want.Fabric) { f.Links[0].A = "s1/0" }},
		{"links[1]", "two links", func(f *want.Fabric) { f.Links[1].A = "s1/6" }},
		{"links[0]", "one switch", func(f *want.Fabric) { f.Links[0].B = "s1/9" }},
		{"links[0]", "filter span", func(f *want.Fabric) { f.Links[0].A = "s1/5" }},
		{"pairs[0]", "two switches", func(f *want.Fabric) { f.Pairs[0][1] = "s2/1" }},
		{"pairs[0]", "itself", func(f *want.Fabric) { f.Pairs[0][1] = "s1/1" }},
		{"pairs[1]", "two pairs", func(f *want.Fabric) { f.Pairs = append(f.Pairs, want.FabricPair{"s1/2", "s1/3"}) }},
		{"ports.far.role", "none of filter", func(f *want.Fabric) { f.Ports["far"] = want.FabricPort{At: "s3/11", Role: "tool"} }},
		{"ports.x.at", "already", func(f *want.Fabric) { f.Ports["x"] = want.FabricPort{At: "s1/5", Role: want.RoleDelivery} }},
		{"ports.x.at", "only be a filter port", func(f *want.Fabric) { f.Ports["x"] = want.FabricPort{At: "s1/2", Role: want.RoleDelivery} }},
		{"ports.svc.return", "same switch", func(f *want.Fabric) {
			f.Ports["svc"] = want.FabricPort{At: "s3/12", Role: want.RoleService, Return: "s1/9"}
		}},
		{"ports.far.return", "services alone", func(f *want.Fabric) {
			f.Ports["far"] = want.FabricPort{At: "s3/11", Role: want.RoleDelivery, Return: "s3/12"}
		}},
		{"tools.ids.members", "no delivery port", func(f *want.Fabric) { f.Tools["ids"] = want.FabricTool{Members: []string{"line"}} }},
		{"tools.ids.members", "several switches", func(f *want.Fabric) { f.Tools["ids"] = want.FabricTool{Members: []string{"a", "far"}} }},
		{"tools.ids.members", "twice", func(f *want.Fabric) { f.Tools["ids"] = want.FabricTool{Members: []string{"a", "a"}} }},
		{"tools.a", "as well", func(f *want.Fabric) { f.Tools["a"] = want.FabricTool{Members: []string{"b"}} }},
		{"policies[0].from", "no filter port", func(f *want.Fabric) { f.Policies[0].From = []string{"far"} }},
		{"policies[0].to", "neither", func(f *want.Fabric) { f.Policies[0].To = []string{"line"} }},
		{"policies[0]", "both name", func(f *want.Fabric) { f.Policies[0].To = nil }},
		{"policies[0].services", "no service", func(f *want.Fabric) { f.Policies[0].Services = []string{"far"} }},
		{"policies[0].services", "twice", func(f *want.Fabric) { f.Policies[0].Services = []string{"svc", "svc"} }},
		{"policies[0].direction", "none of ingress", func(f *want.Fabric) { f.Policies[0].Direction = "out" }},
		{"policies[0].direction", "not one of a pair", func(f *want.Fabric) { f.Policies[0].From, f.Policies[0].Direction = []string{"span"}, want.BothSides }},
		{"policies[0].truncate", "14 to", func(f *want.Fabric) { f.Policies[0].Truncate = 5 }},
		{"policies[0].rate_kbps", "negative", func(f *want.Fabric) { f.Policies[0].RateKbps = -1 }},
		{"policies[0].ttl", "negative", func(f *want.Fabric) { f.Policies[0].TTL = -1 }},
		{"policies[1].name", "twice", func(f *want.Fabric) { f.Policies = append(f.Policies, f.Policies[0]) }},
		{"filter", "", func(f *want.Fabric) { f.Policies[0].Filter = "prot 80" }},
	} {
		f := aFabric()
		tt.spoil(&f)
		_, err := NewLayout(f)
		var e *fault.Error
		if err == nil {
			t.Errorf("%s: taken", tt.field)
			continue
		}
		e = err.(*fault.Error)
		if e.Field != tt.field || !strings.Contains(e.Msg, tt.has) {
			t.Errorf("%s: %v, want %s", tt.field, err, tt.has)
		}
	}
}

// compiled compiles with all static links up.
func compiled(t *testing.T, f want.Fabric, tags *Tags) (*Layout, *Intent) {
	t.Helper()
	l, err := NewLayout(f)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Unix(1000, 0)
	return l, Compile(l, NewTopology(nil).Links(l, now), tags, nil, now)
}

func TestTheSameGivesTheSame(t *testing.T) {
	var first string
	tags := &Tags{}
	for range 20 {
		_, i := compiled(t, aFabric(), tags)
		var b strings.Builder
		for dpid := uint64(1); dpid <= 3; dpid++ {
			for _, r := range i.Switches[dpid].Sorted() {
				fmt.Fprintln(&b, dpid, r, r.Cookie)
			}
			for id := range i.Switches[dpid].Groups {
				fmt.Fprintln(&b, dpid, id != 0)
			}
		}
		if first == "" {
			first = b.String()
		}
		if b.String() != first {
			t.Fatalf("%s\nand then\n%s", first, b.String())
		}
	}
	if len(tags.Used) != 1 {
		t.Errorf("%d tags for one way: %v", len(tags.Used), tags.Used)
	}
}

func TestEveryRuleIsOursAndNoToolIsHeard(t *testing.T) {
	l, i := compiled(t, aFabric(), &Tags{})
	for dpid, h := range i.Switches {
		prios := make(map[string]bool)
		for _, r := range h.Rules {
			if !Ours(r.Cookie) || r.Why == "" {
				t.Errorf("%s: %s", l.SwitchName(dpid), r)
			}
			if prios[r.Key()] {
				t.Errorf("twice: %s", r)
			}
			prios[r.Key()] = true
		}
		for id := range h.Groups {
			if !OurGroup(id) {
				t.Errorf("group %x", id)
			}
		}
	}
	for _, e := range []Endpoint{{3, 11}, {2, 4}, {2, 5}, {3, 12}} {
		best := &Rule{}
		packet, _ := inPort(e.Port).And(of13.Uint(of13.VLANVID, of13.VLANPresent|tagFirst))
		for _, r := range i.Switches[e.Switch].Rules {
			if r.Match.Covers(packet) && r.Priority > best.Priority {
				best = r
			}
		}
		if best.Priority == 0 || len(best.Do.Apply) != 0 {
			t.Errorf("what %s sends meets %s", l.Name(e), best)
		}
	}
}

func TestTagsRest(t *testing.T) {
	tags, now := &Tags{}, time.Unix(1000, 0)
	a, _ := tags.take("a", now)
	if again, _ := tags.take("a", now); again != a {
		t.Error("a way changes its tag")
	}
	tags.Keep(nil, now)
	if b, _ := tags.take("b", now.Add(time.Second)); b == a {
		t.Error("a tag is given again while frames may be under way")
	}
	tags.Keep(map[string]bool{}, now.Add(2*time.Second))
	if c, _ := tags.take("c", now.Add(time.Hour)); c != a {
		t.Errorf("tag %d, want %d again", c, a)
	}
	for n := range tagLast {
		if _, err := tags.take(fmt.Sprint("way ", n), now.Add(time.Hour)); err != nil {
			if n < tagLast-tagFirst-2 {
				t.Errorf("the pool is empty after %d", n)
			}
			return
		}
	}
	t.Error("the pool has no end")
}

func TestLinksNeedBothDirections(t *testing.T) {
	f := aFabric()
	f.Links = nil
	l, err := NewLayout(f)
	if err != nil {
		t.Fatal(err)
	}
	a, b, c := Endpoint{1, 6}, Endpoint{3, 1}, Endpoint{3, 2}
	now := time.Unix(1000, 0)
	top := NewTopology(nil)
	top.Connected(1, true, now)
	top.Connected(3, true, now)
	if top.Heard(a, b, now); len(top.Links(l, now)) != 0 {
		t.Error("one direction is believed")
	}
	if !top.Heard(b, a, now) {
		t.Error("both directions are not")
	}
	if k := top.Links(l, now); len(k) != 1 || !k[0].Confirmed || !k[0].Up || k[0].Problem != "" {
		t.Errorf("%+v", k)
	}
	// The cable is put elsewhere.
	top.Heard(a, c, now.Add(time.Second))
	if !top.Heard(c, a, now.Add(time.Second)) {
		t.Error("the new place is not believed")
	}
	if k := top.Links(l, now.Add(time.Second)); len(k) != 1 || k[0].B != c {
		t.Errorf("%+v", k)
	}
	// It is remembered while a switch is away, and forgotten when both are there and say nothing.
	late := now.Add(time.Hour)
	top.Connected(3, false, now)
	if top.Expire(late); len(top.Links(l, late)) != 1 {
		t.Error("forgotten while a switch is away")
	}
	top.Connected(3, true, late)
	if top.Expire(late.Add(time.Second)); len(top.Links(l, late)) != 1 {
		t.Error("forgotten before anybody could say")
	}
	if !top.Expire(late.Add(DiscoveryLost+time.Second)) || len(top.Links(l, late)) != 0 {
		t.Error("believed for ever")
	}
}

func TestFlappingCablesAreAvoided(t *testing.T) {
	now := time.Unix(1000, 0)
	l, err := NewLayout(aFabric())
	if err != nil {
		t.Fatal(err)
	}
	k := [2]Endpoint{{1, 6}, {3, 1}}
	top := NewTopology([][2]Endpoint{k})
	for i := range 4 {
		top.Port(k[0], false, now.Add(time.Duration(i)*time.Second))
		top.Port(k[0], true, now.Add(time.Duration(i)*time.Second))
	}
	find := func(at time.Time) Link {
		for _, x := range top.Links(l, at) {
			if x.A == k[0] {
				return x
			}
		}
		return Link{}
	}
	if x := find(now.Add(5 * time.Second)); !strings.Contains(x.Problem, "changed more than") {
		t.Errorf("%+v", x)
	}
	if m := newMaze(top.Links(l, now.Add(5*time.Second))); m.cost(1, 3) != costHop { // the other cable is calm
		t.Error(m.cost(1, 3))
	}
	if x := find(now.Add(time.Minute)); strings.Contains(x.Problem, "changed") {
		t.Errorf("%+v", x)
	}
}

func TestDiscoveryFramesAreSigned(t *testing.T) {
	s, e, now := Seal{Key: []byte("key")}, Endpoint{0x1234567890abcdef, 65000}, time.Unix(5000, 0)
	frame := s.Discovery(e, now)
	if got, err := s.Discovered(frame, now.Add(time.Millisecond)); err != nil || got != e {
		t.Fatalf("%v, %v", got, err)
	}
	if _, err := (Seal{Key: []byte("other")}).Discovered(frame, now); err == nil || !strings.Contains(err.Error(), "made it up") {
		t.Error(err)
	}
	if _, err := s.Discovered(frame, now.Add(time.Minute)); err == nil || !strings.Contains(err.Error(), "plays it again") {
		t.Error(err)
	}
	for i := range frame {
		bad := bytes.Clone(frame)
		bad[i] ^= 1
		got, err := s.Discovered(bad, now)
		if err == nil && got != e {
			t.Fatalf("octet %d changed: %v", i, got)
		}
		_, _ = s.Discovered(frame[:i], now)
	}
}

func FuzzDiscovered(f *testing.F) {
	s, now := Seal{Key: []byte("key")}, time.Unix(5000, 0)
	f.Add(s.Discovery(Endpoint{1, 2}, now))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := s.Discovered(b, now); err == nil && !bytes.Contains(b, []byte(want.DPID(e.Switch).String())) && len(b) < 40 {
			t.Errorf("%v of %x", e, b)
		}
	})
}

func BenchmarkCompile(b *testing.B) {
	f := aFabric()
	for i := range 200 {
		f.Policies = append(f.Policies, want.FabricPolicy{Name: fmt.Sprint("n", i), From: []string{"span"}, To: []string{"far"}, Filter: fmt.Sprintf("host 10.0.%d.%d and tcp", i/250, i%250)})
	}
	f.Policies = f.Policies[:min(len(f.Policies), 9)]
	l, err := NewLayout(f)
	if err != nil {
		b.Fatal(err)
	}
	now := time.Unix(1000, 0)
	links := NewTopology(nil).Links(l, now)
	tags := &Tags{}
	b.ReportAllocs()
	for b.Loop() {
		Compile(l, links, tags, nil, now)
	}
}

func TestPortsThatASwitchInventsAreForgotten(t *testing.T) {
	top, now := NewTopology(nil), time.Now()
	top.Connected(1, true, now)
	top.Connected(2, true, now)
	for n := uint32(1); n < 3*maxDowns; n++ {
		top.Port(Endpoint{1, n}, false, now)
	}
	if len(top.down) != maxDowns {
		t.Errorf("%d ports of a switch that lies are remembered", len(top.down))
	}
	if !top.Port(Endpoint{2, 1}, false, now) || !top.Port(Endpoint{1, 1}, true, now) || !top.Port(Endpoint{1, 3 * maxDowns}, false, now) {
		t.Error("what other switches say, and what it takes back, counts")
	}
	top.Connected(1, true, now)
	if len(top.down) != 1 || top.downs[1] != 0 {
		t.Errorf("%d are remembered when it comes back", len(top.down))
	}
}
