package sflow

import (
	"bytes"
	"net/netip"
	"testing"

	"opentap/internal/nettest"
	"opentap/packet"
)

// TestRealSwitch reads what Open vSwitch sent: three bridges of one agent, with the OpenFlow port of each interface.
func TestRealSwitch(t *testing.T) {
	var d Datagram
	var tracker Tracker
	n, flows, mirrored, tcp := 0, 0, 0, 0
	ports := make(map[OpenFlowPort]string)
	subs := make(map[uint32]bool)
	for i, m := range nettest.Datagrams(t, "testdata/sflow-ovs.pcap") {
		n++
		err := d.Decode(m, func(s *FlowSample) {
			flows++
			var p packet.Parsed
			if !s.Parse(&p) || p.Layers&packet.LayerEthernet == 0 || p.OrigLen != s.FrameLength-s.Stripped || s.Rate == 0 {
				t.Errorf("datagram %d: %+v, %+v", i, *s, p)
			}
			if p.Proto == packet.ProtoTCP {
				tcp++
			}
			if s.Output.Format == 2 && s.Output.Value >= 2 {
				mirrored++
			}
			tracker.Sample(&d, s)
		}, func(s *CounterSample) {
			if s.HasPort {
				ports[s.Port] = string(s.Name)
			}
			if s.Source.Type == 2 { // the switch itself
				return
			}
			if !s.HasInterface || s.Interface.IfIndex != s.Source.Index {
				t.Errorf("datagram %d: %+v", i, *s)
			}
		})
		if err != nil || d.Damaged > 0 || d.Agent != netip.MustParseAddr("127.0.0.1") {
			t.Errorf("datagram %d: %v, %+v", i, err, d)
		}
		subs[d.SubAgent] = true
		tracker.Datagram(&d)
	}
	if n != 222 || flows != 1138 || len(subs) != 3 || mirrored == 0 || tcp == 0 {
		t.Errorf("%d datagrams, %d flow samples, %d to several interfaces, %d of TCP, sub-agents %v", n, flows, mirrored, tcp, subs)
	}
	if name := ports[OpenFlowPort{1, 8}]; len(ports) == 0 || name == "" && len(ports) < 10 {
		t.Errorf("ports %v", ports)
	}
	if tracker.Losses != (Losses{}) {
		t.Errorf("%+v", tracker.Losses)
	}
}

// xdr builds datagrams.
type xdr []byte

func (x xdr) u(v ...uint32) xdr {
	for _, n := range v {
		x = be.AppendUint32(x, n)
	}
	return x
}

func (x xdr) opaque(format uint32, b []byte) xdr {
	x = append(x.u(format, uint32(len(b))), b...)
	for len(x)%4 != 0 {
		x = append(x, 0)
	}
	return x
}

func datagram(sequence uint32, samples ...xdr) []byte {
	x := xdr{}.u(5, 1, 0x0a000001, 0, sequence, 1000*sequence, uint32(len(samples)))
	for _, s := range samples {
		x = append(x, s...)
	}
	return x
}

