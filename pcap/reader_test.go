package pcap

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"opentap/packet"
)

// order builds blocks in either byte order, as other writers do.
type order interface {
	binary.ByteOrder
	binary.AppendByteOrder
}

func block(bo order, typ uint32, body ...[]byte) []byte {
	b := bytes.Join(body, nil)
	b = append(b, make([]byte, align4(len(b))-len(b))...)
	n := uint32(12 + len(b))
	out := bo.AppendUint32(bo.AppendUint32(nil, typ), n)
	return bo.AppendUint32(append(out, b...), n)
}

func option(bo order, code uint16, v ...byte) []byte {
	b := bo.AppendUint16(bo.AppendUint16(nil, code), uint16(len(v)))
	b = append(b, v...)
	return append(b, make([]byte, align4(len(v))-len(v))...)
}

func text(bo order, code uint16, s string) []byte { return option(bo, code, []byte(s)...) }

func words(bo order, w ...uint32) []byte {
	var b []byte
	for _, x := range w {
		b = bo.AppendUint32(b, x)
	}
	return b
}

func section(bo order, opts ...[]byte) []byte {
	return block(bo, BlockSection, words(bo, byteOrderMagic), bo.AppendUint16(bo.AppendUint16(nil, 1), 2), words(bo, ^uint32(0), ^uint32(0)), bytes.Join(opts, nil))
}

func iface(bo order, link uint16, snap uint32, opts ...[]byte) []byte {
	return block(bo, BlockInterface, bo.AppendUint16(bo.AppendUint16(nil, link), 0), words(bo, snap), bytes.Join(opts, nil))
}

func enhanced(bo order, id uint32, ts uint64, data string, opts ...[]byte) []byte {
	d := append([]byte(data), make([]byte, align4(len(data))-len(data))...)
	return block(bo, BlockPacket, words(bo, id, uint32(ts>>32), uint32(ts), uint32(len(data)), uint32(len(data))+100), d, bytes.Join(opts, nil))
}

// readAll returns copies of all packets, and the error that ended them unless it is io.EOF.
func readAll(s Source) ([]Packet, error) {
	var out []Packet
	for {
		var p Packet
		if err := s.Next(&p); err != nil {
			if err == io.EOF {
				err = nil
			}
			return out, err
		}
		p.Data = append([]byte{}, p.Data...)
		out = append(out, p)
	}
}

