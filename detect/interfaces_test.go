package detect

import (
	"math"
	"net/netip"
	"testing"
	"time"

	"opentap/packet"
	"opentap/want"
	"opentap/wire/sflow"
)

func interfaces(value, above string, keys ...string) want.Rule {
	return want.Rule{
		Name: "i", Flow: want.RuleFlow{Input: want.InputInterfaces, Keys: keys, Value: value}, Threshold: want.RuleThreshold{Above: above, Hold: want.Duration(time.Second)},
	}
}

// poll gives what interface 3 of an agent has counted.
func (r *run) poll(at time.Duration, seq uint32, c sflow.Counters) {
	r.Counters(t0.Add(at), &sflow.Datagram{Agent: netip.MustParseAddr("192.0.2.1")}, &sflow.CounterSample{
		Sequence: seq, Source: sflow.Source{Index: 3}, HasInterface: true, Interface: c, HasPort: true, Port: sflow.OpenFlowPort{Datapath: 0xabc, Port: 4}, Name: []byte("s1-eth4"),
	})
}

// The rate between two samples stands until the next one, however short the window is, and ends when none comes any more.
func TestInterfaceRates(t *testing.T) {
	r := newRun(t, interfaces("", "8Mbps", "agent", "index", "name", "dpid", "port", "way"))
	r.poll(0, 1, sflow.Counters{InOctets: 1e12})
	r.poll(30*time.Second, 2, sflow.Counters{InOctets: 1e12 + 31e6, OutOctets: 29e6}) // 31 MB in 30 s are more than 8 Mbps, 29 MB are not
	if len(r.told) != 1 || r.told[0].Over || r.told[0].Value != 8266666 || r.told[0].Agent != "192.0.2.1" || r.told[0].Source != "0/0/3" {
		t.Fatalf("%+v", r.told)
	}
	for i, k := range []string{"192.0.2.1", "3", "s1-eth4", "0000000000000abc", "4", "in"} {
		if r.told[0].Keys[i] != k {
			t.Errorf("%q is not %q", r.told[0].Keys[i], k)
		}
	}
	r.Advance(t0.Add(119 * time.Second))
	if len(r.told) != 1 {
		t.Fatalf("it does not stand: %+v", r.told)
	}
	if top := r.Top(5)["i"]; len(top) != 2 || top[0].Value != 8266666 || !top[0].Active || top[0].Peak != 8266666 {
		t.Errorf("%+v", top)
	}
	r.Advance(t0.Add(130 * time.Second)) // three times 30 s after the last sample
	if len(r.told) != 2 || !r.told[1].Over {
		t.Errorf("it does not end: %+v", r.told)
	}
}

func TestInterfaceCounters(t *testing.T) {
	const never = math.MaxUint32
	for name, x := range map[string]struct {
		value, above string
		was, now     sflow.Counters
		seq          uint32 // of the second sample; the first has 10
		after        time.Duration
		told         int
	}{
		"packets of all sorts":    {"packets", "10pps", sflow.Counters{}, sflow.Counters{InUnicast: 40, InMulticast: 30, InBroadcast: 30}, 11, 10 * time.Second, 1},
		"drops both ways":         {"drops", "1pps", sflow.Counters{}, sflow.Counters{InDiscards: 10, OutDiscards: 10}, 11, 10 * time.Second, 2},
		"errors":                  {"errors", "1pps", sflow.Counters{}, sflow.Counters{OutErrors: 10}, 11, 10 * time.Second, 1},
		"too few":                 {"errors", "1pps", sflow.Counters{}, sflow.Counters{OutErrors: 9}, 11, 10 * time.Second, 0},
		"32 bits began again":     {"drops", "1pps", sflow.Counters{InDiscards: never - 5}, sflow.Counters{InDiscards: 5}, 11, 10 * time.Second, 1},
		"a sample was lost":       {"drops", "1pps", sflow.Counters{}, sflow.Counters{InDiscards: 10}, 13, 10 * time.Second, 1},
		"not counted":             {"drops", "1pps", sflow.Counters{}, sflow.Counters{InDiscards: never, OutDiscards: never}, 11, 10 * time.Second, 0},
		"the agent began anew":    {"drops", "1pps", sflow.Counters{InDiscards: 100}, sflow.Counters{InDiscards: 99}, 1, 10 * time.Second, 0},
		"octets went back":        {"drops", "1pps", sflow.Counters{InOctets: 9}, sflow.Counters{InOctets: 8, InDiscards: 99}, 11, 10 * time.Second, 0},
		"too long ago":            {"drops", "1pps", sflow.Counters{}, sflow.Counters{InDiscards: 1e6}, 11, 11 * time.Minute, 0},
		"at the same time":        {"drops", "1pps", sflow.Counters{}, sflow.Counters{InDiscards: 1e6}, 11, 0, 0},
		"octets are not counted":  {"", "1kbps", sflow.Counters{InOctets: math.MaxUint64}, sflow.Counters{InOctets: math.MaxUint64}, 11, 10 * time.Second, 0},
		"the most there could be": {"", "1kbps", sflow.Counters{}, sflow.Counters{InOctets: math.MaxUint64 - 1}, 11, 10 * time.Second, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, interfaces(x.value, x.above, "index", "way"))
			r.poll(0, 10, x.was)
			r.poll(x.after, x.seq, x.now)
			if len(r.told) != x.told {
				t.Errorf("%+v", r.told)
			}
		})
	}
}

