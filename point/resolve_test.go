package point

import (
	"errors"
	"strings"
	"testing"

	"opentap/fault"
)

// fleet is two nodes with devices of the same names, and a sensor.
func fleet() []Point {
	return []Point{
		{Name: "lo", Node: "virgo", Kind: Netdev, Present: true, Up: true},
		{Name: "eth0", Node: "virgo", Kind: Netdev, Present: true, Up: true, Aliases: []string{"uplink"}},
		{Name: "eth1", Node: "virgo", Kind: Netdev, Present: true, Up: true, Default: true, Aliases: []string{"dmz", "eth0"}},
		{Name: "hwmon/coretemp/temp1", Node: "virgo", Kind: Sensor, Present: true},
		{Name: "eth0", Node: "libra", Kind: Netdev, Present: true, Up: true, Aliases: []string{"uplink"}},
		{Name: "enp9s0", Node: "libra", Kind: Netdev, Present: true},
		{Name: "virgo/eth1", Node: "", Kind: Netdev, Present: true}, // an evil name: exact names go first
	}
}

func TestResolve(t *testing.T) {
	s := NewSet(fleet(), []Alias{{"internal", "enp9s0"}, {"temp", "virgo/hwmon/coretemp/temp1"}, {"soon", "eth7"}, {"", "lo"}, {"dmz", "enp9s0"}}, "")
	for _, c := range []struct {
		name string
		ask  string
		want string // node:name
		kind fault.Kind
		hint string
	}{
		{"exact", "enp9s0", "libra:enp9s0", 0, ""},
		{"alias of the configuration", "internal", "libra:enp9s0", 0, ""},
		{"alias of a name with slashes", "temp", "virgo:hwmon/coretemp/temp1", 0, ""},
		{"name with slashes", "hwmon/coretemp/temp1", "virgo:hwmon/coretemp/temp1", 0, ""},
		{"node and name with slashes", "virgo/hwmon/coretemp/temp1", "virgo:hwmon/coretemp/temp1", 0, ""},
		{"node and name", "libra/eth0", "libra:eth0", 0, ""},
		{"node and alias", "libra/uplink", "libra:eth0", 0, ""},
		{"node and alias of the configuration", "libra/internal", "libra:enp9s0", 0, ""},
		{"exact before node and name", "virgo/eth1", ":virgo/eth1", 0, ""},
		{"empty is the default", "", "virgo:eth1", 0, ""},
		{"0 is the default", "0", "virgo:eth1", 0, ""},
		{"two nodes have it", "eth0", "", fault.Invalid, "virgo/eth0, libra/eth0"},
		{"two points have the alias", "uplink", "", fault.Invalid, "virgo/eth0, libra/eth0"},
		{"configuration and point have the alias", "dmz", "", fault.Invalid, "eth1, enp9s0"},
		{"case matters", "ENP9S0", "", fault.NotFound, "there are enp9s0,"},
		{"nearest name", "enp9", "", fault.NotFound, "there are enp9s0,"},
		{"alias without a target", "soon", "", fault.NotFound, ""},
		{"no path meaning", "libra/../virgo/eth0", "", fault.NotFound, ""},
		{"no trimming", " enp9s0", "", fault.NotFound, ""},
		{"too long", strings.Repeat("x", MaxName+1), "", fault.Invalid, ""},
		{"no text", "\xff", "", fault.Invalid, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := s.Resolve(c.ask)
			if c.want != "" {
				if got := p.Node + ":" + p.Name; err != nil || got != c.want {
					t.Fatalf("Resolve(%q) = %s, %v; want %s", c.ask, got, err, c.want)
				}
				return
			}
			var e *fault.Error
			if !errors.As(err, &e) || e.Kind != c.kind || e.Field != "points" || !strings.Contains(e.Hint, c.hint) {
				t.Fatalf("Resolve(%.40q) = %+v, %#v; want %v with hint %q", c.ask, p, err, c.kind, c.hint)
			}
			if len(e.Hint) > 1000 {
				t.Errorf("a hint of %d octets", len(e.Hint))
			}
		})
	}
}

