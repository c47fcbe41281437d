package pcap

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// batches is what came of reading a file in batches.
type batches struct {
	packets []Packet
	err     error
	most    int // packets in one
}

// readBatches reads a file, and now and then, when mix says so, one packet by Next. What a batch gave is looked at when it
// is complete, for it is to be valid until then.
func readBatches(t rapid.TB, in io.Reader, mix *rand.Rand) (got batches) {
	t.Helper()
	r, err := NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	var buf []byte
	for got.err == nil {
		var batch []Packet
		if mix != nil && mix.IntN(4) == 0 {
			var p Packet
			if got.err = r.Next(&p); got.err == nil {
				batch = append(batch, p)
			}
		} else {
			buf, got.err = r.NextBatch(buf, func(p *Packet) { batch = append(batch, *p) })
			if len(batch) == 0 == (got.err == nil) {
				t.Fatalf("%d packets and %v", len(batch), got.err)
			}
		}
		for _, p := range batch {
			p.Data = bytes.Clone(p.Data)
			got.packets = append(got.packets, p)
		}
		got.most = max(got.most, len(batch))
	}
	return got
}

// dribble gives a file in reads of any size.
type dribble struct {
	r    *rand.Rand
	rest []byte
}

func (d *dribble) Read(b []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b[:min(len(b), 1+d.r.IntN(1<<d.r.IntN(18)))], d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// TestBatchesAreWhatNextGives compares the two ways to read a file of any blocks, cut anywhere.
func TestBatchesAreWhatNextGives(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		var file []byte
		if rapid.Bool().Draw(t, "classic") {
			bo := []order{binary.LittleEndian, binary.BigEndian}[r.IntN(2)]
			file = bytes.Join([][]byte{words(bo, magicNanos), bo.AppendUint16(bo.AppendUint16(nil, 2), 4), words(bo, 0, 0, 96, 1)}, nil)
			for range r.IntN(1500) {
				n := r.IntN(300)
				if r.IntN(100) == 0 {
					n <<= r.IntN(10)
				}
				file = append(append(file, words(bo, r.Uint32(), r.Uint32()%1e9, uint32(n), uint32(n))...), make([]byte, n)...)
				file[len(file)-1]++
			}
		} else {
			for range 1 + r.IntN(3) {
				bo := []order{binary.LittleEndian, binary.BigEndian}[r.IntN(2)]
				file = append(append(file, section(bo)...), iface(bo, 1, 0)...)
				for range r.IntN(500) {
					switch r.IntN(20) {
					case 0:
						file = append(file, block(bo, 99, make([]byte, 1<<r.IntN(17)))...)
					case 1:
						file = append(file, block(bo, BlockSimple, words(bo, 60), make([]byte, 60))...)
					default:
						file = append(file, enhanced(bo, 0, r.Uint64()>>20, strings.Repeat("x", r.IntN(2000)>>r.IntN(6)))...)
					}
				}
			}
		}
		if r.IntN(4) == 0 {
			file = file[:max(r.IntN(len(file)), 100)]
		}
		one, err := NewReader(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		want, err := readAll(one)
		if err == nil {
			err = io.EOF
		}
		got := readBatches(t, &dribble{r, file}, r)
		if got.err.Error() != err.Error() {
			t.Fatalf("%v in batches, else %v", got.err, err)
		}
		if !slices.EqualFunc(want, got.packets, func(a, b Packet) bool {
			return a.Interface == b.Interface && a.Time == b.Time && a.OrigLen == b.OrigLen && bytes.Equal(a.Data, b.Data)
		}) {
			t.Fatalf("%d packets in batches, else %d, or others", len(got.packets), len(want))
		}
	})
}

// TestBatchIsWhatOneReadBrings and costs nothing for each packet.
func TestBatchIsWhatOneReadBrings(t *testing.T) {
	file := AppendClassicHeader(nil, 1, 0, true)
	for i := range 100_000 {
		file = AppendClassicPacket(file, 1e9, 60, make([]byte, 44+i%100), true)
	}
	if got := readBatches(t, bytes.NewReader(file), nil); got.err != io.EOF || len(got.packets) != 100_000 || got.most < 1000 {
		t.Fatalf("%v, %d packets, at most %d at once", got.err, len(got.packets), got.most)
	}
	r, err := NewReader(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	n, buf := 0, make([]byte, batchBuffer)
	count := func(*Packet) { n++ }
	if allocs := testing.AllocsPerRun(50, func() { buf, err = r.NextBatch(buf, count) }); err != nil || n < 1000 || allocs != 0 {
		t.Fatalf("%v, %d packets, %v allocations", err, n, allocs)
	}
}

func BenchmarkNextBatch(b *testing.B) {
	file := AppendClassicHeader(nil, 1, 0, true)
	for i := range 1_000_000 {
		file = AppendClassicPacket(file, 1e9, 60, make([]byte, 44+i%100), true)
	}
	for b.Loop() {
		r, err := NewReader(bytes.NewReader(file))
		var buf []byte
		n := 0
		for err == nil {
			buf, err = r.NextBatch(buf, func(*Packet) { n++ })
		}
		if n != 1_000_000 {
			b.Fatal(n)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/1e6, "ns/packet")
}
