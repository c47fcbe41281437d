package query

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"opentap/filter"
	"opentap/flow"
	"opentap/flow/csvout"
	"opentap/packet"
)

func draw(t *rapid.T) flow.Record {
	u := func(name string, n int) int { return rapid.IntRange(0, n).Draw(t, name) }
	r := flow.Record{
		Version: 4, Src: [16]byte{10: 255, 11: 255, 12: 10, 15: byte(u("src", 5))}, Dst: [16]byte{10: 255, 11: 255, 12: 10, 15: byte(u("dst", 5))},
		SrcPort: uint16(u("sp", 3)), DstPort: uint16(50 + u("dp", 5)), Proto: []uint8{6, 17, 132, 47}[u("proto", 3)], VLAN: uint16(u("vlan", 3)),
		Packets: uint64(1 + u("packets", 1000)), Octets: uint64(u("octets", 1<<40)), First: packet.Timestamp(rapid.Int64Range(-1e12, 1e12).Draw(t, "first")),
		TOS: uint8(u("tos", 255)), SrcMAC: packet.MAC{2, 0, 0, 0, 0, byte(u("mac", 3))}, EndReason: flow.EndReason(u("end", 5)),
	}
	r.Last = r.First.Add(time.Duration(rapid.Int64Range(0, 1e12).Draw(t, "duration")))
	if u("v6", 3) == 0 {
		r.Version, r.Src[0], r.Dst[0] = 6, 0xfd, 0xfd
	}
	if u("rev", 2) == 0 {
		r.RevPackets, r.RevOctets = uint64(1+u("rp", 100)), uint64(u("ro", 1<<30))
	}
	if r.Proto == 47 {
		r.SrcPort, r.DstPort = 0, 0
	}
	if u("unknown", 9) == 0 && r.Proto != 47 {
		r.SrcPort, r.DstPort, r.PortsUnknown = 0, 0, true
	}
	return r
}

// TestNothingIsLost says that groups and intervals add up to all records, whatever they are counted by.
func TestNothingIsLost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		step := time.Duration(rapid.Int64Range(1e9, 1e12).Draw(t, "step"))
		by := rapid.SampledFrom([][]string{nil, {"src"}, {"dst", "dport"}, {"proto", "vlan", "tos", "smac", "dmac", "end", "ipversion", "sport"}}).Draw(t, "by")
		c, err := NewCounter(Config{By: by, Metric: "bytes", Step: step})
		if err != nil {
			t.Fatal(err)
		}
		var want Counts
		for range rapid.IntRange(0, 30).Draw(t, "n") {
			r := draw(t)
			r.Sampling = uint32(rapid.IntRange(0, 3).Draw(t, "sampling"))
			if err := c.Add(&r); err != nil {
				t.Fatal(err)
			}
			e := r.Estimate()
			want.add(Counts{e.Octets + e.RevOctets, e.Packets + e.RevPackets, 1})
		}
		var top, series Counts
		last := uint64(1 << 63)
		for _, g := range c.Top(0) {
			if g.Octets > last {
				t.Fatal("not in order")
			}
			last = g.Octets
			top.add(g.Counts)
		}
		for _, p := range c.Series(2) {
			if int64(p.Start)%int64(step) != 0 {
				t.Fatalf("interval at %d", p.Start)
			}
			series.add(p.Counts)
		}
		if top != want || series != want || c.Total() != want {
			t.Fatalf("groups %+v, intervals %+v, total %+v, want %+v", top, series, c.Total(), want)
		}
	})
}

func TestCSVRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var b bytes.Buffer
		w := csvout.NewCSV(&b, csvout.Options{CommunityID: true})
		var want []flow.Record
		for range rapid.IntRange(0, 5).Draw(t, "n") {
			r := draw(t)
			want = append(want, r)
			if err := w.Write(&r); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		n := 0
		err := ReadCSV(&b, func(r *flow.Record) error {
			if *r != want[n] {
				t.Fatalf("record %d\n got %+v\nwant %+v", n, *r, want[n])
			}
			n++
			return nil
		})
		if err != nil || n != len(want) {
			t.Fatalf("%d records, %v", n, err)
		}
	})
}

