package detect

import (
	"net/netip"
	"testing"
	"time"

	"opentap/packet"
	"opentap/want"
)

func counted(value, above string) want.Rule {
	return want.Rule{
		Name:      "c",
		Flow:      want.RuleFlow{Input: want.InputCounters, Points: []string{"eth0"}, Keys: []string{"device", "way"}, Value: value, Window: want.Duration(time.Second)},
		Threshold: want.RuleThreshold{Above: above, Hold: want.Duration(time.Second)},
	}
}

// TestCounters: what a device counted is held against thresholds by way, and other rules do not take it for packets.
func TestCounters(t *testing.T) {
	const second = packet.Timestamp(time.Second)
	packets := counted("packets", "1pps")
	packets.Name, packets.Flow.Input, packets.Flow.Keys = "p", want.InputPackets, []string{"device"}
	for value, above := range map[string]string{"bytes": "8kbps", "packets": "10pps", "drops": "1pps"} {
		var rules []*Compiled
		for _, r := range []want.Rule{counted(value, above), packets} {
			c, err := Compile(&r)
			if err != nil {
				t.Fatal(value, err)
			}
			rules = append(rules, c)
		}
		var told []want.Crossing
		e := New(rules, func(c want.Crossing) { told = append(told, c) })
		give := func(at packet.Timestamp, point string, w Way, octets, packets, drops uint64) {
			e.Sample(&Sample{At: at, Agent: netip.IPv4Unspecified(), Point: point, Way: w, Octets: octets, Packets: packets, Drops: drops, Rate: 1})
		}
		give(100*second, "eth0", Received, 999, 9, 0)
		give(100*second, "eth1", Sent, 1e6, 1e6, 1e6)
		give(100*second, "eth0", Sent, 0, 0, 0)
		if len(told) != 0 {
			t.Errorf("%s: %+v", value, told)
		}
		give(101*second, "eth0", Sent, 1000, 10, 1)
		if len(told) != 1 || told[0].Over || told[0].Keys[0] != "eth0" || told[0].Keys[1] != "out" || told[0].Source != "eth0" {
			t.Fatalf("%s: %+v", value, told)
		}
		e.Advance(104 * second)
		if len(told) != 2 || !told[1].Over {
			t.Errorf("%s is not over: %+v", value, told)
		}
	}
}

// TestCountersRefuse what no counter tells.
func TestCountersRefuse(t *testing.T) {
	for what, change := range map[string]func(r *want.Rule){
		"a filter":           func(r *want.Rule) { r.Flow.Filter = "tcp" },
		"agents":             func(r *want.Rule) { r.Flow.Sources = []string{"192.0.2.1"} },
		"a key of packets":   func(r *want.Rule) { r.Flow.Keys = []string{"src"} },
		"no device":          func(r *want.Rule) { r.Flow.Points = nil },
		"a short window":     func(r *want.Rule) { r.Flow.Window = want.Duration(100 * time.Millisecond) },
		"drops of packets":   func(r *want.Rule) { r.Flow.Input, r.Flow.Keys = want.InputPackets, []string{"device"} },
		"the way of packets": func(r *want.Rule) { r.Flow.Input, r.Flow.Value = want.InputPackets, "" },
	} {
		r := counted("drops", "1pps")
		change(&r)
		if _, err := Compile(&r); err == nil {
			t.Error("not refused:", what)
		}
	}
}

// TestDeviceName: a name that could mean something in a filter is not looked at.
func TestDeviceName(t *testing.T) {
	for name, ok := range map[string]bool{"eth0": true, "br-int": true, "eth0.100": true, "": false, "a)or(b": false, "a b": false, "{src}": false, "sixteen-letters-": false} {
		if deviceName(name) != ok {
			t.Errorf("%q: not %v", name, ok)
		}
	}
}