func TestReaderBothOrders(t *testing.T) {
	for _, bo := range []order{binary.LittleEndian, binary.BigEndian} {
		t.Run(bo.String(), func(t *testing.T) {
			other := order(binary.BigEndian)
			if bo == order(binary.BigEndian) {
				other = binary.LittleEndian
			}
			f := bytes.Join([][]byte{
				section(bo, text(bo, 4, "tool"), text(bo, 2, "box"), text(bo, 3, "linux"), text(bo, 1, "hello"), option(bo, 0)),
				iface(bo, 1, 65535, text(bo, 2, "eth0"), text(bo, 3, "uplink"), text(bo, 11, "\x00udp"), option(bo, 6, 1, 2, 3, 4, 5, 6),
					option(bo, 8, bo.AppendUint64(nil, 1e10)...), text(bo, 12, "os"), option(bo, 0)), // microseconds
				iface(bo, 147, 0, option(bo, 9, 9), option(bo, 14, bo.AppendUint64(nil, 100)...)),
				iface(bo, 101, 3, option(bo, 9, 0x80|10)),
				block(bo, 4, []byte("names")),               // Name Resolution Block
				block(bo, 0x0bad, make([]byte, 100000)),     // Custom Block
				block(bo, 0x40000bad, words(bo, PEN, 1, 2)), // Custom Block
				enhanced(bo, 0, 1_000_001, "abc", text(bo, 1, "note"), option(bo, 2, bo.AppendUint32(nil, 2)...), option(bo, 0)),
				enhanced(bo, 1, 5_000_000_007, "defg"),
				enhanced(bo, 2, 1<<10+1<<9, "x"),
				block(bo, BlockSimple, words(bo, 60), make([]byte, 60)),
				block(bo, BlockOldPacket, bo.AppendUint16(bo.AppendUint16(nil, 2), 9), words(bo, 0, 1<<10, 2, 70), []byte("ol\x00\x00")),
				block(bo, BlockStatistics, words(bo, 0, 0, 3_000_000), option(bo, 4, bo.AppendUint64(nil, 42)...), option(bo, 2, words(bo, 0, 1_000_000)...),
					option(bo, 2989, append(bo.AppendUint32(nil, PEN), 1, 0, 7)...), option(bo, 19373, append(bo.AppendUint32(nil, PEN), 0, 0, 0)...), option(bo, 0)),
				section(other),
				iface(other, 1, 0),
				enhanced(other, 0, 1, "second"),
				block(other, BlockStatistics, words(other, 0, 0, 1)),
			}, nil)
			r, err := NewReader(iotest.HalfReader(bytes.NewReader(f)))
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(Section{"box", "linux", "tool", "hello"}, r.Section()); d != "" {
				t.Fatal(d)
			}
			got, err := readAll(r)
			if err != nil {
				t.Fatal(err)
			}
			want := []Packet{
				{0, 1_000_001_000, 103, []byte("abc"), DirectionOut, "note"},
				{1, 105_000_000_007, 104, []byte("defg"), 0, ""},
				{2, 1_500_000_000, 101, []byte("x"), 0, ""},
				{0, 0, 60, make([]byte, 60), 0, ""},
				{2, 1_000_000_000, 70, []byte("ol"), 0, ""},
				{3, 1000, 106, []byte("second"), 0, ""},
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatal(d)
			}
			wantIf := []Interface{
				{"eth0", "uplink", "udp", "os", 1, 65535, 1e10, packet.MAC{1, 2, 3, 4, 5, 6}, true},
				{Link: 147},
				{Link: 101, SnapLen: 3},
				{Link: 1},
			}
			if d := cmp.Diff(wantIf, r.Interfaces()); d != "" {
				t.Fatal(d)
			}
			wantStats := []Stats{
				{Time: 3e9, Start: 1e9, Received: 42, Has: HasStart | HasReceived, Custom: []CustomOption{{PEN, 2989, []byte{1, 0, 7}}}},
				{Interface: 3, Time: 1000},
			}
			if d := cmp.Diff(wantStats, r.Stats()); d != "" {
				t.Fatal(d)
			}
		})
	}
}

func TestReaderClassic(t *testing.T) {
	for _, bo := range []order{binary.LittleEndian, binary.BigEndian} {
		for magic, unit := range map[uint32]packet.Timestamp{magicMicros: 1000, magicNanos: 1} {
			f := bytes.Join([][]byte{
				words(bo, magic), bo.AppendUint16(bo.AppendUint16(nil, 2), 4), words(bo, 0, 0, 96, 0xf0000000|113),
				words(bo, 0xffffffff, 999999, 3, 1000), []byte("abc"), words(bo, 1, 2, 0, 5),
			}, nil)
			r, err := NewReader(bytes.NewReader(f))
			if err != nil {
				t.Fatal(err)
			}
			got, err := readAll(r)
			want := []Packet{{0, 0xffffffff*1e9 + 999999*unit, 1000, []byte("abc"), 0, ""}, {0, 1e9 + 2*unit, 5, []byte{}, 0, ""}}
			if d := cmp.Diff(want, got); err != nil || d != "" {
				t.Fatal(err, d)
			}
			if d := cmp.Diff([]Interface{{Link: 113, SnapLen: 96}}, r.Interfaces()); d != "" {
				t.Fatal(d)
			}
		}
	}
}

