package detect

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
	"opentap/wire/sflow"
)

var update = flag.Bool("update", false, "write the golden files")

func compile(t testing.TB, r want.Rule) *Compiled {
	t.Helper()
	if r.Name == "" {
		r.Name = "r"
	}
	c, err := Compile(&r)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// run is an engine and what it told.
type run struct {
	*Engine
	told []want.Crossing
}

func newRun(t testing.TB, rules ...want.Rule) *run {
	t.Helper()
	r := &run{}
	var list []*Compiled
	for _, rule := range rules {
		list = append(list, compile(t, rule))
	}
	r.Engine = New(list, func(c want.Crossing) { r.told = append(r.told, c) })
	return r
}

const t0 = packet.Timestamp(1_700_000_000e9)

// seen is a sample of a packet of 1000 octets that stands for 100.
func seen(at time.Duration, src string, source uint32) *Sample {
	p := &packet.Parsed{
		Layers: packet.LayerEthernet | packet.LayerIPv4 | packet.LayerTransport | packet.LayerTCP, Src: netip.MustParseAddr(src).As16(),
		Dst: netip.MustParseAddr("10.0.0.9").As16(), Proto: packet.ProtoTCP, SrcPort: 4000, DstPort: 80, IPOctets: 986,
	}
	return &Sample{At: t0.Add(at), Agent: netip.MustParseAddr("192.0.2.1"), Source: sflow.Source{Index: source}, In: 3, Packet: p, Octets: 1000, Rate: 100}
}

// burst has a source send n samples, one each 100 ms: 8 Mbit/s.
func (r *run) burst(from time.Duration, n int, src string, source uint32) time.Duration {
	for i := range n {
		r.Sample(seen(from+time.Duration(i)*100*time.Millisecond, src, source))
	}
	return from + time.Duration(n)*100*time.Millisecond
}

func fast() want.Rule {
	return want.Rule{
		Flow:      want.RuleFlow{Keys: []string{"src", "dport"}, Window: want.Duration(time.Second)},
		Threshold: want.RuleThreshold{Above: "7Mbps", MinSamples: 5, Hold: want.Duration(2 * time.Second)},
	}
}

func (r *run) story() string {
	var b strings.Builder
	for _, c := range r.told {
		what := "begins"
		if c.Over {
			what = "ends"
		}
		fmt.Fprintf(&b, "%v %s %s; ", c.At.Sub(t0.Time()), strings.Join(c.Keys, " "), what)
	}
	return b.String()
}

// TestThreshold: a flow is told when its rate is over, once, and when it has been below for long enough.
func TestThreshold(t *testing.T) {
	r := newRun(t, fast())
	end := r.burst(0, 40, "10.0.0.1", 1)
	r.Advance(t0.Add(end + 10*time.Second))
	// 9 samples of 800 kbit are in a window of a second that ends with the ninth: 7.2 Mbit. The last is at 3.9 s; by 4.5 s at most 6
	// of them, 4.2 Mbit below, are left in the window, and that lasts 2 s.
	if got := r.story(); got != "800ms 10.0.0.1 80 begins; 6.5s 10.0.0.1 80 ends; " {
		t.Error(got)
	}
	if c := r.told[0]; c.Value != 7_200_000 || c.Samples != 9 || c.Source != "0/0/1" || c.Agent != "192.0.2.1" {
		t.Errorf("%+v", c)
	}
}

// TestHysteresis: what falls below the threshold, but not below clear, goes on; and so does what comes back within hold.
func TestHysteresis(t *testing.T) {
	r := newRun(t, fast())
	at := r.burst(0, 20, "10.0.0.1", 1)
	for i := range 20 { // 5 Mbit/s: between
		r.Sample(seen(at+time.Duration(i)*160*time.Millisecond, "10.0.0.1", 1))
	}
	at += 20 * 160 * time.Millisecond
	r.Advance(t0.Add(at + 1500*time.Millisecond)) // silence, shorter than hold
	at = r.burst(at+1500*time.Millisecond, 20, "10.0.0.1", 1)
	if len(r.told) != 1 {
		t.Error(r.story())
	}
	r.Advance(t0.Add(at + 4*time.Second))
	if len(r.told) != 2 || !r.told[1].Over {
		t.Error(r.story())
	}
}

func TestMinimumSamplesCoolDownAndTop(t *testing.T) {
	rule := fast()
	rule.Threshold.MinSamples = 20
	r := newRun(t, rule)
	r.burst(0, 40, "10.0.0.1", 1)
	if len(r.told) != 0 {
		t.Error("with too few samples:", r.story())
	}

	rule = fast()
	rule.Threshold.CoolDown = want.Duration(10 * time.Second)
	r = newRun(t, rule)
	at := r.burst(0, 15, "10.0.0.1", 1)
	r.Advance(t0.Add(at + 5*time.Second))
	at = r.burst(at+5*time.Second, 15, "10.0.0.1", 1)
	r.Advance(t0.Add(at + 15*time.Second))
	r.burst(at+15*time.Second, 15, "10.0.0.1", 1)
	if len(r.told) != 3 || r.told[2].At.Sub(t0.Time()) < 15*time.Second {
		t.Error("with cool-down:", r.story())
	}

	rule = fast()
	rule.Flow.Top = 2
	r = newRun(t, rule)
	for i := range 20 {
		for k := range 5 {
			r.Sample(seen(time.Duration(i)*100*time.Millisecond, fmt.Sprintf("10.0.1.%d", k), 1))
		}
	}
	if len(r.told) != 2 || r.Suppressed == 0 {
		t.Error("with top 2:", r.story(), r.Suppressed)
	}
}

// TestCopiesDoNotCount: what several sources see of a flow is neither added up nor told twice, and a copy alone does not keep it
// alive.
func TestCopiesDoNotCount(t *testing.T) {
	rule := fast()
	rule.Threshold.Above = "10Mbps" // each source sees 8
	r := newRun(t, rule)
	for i := range 30 {
		at := time.Duration(i) * 100 * time.Millisecond
		r.Sample(seen(at, "10.0.0.1", 1))
		r.Sample(seen(at, "10.0.0.1", 2))
	}
	if len(r.told) != 0 {
		t.Error("sources were added up:", r.story())
	}
	r = newRun(t, fast())
	for i := range 60 {
		at := time.Duration(i) * 100 * time.Millisecond
		if i < 20 {
			r.Sample(seen(at, "10.0.0.1", 1))
		}
		if i > 5 {
			r.Sample(seen(at, "10.0.0.1", 2)) // the copy goes on
		}
	}
	if len(r.told) < 2 || !r.told[1].Over || r.told[1].Source != "0/0/1" {
		t.Error(r.story())
	}
}

// TestFilterAndKeys: filters look at the header where there is one, and at what is known of the packet where there is none.
func TestFilterAndKeys(t *testing.T) {
	for filter, n := range map[string]int{"tcp port 80": 1, "udp": 0, "src net 10.0.0.0/24 and not dst port 443": 1, "vlan 7": 0} {
		rule := fast()
		rule.Flow.Filter = filter
		rule.Flow.Keys = []string{"proto", "in", "vlan", "agent", "dst"}
		r := newRun(t, rule)
		r.burst(0, 20, "10.0.0.1", 1)
		if len(r.told) != n || n > 0 && !slices.Equal(r.told[0].Keys, []string{"tcp", "3", "0", "192.0.2.1", "10.0.0.9"}) {
			t.Errorf("%s: %s", filter, r.story())
		}
	}
	rule := fast()
	rule.Flow.Keys = []string{"dpid", "port"}
	r := newRun(t, rule)
	r.burst(0, 20, "10.0.0.1", 1)
	if len(r.told) != 0 {
		t.Error("a port that is not known is told")
	}
	r.Counters(t0, &sflow.Datagram{Agent: netip.MustParseAddr("192.0.2.1")}, &sflow.CounterSample{Source: sflow.Source{Index: 3}, HasPort: true, Port: sflow.OpenFlowPort{Datapath: 0xabc, Port: 4}})
	r.burst(3*time.Second, 20, "10.0.0.1", 1)
	if len(r.told) != 1 || !slices.Equal(r.told[0].Keys, []string{"0000000000000abc", "4"}) {
		t.Error(r.story())
	}
	rule = fast()
	rule.Flow.Sources = []string{"192.0.2.77"}
	r = newRun(t, rule)
	if r.burst(0, 20, "10.0.0.1", 1); len(r.told) != 0 {
		t.Error("an agent that is not listened to:", r.story())
	}
}

// TestInputs: a rule looks at one kind of thing alone, and a flow record counts with what it had in a window.
func TestInputs(t *testing.T) {
	for input, n := range map[string]int{"": 1, want.InputRecords: 0, want.InputPackets: 0} {
		rule := fast()
		if rule.Flow.Input = input; input == want.InputPackets {
			rule.Flow.Points = []string{"eth0"}
		}
		r := newRun(t, rule)
		if r.burst(0, 20, "10.0.0.1", 1); len(r.told) != n {
			t.Errorf("samples for %q: %s", input, r.story())
		}
	}
	rule := fast()
	rule.Flow.Input = want.InputRecords
	r := newRun(t, rule)
	s := seen(0, "10.0.0.1", 1)
	s.Octets, s.Packets, s.Counted, s.Duration = 8_000_000, 8000, 8000, 10*time.Second // 6.4 Mbit/s on average
	if r.Sample(s); len(r.told) != 0 {
		t.Error("a long flow is told for its whole:", r.story())
	}
	s.At, s.Duration = s.At.Add(5*time.Second), time.Second
	if r.Sample(s); len(r.told) != 1 || r.told[0].Value != 64_000_000 {
		t.Errorf("%+v", r.told)
	}
	rule.Flow.Input, rule.Flow.Points = want.InputPackets, []string{"eth0"}
	r = newRun(t, rule)
	for i := range 200 {
		s := seen(time.Duration(i)*time.Millisecond, "10.0.0.1", 1)
		s.Rate, s.Octets, s.Point = 1, 10_000, []string{"eth0", "eth1"}[i%2]
		r.Sample(s)
	}
	if len(r.told) != 1 || r.told[0].Agent != "eth0" || r.told[0].Source != "eth0" || r.told[0].Samples != 88 {
		t.Errorf("%+v", r.told)
	}
}

// TestManyFlows are bounded, and the large ones are found among them.
func TestManyFlows(t *testing.T) {
	r := newRun(t, fast())
	s := seen(0, "10.0.0.1", 1)
	for i := range 3 * maxFlows {
		s.At = t0.Add(time.Duration(i) * 5 * time.Microsecond)
		s.Packet.Src[12], s.Packet.Src[13], s.Packet.Src[14], s.Packet.Src[15] = 20, byte(i>>16), byte(i>>8), byte(i)
		r.Sample(s)
		if i%5000 == 0 {
			r.Sample(seen(time.Duration(i)*5*time.Microsecond, "10.0.0.1", 1))
		}
	}
	if n := len(r.rules[0].slots); n > maxFlows || r.Untracked == 0 || len(r.told) != 1 || r.told[0].Keys[0] != "10.0.0.1" {
		t.Errorf("%d flows, %d given up, told %s", n, r.Untracked, r.story())
	}
	top := r.Top(3)["r"]
	if len(top) != 3 || top[0].Keys[0] != "10.0.0.1" || !top[0].Active {
		t.Errorf("%+v", top)
	}
	r.Advance(t0.Add(time.Minute))
	if n := len(r.rules[0].index); n != 0 {
		t.Errorf("%d flows are kept that nobody sees", n)
	}
}

// TestReplay: the same datagrams decide the same, to the octet.
func TestReplay(t *testing.T) {
	rules := []want.Rule{
		{Name: "udp", Flow: want.RuleFlow{Keys: []string{"src", "dst", "proto"}, Window: want.Duration(500 * time.Millisecond)}, Threshold: want.RuleThreshold{Above: "100kbps", MinSamples: 5, Hold: want.Duration(300 * time.Millisecond)}},
		{Name: "ports", Flow: want.RuleFlow{Keys: []string{"dpid", "port"}, Value: "packets"}, Threshold: want.RuleThreshold{Above: "20pps", MinSamples: 5, Hold: want.Duration(time.Second)}},
		{Name: "busy", Flow: want.RuleFlow{Input: want.InputInterfaces, Keys: []string{"dpid", "port", "name", "way"}}, Threshold: want.RuleThreshold{Above: "1Mbps", Hold: want.Duration(time.Second)}},
		{Name: "tcp", Flow: want.RuleFlow{Keys: []string{"src", "dport"}, Filter: "tcp", Window: want.Duration(time.Second)}, Threshold: want.RuleThreshold{Above: "1Mbps", Hold: want.Duration(time.Second)}},
	}
	replay := func() []byte {
		r := newRun(t, rules...)
		b, err := os.ReadFile("../wire/sflow/testdata/sflow-ovs.pcap")
		if err != nil {
			t.Fatal(err)
		}
		rd, err := pcap.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		var (
			pk pcap.Packet
			p  packet.Parsed
			d  sflow.Datagram
		)
		for {
			if err := rd.Next(&pk); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				t.Fatal(err)
			}
			p.Decode(packet.LinkEthernet, pk.Data, pk.OrigLen)
			if err := d.Decode(pk.Data[p.Payload:], func(f *sflow.FlowSample) {
				var in packet.Parsed
				if f.Parse(&in) {
					s := SampleOf(pk.Time, &d, f, &in)
					r.Sample(&s)
				}
			}, func(c *sflow.CounterSample) { r.Counters(pk.Time, &d, c) }); err != nil {
				t.Fatal(err)
			}
		}
		r.Advance(pk.Time.Add(time.Minute))
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		for _, c := range r.told {
			if err := enc.Encode(c); err != nil {
				t.Fatal(err)
			}
		}
		return out.Bytes()
	}
	got := replay()
	if again := replay(); !bytes.Equal(got, again) {
		t.Fatal("it is not the same twice")
	}
	const golden = "testdata/sflow-ovs.golden"
	if *update {
		if err := errors.Join(os.MkdirAll("testdata", 0o755), os.WriteFile(golden, got, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	wanted, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, wanted) {
		t.Errorf("it decides otherwise (go test ./detect -run Replay -update):\n%s", got)
	}
	begun := bytes.Count(got, []byte("\n"))
	if begun < 6 || !bytes.Contains(got, []byte(`"over":true`)) {
		t.Errorf("little is told:\n%s", got)
	}
}

func TestRulesAreChecked(t *testing.T) {
	for field, change := range map[string]func(r *want.Rule){
		"name":                func(r *want.Rule) { r.Name = "a/b" },
		"flow.keys":           func(r *want.Rule) { r.Flow.Keys = []string{"src", "src"} },
		"flow.value":          func(r *want.Rule) { r.Flow.Value = "joules" },
		"flow.filter":         func(r *want.Rule) { r.Flow.Filter = "tcp prt 5" },
		"flow.window":         func(r *want.Rule) { r.Flow.Window = want.Duration(time.Hour) },
		"flow.sources":        func(r *want.Rule) { r.Flow.Sources = []string{"me"} },
		"flow.top":            func(r *want.Rule) { r.Flow.Top = -1 },
		"flow.input":          func(r *want.Rule) { r.Flow.Input = "tea leaves" },
		"flow.points":         func(r *want.Rule) { r.Flow.Points = []string{"eth0"} },
		"threshold.above":     func(r *want.Rule) { r.Threshold.Above = "20kpps" },
		"threshold.clear":     func(r *want.Rule) { r.Threshold.Clear = "1Gbps" },
		"threshold.hold":      func(r *want.Rule) { r.Threshold.Hold = -1 },
		"threshold.cool_down": func(r *want.Rule) { r.Threshold.CoolDown = want.Duration(1000 * time.Hour) },
	} {
		r := fast()
		r.Name = "r"
		change(&r)
		if _, err := Compile(&r); err == nil || !strings.HasPrefix(err.Error(), field+":") {
			t.Errorf("%s: %v", field, err)
		}
	}
	for text, n := range map[string]uint64{"100Mbps": 100e6, "1.5Gbps": 15e8, "2MBps": 16e6, "800bps": 800} {
		if got, err := ParseLevel(text, true); err != nil || got != n {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "100", "-1Mbps", "NaNbps", "1e30bps", "0bps", "InfGbps"} {
		if got, err := ParseLevel(text, true); err == nil {
			t.Errorf("%q is taken for %d", text, got)
		}
	}
}

func TestFill(t *testing.T) {
	names := []string{"src", "dport"}
	if got, err := Fill("host {src} and port {dport}", names, []string{"10.0.0.1", "80"}); err != nil || got != "host 10.0.0.1 and port 80" {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []string{"host {dst}", "host {}", "host {src", "host src}", "{{src}}"} {
		if got, err := Fill(text, names, []string{"10.0.0.1", "80"}); err == nil {
			t.Errorf("%q became %q", text, got)
		}
	}
	for _, bad := range []string{"1 or host 10.0.0.2", "", "a\nb", "{dport}", "$(x)"} {
		if got, err := Fill("host {src}", names, []string{bad, "80"}); err == nil {
			t.Errorf("%q became %q", bad, got)
		}
	}
	if got, err := Example("{src} {dport}", names); err != nil || got != "192.0.2.1 1" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestSampleDoesNotAllocate(t *testing.T) {
	rule := fast()
	rule.Flow.Filter = "tcp port 80"
	r := newRun(t, rule)
	r.burst(0, 20, "10.0.0.1", 1)
	s := seen(2*time.Second, "10.0.0.1", 1)
	if n := testing.AllocsPerRun(1000, func() { s.At += 1000; r.Sample(s) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// BenchmarkSamples is three rules alone.
func BenchmarkSamples(b *testing.B) {
	var rules []want.Rule
	for i := range 3 {
		r := fast()
		r.Name = fmt.Sprint("r", i)
		r.Flow.Filter = []string{"", "tcp", "udp and port 53"}[i]
		rules = append(rules, r)
	}
	r := newRun(b, rules...)
	s := seen(0, "10.0.0.1", 1)
	n := 0
	b.ReportAllocs()
	for b.Loop() {
		s.At += 3000
		s.Packet.Src[15] = byte(n)
		s.Packet.Src[14] = byte(n >> 12)
		r.Sample(s)
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
}

// BenchmarkDatagrams is all that is done for samples of a real switch: datagrams are decoded, what is missing is counted, the sampled headers
// are parsed, and keys of five rules, three of them with filters, are added up, one of them of counters.
func BenchmarkDatagrams(b *testing.B) {
	data, err := os.ReadFile("../wire/sflow/testdata/sflow-ovs.pcap")
	if err != nil {
		b.Fatal(err)
	}
	type datagram struct {
		at packet.Timestamp
		b  []byte
	}
	var all []datagram
	rd, err := pcap.NewReader(bytes.NewReader(data))
	if err != nil {
		b.Fatal(err)
	}
	var pk pcap.Packet
	var p packet.Parsed
	for rd.Next(&pk) == nil {
		p.Decode(packet.LinkEthernet, pk.Data, pk.OrigLen)
		all = append(all, datagram{pk.Time, bytes.Clone(pk.Data[p.Payload:])})
	}
	lasts := all[len(all)-1].at - all[0].at + 1
	var rules []want.Rule
	for i, f := range []want.RuleFlow{
		{Keys: []string{"src", "dst", "proto", "sport", "dport"}},
		{Keys: []string{"src", "dst"}, Filter: "tcp and not port 22"},
		{Keys: []string{"dst", "dport"}, Filter: "udp or tcp", Value: "packets"},
		{Keys: []string{"dpid", "port"}, Filter: "ip"},
		{Input: want.InputInterfaces, Keys: []string{"agent", "index", "way"}},
	} {
		above := "1Gbps"
		if f.Value == "packets" {
			above = "1Mpps"
		}
		rules = append(rules, want.Rule{Name: fmt.Sprint("r", i), Flow: f, Threshold: want.RuleThreshold{Above: above}})
	}
	r := newRun(b, rules...)
	var (
		d     sflow.Datagram
		tr    sflow.Tracker
		in    packet.Parsed
		at    packet.Timestamp
		shift packet.Timestamp
		s     Sample
		n     int
	)
	flow := func(f *sflow.FlowSample) {
		tr.Sample(&d, f)
		if f.Parse(&in) {
			s = SampleOf(at, &d, f, &in)
			r.Sample(&s)
			n++
		}
	}
	count := func(c *sflow.CounterSample) { r.Counters(at, &d, c) }
	b.ReportAllocs()
	for b.Loop() {
		for i := range all {
			at = all[i].at + shift
			_ = d.Decode(all[i].b, flow, count)
			tr.Datagram(&d)
		}
		shift += lasts
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/sample")
}
