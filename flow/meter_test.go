package flow

import (
	"fmt"
	"io"
	"math"
	"slices"
	"testing"
	"time"

	"opentap/packet"
)

// TestFragmentsAreCountedHonestly meters a datagram in three fragments: the first has the ports, the others are a flow of
// their own with ports not known, and no octet is missing.
func TestFragmentsAreCountedHonestly(t *testing.T) {
	var got []Record
	m, err := NewMeter(DefaultConfig(), func(r *Record) { got = append(got, *r) })
	if err != nil {
		t.Fatal(err)
	}
	for i, off := range []uint16{0, 185, 370} {
		more := uint16(0x2000)
		if i == 2 {
			more = 0
		}
		l4 := make([]byte, 1480)
		if i == 0 {
			copy(l4, udp(1000, 2000, 4448))
		}
		f := frameOf(nil, host4(1), host4(2), 17, l4, 1500, 2000)
		f[20], f[21] = byte((off|more)>>8), byte(off|more)
		m.AddFrame(packet.Timestamp(i), packet.LinkEthernet, f, uint32(len(f)))
	}
	m.Flush(EndForced)
	s := m.Stats()
	if s.Metered != 3 || s.Octets != 4500 || s.Fragments != 3 || s.PortsUnknown != 2 || len(got) != 2 {
		t.Fatalf("stats %+v, %d records", s, len(got))
	}
	if r := got[0]; r.SrcPort != 1000 || r.DstPort != 2000 || r.PortsUnknown || r.Packets != 1 || r.Fragments != 1 {
		t.Errorf("first fragment: %+v", r)
	}
	if r := got[1]; r.SrcPort != 0 || r.DstPort != 0 || !r.PortsUnknown || r.Packets != 2 || r.Octets != 3000 || r.Fragments != 2 {
		t.Errorf("later fragments: %+v", r)
	}
}

// TestConnectionIsOneRecordEachWay plays a TCP connection: trailing ACKs do not make new flows, the same ports again do.
func TestConnectionIsOneRecordEachWay(t *testing.T) {
	for _, bidirectional := range []bool{false, true} {
		cfg := DefaultConfig()
		cfg.Bidirectional = bidirectional
		var got []Record
		m, err := NewMeter(cfg, func(r *Record) { got = append(got, *r) })
		if err != nil {
			t.Fatal(err)
		}
		ts := packet.TimestampOf(time.Unix(1_700_000_000, 0))
		send := func(out bool, flags byte) {
			f := frameOf(nil, host4(1), host4(2), 6, tcp(40000, 80, flags), 60, 100)
			if !out {
				f = frameOf(nil, host4(2), host4(1), 6, tcp(80, 40000, flags), 60, 100)
			}
			m.AddFrame(ts, packet.LinkEthernet, f, uint32(len(f)))
			ts = ts.Add(10 * time.Millisecond)
		}
		for range 2 {
			send(true, 0x02)
			send(false, 0x12)
			send(true, 0x10)
			send(true, 0x18)
			send(false, 0x11)
			send(true, 0x11)
			send(false, 0x10)
			send(true, 0x10)
		}
		m.Advance(ts.Add(time.Minute))
		want, packets := 4, uint64(5)
		if bidirectional {
			want = 2
		}
		if len(got) != want {
			t.Fatalf("bidirectional %v: %d records, want %d: %+v", bidirectional, len(got), want, got)
		}
		for _, r := range got {
			if r.EndReason != EndOfFlow {
				t.Errorf("ended by %v", r.EndReason)
			}
			if bidirectional && (r.SrcPort != 40000 || r.Packets != packets || r.RevPackets != 3 || r.TCPFlags != 0x1b || r.RevTCPFlags != 0x13) {
				t.Errorf("record %+v", r)
			}
		}
	}
}

// TestFramesThatAreNoFlow counts what is not IP, and what is cut or broken before the end of the IP header, apart.
func TestFramesThatAreNoFlow(t *testing.T) {
	m, err := NewMeter(DefaultConfig(), func(*Record) { t.Error("a record") })
	if err != nil {
		t.Fatal(err)
	}
	arp := append(make([]byte, 12), 8, 6)
	arp = append(arp, make([]byte, 28)...)
	whole := frameOf(nil, host4(1), host4(2), 17, udp(1, 2, 40), 60, 100)
	broken := append([]byte(nil), whole...)
	broken[14] = 0x41 // a header of four octets
	m.AddFrame(1, packet.LinkEthernet, arp, uint32(len(arp)))
	m.AddFrame(2, packet.LinkEthernet, whole[:20], uint32(len(whole)))
	m.AddFrame(3, packet.LinkEthernet, broken, uint32(len(broken)))
	m.Flush(EndForced)
	if s := m.Stats(); s.Packets != 3 || s.NonIP != 1 || s.Truncated != 1 || s.Malformed != 1 || s.Metered != 0 {
		t.Errorf("stats %+v", s)
	}
}