// A rule looks at the interfaces that it names, by ifIndex or name, and at no packets; others do not look at counters.
func TestInterfacesThatAreNamed(t *testing.T) {
	for point, told := range map[string]int{"3": 1, "s1-eth4": 1, "s1-eth5": 0, "4": 0} {
		r := interfaces("drops", "1pps", "index", "way")
		r.Flow.Points = []string{point}
		packets := want.Rule{Name: "p", Flow: want.RuleFlow{Keys: []string{"agent"}, Value: "packets"}, Threshold: want.RuleThreshold{Above: "1pps", MinSamples: 1}}
		e := newRun(t, r, packets)
		e.poll(0, 1, sflow.Counters{})
		e.poll(time.Second, 2, sflow.Counters{InDiscards: 5})
		if len(e.told) != told {
			t.Errorf("%s: %+v", point, e.told)
		}
	}
	for what, change := range map[string]func(r *want.Rule){
		"a filter":         func(r *want.Rule) { r.Flow.Filter = "tcp" },
		"a key of packets": func(r *want.Rule) { r.Flow.Keys = []string{"in"} },
		"many samples":     func(r *want.Rule) { r.Threshold.MinSamples = 5 },
		"errors of packets": func(r *want.Rule) {
			r.Flow.Input, r.Flow.Keys, r.Flow.Value = want.InputSamples, []string{"src"}, "errors"
		},
	} {
		r := interfaces("drops", "1pps", "index", "way")
		change(&r)
		if _, err := Compile(&r); err == nil {
			t.Error("not refused:", what)
		}
	}
}

// Counters of any number of interfaces take a bounded room, and nothing is allocated for those that are known.
func TestInterfacesAllocateNothing(t *testing.T) {
	r := newRun(t, interfaces("drops", "1pps", "index", "way"))
	d := &sflow.Datagram{Agent: netip.MustParseAddr("192.0.2.1")}
	s := &sflow.CounterSample{Source: sflow.Source{Index: 3}, HasInterface: true, Name: []byte("eth3")}
	at := t0
	give := func() {
		at += packet.Timestamp(time.Second)
		s.Sequence++
		s.Interface.InOctets += 100
		r.Counters(at, d, s)
	}
	give()
	give()
	if n := testing.AllocsPerRun(100, give); n > 0 {
		t.Errorf("%v allocations for a sample", n)
	}
	for i := range uint32(maxCounted + 10) {
		r.Counters(at, d, &sflow.CounterSample{Source: sflow.Source{Index: i + 10}, HasInterface: true})
	}
	if len(r.counted) != maxCounted || r.Untracked == 0 {
		t.Errorf("%d interfaces, %d not followed", len(r.counted), r.Untracked)
	}
}
