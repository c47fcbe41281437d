package netflow

import (
	"encoding/json"
	"reflect"
	"slices"
	"testing"

	"opentap/internal/nettest"
	"opentap/packet"
)

// TestRealExporters reads what Open vSwitch sent. The numbers are tshark's.
func TestRealExporters(t *testing.T) {
	for _, c := range []struct {
		file                      string
		messages, records, noFlow uint64
	}{{"testdata/netflow5-ovs.pcap", 9, 112, 0}, {"testdata/ipfix-ovs.pcap", 228, 168, 0}} {
		d := NewDecoder(DecoderConfig{})
		var octets uint64
		for i, m := range nettest.Datagrams(t, c.file) {
			if err := d.Decode(m, func(f *Flow) {
				octets += f.Octets
				if f.Packets == 0 || f.First == 0 || f.Last < f.First || f.IP != 4 && f.IP != 6 && f.SrcMAC == (packet.MAC{}) {
					t.Errorf("%s, message %d: %+v", c.file, i, *f)
				}
			}); err != nil {
				t.Errorf("%s, message %d: %v", c.file, i, err)
			}
		}
		s := d.Stats()
		if s.Messages != c.messages || s.Records+s.NoFlow != c.records || s.Malformed+s.Unknown+s.Held != 0 || octets == 0 {
			t.Errorf("%s: %+v, %d octets", c.file, s, octets)
		}
	}
}

// TestReadsWhatTheEncoderWrites is the round trip, in all versions.
func TestReadsWhatTheEncoderWrites(t *testing.T) {
	for _, cfg := range []EncoderConfig{
		{Version: V5, Boot: 1_699_999_000e9},
		{Version: V9, Boot: 1_699_999_000e9},
		{Version: V9, Boot: 1_699_999_000e9, Sampling: 100},
		{Version: IPFIX},
		{Version: IPFIX, Biflow: true, Sampling: 7, Domain: 9},
	} {
		e, err := NewEncoder(cfg)
		if err != nil {
			t.Fatal(err)
		}
		d := NewDecoder(DecoderConfig{})
		flows := samples(500, cfg.Version)
		var want []Flow
		for _, f := range flows {
			f.Sampling = cfg.Sampling
			if cfg.Version == V5 {
				f.EndReason, f.VLAN, f.SrcMAC, f.DstMAC = 0, 0, packet.MAC{}, packet.MAC{}
				f.Octets = min(f.Octets, 1<<32-1)
			}
			if cfg.Version == V9 {
				f.EndReason = 0
			}
			r := f.Reversed()
			if !cfg.Biflow {
				f.RevPackets, f.RevOctets = 0, 0
			}
			want = append(want, f)
			if !cfg.Biflow && r.Packets > 0 {
				r.RevPackets, r.RevOctets, r.RevTCPFlags, r.RevTOS = 0, 0, 0, 0
				want = append(want, r)
			}
		}
		var got []Flow
		for i := 0; len(flows) > 0; i++ {
			stats := &ExportStats{NotSentFlows: 17}
			msg, n := e.Append(nil, 1_700_000_010e9, flows, i%3 == 0, stats)
			flows = flows[n:]
			if err := d.Decode(msg, func(f *Flow) { got = append(got, *f) }); err != nil {
				t.Fatal(err)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%+v: %d records, want %d", cfg, len(got), len(want))
		}
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("%+v, record %d:\n got %+v\nwant %+v", cfg, i, got[i], want[i])
			}
		}
		s := d.Stats()
		if s.LostMessages+s.LostRecords+s.Reordered+s.Restarts+s.Malformed+s.Unknown != 0 || cfg.Version == IPFIX && s.NotSentFlows != 17 {
			t.Errorf("%+v: %+v", cfg, s)
		}
	}
}

// messages makes n messages of one record or more each; the first has the templates.
func messages(t testing.TB, cfg EncoderConfig, n int) (out [][]byte) {
	t.Helper()
	e, err := NewEncoder(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		f := sample(i * 6) // of version 4, one direction
		f.RevPackets, f.RevOctets = 0, 0
		msg, _ := e.Append(nil, 1_700_000_010e9, []Flow{f}, i == 0, nil)
		out = append(out, msg)
	}
	return out
}

