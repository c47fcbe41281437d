package index

import (
	"math/rand/v2"
	"slices"
	"testing"

	"opentap/packet"
)

// What a Scanner remembers saves work and changes no answer: the keys of a block are those that its frames have one by one,
// also after so many blocks that its stamps come round.
func TestScannerRemembersExactly(t *testing.T) {
	const blocks = 2*lastStamp + 50
	r := rand.New(rand.NewPCG(3, 1))
	few := &lab{flows: 12, random: r, sizes: []int{62}}
	many := &lab{flows: 100_000, random: r, sizes: []int{62}}
	for _, raw := range []bool{false, true} {
		link := packet.LinkEthernet
		if raw {
			link = packet.LinkRaw
		}
		s, alone := NewScanner(link), NewScanner(link)
		var got, one Keys
		s.Begin(&got)
		for block := range blocks {
			if block%100 == 99 {
				s.Begin(&got)
			}
			from := got.n
			var want []Key
			for i := range 24 {
				f := genFrame(r, raw)
				if i%4 > 1 && !raw {
					f = []*lab{few, many}[i%4-2].next()
				}
				s.Frame(f)
				alone.Begin(&one)
				alone.Frame(f)
				want = append(want, one.list()...)
			}
			had := slices.Clone(got.list()[from:])
			if distinct := compact(had); len(had) > 2*len(distinct) {
				t.Fatalf("block %d: %d keys noted, of which %d differ", block, len(had), len(distinct))
			} else if want = compact(want); !slices.Equal(distinct, want) {
				t.Fatalf("block %d (raw %v): %d keys, its frames one by one have %d", block, raw, len(distinct), len(want))
			}
			s.Next()
		}
	}
}

// Flows that differ by one bit are two flows, also where one takes the other's place in what is remembered.
func TestScannerTellsFlowsApart(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 2))
	s, alone := NewScanner(packet.LinkRaw), NewScanner(packet.LinkRaw)
	var got, one Keys
	for range 300_000 {
		f, proto := make([]byte, 0, 64), pick[byte](r, 6, 17, 132)
		if r.IntN(2) == 0 {
			f = append(f, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, proto, 0, 0)
			f = be.AppendUint64(f, r.Uint64())
		} else {
			f = append(f, 0x60, 0, 0, 0, 0, 8, proto, 64)
			for range 4 {
				f = be.AppendUint64(f, r.Uint64())
			}
		}
		f = be.AppendUint32(f, r.Uint32())
		ends := f[8:] // and for IPv4 four octets more, of which none is looked at but the protocol
		other := slices.Clone(f)
		other[len(f)-1-r.IntN(len(ends))] ^= 1 << r.IntN(8)
		s.Begin(&got)
		var want []Key
		for _, f := range [][]byte{f, other} {
			s.Frame(f)
			alone.Begin(&one)
			alone.Frame(f)
			want = append(want, one.list()...)
		}
		if !slices.Equal(compact(got.list()), compact(want)) {
			t.Fatalf("of two packets, keys of one are missing:\n%x\n%x", f, other)
		}
	}
}

func compact(k []Key) []Key {
	k = slices.Clone(k)
	slices.Sort(k)
	return slices.Compact(k)
}

// A flow's packets after the first, either way, add nothing.
func TestScannerKnowsFlows(t *testing.T) {
	l := &lab{flows: 40, sizes: []int{62}}
	s := NewScanner(packet.LinkEthernet)
	var k Keys
	s.Begin(&k)
	for range 2 {
		s.Frame(l.next())
	}
	for range 38 { // of two flows each one address and one port, and the first of IPv6 and with a tag
		n := k.n
		s.Frame(l.next())
		request := l.frame
		if added := k.n - n; added < 2 || added > 8 {
			t.Fatalf("a request adds %d keys: %x", added, request[:62])
		}
		n = k.n
		s.Frame(l.next())
		if k.n != n {
			t.Fatalf("an answer adds %d keys: %x", k.n-n, l.frame[:62])
		}
	}
}

func TestScannerAllocs(t *testing.T) {
	l := &lab{flows: 100_000, sizes: []int{62}}
	s := NewScanner(packet.LinkEthernet)
	var k Keys
	chunk := func() {
		s.Begin(&k)
		for i := range 2000 {
			if i%178 == 177 {
				s.Next()
			}
			s.Frame(l.next())
		}
	}
	chunk()
	if n := testing.AllocsPerRun(100, chunk); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}