func TestDefault(t *testing.T) {
	up := Point{Name: "b", Kind: Netdev, Present: true, Up: true}
	lo := Point{Name: "lo", Kind: Netdev, Present: true, Up: true}
	down := Point{Name: "a", Kind: Netdev, Present: true}
	route := Point{Name: "c", Kind: Netdev, Present: true, Up: true, Default: true}
	for _, c := range []struct {
		name   string
		points []Point
		def    string
		want   string // "" = none
	}{
		{"configured", []Point{lo, down, up, route}, "a", "a"},
		{"configured by alias", []Point{lo, down, up, route}, "outside", "b"},
		{"configured, not there", []Point{lo, up, route}, "gone", ""},
		{"default route", []Point{lo, down, up, route}, "", "c"},
		{"first up", []Point{lo, down, up}, "", "b"},
		{"loopback alone", []Point{lo, down}, "", ""},
		{"nothing", nil, "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := NewSet(c.points, []Alias{{"outside", "b"}}, c.def)
			p, err := s.Resolve("0")
			if p.Name != c.want || (err == nil) != (c.want != "") || (err != nil && !fault.Is(err, fault.NotFound)) {
				t.Fatalf("default is %q, %v; want %q", p.Name, err, c.want)
			}
			marked := ""
			for _, p := range s.Points() {
				if p.Default {
					marked += p.Name
				}
			}
			if c.want != "" && marked != c.want {
				t.Errorf("marked as default: %q, want %q", marked, c.want)
			}
		})
	}
}

// What a Set gives away can be changed without changing it, nor what it was made of.
func TestSetIsFixed(t *testing.T) {
	points := fleet()
	s := NewSet(points, []Alias{{"out", "enp9s0"}}, "enp9s0")
	if points[5].Default || len(points[5].Aliases) != 0 || !points[2].Default {
		t.Error("NewSet changed its argument")
	}
	got := s.Points()
	got[1].Aliases[0], got[1].Name = "changed", "changed"
	p, err := s.Resolve("virgo/eth0")
	if err != nil || p.Aliases[0] != "uplink" {
		t.Fatalf("Resolve = %+v, %v", p, err)
	}
	p.Aliases[0] = "changed"
	if again, _ := s.Resolve("virgo/eth0"); again.Aliases[0] != "uplink" {
		t.Error("a resolved point shares its aliases with the set")
	}
	if p, _ := s.Resolve("out"); len(p.Aliases) != 1 || p.Aliases[0] != "out" || !p.Default {
		t.Errorf("out = %+v", p)
	}
	if _, err := new(Set).Resolve("x"); !fault.Is(err, fault.NotFound) {
		t.Errorf("the zero Set: %v", err)
	}
}

func TestDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"eth0", "eth1", 1}, {"ETH0", "eth0", 0}, {"kitten", "sitting", 3}} {
		if got := distance(c.a, c.b); got != c.want {
			t.Errorf("distance(%q, %q) = %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// FuzzResolve: any text resolves to a point that has it as a name, or gives a bounded *fault.Error.
func FuzzResolve(f *testing.F) {
	for _, n := range []string{"", "0", "eth0", "virgo/eth0", "libra/uplink", "../../etc/passwd", "\x00", "ETH0", "a,\"b\n"} {
		f.Add(n, n)
	}
	f.Fuzz(func(t *testing.T, name, ask string) {
		s := NewSet(append(fleet(), Point{Name: name, Node: "n", Kind: Netdev}), []Alias{{ask, "enp9s0"}}, "")
		for _, q := range []string{name, ask, "n/" + name} {
			p, err := s.Resolve(q)
			if err != nil {
				var e *fault.Error
				if !errors.As(err, &e) || (e.Kind != fault.Invalid && e.Kind != fault.NotFound) || len(e.Error()) > 8*MaxName || strings.Contains(e.Hint, "\n") {
					t.Errorf("Resolve(%q): %#v", q, err)
				}
				continue
			}
			if q == "" || q == "0" {
				continue
			}
			ok := p.Name == q || p.Node+"/"+p.Name == q
			for _, a := range p.Aliases {
				ok = ok || a == q || p.Node+"/"+a == q
			}
			if !ok {
				t.Errorf("Resolve(%q) = %+v, which is not called that", q, p)
			}
		}
	})
}