// TestSequence counts what is lost, takes back what was only late, and sees an exporter that began again.
func TestSequence(t *testing.T) {
	for _, v := range []Version{V5, V9, IPFIX} {
		m := messages(t, EncoderConfig{Version: v}, 12)
		for _, c := range []struct {
			name                      string
			order                     []int
			lost, reordered, restarts uint64
		}{
			{"in order", []int{0, 1, 2, 3, 4}, 0, 0, 0},
			{"lost", []int{0, 1, 2, 5, 6, 8}, 3, 0, 0},
			{"late", []int{0, 1, 3, 2, 4, 5}, 0, 1, 0},
			{"lost and late", []int{0, 1, 5, 3, 6}, 2, 1, 0},
			{"began again", []int{0, 1, 2, 3, 0, 1, 2}, 0, 0, 1},
		} {
			d := NewDecoder(DecoderConfig{})
			for _, i := range c.order {
				if err := d.Decode(m[i], func(*Flow) {}); err != nil {
					t.Fatal(err)
				}
			}
			if s := d.Stats(); s.LostMessages+s.LostRecords != c.lost || s.Reordered != c.reordered || s.Restarts != c.restarts || s.Records != uint64(len(c.order)) {
				t.Errorf("%s, %s: %+v", v, c.name, s)
			}
		}
	}
}

