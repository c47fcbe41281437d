package controller

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

func TestMatchPoint(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"host1/eth0", "host1/eth0", true},
		{"host1/eth0", "host1/eth00", false},
		{"*/eth0", "host1/eth0", true},
		{"*/tap-*", "h/tap-1", true},
		{"*/tap-*", "h/xtap-1", false},
		{"host1/*", "host1/hwmon/a/b", true},
		{"host1/*", "host11/x", false},
		{"*", "anything/at/all", true},
		{"a*b*c", "a-b-b-c", true},
		{"a*b*c", "a-c-b", false},
		{"*/e*0", "h/eth10", true},
		{"", "", true},
		{"", "x", false},
		{"[a]/?", "[a]/?", true},
		{"[a]/?", "a/b", false},
	} {
		if got := matchPoint(c.pattern, c.name); got != c.want {
			t.Errorf("%q means %q: %v", c.pattern, c.name, got)
		}
	}
}

func FuzzMatchPoint(f *testing.F) {
	f.Add("a*b", "a-b")
	f.Fuzz(func(t *testing.T, pattern, name string) {
		if !strings.Contains(pattern, "*") && matchPoint(pattern, name) != (pattern == name) {
			t.Error("a pattern without a star means itself")
		}
		if !matchPoint("*"+pattern+"*", "x"+strings.ReplaceAll(pattern, "*", name)+"y") {
			t.Errorf("%q does not mean itself with %q for its stars", pattern, name)
		}
	})
}

