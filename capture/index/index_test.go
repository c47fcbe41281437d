package index

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
)

// chunkOf makes a chunk of packet blocks as segments have them, with a block about every blockSize octets.
func chunkOf(frames [][]byte, header, blockSize int) (c []byte, marks []Mark, blockOf []int) {
	c = make([]byte, header)
	start := 0
	for i, f := range frames {
		if i == 0 || len(c)-start >= blockSize {
			start = len(c)
			marks = append(marks, Mark{Offset: uint32(start), CRC: uint32(i)})
		}
		blockOf = append(blockOf, len(marks)-1)
		n := 32 + (len(f)+3)&^3
		e := make([]byte, n)
		le.PutUint32(e, 6)
		le.PutUint32(e[4:], uint32(n))
		le.PutUint32(e[20:], uint32(len(f)))
		copy(e[28:], f)
		c = append(c, e...)
	}
	return c, marks, blockOf
}

func open(t testing.TB, b []byte) *Part {
	t.Helper()
	n, front := Length(b)
	if n != len(b) {
		t.Fatalf("part of %d octets says %d", len(b), n)
	}
	var p Part
	if err := p.Read(bytes.NewReader(b), 0, front, nil); err != nil {
		t.Fatal(err)
	}
	if err := p.Marks(); err != nil {
		t.Fatal(err)
	}
	return &p
}

// TestNothingIsMissed: a block with a packet that the matcher takes is always found, for any frame, filter, link and mode.
func TestNothingIsMissed(t *testing.T) {
	rounds := 60
	if testing.Short() {
		rounds = 10
	}
	skipped, matched, blocks := 0, 0, 0
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 11))
		raw := seed%5 == 4
		link := packet.LinkEthernet
		if raw {
			link = packet.LinkRaw
		}
		b := NewBuilder(link, 7, 3)
		b.coarsest = uint8(max(0, seed%4-1)) // such short blocks would have the coarsest
		var frames [][]byte
		var at []int
		for chunk := range 3 {
			var fs [][]byte
			for range 400 {
				fs = append(fs, genFrame(r, raw))
			}
			c, marks, blockOf := chunkOf(fs, 336, 300)
			base := len(b.blocks)
			b.Chunk(c, 336, uint32(len(fs)), uint32(chunk), marks)
			for i := range fs {
				at = append(at, base+blockOf[i])
			}
			frames = append(frames, fs...)
		}
		file := b.Part(nil)
		p := open(t, file)
		sum := openSummary(t, b.Summary(file))
		for range 300 {
			text := genExpr(r, r.IntN(4))
			e, err := filter.Parse(text)
			if err != nil {
				continue
			}
			for _, strict := range []bool{false, true} {
				m, err := cbpf.NewMatcher(e, cbpf.Options{Link: link, Strict: strict})
				if err != nil {
					continue
				}
				c := Necessary(e, link, strict)
				if c == nil {
					continue
				}
				found, err := p.Find(c)
				if err != nil {
					t.Fatal(err)
				}
				if may, err := sum.MayHold(c); err != nil || !may && !found.Empty() {
					t.Fatalf("%q (strict %v) is in blocks of the part, and not in the summary (%v)", text, strict, err)
				}
				for i, f := range frames {
					if m.Match(f, uint32(len(f))) {
						matched++
						if !found.Has(at[i]) {
							t.Fatalf("%q (strict %v) takes frame %x in block %d, which is not found", text, strict, f, at[i])
						}
					}
				}
				for i := range p.Blocks() {
					if blocks++; !found.Has(i) {
						skipped++
					}
				}
			}
		}
	}
	if matched < 1000 || skipped*3 < blocks {
		t.Errorf("proves little: %d matches, %d of %d blocks skipped", matched, skipped, blocks)
	}
}