// TestSequenceOfLastRecords: Open vSwitch numbers messages of version 5 by their last record. The numbers and counts are those of
// testdata/netflow5-ovs.pcap, of one of its bridges.
func TestSequenceOfLastRecords(t *testing.T) {
	d := NewDecoder(DecoderConfig{})
	give := func(sequence uint32, n int) {
		t.Helper()
		m := make([]byte, headerV5+n*recordV5)
		be.PutUint16(m, 5)
		be.PutUint16(m[2:], uint16(n))
		be.PutUint32(m[16:], sequence)
		if err := d.Decode(m, func(*Flow) {}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range [][2]int{{29, 30}, {52, 23}, {54, 2}, {56, 2}} {
		give(uint32(c[0]), c[1])
	}
	if s := d.Stats(); s.LostRecords+s.Restarts+s.Reordered != 0 {
		t.Errorf("%+v", s)
	}
	give(63, 2) // 57 to 61 are lost
	if s := d.Stats(); s.LostRecords != 5 {
		t.Errorf("%+v", s)
	}
}

// TestDataWaitsForItsTemplate holds what cannot be read yet, up to a bound.
func TestDataWaitsForItsTemplate(t *testing.T) {
	for _, v := range []Version{V9, IPFIX} {
		m := messages(t, EncoderConfig{Version: v}, 40)
		d := NewDecoder(DecoderConfig{Held: 500})
		n := 0
		count := func(*Flow) { n++ }
		for _, msg := range append(slices.Clone(m[1:]), m[0]) {
			if err := d.Decode(msg, count); err != nil {
				t.Fatal(err)
			}
		}
		s := d.Stats()
		if s.Late == 0 || s.Unknown == 0 || s.Late+s.Unknown != 39 || s.Held != 0 || n != int(s.Late)+1 {
			t.Errorf("%s: %d records, %+v", v, n, s)
		}
		// A Decoder that takes over knows the templates.
		b, err := json.Marshal(d.State())
		if err != nil {
			t.Fatal(err)
		}
		var state State
		if err := json.Unmarshal(b, &state); err != nil {
			t.Fatal(err)
		}
		next := NewDecoder(DecoderConfig{})
		if err := next.Restore(state); err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(next.State(), d.State()) {
			t.Errorf("%s: %+v became %+v", v, d.State(), next.State())
		}
		n = 0
		if err := next.Decode(m[5], count); err != nil || n != 1 {
			t.Errorf("%s: %d records after a restart, %v", v, n, err)
		}
	}
}

// set builds an IPFIX message of sets.
func message(sets ...[]byte) []byte {
	b := make([]byte, headerIPFIX)
	for _, s := range sets {
		b = append(b, s...)
	}
	be.PutUint16(b, 10)
	be.PutUint16(b[2:], uint16(len(b)))
	be.PutUint32(b[4:], 1_700_000_000)
	return b
}

func set(id uint16, words ...uint16) []byte {
	b := be.AppendUint16(nil, id)
	b = be.AppendUint16(b, uint16(4+2*len(words)))
	for _, w := range words {
		b = be.AppendUint16(b, w)
	}
	return b
}

// TestHostileTemplates are refused, and leave nothing behind that could be read wrongly or for ever.
func TestHostileTemplates(t *testing.T) {
	for name, m := range map[string][]byte{
		"no octets":            message(set(2, 256, 1, 4, 0), set(256, 1, 2)),
		"an address of three":  message(set(2, 256, 1, 8, 3), set(256, 1, 2)),
		"identifier of a set":  message(set(2, 3, 1, 4, 1)),
		"too long":             message(set(2, 256, 2, 99, 65534, 98, 65534)),
		"ends in a field":      message(set(2, 256, 3, 8, 4)),
		"scope of none":        message(set(3, 256, 1, 0, 34, 4)),
		"more scope than":      message(set(3, 256, 1, 2, 34, 4)),
		"variable address":     message(set(2, 256, 1, 8, 65535)),
		"a set in its header":  append(message(), set(256)[:2]...),
		"set of three octets":  message([]byte{1, 0, 0, 3}),
		"set beyond the end":   message([]byte{1, 0, 0, 200}),
		"set that means noth.": message(set(77, 1, 2)),
	} {
		d := NewDecoder(DecoderConfig{})
		if name == "a set in its header" {
			be.PutUint16(m[2:], uint16(len(m)))
		}
		err := d.Decode(m, func(f *Flow) { t.Errorf("%s: gave %+v", name, *f) })
		if err == nil || d.Stats().Malformed == 0 {
			t.Errorf("%s: is taken: %+v", name, d.Stats())
		}
	}
	// A sound template of an identifier that is then declared wrongly holds no more.
	d := NewDecoder(DecoderConfig{})
	if err := d.Decode(message(set(2, 256, 2, 8, 4, 2, 2)), nil); err != nil {
		t.Fatal(err)
	}
	if err := d.Decode(message(set(2, 256, 2, 8, 0, 2, 2)), nil); err == nil {
		t.Error("a field without octets is taken")
	}
	if err := d.Decode(message(set(256, 0x0a00, 1, 5)), func(*Flow) { t.Error("read by a template that is no more") }); err != nil {
		t.Error(err)
	}
}

func TestBoundsOfState(t *testing.T) {
	d := NewDecoder(DecoderConfig{Domains: 3, Templates: 4})
	for i := range uint16(10) {
		m := message(set(2, 256+i, 2, 8, 4, 2, 4))
		if err := d.Decode(m, nil); err != nil {
			t.Fatal(err)
		}
		be.PutUint32(m[12:], uint32(i))
		_ = d.Decode(m, nil)
	}
	s := d.Stats()
	if len(d.domains) != 3 || s.Refused != 7 || s.Evicted != 6 {
		t.Errorf("%d domains, %+v", len(d.domains), s)
	}
	for _, dom := range d.domains {
		if len(dom.templates) > 4 {
			t.Errorf("%d templates", len(dom.templates))
		}
	}
}

// TestSamplingIsSaidApart takes the interval from options, and gives each record that of its sampler.
func TestSamplingIsSaidApart(t *testing.T) {
	d := NewDecoder(DecoderConfig{})
	var got []uint32
	take := func(f *Flow) { got = append(got, f.Sampling) }
	for _, m := range [][]byte{
		message(set(3, 300, 3, 1, 302, 2, 305, 2, 306, 2), set(300, 1, 1, 99), set(300, 2, 1, 999)),
		message(set(2, 256, 3, 8, 4, 2, 2, 302, 2), set(256, 0x0a00, 1, 5, 2), set(256, 0x0a00, 1, 5, 1)),
		message(set(2, 257, 2, 8, 4, 2, 2), set(257, 0x0a00, 1, 5)), // which of the two samplers is not said
		message(set(3, 301, 2, 1, 130, 4, 34, 2), set(301, 0x7f00, 1, 50), set(257, 0x0a00, 1, 5)),
	} {
		if err := d.Decode(m, take); err != nil {
			t.Fatal(err)
		}
	}
	if want := []uint32{1000, 100, 0, 50}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestVariableLength reads fields that say their length, and passes over enterprise fields.
func TestVariableLength(t *testing.T) {
	d := NewDecoder(DecoderConfig{Stream: true})
	tmpl := set(2, 256, 4, 0x8000|1, 65535, 0, 4242, 8, 4, 82, 65535, 2, 4)
	data := append([]byte{1, 0, 0, 0, 3, 'a', 'b', 'c', 10, 0, 0, 9, 255, 1, 0}, make([]byte, 256)...)
	data = append(data, 0, 0, 0, 7)
	data = append(data, 0, 10, 0, 0, 8, 0, 0, 0, 0, 1)
	be.PutUint16(data[2:], uint16(len(data)))
	var got []Flow
	if err := d.Decode(message(tmpl, data), func(f *Flow) { got = append(got, *f) }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 || got[0].Packets != 7 || got[1].Packets != 1 || got[1].Src[15] != 8 {
		t.Errorf("%+v", got)
	}
	if err := d.Decode(message([]byte{1, 0, 0, 6, 200, 1}), nil); err != nil {
		t.Errorf("what is shorter than a record is padding: %v", err)
	}
	if err := d.Decode(message([]byte{1, 0, 0, 14, 255, 255, 255, 1, 1, 1, 1, 1, 1, 1}), nil); err == nil {
		t.Error("a field beyond the end of its set is taken")
	}
	if err := d.Decode(message(set(2, 256, 0)), nil); err != nil || d.Stats().Withdrawn != 1 {
		t.Errorf("not withdrawn: %v, %+v", err, d.Stats())
	}
}

func TestDecodeDoesNotAllocate(t *testing.T) {
	for _, v := range []Version{V5, V9, IPFIX} {
		m := messages(t, EncoderConfig{Version: v}, 2)
		d := NewDecoder(DecoderConfig{})
		n := 0
		fn := func(*Flow) { n++ }
		_ = d.Decode(m[0], fn)
		if got := testing.AllocsPerRun(100, func() { _ = d.Decode(m[1], fn) }); got != 0 {
			t.Errorf("%s: %v allocations", v, got)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range []Version{V5, V9, IPFIX} {
		m := messages(f, EncoderConfig{Version: v}, 2)
		f.Add(m[0], m[1])
	}
	for _, file := range []string{"testdata/netflow5-ovs.pcap", "testdata/ipfix-ovs.pcap"} {
		m := nettest.Datagrams(f, file)
		f.Add(m[0], m[len(m)-1])
	}
	f.Add(message(set(3, 300, 3, 1, 302, 2, 305, 2, 306, 2)), message(set(300, 1, 1, 99)))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		d := NewDecoder(DecoderConfig{Domains: 2, Templates: 3, Held: 1000, Stream: len(a)%2 == 0})
		given := uint64(0)
		for _, m := range [][]byte{a, b, a, b} {
			before := d.Stats()
			err := d.Decode(m, func(f *Flow) {
				given++
				if f.Last < f.First {
					t.Errorf("ends before it begins: %+v", *f)
				}
			})
			after := d.Stats()
			if err != nil && after.Malformed == before.Malformed && after.Refused == before.Refused {
				t.Errorf("an error that is not counted: %v", err)
			}
		}
		s := d.Stats()
		if s.Records != given || d.held < 0 || d.held > 1000 || len(d.domains) > 2 {
			t.Errorf("%d given, %d held, %+v", given, d.held, s)
		}
		next := NewDecoder(DecoderConfig{Domains: 2, Templates: 3})
		if err := next.Restore(d.State()); err != nil {
			t.Errorf("its own state is refused: %v", err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, v := range []Version{V5, V9, IPFIX} {
		b.Run(v.String(), func(b *testing.B) {
			e, err := NewEncoder(EncoderConfig{Version: v})
			if err != nil {
				b.Fatal(err)
			}
			flows := samples(60, v)
			first, _ := e.Append(nil, 1_700_000_010e9, flows, true, nil)
			msg, _ := e.Append(nil, 1_700_000_010e9, flows, false, nil)
			d := NewDecoder(DecoderConfig{})
			n := 0
			fn := func(*Flow) { n++ }
			_ = d.Decode(first, fn)
			n = 0
			b.ReportAllocs()
			for b.Loop() {
				_ = d.Decode(msg, fn)
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}