// TestRecords reads each record that is understood, in both forms of samples.
func TestRecords(t *testing.T) {
	four := xdr{}.u(100, 17, 0x0a000002, 0x0a000003, 53, 5353, 0, 8)
	six := append(append(xdr{}.u(200, 6), bytes.Repeat([]byte{1}, 32)...), xdr{}.u(80, 443, 2, 0)...)
	eth := append(append(append(xdr{}.u(64), 2, 0, 0, 0, 0, 1, 0, 0), 2, 0, 0, 0, 0, 2, 0, 0), xdr{}.u(0x800)...)
	records := func(list ...xdr) xdr {
		x := xdr{}.u(uint32(len(list)))
		for _, r := range list {
			x = append(x, r...)
		}
		return x
	}
	plain := func(r xdr) xdr { return append(xdr{}.u(7, 1<<24|9, 512, 1000, 3, 4, 2<<30|2), r...) }
	expanded := func(r xdr) xdr { return append(xdr{}.u(7, 1, 9, 512, 1000, 3, 0, 4, 2, 2), r...) }
	gateway := xdr{}.u(1, 0x0a0000fe, 65000, 65001, 65002, 1, 2, 2, 65003, 65004)
	for _, c := range []struct {
		name   string
		sample xdr
		check  func(s *FlowSample, p *packet.Parsed) bool
	}{
		{"IPv4", xdr{}.opaque(1, plain(records(xdr{}.opaque(3, four), xdr{}.opaque(2, eth)))), func(s *FlowSample, p *packet.Parsed) bool {
			return p.IsIP() && p.SrcAddr() == netip.MustParseAddr("10.0.0.2") && p.DstPort == 5353 && p.SrcMAC[5] == 1 && p.DstMAC[5] == 2 && p.OrigLen == 64
		}},
		{"IPv6", xdr{}.opaque(3, expanded(records(xdr{}.opaque(4, six)))), func(s *FlowSample, p *packet.Parsed) bool {
			return p.TCPFlags == 2 && p.SrcPort == 80 && p.Src[0] == 1 && s.Octets() == 200
		}},
		{"switch and gateway", xdr{}.opaque(3, expanded(records(xdr{}.opaque(1001, xdr{}.u(5, 0, 6, 0)), xdr{}.opaque(1003, gateway), xdr{}.opaque(3, four)))), func(s *FlowSample, p *packet.Parsed) bool {
			return s.InVLAN == 5 && s.OutVLAN == 6 && s.SrcAS == 65001 && s.DstAS == 65004 && s.NextHop == netip.MustParseAddr("10.0.0.254")
		}},
	} {
		var d Datagram
		n := 0
		if err := d.Decode(datagram(1, c.sample), func(s *FlowSample) {
			n++
			var p packet.Parsed
			out, known := s.Output.Known()
			in, ok := s.Input.Known()
			if !s.Parse(&p) || !c.check(s, &p) || s.Sequence != 7 || s.Source != (Source{1, 9}) || s.Rate != 512 || s.Drops != 3 || in != 4 || !ok || known || out != 2 {
				t.Errorf("%s: %+v, %+v", c.name, *s, p)
			}
		}, nil); err != nil || n != 1 || d.Samples != 1 {
			t.Errorf("%s: %v, %d samples, %+v", c.name, err, n, d)
		}
	}
}