// What a tenant sees and may capture, and what not, in every way there is.
func TestATenantSeesItsPointsAlone(t *testing.T) {
	b := newBench(t, nil)
	b.Joined(agentapi.Identity{NodeID: "n2", NodeName: "host2"})
	b.Inventory("n2", []point.Point{{Name: "tap-blue", Kind: point.Netdev, Present: true, Up: true, LinkType: 1}}, want.Node{
		Problems:   []string{"the disk of host2 is nearly full"},
		Recordings: []want.RecorderView{{Recorder: want.Recorder{Point: "tap-blue", Bytes: 1 << 30}, Origin: want.FromConfiguration}},
	})
	names := func(id auth.Identity) string {
		t.Helper()
		list, err := b.Points(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, p := range list {
			out = append(out, p.Node+"/"+p.Name)
		}
		return strings.Join(out, " ")
	}
	all := "host1/can0 host1/eth0 host1/temp1 host2/tap-blue"
	if got := names(alice); got != all {
		t.Errorf("before a project is declared: %s", got)
	}
	if _, created, err := b.SetTenant(t.Context(), root, "red", want.ProjectRequest{Points: []string{"host1/eth*"}}); err != nil || !created {
		t.Fatalf("%v, %v", created, err)
	}
	fred := auth.Identity{Name: "fred", Project: auth.DefaultProject, Role: "owner", Rights: alice.Rights}
	for id, want := range map[*auth.Identity]string{&alice: "host1/eth0", &bob: "", &root: all, &fred: all} {
		if got := names(*id); got != want {
			t.Errorf("%s sees %q, want %q", id.Name, got, want)
		}
	}

	// Every other way to a point.
	for _, name := range []string{"host2/tap-blue", "tap-blue", "host1/temp1"} {
		if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: want.Packets, Points: []string{name}}); !fault.Is(err, fault.NotFound) {
			t.Errorf("capture at %s: %v", name, err)
		}
		if _, err := b.OpenLive(t.Context(), alice, want.LiveRequest{Points: []string{name}}); !fault.Is(err, fault.NotFound) {
			t.Errorf("live at %s: %v", name, err)
		}
		if _, err := b.Recorder(t.Context(), alice, name); !fault.Is(err, fault.NotFound) {
			t.Errorf("recorder at %s: %v", name, err)
		}
	}
	if _, _, err := b.CreateCapture(t.Context(), bob, want.Request{Kind: want.Packets}); !fault.Is(err, fault.NotFound) {
		t.Errorf("the default point: %v", err)
	}
	if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: "temperature"}); !fault.Is(err, fault.Unsupported) {
		t.Errorf("the first sensor: %v", err)
	}
	if list, err := b.Recorders(t.Context(), alice); err != nil || len(list) != 0 {
		t.Errorf("recorders %+v, %v", list, err)
	}
	nodes, err := b.Nodes(t.Context(), alice)
	if err != nil || len(nodes) != 1 || nodes[0].Name != "host1" || nodes[0].Problems != nil {
		t.Errorf("nodes %+v, %v", nodes, err)
	}
	caps, err := b.Capabilities(t.Context(), alice)
	if j, _ := json.Marshal(caps); err != nil || strings.Contains(string(j), "tap-blue") || caps.Missing["temperature"] == "" {
		t.Errorf("capabilities %s, %v", j, err)
	}
	b.create(t, alice, want.Request{Kind: want.Packets, Points: []string{"eth0"}})

	events := []want.Event{
		{Name: want.EventPoints, Data: marshal(map[string]any{"points": []point.Point{{Name: "tap-blue", Node: "host2"}}})},
		{Name: want.EventNodes, Data: marshal(want.NodesChanged{Nodes: []want.Node{{Name: "host2"}}})},
		{Name: want.EventRates, Data: marshal(want.Rates{Rates: []want.Rate{{Node: "host2", Point: "tap-blue"}, {Node: "host1", Point: "eth0"}}})},
		{Name: "unheard-of", Data: json.RawMessage(`"host2"`)},
	}
	told, _ := json.Marshal(b.narrow(alice, events))
	if s := string(told); strings.Contains(s, "host2") || strings.Contains(s, "tap-blue") || !strings.Contains(s, "eth0") {
		t.Errorf("events tell %s", s)
	}
	if got := b.narrow(root, events); len(got) != len(events) {
		t.Errorf("an administrator is told %d events", len(got))
	}

	// A point that is no longer hers: what was captured stays, nothing new is.
	if _, created, err := b.SetTenant(t.Context(), root, "red", want.ProjectRequest{}); err != nil || created {
		t.Fatalf("%v, %v", created, err)
	}
	if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: want.Packets, Points: []string{"eth0"}}); !fault.Is(err, fault.NotFound) {
		t.Errorf("a point that was taken away: %v", err)
	}
	if list, err := b.Captures(t.Context(), alice); err != nil || len(list) != 1 {
		t.Errorf("%d captures, %v", len(list), err)
	}
}

