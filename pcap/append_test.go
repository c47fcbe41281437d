package pcap

import (
	"bytes"
	"errors"
	"io"
	"reflect"
	"testing"

	"opentap/packet"
)

func TestAppendPacketRoundTrip(t *testing.T) {
	for _, dir := range []Direction{DirectionUnknown, DirectionIn, DirectionOut} {
		for n := range 70 {
			data := bytes.Repeat([]byte{0xaa}, n)
			dirty := bytes.Repeat([]byte{0xff}, 512)[:0]
			b := AppendPacket(dirty, 7, 1234567890123456789, 1514, data, dir)
			if len(b) != PacketSize(n, dir) {
				t.Fatalf("len %d, PacketSize %d", len(b), PacketSize(n, dir))
			}
			typ, body, total, err := NextBlock(b)
			if err != nil || typ != BlockPacket || total != len(b) {
				t.Fatalf("NextBlock: %v %d %v", typ, total, err)
			}
			var p Packet
			if err := DecodePacket(body, &p); err != nil {
				t.Fatal(err)
			}
			want := Packet{Interface: 7, Time: 1234567890123456789, OrigLen: 1514, Data: data, Direction: dir}
			if !reflect.DeepEqual(p, want) {
				t.Fatalf("got %+v want %+v", p, want)
			}
			for _, c := range b[28+n : 28+(n+3)&^3] {
				if c != 0 {
					t.Fatal("padding is not zero")
				}
			}
		}
	}
}

func TestPad(t *testing.T) {
	for _, dir := range []Direction{DirectionUnknown, DirectionIn} {
		for _, n := range []int{16, 20, 4096, 65536} {
			pre := []byte("before--")
			b := AppendPacket(pre, 0, 5, 60, make([]byte, 61), dir)
			size := len(b)
			b = Pad(b, len(pre), n)
			if len(b) != size+n {
				t.Fatalf("dir %v: padded by %d, want %d", dir, len(b)-size, n)
			}
			_, body, total, err := NextBlock(b[len(pre):])
			if err != nil || total != len(b)-len(pre) {
				t.Fatal(total, err)
			}
			var p Packet
			if err := DecodePacket(body, &p); err != nil || p.Direction != dir || len(p.Data) != 61 {
				t.Fatalf("%+v %v", p, err)
			}
		}
	}
	for _, s := range []Stats{{Interface: 1}, {Interface: 1, Received: 4, Has: HasReceived}} {
		b := AppendStats(nil, &s)
		size := len(b)
		if b = Pad(b, 0, 256); len(b) != size+256 {
			t.Fatalf("padded by %d", len(b)-size)
		}
		_, body, _, err := NextBlock(b)
		var got Stats
		if err == nil {
			err = DecodeStats(body, &got)
		}
		if err != nil || !reflect.DeepEqual(got, s) {
			t.Fatalf("%+v %v", got, err)
		}
	}
	for _, n := range []int{0, 4, 12, 17, 65540, -4} {
		b := AppendPacket(nil, 0, 5, 60, make([]byte, 60), 0)
		if got := Pad(b, 0, n); len(got) != len(b) {
			t.Fatalf("padded by %d", n)
		}
	}
}

func TestStatsRoundTrip(t *testing.T) {
	s := Stats{
		Interface: 3, Time: 1 << 40, Start: 5, End: 6, Received: 7, Dropped: 8, FilterAccepted: 9, OSDropped: 10, Delivered: 11,
		Has: 0x7f, Comment: "naïve", Custom: []CustomOption{{PEN: PEN, Code: OptionCustomBinary, Data: []byte{1, 0, 3}}, {PEN: 9, Code: OptionCustomText, Data: []byte("x")}},
	}
	_, body, _, err := NextBlock(AppendStats(nil, &s))
	if err != nil {
		t.Fatal(err)
	}
	var got Stats
	if err := DecodeStats(body, &got); err != nil || !reflect.DeepEqual(got, s) {
		t.Fatalf("got %+v want %+v: %v", got, s, err)
	}
}

func TestNextBlockErrors(t *testing.T) {
	if _, _, _, err := NextBlock(nil); err != io.EOF {
		t.Fatal(err)
	}
	b := AppendPacket(nil, 0, 0, 60, make([]byte, 60), 0)
	for n := 1; n < len(b); n++ {
		if _, _, _, err := NextBlock(b[:n]); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("cut at %d: %v", n, err)
		}
	}
	b[4] = 13
	var fe *FormatError
	if _, _, _, err := NextBlock(b); !errors.As(err, &fe) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatal(err)
	}
	if _, _, _, err := NextBlock(make([]byte, 4096)); !errors.As(err, &fe) {
		t.Fatal(err)
	}
}

func TestAppendAllocs(t *testing.T) {
	buf, data := make([]byte, 0, 1<<16), make([]byte, 1500)
	s := Stats{Received: 1, Has: 0x7f, Custom: []CustomOption{{PEN: PEN, Data: data[:64]}}}
	var p Packet
	if n := testing.AllocsPerRun(100, func() {
		b := AppendPacket(buf, 1, 2, 1500, data, DirectionIn)
		b = Pad(b, 0, 128)
		_, body, _, _ := NextBlock(b)
		_ = DecodePacket(body, &p)
		b = AppendStats(b, &s)
		_ = AppendClassicPacket(b, 1, 1500, data, true)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func BenchmarkAppendPacket(b *testing.B) {
	buf := make([]byte, 0, 1<<20)
	for _, n := range []int{60, 576, 1514} {
		data := make([]byte, n)
		b.Run(sizeName(n), func(b *testing.B) {
			b.ReportAllocs()
			b.SetBytes(int64(n))
			dst := buf
			for i := 0; b.Loop(); i++ {
				if len(dst) > 1<<20-4096 {
					dst = buf
				}
				dst = AppendPacket(dst, 0, packet.Timestamp(i), uint32(n), data, 0)
			}
		})
	}
}

func sizeName(n int) string {
	return map[int]string{60: "60B", 576: "576B", 1514: "1514B"}[n]
}
