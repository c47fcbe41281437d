package oftap

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"opentap/fabric"
	"opentap/fault"
	"opentap/tap"
	"opentap/want"
)

func describe(t *testing.T) *fabric.Layout {
	t.Helper()
	l, err := fabric.NewLayout(want.Fabric{
		Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}},
		Pairs:    []want.FabricPair{{"s1/1", "s1/2"}},
		Ports: map[string]want.FabricPort{
			"line": {At: "s1/1", Role: want.RoleFilter}, "span": {At: "s1/5", Role: want.RoleFilter}, "ids": {At: "s1/9", Role: want.RoleDelivery},
		},
		Policies: []want.FabricPolicy{{Name: "hand", From: []string{"line"}, To: []string{"ids"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestPolicyOfATap(t *testing.T) {
	l := describe(t)
	wish := func(from string, d tap.Direction, o tap.Options) Wish {
		return Wish{Source: tap.Source{ID: "x", Device: tap.Device{Name: from}, Direction: d, Options: o, To: tap.Target{Device: tap.Device{Name: "s1/9"}}}}
	}
	with := func(w Wish, change func(*Wish)) Wish {
		change(&w)
		return w
	}
	for _, tt := range []struct {
		name string
		wish Wish
		want want.FabricPolicy // without what all have
		has  string            // or this refusal
		err  error
	}{
		{"what a pair's port sends", wish("s1/1", tap.Out, tap.Options{}), want.FabricPolicy{From: []string{"line"}, Direction: want.Ingress}, "", nil},
		{"what it gets", wish("s1/1", tap.In, tap.Options{}), want.FabricPolicy{From: []string{"line"}, Direction: want.Egress}, "", nil},
		{"both", wish("s1/1", tap.Both, tap.Options{}), want.FabricPolicy{From: []string{"line"}, Direction: want.BothSides}, "", nil},
		{"all that a passive tap hears", wish("s1/5", tap.Both, tap.Options{}), want.FabricPolicy{From: []string{"span"}}, "", nil},
		{"to a passive tap", wish("s1/5", tap.In, tap.Options{}), want.FabricPolicy{}, "not one of a pair", tap.ErrUnsupported},
		{
			"options", wish("s1/5", tap.Out, tap.Options{Filter: "tcp or udp", VLANs: "5,9-11,5000,8-7", Snap: 100, RateBPS: 1_500_001}),
			want.FabricPolicy{From: []string{"span"}, Filter: "vlan 5,9-11 and (tcp or udp)", Truncate: 100, RateKbps: 1501},
			"", nil,
		},
		{"VLANs that none has", wish("s1/5", tap.Out, tap.Options{VLANs: "5000"}), want.FabricPolicy{From: []string{"span"}, Filter: "ip and arp"}, "", nil},
		{"two lists of VLANs", wish("s1/5", tap.Out, tap.Options{VLANs: "5", Filter: "vlan 7"}), want.FabricPolicy{}, "one tag", tap.ErrUnsupported},
		{"longer than frames are", wish("s1/5", tap.Out, tap.Options{Snap: 100_000}), want.FabricPolicy{From: []string{"span"}}, "", nil},
		{"samples", wish("s1/5", tap.Out, tap.Options{SampleN: 2}), want.FabricPolicy{}, "do not sample", tap.ErrUnsupported},
		{"a bucket", wish("s1/5", tap.Out, tap.Options{RateBPS: 1e6, Burst: 9000}), want.FabricPolicy{}, "bucket", tap.ErrUnsupported},
		{"lengths", wish("s1/5", tap.Out, tap.Options{Filter: "len > 9"}), want.FabricPolicy{}, "computed conditions", tap.ErrUnsupported},
		{
			"lengths, behind an agent", with(wish("s1/5", tap.Out, tap.Options{Filter: "tcp and len > 9", SampleN: 2, Snap: 64}), func(w *Wish) { w.ExactAt = "n/tool0" }),
			want.FabricPolicy{From: []string{"span"}, Filter: "tcp and len > 9", ExactAt: "n/tool0"},
			"", nil,
		},
		{"a port that is not named", wish("s1/7", tap.Out, tap.Options{}), want.FabricPolicy{}, "does not name", tap.ErrNoDevice},
		{"a switch that is none", wish("s9/1", tap.Out, tap.Options{}), want.FabricPolicy{}, "does not name", tap.ErrNoDevice},
		{"from a tool", wish("s1/9", tap.Out, tap.Options{}), want.FabricPolicy{}, "has the role delivery", tap.ErrUnsupported},
		{"to a tap", with(wish("s1/1", tap.Out, tap.Options{}), func(w *Wish) { w.To.Device.Name = "s1/5" }), want.FabricPolicy{}, "has the role filter", tap.ErrUnsupported},
		{"in a tunnel", with(wish("s1/1", tap.Out, tap.Options{}), func(w *Wish) { w.To = tap.Target{Remote: netip.MustParseAddr("192.0.2.1")} }), want.FabricPolicy{}, "tunnels", tap.ErrUnsupported},
	} {
		got, err := Policy(l, tt.wish)
		if tt.has != "" {
			if err == nil || !strings.Contains(err.Error(), tt.has) || !errors.Is(err, tt.err) || tt.err == tap.ErrUnsupported && !fault.Is(err, fault.Unsupported) {
				t.Errorf("%s: %v, want %s", tt.name, err, tt.has)
			}
			continue
		}
		tt.want.Name, tt.want.Tap, tt.want.To = "tap-x", "x", []string{"ids"}
		a, b := got, tt.want
		if err != nil || a.Name != b.Name || a.Tap != b.Tap || strings.Join(a.From, " ") != strings.Join(b.From, " ") || a.To[0] != b.To[0] || a.Direction != b.Direction ||
			a.Filter != b.Filter || a.Truncate != b.Truncate || a.RateKbps != b.RateKbps || a.ExactAt != b.ExactAt {
			t.Errorf("%s: %v\n got %+v\nwant %+v", tt.name, err, got, tt.want)
		}
	}
	if _, err := Policy(nil, wish("s1/1", tap.Out, tap.Options{})); !errors.Is(err, tap.ErrNoDevice) {
		t.Error(err)
	}
}

// A tap that is right by itself and not beside the others is refused, and the others are carried.
func TestTapsGoWithTheOthers(t *testing.T) {
	l := describe(t)
	list := []Wish{
		{Source: tap.Source{ID: "a", Device: tap.Device{Name: "s1/1"}, Direction: tap.Out, To: tap.Target{Device: tap.Device{Name: "s1/9"}}}},
		{Source: tap.Source{ID: "b", Device: tap.Device{Name: "s1/5"}, Direction: tap.Out, Options: tap.Options{Filter: "len > 9"}, To: tap.Target{Device: tap.Device{Name: "s1/9"}}}, ExactAt: "n/tool0"},
		{Source: tap.Source{ID: "c", Device: tap.Device{Name: "s1/4"}, Direction: tap.Out, To: tap.Target{Device: tap.Device{Name: "s1/9"}}}},
	}
	with, refused := With(l, list)
	var names []string
	for _, p := range with.Fabric.Policies {
		names = append(names, p.Name)
	}
	if strings.Join(names, " ") != "hand tap-a" {
		t.Errorf("%v", names)
	}
	if !errors.Is(refused["b"], tap.ErrUnsupported) || !strings.Contains(refused["b"].Error(), "hand") || !errors.Is(refused["c"], tap.ErrNoDevice) || len(refused) != 2 {
		t.Errorf("%v", refused)
	}
	if len(l.Fabric.Policies) != 1 {
		t.Error("the description was changed")
	}
}
