package netflow

import (
	"encoding/binary"
	"testing"

	"opentap/packet"
)

func sample(i int) Flow {
	f := Flow{
		First: packet.Timestamp(1_700_000_000e9 + int64(i)*1e6), Last: packet.Timestamp(1_700_000_001e9), IP: 4, Proto: 6, TCPFlags: 0x1b, EndReason: 1,
		Src: [16]byte{10: 255, 11: 255, 12: 10, 15: byte(i)}, Dst: [16]byte{10: 255, 11: 255, 12: 10, 15: 9}, SrcPort: uint16(i), DstPort: 443, Packets: uint64(i) + 1, Octets: 1 << 33,
	}
	if i%3 == 2 {
		f.IP = 6
	}
	if i%2 == 1 {
		f.RevPackets, f.RevOctets = 3, 300
	}
	return f
}

func samples(n int, v Version) (out []Flow) {
	for i := range n {
		if f := sample(i); f.IP == 4 || v != V5 {
			out = append(out, f)
		}
	}
	return out
}

// TestSequenceNumbers follows what each protocol counts: records (5), messages (9), data records (10).
func TestSequenceNumbers(t *testing.T) {
	for _, c := range []EncoderConfig{{Version: V5}, {Version: V9}, {Version: IPFIX}, {Version: IPFIX, Biflow: true}, {Version: IPFIX, MaxMessage: 512}, {Version: V9, MaxMessage: 9000}} {
		e, err := NewEncoder(c)
		if err != nil {
			t.Fatal(err)
		}
		flows := samples(300, c.Version)
		var want uint32
		for i := 0; len(flows) > 0; i++ {
			templates := i%3 == 0
			var stats *ExportStats
			if templates {
				stats = &ExportStats{Messages: 1}
			}
			msg, n := e.Append([]byte("before"), packet.Timestamp(1_700_000_100e9), flows, templates, stats)
			msg = msg[len("before"):]
			limit := c.MaxMessage
			if limit == 0 {
				limit = 1400
			}
			if n == 0 || len(msg) > limit {
				t.Fatalf("%+v: %d flows in %d octets", c, n, len(msg))
			}
			records := uint32(0)
			for _, f := range flows[:n] {
				records++
				if f.RevPackets > 0 && !c.Biflow {
					records++
				}
			}
			flows = flows[n:]
			at := map[Version]int{V5: 16, V9: 12, IPFIX: 8}[c.Version]
			if got := binary.BigEndian.Uint32(msg[at:]); got != want {
				t.Fatalf("%+v, message %d: sequence %d, want %d", c, i, got, want)
			}
			switch c.Version {
			case V5:
				if got := binary.BigEndian.Uint16(msg[2:]); uint32(got) != records || len(msg) != 24+48*int(records) {
					t.Fatalf("count %d, want %d, in %d octets", got, records, len(msg))
				}
				want += records
			case V9:
				declared := uint32(0)
				if templates {
					declared = 2
				}
				if got := binary.BigEndian.Uint16(msg[2:]); uint32(got) != records+declared {
					t.Fatalf("count %d, want %d", got, records+declared)
				}
				want++
			default:
				if got := binary.BigEndian.Uint16(msg[2:]); int(got) != len(msg) {
					t.Fatalf("length %d of %d", got, len(msg))
				}
				if stats != nil {
					records++
				}
				want += records
			}
			if c.Version != V5 { // sets follow one another to the end
				from := map[Version]int{V9: 20, IPFIX: 16}[c.Version]
				for from < len(msg) {
					size := int(binary.BigEndian.Uint16(msg[from+2:]))
					if size < 4 || c.Version == V9 && size%4 != 0 {
						t.Fatalf("set of %d octets", size)
					}
					from += size
				}
				if from != len(msg) {
					t.Fatalf("sets end at %d of %d", from, len(msg))
				}
			}
		}
		if (e.Saturated > 0) != (c.Version == V5) {
			t.Errorf("%s: %d saturated", c.Version, e.Saturated)
		}
		e.Reset()
		msg, _ := e.Append(nil, 0, nil, true, nil)
		if at := map[Version]int{V5: 16, V9: 12, IPFIX: 8}[c.Version]; binary.BigEndian.Uint32(msg[at:]) != 0 {
			t.Error("a new session goes on counting")
		}
	}
}

func TestUptime(t *testing.T) {
	e, err := NewEncoder(EncoderConfig{Version: V5, Boot: 1_000e9 + 999_999_999})
	if err != nil {
		t.Fatal(err)
	}
	f := Flow{IP: 4, First: 1_002e9 + 345_678_901, Last: 1_003e9, Packets: 1, Octets: 1}
	msg, _ := e.Append(nil, 1_010e9+900e6, []Flow{f}, false, nil)
	// The time of export less the uptime is the zero of the flows' clock, to the millisecond.
	zero := int64(binary.BigEndian.Uint32(msg[8:]))*1000 - int64(binary.BigEndian.Uint32(msg[4:]))
	if first := zero + int64(binary.BigEndian.Uint32(msg[24+24:])); first != 1_002_345 {
		t.Errorf("first at %d ms", first)
	}
}

func TestReversedTwiceIsTheSame(t *testing.T) {
	for _, f := range []Flow{sample(1), sample(2), {Proto: 1, DstPort: 8 << 8, ICMPTypeCode: 8 << 8}, {Proto: 58, DstPort: 128 << 8, ICMPTypeCode: 128 << 8}, {Proto: 1, DstPort: 13 << 8, ICMPTypeCode: 13 << 8}} {
		r := f.Reversed()
		if again := r.Reversed(); again != f {
			t.Errorf("%+v became %+v", f, again)
		}
	}
}

func TestAppendDoesNotAllocate(t *testing.T) {
	for _, v := range []Version{V5, V9, IPFIX} {
		e, err := NewEncoder(EncoderConfig{Version: v})
		if err != nil {
			t.Fatal(err)
		}
		flows := samples(100, v)
		buf := make([]byte, 0, 2000)
		if n := testing.AllocsPerRun(100, func() { buf, _ = e.Append(buf[:0], 5, flows, true, nil) }); n != 0 {
			t.Errorf("%s: %v allocations", v, n)
		}
	}
}

func TestEncoderConfigIsChecked(t *testing.T) {
	for _, c := range []EncoderConfig{{Version: 7}, {Version: V9, Biflow: true}, {Version: V9, MaxMessage: 100}, {Version: V9, MaxMessage: 70000}} {
		if _, err := NewEncoder(c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}