func TestClock(t *testing.T) {
	for _, tt := range []struct {
		resol  uint8
		offset int64
		in     uint64
		want   packet.Timestamp
	}{
		{0, 0, 7, 7e9},
		{3, 0, 1234, 1.234e9},
		{6, 0, 1700000000123456, 1700000000123456000},
		{9, 0, 1<<63 - 1, 1<<63 - 1},
		{9, 0, ^uint64(0), -1},
		{12, 0, 1_000_000_001_999, 1_000_000_001},
		{19, 0, 15e18, 1.5e9},
		{0x80, 0, 3, 3e9},
		{0x80 | 32, 0, 1<<32 + 1<<31, 1.5e9},
		{0x80 | 63, 0, 1<<63 | 1<<62, 1.5e9},
		{6, -1, 1, -1e9 + 1000},
		{6, 1 << 62, 1, 1<<63 - 1},
		{6, -1 << 62, 1, -1 << 63},
		{0, 0, ^uint64(0), 1<<63 - 1},
	} {
		c, ok := newClock(tt.resol, tt.offset)
		if got := c.time(tt.in); !ok || got != tt.want {
			t.Errorf("resolution %#x offset %d: %d is %d, want %d", tt.resol, tt.offset, tt.in, got, tt.want)
		}
	}
	for _, bad := range []uint8{20, 127, 0x80 | 64, 0xff} {
		if _, ok := newClock(bad, 0); ok {
			t.Errorf("resolution %#x accepted", bad)
		}
	}
}

