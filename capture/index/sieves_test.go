package index

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"testing"
)

// randomCond is a condition over hosts, some of them known.
func randomCond(r *rand.Rand, known []uint32, depth int) *Cond {
	if depth == 0 || r.IntN(3) == 0 {
		c := &Cond{}
		for range 1 + r.IntN(3) {
			a := r.Uint32()
			if len(known) > 0 && r.IntN(2) == 0 {
				a = known[r.IntN(len(known))]
			}
			c.keys = append(c.keys, KeyIPv4(a))
		}
		return c
	}
	c := &Cond{all: r.IntN(2) == 0}
	for range 1 + r.IntN(3) {
		c.subs = append(c.subs, randomCond(r, known, depth-1))
	}
	return c
}

// TestSievesSayTheSame: beside one another the sieves say just what each says alone.
func TestSievesSayTheSame(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var members [SievesSegments]*Summary
	var known []uint32
	for i := range members {
		if i == 3 {
			continue
		}
		file, hosts := hostsIndex(1+i%3, 1<<(i%11))
		members[i] = openSummary(t, file)
		for a := range hosts {
			if known = append(known, a); len(known) > 100*(i+1) {
				break
			}
		}
	}
	members[5].width = 0 // as of a segment with too many keys
	pages, width, opaque, err := AppendSieves(nil, members[:], 99)
	if err != nil || int64(len(pages)) != SievesSize(width) {
		t.Fatalf("%d octets of width %d, %v", len(pages), width, err)
	}
	s := Sieves{R: bytes.NewReader(pages), Width: width, Opaque: opaque, Seed: 99}
	told := 0
	for range 3000 {
		c := randomCond(r, known, 2)
		got, err := s.MayHold(c)
		if err != nil {
			t.Fatal(err)
		}
		for i, m := range members {
			want := false
			if m != nil {
				if want, err = m.MayHold(c); err != nil {
					t.Fatal(err)
				}
			}
			if has := got>>i&1 != 0; has != want {
				t.Fatalf("segment %d: %v, alone %v: %+v", i, has, want, c)
			}
			if !want && m != nil {
				told++
			}
		}
	}
	if told < 3000 {
		t.Errorf("only %d answers were no", told)
	}

	for _, other := range []Sieves{
		{R: bytes.NewReader(pages), Width: width, Seed: 98},
		{R: bytes.NewReader(append(bytes.Clone(pages[sievesPage:]), pages...)), Width: width, Seed: 99},
		{R: bytes.NewReader(make([]byte, len(pages))), Width: width, Seed: 99},
		{R: bytes.NewReader(pages), Width: 40, Seed: 99},
	} {
		if _, err := other.MayHold(anyOf(KeyIPv4(1))); !errors.Is(err, ErrDamaged) {
			t.Errorf("another file is believed: %v", err)
		}
	}
	short := Sieves{R: bytes.NewReader(nil), Width: width, Seed: 99}
	if _, err := short.MayHold(anyOf(KeyIPv4(1))); err == nil {
		t.Error("an empty file is believed")
	}
}

// TestSievesOfDamaged: of a sieve that does not read back, none are made.
func TestSievesOfDamaged(t *testing.T) {
	file, _ := hostsIndex(1, 1000)
	s := openSummary(t, file)
	file[s.at] ^= 1
	if _, _, _, err := AppendSieves(nil, []*Summary{s}, 1); !errors.Is(err, ErrDamaged) {
		t.Error(err)
	}
	if out, width, _, err := AppendSieves(nil, make([]*Summary, SievesSegments), 1); len(out) > 0 || width != 0 || err != nil {
		t.Errorf("of nothing: %d octets, width %d, %v", len(out), width, err)
	}
}

func FuzzSieves(f *testing.F) {
	file, _ := hostsIndex(1, 10)
	s, err := ReadSummary(bytes.NewReader(file), int64(len(file)))
	if err != nil {
		f.Fatal(err)
	}
	pages, width, _, err := AppendSieves(nil, []*Summary{s}, 7)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(pages, width, uint32(7), uint32(0x0a000001))
	f.Add([]byte{}, uint8(6), uint32(0), uint32(0))
	f.Fuzz(func(t *testing.T, b []byte, width uint8, seed, host uint32) {
		if len(b) >= sievesPage { // so that what is fuzzed is not only the checksum
			le.PutUint32(b[sievesPage-4:], sievesSum(b, seed, 0))
		}
		s := Sieves{R: bytes.NewReader(b), Width: width, Seed: seed}
		_, _ = s.MayHold(both(anyOf(KeyIPv4(host)), anyOf(KeyPort(uint16(host)))))
	})
}