// TestPrecision: a host is found where it is, and by chance hardly anywhere else.
func TestPrecision(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	b := NewBuilder(packet.LinkEthernet, 1, 1)
	where := map[uint32]map[int]bool{}
	total := 0
	for n := 0; !b.Full(); n++ {
		var fs [][]byte
		for range 2500 {
			f := make([]byte, 354)
			copy(f[12:], []byte{8, 0, 0x45})
			f[14+9] = 17
			be.PutUint32(f[26:], r.Uint32N(100_000))
			be.PutUint32(f[30:], r.Uint32N(100_000))
			be.PutUint16(f[34:], uint16(r.Uint32()))
			be.PutUint16(f[36:], 443)
			fs = append(fs, f)
		}
		c, marks, blockOf := chunkOf(fs, 336, BlockOctets)
		base := len(b.blocks)
		for i, f := range fs {
			for _, off := range []int{26, 30} {
				a := be.Uint32(f[off:])
				if where[a] == nil {
					where[a] = map[int]bool{}
				}
				where[a][base+blockOf[i]] = true
			}
		}
		b.Chunk(c, 336, uint32(len(fs)), uint32(n), marks)
		total += len(c)
	}
	out := b.Part(nil)
	if len(out)*50 > total {
		t.Errorf("index of %d octets for %d: more than 2 %%", len(out), total)
	}
	p := open(t, out)
	extra := 0
	for a := range uint32(5000) {
		m, err := p.Find(anyOf(KeyIPv4(a)))
		if err != nil {
			t.Fatal(err)
		}
		for i := range p.Blocks() {
			if m.Has(i) && !where[a][i] {
				extra++
			} else if !m.Has(i) && where[a][i] {
				t.Fatalf("address %x missed in block %d", a, i)
			}
		}
	}
	t.Logf("%d octets for %d (%.2f %%), %.4f blocks too many a look-up", len(out), total, float64(len(out))*100/float64(total), float64(extra)/5000)
	if extra > 500 {
		t.Errorf("%d blocks too many in 5000 look-ups", extra)
	}
}

// TestDamage: no octet of a part can change unseen where an answer depends on it.
func TestDamage(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := NewBuilder(packet.LinkEthernet, 1, 1)
	var fs [][]byte
	for range 500 {
		fs = append(fs, genFrame(r, false))
	}
	c, marks, _ := chunkOf(fs, 336, 400)
	b.Chunk(c, 336, uint32(len(fs)), 9, marks)
	whole := b.Part(nil)
	ask := func(b []byte) (out []Bitmap, err error) {
		n, front := Length(b)
		if n == 0 || n > len(b) {
			return nil, ErrDamaged
		}
		var p Part
		if err := p.Use(bytes.NewReader(b), 0, b[:front]); err != nil {
			return nil, err
		}
		if err := p.Marks(); err != nil {
			return nil, err
		}
		for a := range uint32(40) {
			m, err := p.Find(anyOf(KeyIPv4(0x0a000000 | a)))
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
		return out, nil
	}
	want, err := ask(whole)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= byte(1 + r.IntN(255))
		got, err := ask(bad)
		if err != nil {
			continue
		}
		for j := range want {
			for k := range want[j] {
				if got[j][k] != want[j][k] {
					t.Fatalf("octet %d changed: another answer and no error", i)
				}
			}
		}
	}
	if _, err := ask(whole[:len(whole)-1]); !errors.Is(err, ErrDamaged) {
		t.Fatalf("cut part: %v", err)
	}
}