// TestDamage is confined to the sample that has it.
func TestDamage(t *testing.T) {
	sound := xdr{}.opaque(1, xdr{}.u(1, 9, 512, 1000, 0, 4, 5, 0))
	for name, m := range map[string][]byte{
		"a record that says it is longer": datagram(1, xdr{}.opaque(1, xdr{}.u(1, 9, 512, 1000, 0, 4, 5, 1, 1, 4000)), sound),
		"a header that says it is longer": datagram(1, xdr{}.opaque(1, xdr{}.u(1, 9, 512, 1000, 0, 4, 5, 1).opaque(1, xdr{}.u(1, 64, 4, 1<<30))), sound),
		"more records than octets":        datagram(1, xdr{}.opaque(1, xdr{}.u(1, 9, 512, 1000, 0, 4, 5, 1<<31)), sound),
		"a path without end":              datagram(1, xdr{}.opaque(1, xdr{}.u(1, 9, 512, 1000, 0, 4, 5, 1).opaque(1003, xdr{}.u(1, 1, 1, 1, 1, 1<<31, 1, 1<<31))), sound),
		"counters cut off":                datagram(1, xdr{}.opaque(2, xdr{}.u(1, 9, 1).opaque(1, xdr{}.u(1, 2))), sound),
	} {
		var d Datagram
		n := 0
		if err := d.Decode(m, func(*FlowSample) { n++ }, func(*CounterSample) { t.Error(name) }); err != nil || n != 1 || d.Damaged != 1 {
			t.Errorf("%s: %v, %d samples, %d damaged", name, err, n, d.Damaged)
		}
	}
	var d Datagram
	for name, m := range map[string][]byte{
		"empty": {}, "version 4": xdr{}.u(4), "no address": xdr{}.u(5, 9, 1), "no header": xdr{}.u(5, 1, 1, 2),
		"too many samples": xdr{}.u(5, 1, 1, 2, 3, 4, 1<<30), "fewer samples": datagram(1, sound)[:30],
	} {
		if err := d.Decode(m, nil, nil); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestTracker counts what is lost, takes back what was late, and sees an agent that began again.
func TestTracker(t *testing.T) {
	sample := func(n, drops uint32) xdr { return xdr{}.opaque(1, xdr{}.u(n, 9, 512, 1000, drops, 4, 5, 0)) }
	for _, c := range []struct {
		name  string
		order []uint32
		want  Losses
	}{
		{"in order", []uint32{1, 2, 3}, Losses{}},
		{"lost", []uint32{1, 4, 5}, Losses{Datagrams: 2, Samples: 2, Drops: 0}},
		{"late", []uint32{1, 3, 4, 2, 5}, Losses{Reordered: 1}},
		{"began again", []uint32{50, 51, 1, 2}, Losses{Restarts: 1}},
	} {
		var tr Tracker
		var d Datagram
		for _, n := range c.order {
			if err := d.Decode(datagram(n, sample(n, 0)), func(s *FlowSample) { tr.Sample(&d, s) }, nil); err != nil {
				t.Fatal(err)
			}
			tr.Datagram(&d)
		}
		if tr.Losses != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, tr.Losses, c.want)
		}
	}
	var tr Tracker
	var d Datagram
	for n := range uint32(5) {
		_ = d.Decode(datagram(n, sample(n, 2*n)), func(s *FlowSample) { tr.Sample(&d, s) }, nil)
	}
	if tr.Drops != 8 {
		t.Errorf("the agent dropped 8: %+v", tr.Losses)
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	var d Datagram
	var p packet.Parsed
	n := 0
	flow := func(s *FlowSample) { s.Parse(&p); n++ }
	counters := func(*CounterSample) { n++ }
	for _, m := range nettest.Datagrams(t, "testdata/sflow-ovs.pcap")[:20] {
		if got := testing.AllocsPerRun(20, func() { _ = d.Decode(m, flow, counters) }); got != 0 {
			t.Fatalf("%v allocations", got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range nettest.Datagrams(f, "testdata/sflow-ovs.pcap")[:30] {
		f.Add(m)
	}
	f.Add(datagram(1, xdr{}.opaque(1, xdr{}.u(1, 9, 512, 1000, 0, 4, 5, 1).opaque(1003, xdr{}.u(1, 1, 1, 1, 1, 1<<31, 1, 1<<31)))))
	f.Fuzz(func(t *testing.T, b []byte) {
		var d Datagram
		var tr Tracker
		n := uint32(0)
		err := d.Decode(b, func(s *FlowSample) {
			n++
			var p packet.Parsed
			if s.Parse(&p) && len(s.Header) > len(b) {
				t.Error("a header longer than its datagram")
			}
			tr.Sample(&d, s)
		}, func(*CounterSample) { n++ })
		tr.Datagram(&d)
		if n != d.Samples || err == nil && !d.Agent.IsValid() && len(b) < 24 {
			t.Errorf("%d samples, %v, %+v", n, err, d)
		}
	})
}

// BenchmarkSamples is decoding and following flow samples and the packets in them.
func BenchmarkSamples(b *testing.B) {
	m := nettest.Datagrams(b, "testdata/sflow-ovs.pcap")
	var d Datagram
	var p packet.Parsed
	var tr Tracker
	n := 0
	flow := func(s *FlowSample) { tr.Sample(&d, s); s.Parse(&p); n++ }
	b.ReportAllocs()
	for b.Loop() {
		for _, x := range m {
			_ = d.Decode(x, flow, nil)
			tr.Datagram(&d)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "samples/s")
}