func TestReaderErrors(t *testing.T) {
	le := binary.LittleEndian
	head := bytes.Join([][]byte{section(le), iface(le, 1, 0)}, nil)
	good := enhanced(le, 0, 1, "abcd")
	patch := func(b []byte, at int, v uint32) []byte {
		b = bytes.Clone(b)
		le.PutUint32(b[at:], v)
		return b
	}
	for _, tt := range []struct {
		name string
		file []byte
		msg  string
		cut  bool
	}{
		{"empty", nil, "ends inside its first header", true},
		{"text", []byte("hello world, hello world"), "neither pcap nor pcapng", false},
		{"short pcap header", AppendClassicHeader(nil, 1, 0, true)[:20], "ends inside its header", true},
		{"pcap version", patch(AppendClassicHeader(nil, 1, 0, true), 4, 1), "version 1.0", false},
		{"pcap huge packet", append(AppendClassicHeader(nil, 1, 0, true), words(le, 0, 0, MaxPacket+1, 9)...), "more than 262144", false},
		{"pcap cut packet", append(AppendClassicHeader(nil, 1, 0, true), words(le, 0, 0, 4, 9)...), "ends inside a packet", true},
		{"bad magic", patch(section(le), 8, 1), "byte order magic", false},
		{"section version", patch(section(le), 12, 2), "version 2", false},
		{"section length", patch(section(le), 4, 24), "impossible length 24", false},
		{"trailer", append(bytes.Clone(head), patch(good, len(good)-4, 99)...), "lengths differ", false},
		{"zeros after a crash", append(bytes.Clone(head), make([]byte, 4096)...), "impossible length 0", false},
		{"odd length", append(bytes.Clone(head), patch(good, 4, 37)...), "impossible length 37", false},
		{"no such interface", append(bytes.Clone(head), patch(good, 8, 1)...), "interface 1 is not described", false},
		{"captured length", append(bytes.Clone(head), patch(good, 20, 5)...), "captured length", false},
		{"huge known block", append(bytes.Clone(head), words(le, BlockPacket, 0xfffffff0)...), "more than 1048576", false},
		{"huge unknown block", append(bytes.Clone(head), words(le, 77, 0xfffffff0)...), "ends inside a block", true},
		{"unknown block trailer", append(bytes.Clone(head), patch(block(le, 77), 8, 1)...), "lengths differ", false},
		{"option past the block", append(bytes.Clone(head), enhanced(le, 0, 1, "abcd", words(le, 1|100<<16))...), "option runs past", false},
		{"resolution", append(section(le), iface(le, 1, 0, option(le, 9, 30))...), "time resolution", false},
		{"cut header", append(bytes.Clone(head), good[:5]...), "ends inside a block header", true},
		{"cut packet", append(bytes.Clone(head), good[:20]...), "ends inside a block", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := NewReader(iotest.OneByteReader(bytes.NewReader(tt.file)))
			if err == nil {
				_, err = readAll(r)
				var p Packet
				if again := r.Next(&p); again != err {
					t.Fatalf("not sticky: %v, then %v", err, again)
				}
			}
			var fe *FormatError
			if !errors.As(err, &fe) || !strings.Contains(fe.Error(), tt.msg) || errors.Is(err, io.ErrUnexpectedEOF) != tt.cut {
				t.Fatalf("got %v", err)
			}
			if strings.HasPrefix(string(tt.file), string(head)) && fe.Offset != int64(len(head)) {
				t.Fatalf("offset %d, want %d", fe.Offset, len(head))
			}
		})
	}
	broken := errors.New("broken")
	r, err := NewReader(io.MultiReader(bytes.NewReader(head), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readAll(r); !errors.Is(err, broken) {
		t.Fatal(err)
	}
}

// endless repeats a block after a start, for ever or n times.
type endless struct {
	start, block []byte
	n            int
	rest         []byte
}

func (e *endless) Read(b []byte) (int, error) {
	if len(e.rest) == 0 {
		if e.start != nil {
			e.rest, e.start = e.start, nil
		} else if e.n--; e.n < 0 {
			return 0, io.EOF
		} else {
			e.rest = e.block
		}
	}
	n := copy(b, e.rest)
	e.rest = e.rest[n:]
	return n, nil
}

func TestReaderMemory(t *testing.T) {
	le := binary.LittleEndian
	head := append(section(le), iface(le, 1, 0)...)
	big := strings.Repeat("x", 60000)
	for name, b := range map[string][]byte{
		"statistics": block(le, BlockStatistics, words(le, 0, 0, 1), text(le, 1, big), option(le, 2989, append(words(le, PEN), big...)...)),
		"interfaces": iface(le, 1, 0, text(le, 2, big)),
		"unknown":    block(le, 99, make([]byte, 1<<20)),
	} {
		t.Run(name, func(t *testing.T) {
			r, err := NewReader(&endless{start: head, block: b, n: 3000})
			if err != nil {
				t.Fatal(err)
			}
			_, _ = readAll(r)
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			if m.HeapAlloc > 64<<20 {
				t.Fatalf("%d octets held", m.HeapAlloc)
			}
			runtime.KeepAlive(r)
		})
	}
}

func TestReaderAllocs(t *testing.T) {
	le := binary.LittleEndian
	b := AppendPacket(nil, 0, 1, 1514, make([]byte, 1514), DirectionIn)
	r, err := NewReader(&endless{start: append(section(le), iface(le, 1, 0)...), block: b, n: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	var p Packet
	if n := testing.AllocsPerRun(1000, func() {
		if err := r.Next(&p); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

// What the writers write, Reader reads: any description, packet and statistics.
func TestRoundTrip(t *testing.T) {
	text := rapid.StringN(0, 40, -1)
	data := rapid.SliceOfN(rapid.Byte(), 0, 300)
	rapid.Check(t, func(t *rapid.T) {
		var buf bytes.Buffer
		s := Section{text.Draw(t, "hardware"), text.Draw(t, "os"), text.Draw(t, "application"), text.Draw(t, "comment")}
		w, err := NewNGWriter(&buf, s)
		if err != nil {
			t.Fatal(err)
		}
		var interfaces []Interface
		var packets []Packet
		var stats []Stats
		for range rapid.IntRange(1, 30).Draw(t, "blocks") {
			kind := rapid.IntRange(0, 5).Draw(t, "kind")
			if len(interfaces) == 0 || kind == 0 {
				i := Interface{
					Name: text.Draw(t, "name"), Description: text.Draw(t, "description"), Filter: text.Draw(t, "filter"), OS: text.Draw(t, "ifos"),
					Link: packet.LinkType(rapid.Uint16().Draw(t, "link")), SnapLen: rapid.Uint32().Draw(t, "snaplen"), SpeedBPS: rapid.Uint64().Draw(t, "speed"), HasMAC: rapid.Bool().Draw(t, "hasmac"),
				}
				if i.HasMAC {
					i.MAC = packet.MAC{1, 2, 3, 4, 5, byte(len(interfaces))}
				}
				if n, err := w.AddInterface(i); err != nil || n != len(interfaces) {
					t.Fatal(n, err)
				}
				interfaces = append(interfaces, i)
				continue
			}
			id := rapid.IntRange(0, len(interfaces)-1).Draw(t, "interface")
			ts := packet.Timestamp(rapid.Int64().Draw(t, "time"))
			if kind == 1 {
				st := Stats{Interface: id, Time: ts, Has: StatsField(rapid.IntRange(0, 127).Draw(t, "has")), Comment: text.Draw(t, "statcomment")}
				for bit, f := range map[StatsField]*uint64{HasReceived: &st.Received, HasDropped: &st.Dropped, HasFilterAccepted: &st.FilterAccepted, HasOSDropped: &st.OSDropped, HasDelivered: &st.Delivered} {
					if st.Has&bit != 0 {
						*f = uint64(ts) + uint64(bit)
					}
				}
				if st.Has&HasStart != 0 {
					st.Start = 5
				}
				if st.Has&HasEnd != 0 {
					st.End = ts
				}
				for range rapid.IntRange(0, 2).Draw(t, "customs") {
					st.Custom = append(st.Custom, CustomOption{PEN, OptionCustomBinary, append([]byte{1, 0}, data.Draw(t, "custom")...)})
				}
				if err := w.WriteStats(&st); err != nil {
					t.Fatal(err)
				}
				stats = append(stats, st)
				continue
			}
			p := Packet{
				Interface: id, Time: ts, OrigLen: rapid.Uint32().Draw(t, "original"), Data: data.Draw(t, "data"),
				Direction: Direction(rapid.IntRange(0, 2).Draw(t, "direction")), Comment: text.Draw(t, "packetcomment"),
			}
			if err := w.WritePacket(&p); err != nil {
				t.Fatal(err)
			}
			packets = append(packets, p)
		}
		r, err := NewReader(&buf)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(r)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(packets, got) + cmp.Diff(interfaces, r.Interfaces()) + cmp.Diff(s, r.Section()); d != "" {
			t.Fatal(d)
		}
		if len(stats)+len(r.Stats()) > 0 {
			if d := cmp.Diff(stats, r.Stats()); d != "" {
				t.Fatal(d)
			}
		}
	})
}

func TestClassicRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nanos := rapid.Bool().Draw(t, "nanos")
		var buf bytes.Buffer
		w, err := NewClassicWriter(&buf, packet.LinkRaw, 0, nanos)
		if err != nil {
			t.Fatal(err)
		}
		var want []Packet
		for range rapid.IntRange(0, 20).Draw(t, "packets") {
			p := Packet{
				Time: packet.Timestamp(rapid.Int64Range(0, 1<<32*1e9-1).Draw(t, "time")), OrigLen: rapid.Uint32().Draw(t, "original"),
				Data: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "data"),
			}
			if err := w.WritePacket(&p); err != nil {
				t.Fatal(err)
			}
			if !nanos {
				p.Time -= p.Time % 1000
			}
			want = append(want, p)
		}
		r, err := NewReader(&buf)
		if err != nil {
			t.Fatal(err)
		}
		got, err := readAll(r)
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Fatal(err, d)
		}
		if d := cmp.Diff([]Interface{{Link: packet.LinkRaw, SnapLen: MaxPacket}}, r.Interfaces()); d != "" {
			t.Fatal(d)
		}
	})
}

func TestWriterRefuses(t *testing.T) {
	w, err := NewNGWriter(io.Discard, Section{})
	if err != nil {
		t.Fatal(err)
	}
	if w.WritePacket(&Packet{}) == nil || w.WriteStats(&Stats{Interface: 0}) == nil {
		t.Fatal("an interface that is not there")
	}
	if _, err := w.AddInterface(Interface{}); err != nil {
		t.Fatal(err)
	}
	if w.WritePacket(&Packet{Data: make([]byte, MaxPacket+1)}) == nil {
		t.Fatal("a packet that is too long")
	}
	if err := w.WritePacket(&Packet{Data: make([]byte, MaxPacket)}); err != nil {
		t.Fatal(err)
	}
	c, err := NewClassicWriter(io.Discard, 1, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if c.WritePacket(&Packet{Time: -1}) == nil || c.WritePacket(&Packet{Time: 1 << 32 * 1e9}) == nil || c.WritePacket(&Packet{Data: make([]byte, MaxPacket+1)}) == nil {
		t.Fatal("a packet the format cannot hold")
	}
}

func FuzzReader(f *testing.F) {
	for _, bo := range []order{binary.LittleEndian, binary.BigEndian} {
		f.Add(bytes.Join([][]byte{
			section(bo), iface(bo, 1, 0, option(bo, 9, 0x8a)), enhanced(bo, 0, 9, "abc", option(bo, 1, 'x')), block(bo, 99),
			block(bo, BlockStatistics, words(bo, 0, 0, 1), option(bo, 4, 1, 2, 3, 4, 5, 6, 7, 8)), block(bo, BlockSimple, words(bo, 3), []byte("abc")),
			block(bo, BlockOldPacket, words(bo, 0, 0, 1, 1, 1, 1)),
		}, nil))
	}
	f.Add(AppendClassicPacket(AppendClassicHeader(nil, 1, 0, true), 1e9, 5, []byte("abc"), true))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := NewReader(bytes.NewReader(b))
		if err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) {
				t.Fatalf("%T", err)
			}
			return
		}
		var p Packet
		for err == nil {
			if err = r.Next(&p); err == nil && (len(p.Data) > len(b) || p.Interface >= len(r.Interfaces())) {
				t.Fatalf("%+v", p)
			}
		}
		var fe *FormatError
		if err != io.EOF && (!errors.As(err, &fe) || fe.Offset < 0 || fe.Offset > int64(len(b))) {
			t.Fatal(err)
		}
		if again := readBatches(t, bytes.NewReader(b), nil); !errors.Is(again.err, err) && again.err.Error() != err.Error() {
			t.Fatalf("in batches it ends by %v, else by %v", again.err, err)
		}
		if len(r.buf) > 2*max(startBuffer, len(b)) {
			t.Fatalf("buffer of %d octets for a file of %d", len(r.buf), len(b))
		}
	})
}

