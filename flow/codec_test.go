package flow

import (
	"testing"

	"pgregory.net/rapid"

	"opentap/packet"
)

func drawRecord(t *rapid.T) Record {
	u8, u16, u64 := rapid.Uint8(), rapid.Uint16(), rapid.Uint64()
	r := Record{
		Version: 4, Src: [16]byte{10: 255, 11: 255}, Proto: u8.Draw(t, "proto"), TOS: u8.Draw(t, "tos"), TCPFlags: u8.Draw(t, "flags"),
		SrcPort: u16.Draw(t, "sp"), DstPort: u16.Draw(t, "dp"), Packets: u64.Draw(t, "packets"), Octets: u64.Draw(t, "octets"),
		First: packet.Timestamp(rapid.Int64().Draw(t, "first")), EndReason: EndReason(rapid.IntRange(0, 5).Draw(t, "end")),
		PortsUnknown: rapid.Bool().Draw(t, "unknown"), ICMPType: u8.Draw(t, "type"), ICMPCode: u8.Draw(t, "code"),
	}
	r.Last = packet.Timestamp(rapid.Int64Min(int64(r.First)).Draw(t, "last"))
	r.Dst = r.Src
	r.Src[12], r.Dst[15] = u8.Draw(t, "src"), u8.Draw(t, "dst")
	if rapid.Bool().Draw(t, "v6") {
		r.Version = 6
		r.Src[0], r.Dst[0] = 0xfd, 0x20
	}
	if rapid.Bool().Draw(t, "more") {
		r.VLAN, r.InnerVLAN = u16.Draw(t, "vlan"), u16.Draw(t, "inner")
		r.RevPackets, r.RevOctets, r.RevTCPFlags, r.RevTOS = u64.Draw(t, "rp"), u64.Draw(t, "ro"), u8.Draw(t, "rf"), u8.Draw(t, "rt")
		r.SrcMAC[0], r.DstMAC[5] = u8.Draw(t, "smac"), u8.Draw(t, "dmac")
		r.Fragments = u64.Draw(t, "fragments")
		r.Sampling = rapid.Uint32().Draw(t, "sampling")
	}
	return r
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawRecord(t)
		b := RecordCodec{}.Append(nil, &want)
		got := Record{Packets: 99, SrcMAC: packet.MAC{1}} // rows fill all of it
		if err := (RecordCodec{}).Decode(b, &got); err != nil || got != want {
			t.Fatalf("%v\n got %+v\nwant %+v", err, got, want)
		}
		for n := range b {
			if err := (RecordCodec{}).Decode(b[:n], &got); err == nil {
				t.Fatalf("row cut after %d of %d octets is taken", n, len(b))
			}
		}
	})
}

func TestCodecDoesNotAllocate(t *testing.T) {
	r := Record{Version: 6, VLAN: 1, RevPackets: 1, Fragments: 1}
	b := RecordCodec{}.Append(nil, &r)
	if n := testing.AllocsPerRun(1000, func() {
		b = RecordCodec{}.Append(b[:0], &r)
		if err := (RecordCodec{}).Decode(b, &r); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// FuzzRecordCodec says that any row gives an error or a record that gives an equivalent row.
func FuzzRecordCodec(f *testing.F) {
	f.Add(RecordCodec{}.Append(nil, &Record{Version: 4}))
	f.Add(RecordCodec{}.Append(nil, &Record{Version: 6, VLAN: 5, RevPackets: 1, Fragments: 300, SrcMAC: packet.MAC{1}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var r, again Record
		if err := (RecordCodec{}).Decode(b, &r); err != nil {
			return
		}
		if err := (RecordCodec{}).Decode(RecordCodec{}.Append(nil, &r), &again); err != nil || r != again {
			t.Fatalf("%v: %+v became %+v", err, r, again)
		}
	})
}