func TestCSVMistakes(t *testing.T) {
	head := "first,last,src_addr,dst_addr,protocol_number,packets,octets\n"
	for text, want := range map[string]string{
		"":         "empty",
		"a,b,c\n":  "no column",
		head + "x": "line 2: not 7 cells",
		head + "2026-01-02T15:04:05Z,2026-01-02T15:04:05Z,10.0.0.1,10.0.0.2,6,1,1,1": "line 2: not 7 cells",
		head + "2026-01-02T15:04:05Z,2026-01-02T15:04:04Z,10.0.0.1,10.0.0.2,6,1,1":   "ends before",
		head + "2026-01-02T15:04:05Z,2026-01-02T15:04:05Z,10.0.0.1,10.0.0.2,6,-1,1":  "line 2",
	} {
		if err := ReadCSV(strings.NewReader(text), func(*flow.Record) error { return nil }); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestFilter(t *testing.T) {
	tcp := flow.Record{
		Version: 4, Proto: 6, Src: [16]byte{10: 255, 11: 255, 12: 10, 15: 1}, Dst: [16]byte{10: 255, 11: 255, 12: 192, 15: 2}, SrcPort: 1234, DstPort: 443,
		VLAN: 100, InnerVLAN: 7, SrcMAC: packet.MAC{2, 0, 0, 0, 0, 1}, DstMAC: packet.MAC{255, 255, 255, 255, 255, 255},
	}
	late := flow.Record{Version: 6, Proto: 17, Src: [16]byte{0: 0xfd, 15: 1}, Dst: [16]byte{0: 0xff, 1: 2, 15: 2}, PortsUnknown: true}
	for expr, want := range map[string][2]bool{
		"":                                {true, true},
		"host 10.0.0.1":                   {true, false},
		"dst host 10.0.0.1":               {false, false},
		"src net 10.0.0.0/8 and tcp":      {true, false},
		"ip6":                             {false, true},
		"ip or ip6":                       {true, true},
		"not port 443":                    {false, true},
		"src port 443":                    {false, false},
		"tcp dst port 443":                {true, false},
		"udp port 443":                    {false, false},
		"portrange 440-450":               {true, false},
		"udp":                             {false, true},
		"ip proto 6":                      {true, false},
		"vlan":                            {true, false},
		"vlan 100":                        {true, false},
		"vlan 100 and vlan 7":             {true, false},
		"vlan 100 and vlan 8":             {false, false},
		"vlan 7":                          {false, false},
		"ether src 02:00:00:00:00:01":     {true, false},
		"ether broadcast":                 {true, false},
		"ip6 multicast":                   {false, true},
		"arp":                             {false, false},
		"host fd00::1":                    {false, true},
		"(tcp or udp) and not (vlan 100)": {false, true},
		"src 10.0.0.1 and dst 192.0.0.2":  {true, false},
		"src or dst net 192.0.0.0/24":     {true, false},
		"src and dst net 10.0.0.0/8":      {false, false},
	} {
		f, err := NewFilter(expr)
		if err != nil {
			t.Errorf("%q: %v", expr, err)
			continue
		}
		if got := [2]bool{f.Match(&tcp), f.Match(&late)}; got != want {
			t.Errorf("%q: %v, want %v", expr, got, want)
		}
	}
	for _, expr := range []string{"tcp[13] & 2 != 0", "greater 100", "mpls 5", "pppoes", "inbound", "vlan and vlan and vlan", "host"} {
		var e *filter.SyntaxError
		if _, err := NewFilter(expr); !errors.As(err, &e) {
			t.Errorf("%q: %v", expr, err)
		}
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{{By: []string{"colour"}, Metric: "bytes"}, {Metric: "joules"}, {Metric: "bytes", Step: -1}} {
		if _, err := NewCounter(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	c, err := NewCounter(Config{By: []string{"src"}, Metric: "flows", MaxKeys: 1, From: 100, To: 200})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		r := flow.Record{Version: 4, Src: [16]byte{15: byte(i)}, First: packet.Timestamp(50 * i), Last: packet.Timestamp(50*i + 40)}
		err = errors.Join(err, c.Add(&r)) // two end before From, one is a second group
	}
	if err == nil || c.Records() != 1 {
		t.Errorf("%d records, %v", c.Records(), err)
	}
}

func FuzzReadCSV(f *testing.F) {
	var b bytes.Buffer
	w := csvout.NewCSV(&b, csvout.Options{})
	_ = w.Write(&flow.Record{Version: 6, Proto: 6, RevPackets: 1, Packets: 2})
	_ = w.Close()
	f.Add(b.Bytes())
	f.Add([]byte("first,last,src_addr,dst_addr,protocol_number,packets,octets\n2026-01-02T15:04:05Z,2026-01-02T15:04:05Z,::1%a,1.2.3.4,6,1,1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := NewCounter(Config{By: []string{"src", "proto"}, Metric: "bytes", Step: time.Hour, MaxKeys: 1000})
		if err != nil {
			t.Fatal(err)
		}
		_ = ReadCSV(bytes.NewReader(b), c.Add)
		c.Top(3)
		c.Series(3)
	})
}
