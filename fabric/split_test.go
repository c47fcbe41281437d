package fabric

import (
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/filter/filtertest"
	"opentap/packet"
	"opentap/want"
	"opentap/wire/of13"
)

// TestCoarseCopiesAllThatIsWanted holds the part of filters that switches do against the whole filter: what the filter wants the
// switches copy, over the whole corpus and random expressions.
func TestCoarseCopiesAllThatIsWanted(t *testing.T) {
	size, most := 600, 300
	if os.Getenv("OPENTAP_LONG") != "" {
		size, most = 3000, 1<<20
	}
	frames := filtertest.Frames(11, size, false)
	packets := make([]of13.Match, 0, len(frames))
	kept := frames[:0:0]
	for _, f := range frames {
		if m, ok := extractTagged(f); ok {
			packets, kept = append(packets, m), append(kept, f)
		}
	}
	if len(kept) < size/4 {
		t.Fatalf("%d of %d frames", len(kept), len(frames))
	}
	split, narrower := 0, 0
	check := func(tb interface{ Errorf(string, ...any) }, text string) {
		e, err := filter.Parse(text)
		if err != nil || e.Root == nil {
			return
		}
		if _, err := lowerText(text); err == nil {
			return
		}
		d, words, err := coarse(text)
		if err != nil {
			tb.Errorf("%s: %v", text, err)
			return
		}
		m, err := cbpf.NewMatcher(e, cbpf.Options{Link: packet.LinkEthernet})
		if err != nil {
			return
		}
		split++
		if words != "" {
			narrower++
			if _, err := lowerText(words); err != nil {
				tb.Errorf("%s: said to be %s, which is no filter of switches: %v", text, words, err)
			}
		}
		for i, p := range packets {
			if m.Match(kept[i], uint32(len(kept[i]))) && !d.decide(p) {
				tb.Errorf("%s: switches copy %q, and not %s (%x)", text, words, p, kept[i][:min(len(kept[i]), 60)])
				return
			}
		}
	}
	list := filtertest.All()
	r := rand.New(rand.NewPCG(3, 4))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	list = list[:min(len(list), most)]
	for _, text := range list {
		check(t, text)
		check(t, "host 10.0.0.1 and not ("+text+")")
		check(t, "tcp and ("+text+" or len > 70)")
	}
	rapid.Check(t, func(r *rapid.T) { check(r, filtertest.Expr(r, 3, true)) })
	t.Logf("%d filters are split, %d of them with less than everything in the switches", split, narrower)
	if split < 100 || narrower < split/4 {
		t.Errorf("%d split, %d narrower", split, narrower)
	}
}

// extractTagged is extract for frames with two tags too, as a switch sees them that looks behind one.
func extractTagged(f []byte) (of13.Match, bool) {
	if m, ok := extract(f); ok {
		return m, true
	}
	if len(f) < 22 || be(f[12:14]) != 0x8100 && be(f[12:14]) != 0x88a8 {
		return of13.Match{}, false
	}
	inner := be(f[16:18])
	if inner != 0x8100 && inner != 0x88a8 && inner != 0x9100 {
		return of13.Match{}, false
	}
	return and(ether(inner), of13.UintMask(of13.VLANVID, be(f[14:16])&0xfff|of13.VLANPresent, 0x1fff),
		of13.UintMask(of13.EthDst, be(f[:6]), 0xffffffffffff), of13.UintMask(of13.EthSrc, be(f[6:12]), 0xffffffffffff)), true
}

func TestSplitSaysWhichPartIsWhere(t *testing.T) {
	for text, want := range map[string]string{
		"tcp port 80 and len > 100":               "tcp port 80",
		"tcp[tcpflags] & tcp-syn != 0":            "",
		"host 10.0.0.1 and not (udp and len < 9)": "host 10.0.0.1",
		"tcp or (udp and greater 100)":            "tcp or udp",
		"vlan 5 and vlan 7":                       "vlan 5",
		"mpls 7 and tcp":                          "",
		"udp and geneve and tcp":                  "udp",
	} {
		_, got, err := coarse(text)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", text, got, err, want)
		}
	}
}

func TestExactPartNeedsAnAgentOfItsOwn(t *testing.T) {
	describe := func(policies ...want.FabricPolicy) error {
		_, err := NewLayout(want.Fabric{
			Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}},
			Ports: map[string]want.FabricPort{
				"in": {At: "s1/1", Role: want.RoleFilter}, "in2": {At: "s1/2", Role: want.RoleFilter},
				"out": {At: "s1/3", Role: want.RoleDelivery}, "agent": {At: "s1/4", Role: want.RoleDelivery, LeadsTo: "n/eth1", Into: "tool0"},
			},
			Policies: policies,
		})
		return err
	}
	const text = "tcp and len > 100"
	for _, tt := range []struct {
		name     string
		policies []want.FabricPolicy
		has      string
	}{
		{"an agent is there", []want.FabricPolicy{{Name: "p", From: []string{"in"}, To: []string{"agent"}, Filter: text}}, ""},
		{"none", []want.FabricPolicy{{Name: "p", From: []string{"in"}, To: []string{"out"}, Filter: text}}, "computed conditions"},
		{"none at one of two", []want.FabricPolicy{{Name: "p", From: []string{"in"}, To: []string{"agent", "out"}, Filter: text}}, "computed conditions"},
		{"the same ports", []want.FabricPolicy{{Name: "p", From: []string{"in"}, To: []string{"agent"}, Filter: text}, {Name: "q", From: []string{"in"}, To: []string{"agent"}}}, ""},
		{"others", []want.FabricPolicy{{Name: "p", From: []string{"in"}, To: []string{"agent"}, Filter: text}, {Name: "q", From: []string{"in2"}, To: []string{"agent"}}}, "cannot tell its packets from those of q"},
		{"cut", []want.FabricPolicy{{Name: "p", From: []string{"in"}, To: []string{"agent"}, Filter: text, Truncate: 64}}, "whole packets"},
	} {
		err := describe(tt.policies...)
		if tt.has == "" && err != nil || tt.has != "" && (!fault.Is(err, fault.Unsupported) || !strings.Contains(err.Error(), tt.has)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	f := want.Fabric{Policies: []want.FabricPolicy{{To: []string{"agent"}, Filter: text}, {To: []string{"agent"}, Filter: "udp"}, {To: []string{"out"}, Filter: "arp"}}}
	if got, ok := ExactFilter(&f, "agent"); !ok || got != "("+text+") or (udp)" {
		t.Errorf("%q %v", got, ok)
	}
}