func FuzzNextBlock(f *testing.F) {
	f.Add(AppendPacket(nil, 0, 1, 2, []byte("abc"), DirectionIn))
	f.Add(AppendStats(nil, &Stats{Has: 0x7f, Custom: []CustomOption{{PEN: PEN, Data: []byte{1, 0}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, body, total, err := NextBlock(b)
		if err != nil {
			return
		}
		if total > len(b) || len(body) != total-12 {
			t.Fatal(total)
		}
		var p Packet
		var s Stats
		_, _ = DecodePacket(body, &p), DecodeStats(body, &s)
		padded := Pad(bytes.Clone(b[:total]), 0, 64)
		if _, _, n, err := NextBlock(padded); err != nil || n != len(padded) {
			t.Fatal(err)
		}
	})
}

func BenchmarkReader(b *testing.B) {
	le := binary.LittleEndian
	for _, n := range []int{60, 1514} {
		b.Run(sizeName(n), func(b *testing.B) {
			chunk := make([]byte, 0, 1<<20)
			for len(chunk) < 1<<20-2000 {
				chunk = AppendPacket(chunk, 0, 1, uint32(n), make([]byte, n), 0)
			}
			r, err := NewReader(&endless{start: append(section(le), iface(le, 1, 0, option(le, 9, 9))...), block: chunk, n: math.MaxInt})
			if err != nil {
				b.Fatal(err)
			}
			var p Packet
			b.ReportAllocs()
			b.SetBytes(int64(n))
			for b.Loop() {
				if err := r.Next(&p); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkNextBlock(b *testing.B) {
	chunk := make([]byte, 0, 1<<20)
	for len(chunk) < 1<<20-2000 {
		chunk = AppendPacket(chunk, 0, 1, 60, make([]byte, 60), 0)
	}
	rest := chunk
	var p Packet
	b.ReportAllocs()
	for b.Loop() {
		if len(rest) == 0 {
			rest = chunk
		}
		_, body, n, err := NextBlock(rest)
		if err != nil || DecodePacket(body, &p) != nil {
			b.Fatal(err)
		}
		rest = rest[n:]
	}
}