// TestCoarse: many short packets of as many hosts make answers coarser, not the index larger than it may be.
func TestCoarse(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 2))
	b := NewBuilder(packet.LinkEthernet, 1, 1)
	where := map[uint32]map[int]bool{}
	total := 0
	for !b.Full() {
		var fs [][]byte
		for range 20000 {
			f := make([]byte, 60)
			copy(f[12:], []byte{8, 0, 0x45})
			f[14+9] = 17
			be.PutUint32(f[26:], r.Uint32N(100_000))
			be.PutUint32(f[30:], 7<<24)
			be.PutUint16(f[34:], 53)
			fs = append(fs, f)
		}
		c, marks, blockOf := chunkOf(fs, 336, BlockOctets)
		base := len(b.blocks)
		for i, f := range fs {
			a := be.Uint32(f[26:])
			if where[a] == nil {
				where[a] = map[int]bool{}
			}
			where[a][base+blockOf[i]] = true
		}
		b.Chunk(c, 336, uint32(len(fs)), 1, marks)
		total += len(c)
	}
	out := b.Part(nil)
	p := open(t, out)
	if p.head.groupBits == 0 || len(out)*50 > total {
		t.Errorf("index of %d octets for %d, groups of %d blocks", len(out), total, 1<<p.head.groupBits)
	}
	found, most := 0, 0
	for a := range uint32(2000) {
		m, err := p.Find(anyOf(KeyIPv4(a)))
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for i := range p.Blocks() {
			if m.Has(i) {
				n++
			} else if where[a][i] {
				t.Fatalf("address %x missed in block %d", a, i)
			}
		}
		found += n
		most += (len(where[a]) + 2) << p.head.groupBits
	}
	if found > most {
		t.Errorf("%d blocks found, no more than %d expected", found, most)
	}
	m, err := p.Find(anyOf(KeyIPv4(7 << 24)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range p.Blocks() {
		if !m.Has(i) {
			t.Fatalf("an address of all blocks missed in block %d", i)
		}
	}
}

func TestBuilderAllocs(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	b := NewBuilder(packet.LinkEthernet, 1, 1)
	var fs [][]byte
	for range 200 {
		fs = append(fs, genFrame(r, false))
	}
	c, marks, _ := chunkOf(fs, 336, BlockOctets)
	var out []byte
	for range 2 {
		b.Chunk(c, 336, 200, 1, marks)
		out = b.Part(out[:0])
	}
	if n := testing.AllocsPerRun(100, func() {
		b.Chunk(c, 336, 200, 1, marks)
		b.Chunk(c, 336, 200, 1, marks)
		b.reset(0)
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzPart(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 3 {
		b := NewBuilder(packet.LinkEthernet, 1, 1)
		var fs [][]byte
		for range 100 {
			fs = append(fs, genFrame(r, false))
		}
		c, marks, _ := chunkOf(fs, 336, 400)
		b.Chunk(c, 336, uint32(len(fs)), 9, marks)
		f.Add(b.Part(nil), uint32(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, k uint32) {
		n, front := Length(b)
		if n == 0 || front > len(b) {
			return
		}
		var p Part
		if p.Use(bytes.NewReader(b), 0, b[:front]) != nil {
			return
		}
		m := p.empty()
		_ = p.lookup(Key(k), m)
		if p.Marks() == nil {
			for i := range p.Blocks() {
				p.Mark(i)
			}
		}
		for i := range int(p.head.chunks) {
			p.Chunk(i)
		}
		for j := 0; j+4 < len(b) && j < 64; j += 4 { // buckets no checksum guards here
			_ = p.head.decode(b[j:], uint64(k), p.empty())
		}
	})
}

// FuzzFrame: no frame makes the builder read where there is nothing.
func FuzzFrame(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 8))
	for range 30 {
		f.Add(genFrame(r, false), false)
		f.Add(genFrame(r, true), true)
	}
	f.Fuzz(func(t *testing.T, b []byte, raw bool) {
		link := packet.LinkEthernet
		if raw {
			link = packet.LinkRaw
		}
		x := NewBuilder(link, 1, 1)
		c, marks, _ := chunkOf([][]byte{b}, 336, 100)
		x.Chunk(c, 336, 1, 1, marks)
		if n, _ := Length(x.Part(nil)); n == 0 {
			t.Fatal("no part")
		}
	})
}

// BenchmarkBuild is IMIX between random hosts and ports, the worst case; with eight packets of a flow in a row; and the
// shortest frames, request and answer, of a hundred thousand clients of one server.
func BenchmarkBuild(b *testing.B) {
	imix := []int{60, 60, 60, 590, 60, 590, 60, 60, 590, 60, 1514, 590}
	type ends struct {
		src, dst     uint32
		sport, dport uint16
	}
	random := func(r *rand.Rand) ends {
		return ends{r.Uint32N(100_000), r.Uint32N(100_000), uint16(r.Uint32()), 443}
	}
	for _, bb := range []struct {
		name  string
		sizes []int
		each  int // packets a chunk
		next  func(r *rand.Rand, i int, e ends) ends
	}{
		{"imix-random", imix, 10000, func(r *rand.Rand, _ int, _ ends) ends { return random(r) }},
		{"imix-bursts", imix, 10000, func(r *rand.Rand, i int, e ends) ends {
			if i%8 == 0 {
				return random(r)
			}
			return e
		}},
		{"64-random", []int{60}, 40000, func(r *rand.Rand, _ int, _ ends) ends { return random(r) }},
		{"64-clients", []int{60}, 40000, func(_ *rand.Rand, i int, e ends) ends {
			if i%2 == 1 {
				return ends{e.dst, e.src, e.dport, e.sport}
			}
			n := uint32(i / 2 % 100_000)
			return ends{10<<24 | n, 198<<24 | 51<<16 | 1, uint16(1024 + n&0x7fff), 53}
		}},
	} {
		b.Run(bb.name, func(b *testing.B) {
			r := rand.New(rand.NewPCG(1, 2))
			type chunk struct {
				c     []byte
				marks []Mark
			}
			var chunks []chunk
			var e ends
			for n := range 12 { // more than a part
				var fs [][]byte
				for i := range bb.each {
					e = bb.next(r, n*bb.each+i, e)
					f := make([]byte, bb.sizes[i%len(bb.sizes)])
					copy(f[12:], []byte{8, 0, 0x45})
					f[14+9] = 17
					be.PutUint32(f[26:], e.src)
					be.PutUint32(f[30:], e.dst)
					be.PutUint16(f[34:], e.sport)
					be.PutUint16(f[36:], e.dport)
					fs = append(fs, f)
				}
				c, marks, _ := chunkOf(fs, 336, BlockOctets)
				chunks = append(chunks, chunk{c, marks})
			}
			x := NewBuilder(packet.LinkEthernet, 1, 1)
			var out []byte
			n, size, octets := 0, 0, 0
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				for _, c := range chunks {
					x.Chunk(c.c, 336, uint32(bb.each), 1, c.marks)
					n += bb.each
					octets += len(c.c)
					if x.Full() {
						out = x.Part(out[:0])
						size += len(out)
					}
				}
			}
			b.ReportMetric(float64((cpuTime()-before).Nanoseconds())/float64(n), "cpu-ns/packet")
			b.ReportMetric(100*float64(size)/float64(octets), "%size")
		})
	}
}

func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

var update = flag.Bool("update", false, "write testdata anew")

// TestGolden holds the format of docs/format/index.md still. The document shows the same part.
func TestGolden(t *testing.T) {
	b := NewBuilder(packet.LinkEthernet, 0x1122334455667788, 1)
	udp := []byte{
		2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
		1000 >> 8, 1000 & 255, 0, 53, 0, 8, 0, 0,
	}
	arp := append([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 1, 10, 0, 0, 1},
		0, 0, 0, 0, 0, 0, 10, 0, 0, 3)
	c, marks, _ := chunkOf([][]byte{udp, arp}, 336, BlockOctets)
	marks[0].CRC = 0
	b.Chunk(c, 336, 2, 0xcafef00d, marks)
	golden(t, "part", b.Part(nil))
}

// golden compares what is written with what is kept of it, and with what docs/format/index.md shows.
func golden(t *testing.T, name string, b []byte) {
	t.Helper()
	got, path := hex.Dump(b), filepath.Join("testdata", name+".hex")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the format has changed:\n%s", got)
	}
	doc, err := os.ReadFile("../../docs/format/index.md")
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(doc, want) {
		t.Errorf("docs/format/index.md shows another %s than %s", name, path)
	}
}
