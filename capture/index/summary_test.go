package index

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"opentap/packet"
)

func openSummary(t testing.TB, b []byte) *Summary {
	t.Helper()
	s, err := ReadSummary(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// hostsIndex makes an index of parts with so many hosts each.
func hostsIndex(parts, hosts int) (file []byte, known map[uint32]bool) {
	r := rand.New(rand.NewPCG(uint64(parts), uint64(hosts)))
	b := NewBuilder(packet.LinkEthernet, 7, 3)
	known = make(map[uint32]bool)
	for range parts {
		var fs [][]byte
		for range hosts {
			a := r.Uint32()
			known[a] = true
			f := make([]byte, 42)
			copy(f[12:], []byte{8, 0, 0x45})
			f[23] = 17
			be.PutUint32(f[26:], a)
			be.PutUint32(f[30:], 0x0a000001)
			fs = append(fs, f)
		}
		c, marks, _ := chunkOf(fs, 336, BlockOctets)
		b.Chunk(c, 336, uint32(len(fs)), r.Uint32(), marks)
		file = b.Part(file)
	}
	return b.Summary(file), known
}

// TestSummaryPrecision: hosts that are there are told, and of others few.
func TestSummaryPrecision(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, c := range []struct{ parts, hosts int }{{1, 1}, {1, 100}, {3, 1000}, {8, 20_000}} {
		file, known := hostsIndex(c.parts, c.hosts)
		s := openSummary(t, file)
		if id, segment, chunks, _ := s.Of(); id != 7 || segment != 3 || int(chunks) != c.parts || len(s.Parts) != c.parts {
			t.Fatalf("recording %d, segment %d, %d chunks, %d parts", id, segment, chunks, len(s.Parts))
		}
		at := 0
		for _, p := range s.Parts {
			if n, front := Length(file[at:]); n != int(p.Length) || front != int(p.Front) {
				t.Fatalf("a part of %d octets, front %d; the summary says %+v", n, front, p)
			}
			at += int(p.Length)
		}
		for a := range known {
			if may, err := s.MayHold(anyOf(KeyIPv4(a))); err != nil || !may {
				t.Fatalf("host %#x is said not to be there (%v)", a, err)
			}
		}
		met, asked := 0, 2000
		for range asked {
			a := r.Uint32()
			both := both(anyOf(KeyIPv4(0x0a000001)), anyOf(KeyIPv4(a)))
			if may, err := s.MayHold(both); err != nil {
				t.Fatal(err)
			} else if may && !known[a] {
				met++
			}
		}
		if met > asked/5 {
			t.Errorf("%+v: %d of %d hosts that are not there are said to be", c, met, asked)
		}
	}
}

// TestSummaryCrowded: with too many keys a summary says where the parts are, and nothing of keys.
func TestSummaryCrowded(t *testing.T) {
	s := newSieve()
	for i := range s.bits {
		s.bits[i] = 1<<17 - 1
	}
	b := NewBuilder(packet.LinkEthernet, 7, 3)
	b.sieve = s
	sum := openSummary(t, b.Summary(nil))
	if may, err := sum.MayHold(anyOf(KeyIPv4(1))); !may || err != nil {
		t.Fatal(may, err)
	}
}

// TestSummaryDamage: whatever octet is wrong, no host is said to be away that is there.
func TestSummaryDamage(t *testing.T) {
	file, known := hostsIndex(2, 300)
	s := openSummary(t, file)
	for at := int(s.at); at < len(file); at++ {
		b := bytes.Clone(file)
		b[at] ^= 1 << (at % 8)
		s, err := ReadSummary(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			if !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
			continue
		}
		for a := range known {
			if may, err := s.MayHold(anyOf(KeyIPv4(a))); err == nil && !may {
				t.Fatalf("octet %d wrong: host %#x is said not to be there", at, a)
			}
		}
	}
	for n := range file {
		if _, err := ReadSummary(bytes.NewReader(file[:n]), int64(n)); err == nil {
			t.Fatalf("a summary is read from the first %d of %d octets", n, len(file))
		}
	}
}

func FuzzSummary(f *testing.F) {
	for _, n := range []int{1, 50, 3000} {
		file, _ := hostsIndex(2, n)
		f.Add(file, uint32(n))
	}
	f.Fuzz(func(t *testing.T, b []byte, k uint32) {
		s, err := ReadSummary(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		_, _ = s.MayHold(both(anyOf(Key(k)), anyOf(Key(k>>1), Key(^k))))
	})
}

// TestSummaryGolden holds the format of docs/format/index.md still. The document shows the same summary.
func TestSummaryGolden(t *testing.T) {
	b := NewBuilder(packet.LinkEthernet, 0x1122334455667788, 1)
	f := make([]byte, 42)
	copy(f[12:], []byte{8, 0, 0x45})
	f[23] = 17
	be.PutUint32(f[26:], 0x0a000001)
	be.PutUint32(f[30:], 0x0a000002)
	c, marks, _ := chunkOf([][]byte{f}, 336, BlockOctets)
	b.Chunk(c, 336, 1, 0xcafef00d, marks)
	parts := b.Part(nil)
	golden(t, "summary", b.Summary(parts)[len(parts):])
}

// What the sieve notes bucket by bucket of a large part is what its keys say one by one, those with bitmaps too.
func TestSieveOfLargePart(t *testing.T) {
	for _, flows := range []uint32{300, 100_000} {
		l := &lab{flows: flows, random: rand.New(rand.NewPCG(4, 4)), sizes: []int{62}}
		s, b := NewScanner(packet.LinkEthernet), NewBuilder(packet.LinkEthernet, 1, 1)
		want := make([]uint64, len(b.sieve.bits))
		var k Keys
		for !b.Full() {
			s.Begin(&k)
			marks := []Mark{{}}
			for i := range 40_000 {
				if i%178 == 177 {
					s.Next()
					marks = append(marks, Mark{Offset: uint32(i)})
				}
				s.Frame(l.next())
			}
			for _, k := range k.list() {
				want[k>>(32-sieveBits)>>6] |= 1 << (k >> (32 - sieveBits) & 63)
			}
			b.Add(&k, 4<<20, 1, marks)
		}
		b.Part(nil)
		if h := &b.head; !slices.Equal(b.sieve.bits, want) {
			t.Errorf("%d flows: the sieve has other bits than the keys (prefixes of %d bits, %d buckets)", flows, h.prefixBits, h.buckets)
		} else if h.common == 0 || flows > 1000 && !h.noted() {
			t.Errorf("%d flows prove little: %d bitmaps, noted by buckets: %v", flows, h.common, h.noted())
		}
	}
}