func TestQuotasOfAProject(t *testing.T) {
	b := newBench(t, func(c *Config) {
		c.Projects = []want.Project{{Name: "blue", ProjectRequest: want.ProjectRequest{Points: []string{"*/*"}, Captures: 2, MaxDuration: want.Duration(time.Minute), MaxRetain: want.Duration(time.Minute)}}}
		c.DurationMax = time.Hour
	})
	v := b.create(t, bob, want.Request{Kind: want.Packets, Points: []string{"eth0"}})
	if v.Query.To.Sub(v.Query.From) != time.Minute || time.Duration(v.Retain) != time.Minute {
		t.Errorf("window %s, retain %s", v.Query.To.Sub(v.Query.From), time.Duration(v.Retain))
	}
	for field, r := range map[string]want.Request{
		"duration": {Kind: want.Packets, Points: []string{"eth0"}, Duration: want.Duration(2 * time.Minute)},
		"retain":   {Kind: want.Packets, Points: []string{"eth0"}, Retain: want.Duration(2 * time.Minute)},
	} {
		if _, _, err := b.CreateCapture(t.Context(), bob, r); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	b.create(t, bob, want.Request{Kind: want.Packets, Points: []string{"eth0"}})
	if _, _, err := b.CreateCapture(t.Context(), bob, want.Request{Kind: want.Packets, Points: []string{"eth0"}}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("a third capture: %v", err)
	}
	list, err := b.Tenants(t.Context(), root)
	if err != nil || len(list) != 2 || list[0].Name != "blue" || list[0].Used.Captures != 2 || list[0].Origin != want.FromConfiguration {
		t.Errorf("%+v, %v", list, err)
	}
	if _, _, err := b.SetTenant(t.Context(), root, "blue", want.ProjectRequest{}); !fault.Is(err, fault.Conflict) {
		t.Errorf("a project of the file is changed: %v", err)
	}
	if err := b.DeleteTenant(t.Context(), root, "blue"); !fault.Is(err, fault.Conflict) {
		t.Errorf("a project of the file is deleted: %v", err)
	}
	// What it holds counts too.
	if _, _, err := b.SetTenant(t.Context(), root, "red", want.ProjectRequest{Points: []string{"*/*"}, Bytes: 1000}); err != nil {
		t.Fatal(err)
	}
	v = b.create(t, alice, want.Request{Kind: want.Packets, Points: []string{"eth0"}, Duration: want.Duration(time.Minute)})
	st := v.Status
	st.Bytes = 2000
	b.Actual("n1", 1, []want.Status{st}, false)
	if _, _, err := b.CreateCapture(t.Context(), alice, want.Request{Kind: want.Packets, Points: []string{"eth0"}}); !fault.Is(err, fault.Exhausted) {
		t.Errorf("beyond its octets: %v", err)
	}
}

func TestProjectsAreAdministered(t *testing.T) {
	b := newBench(t, nil)
	if _, _, err := b.SetTenant(t.Context(), alice, "red", want.ProjectRequest{Points: []string{"*/*"}}); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a tenant sets a project: %v", err)
	}
	if err := b.DeleteTenant(t.Context(), alice, "red"); !fault.Is(err, fault.Forbidden) {
		t.Errorf("a tenant deletes a project: %v", err)
	}
	for name, r := range map[string]want.ProjectRequest{
		"": {}, "a/b": {}, " x": {}, "x\n": {}, strings.Repeat("x", 65): {},
		"points": {Points: []string{"eth0"}}, "negative": {Captures: -1}, "many": {Points: make([]string, maxProjectPoints+1)},
	} {
		if _, _, err := b.SetTenant(t.Context(), root, name, r); !fault.Is(err, fault.Invalid) {
			t.Errorf("%q %+.80v: %v", name, r, err)
		}
	}
	if _, _, err := b.SetTenant(t.Context(), root, "red", want.ProjectRequest{Points: []string{"*/*"}}); err != nil {
		t.Fatal(err)
	}
	list, err := b.Tenants(t.Context(), bob)
	if err != nil || len(list) != 0 {
		t.Errorf("bob sees %+v, %v", list, err)
	}
	if p, err := b.Tenant(t.Context(), alice, "red"); err != nil || p.By != "root" {
		t.Errorf("%+v, %v", p, err)
	}
	b.create(t, alice, want.Request{ID: "c", Kind: want.Packets, Points: []string{"eth0"}})
	if err := b.DeleteTenant(t.Context(), root, "red"); !fault.Is(err, fault.Conflict) {
		t.Errorf("a project with a capture: %v", err)
	}
	if err := b.DeleteCapture(t.Context(), alice, "c"); err != nil {
		t.Fatal(err)
	}
	if err := b.DeleteTenant(t.Context(), root, "red"); err != nil {
		t.Error(err)
	}
	if err := b.DeleteTenant(t.Context(), root, "red"); !fault.Is(err, fault.NotFound) {
		t.Errorf("again: %v", err)
	}
	if got := b.trail.actions(); !strings.Contains(got, "project.set:allowed") || !strings.Contains(got, "project.delete:denied") {
		t.Errorf("audit = %q", got)
	}
}