// BenchmarkMeterFile is the whole way of a packet: file in memory, decode, table, expiry, records.
func BenchmarkMeterFile(b *testing.B) {
	for _, flows := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprintf("flows=%d", flows), func(b *testing.B) {
			const packets = 4_000_000
			file := mixed(flows, packets, time.Unix(1_700_000_000, 0), 20*time.Second, 96)
			cfg := DefaultConfig()
			cfg.MaxFlows = 2_000_000
			b.ReportAllocs()
			for b.Loop() {
				records := 0
				m, err := NewMeter(cfg, func(*Record) { records++ })
				if err != nil {
					b.Fatal(err)
				}
				if err := m.AddAll(batchesOf(file, io.EOF)); err != nil {
					b.Fatal(err)
				}
				m.Flush(EndForced)
				if s := m.Stats(); s.Metered != packets || records < flows {
					b.Fatalf("%d records, %+v", records, s)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/packets, "ns/packet")
		})
	}
}

// TestInner meters what tunnels carry, and everything else as it is.
func TestInner(t *testing.T) {
	inner := frameOf(nil, host4(1), host4(2), 6, tcp(1000, 80, 2), 60, 200)
	vxlan := append(udp(50000, 4789, 16+len(inner)), 8, 0, 0, 0, 0, 0, 42, 0)
	once := frameOf(nil, host4(101), host4(102), 17, append(vxlan, inner...), 36+len(inner), 500)
	gre := append([]byte{0, 0, 8, 0}, once[14:]...)
	twice := frameOf(nil, host6(201), host6(202), 47, gre, 44+len(once)-14, 500)
	other := frameOf(nil, host4(3), host4(4), 17, udp(5, 6, 40), 60, 200)
	for _, in := range []bool{false, true} {
		cfg := DefaultConfig()
		cfg.Inner = in
		var got []Record
		sink := func(r *Record) { got = append(got, *r) }
		m, err := NewMeter(cfg, sink)
		if err != nil {
			t.Fatal(err)
		}
		frames := [][]byte{once, twice, other, inner}
		for i, f := range frames {
			m.AddFrame(packet.Timestamp(i), packet.LinkEthernet, f, uint32(len(f)))
		}
		m.Flush(EndForced)
		want := 4
		if in {
			want = 2
			if r := got[0]; r.SrcPort != 1000 || r.DstPort != 80 || r.Packets != 3 || r.Octets != 180 {
				t.Errorf("inner: %+v", r)
			}
		}
		if s := m.Stats(); len(got) != want || s.Metered != 4 {
			t.Errorf("inner %v: %d records, %+v", in, len(got), s)
		}
		alone := got
		got = nil
		if _, err := Parallel(cfg, 2, framesOf(frames, []packet.Timestamp{0, 1, 2, 3}, io.EOF), sink); err != nil || !slices.Equal(got, alone) {
			t.Errorf("inner %v, two jobs: %v\n got %+v\nwant %+v", in, err, got, alone)
		}
	}
}

func TestEstimate(t *testing.T) {
	cfg := DefaultConfig()
	cfg.Sampling = 100
	m, err := NewMeter(cfg, func(r *Record) {
		e := r.Estimate()
		if r.Packets != 1 || r.Octets != 60 || r.Sampling != 100 || e.Packets != 100 || e.Octets != 6000 || e.Sampling != 100 || e.First != r.First {
			t.Errorf("%+v, estimated %+v", r, e)
		}
		r.Octets, r.Sampling = math.MaxUint64/2, 3
		if e := r.Estimate(); e.Octets != math.MaxUint64 {
			t.Errorf("overflow gives %d", e.Octets)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	f := frameOf(nil, host4(3), host4(4), 17, udp(5, 6, 40), 60, 200)
	m.AddFrame(1, packet.LinkEthernet, f, uint32(len(f)))
	m.Flush(EndForced)
	if m.Stats().RecordsGiven != 1 {
		t.Error("no record")
	}
}
