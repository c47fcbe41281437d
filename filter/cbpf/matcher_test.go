package cbpf

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/packet"
)

func mustMatcher(t testing.TB, x string, o Options) *Matcher {
	t.Helper()
	e, err := filter.Parse(x)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMatcher(e, o)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

const fiveTerms = "tcp and src net 10.0.0.0/8 and dst host 10.0.0.2 and dst port 443 and tcp[tcpflags] & tcp-syn != 0"

func fiveTermFrame(tagged bool) []byte {
	b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
	if tagged {
		b = append(b, 0x81, 0, 0, 100)
	}
	b = append(b, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
	return append(b, 4, 0, 1, 0xbb, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0)
}

func TestMatchAllocatesNothing(t *testing.T) {
	for _, x := range []string{fiveTerms, "port 80", "len - 14 > ip[2:2]", ""} {
		m := mustMatcher(t, x, Options{Link: packet.LinkEthernet})
		f := fiveTermFrame(true)
		if n := testing.AllocsPerRun(100, func() { m.Match(f, uint32(len(f))) }); n != 0 {
			t.Errorf("%q: %v allocations a match, want 0", x, n)
		}
	}
}

// TestEmptyMatchesAll: no filter, no matter how it is written, is everything.
func TestEmptyMatchesAll(t *testing.T) {
	for _, link := range links {
		for _, target := range []Target{File, Kernel} {
			p, err := Compile(nil, Options{Link: link.link, Target: target})
			if err != nil || len(p) != 1 || p[0].K != DefaultSnapLen {
				t.Errorf("%s: nil: %v %v", link.name, p, err)
			}
		}
	}
	if !mustMatcher(t, " \t", Options{Link: packet.LinkRaw}).Match(nil, 0) {
		t.Error("blank filter does not match an empty frame")
	}
}

func TestSnapLen(t *testing.T) {
	e, _ := filter.Parse("ip")
	p, err := Compile(e, Options{Link: packet.LinkEthernet, SnapLen: 96})
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, r := range p {
		found = found || r.Op == opRetK && r.K == 96
	}
	if !found {
		t.Errorf("no instruction returns 96: %v", p)
	}
}

// TestBigFilters: long jumps work, and what does not fit is refused as too big.
func TestBigFilters(t *testing.T) {
	list := func(n int) string {
		var b []string
		for i := range n {
			b = append(b, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255))
		}
		return "host " + strings.Join(b, " or ")
	}
	frames := genFrames(5, 500, false)
	for _, c := range []struct {
		n      int
		strict bool
		fits   bool
	}{{60, true, true}, {300, true, true}, {60, false, true}, {300, false, true}, {4000, true, false}} {
		e, err := filter.Parse(list(c.n))
		if err != nil {
			t.Fatal(err)
		}
		p, err := Compile(e, Options{Link: packet.LinkEthernet, Strict: c.strict})
		if (err == nil) != c.fits || err != nil && !errors.Is(err, ErrTooBig) {
			t.Errorf("%d hosts, strict %v: %d instructions, %v", c.n, c.strict, len(p), err)
		}
		if err != nil {
			continue
		}
		t.Logf("%d hosts, strict %v: %d instructions", c.n, c.strict, len(p))
		v := newVM(t, p)
		m, err := NewProgramMatcher(p)
		if err != nil {
			t.Fatal(err)
		}
		hits := 0
		for _, f := range frames {
			want := v.match(f)
			if m.Match(f, uint32(len(f))) != want {
				t.Fatalf("%d hosts on %x: matcher %v", c.n, f, !want)
			}
			if want {
				hits++
			}
		}
		if hits == 0 {
			t.Errorf("%d hosts: no frame matched", c.n)
		}
		// The last host of the list is behind every jump.
		f := fiveTermFrame(!c.strict)
		off := 26
		if !c.strict {
			off += 4
		}
		last := c.n - 1
		copy(f[off:], []byte{10, byte(last >> 16), byte(last >> 8), byte(last)})
		copy(f[off+4:], []byte{9, 9, 9, 9})
		if !m.Match(f, uint32(len(f))) {
			t.Errorf("%d hosts: the last one does not match", c.n)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct {
		x string
		o Options
	}{
		{"ip and vlan", Options{Link: packet.LinkRaw}},
		{"ether host 2:0:0:0:0:1", Options{Link: packet.LinkRaw}},
		{"broadcast", Options{Link: packet.LinkRaw}},
		{"vlan and vlan and vlan", Options{Link: packet.LinkEthernet}},
		{"mpls and vlan", Options{Link: packet.LinkEthernet}},
		{"mpls and arp", Options{Link: packet.LinkEthernet, Strict: true}},
		{"ether[ip[0]] = 1", Options{Link: packet.LinkEthernet}},
	} {
		e, err := filter.Parse(c.x)
		if err != nil {
			t.Fatal(err)
		}
		_, err = Compile(e, c.o)
		var se *filter.SyntaxError
		if !errors.As(err, &se) || se.Pos >= len(c.x) {
			t.Errorf("%q: %v, want a syntax error", c.x, err)
		}
	}
	if _, err := Compile(nil, Options{Link: 113}); err == nil {
		t.Error("link type 113 is taken")
	}
	if _, err := NewMatcher(nil, Options{Link: packet.LinkEthernet, Target: Kernel}); err == nil {
		t.Error("a matcher takes the kernel target")
	}
	for _, p := range [][]bpf.RawInstruction{
		nil,
		{{Op: opLdLen}},
		{{Op: opJa, K: 5}, {Op: opRetK}},
		{{Op: opJa, K: 0xffffffff}, {Op: opRetK}},
		{{Op: 0x15, Jt: 1}, {Op: opRetK}},
		{{Op: 0xffff}, {Op: opRetK}},
		{{Op: opSt, K: 16}, {Op: opRetK}},
		{{Op: opAlu | aluDiv}, {Op: opRetK}},
		{{Op: opLdAbs, K: ancVLANTag}, {Op: opRetK}},
	} {
		if _, err := NewProgramMatcher(p); err == nil {
			t.Errorf("program %v is taken", p)
		}
	}
}

// FuzzMatch: any expression on any frame gives the same verdict in our interpreter and in x/net's, and never panics.
func FuzzMatch(f *testing.F) {
	for i, x := range expressions(f) {
		if i%7 == 0 {
			f.Add(x, genFrames(uint64(i), 1, false)[0], i%2 == 0)
		}
	}
	f.Fuzz(func(t *testing.T, x string, frame []byte, strict bool) {
		if len(x) > 2000 {
			return
		}
		e, err := filter.Parse(x)
		if err != nil {
			return
		}
		for _, link := range links {
			if _, err := Compile(e, Options{Link: link.link, Strict: strict, Target: Kernel}); err == nil && link.link == packet.LinkRaw {
				continue
			}
			start := time.Now()
			p, err := Compile(e, Options{Link: link.link, Strict: strict})
			if d := time.Since(start); d > 5*time.Second {
				t.Fatalf("%q: compiled in %v", x, d)
			}
			if err != nil {
				continue
			}
			m, err := NewProgramMatcher(p)
			if err != nil {
				t.Fatalf("%q: %v", x, err)
			}
			v := newVM(t, p)
			if got, want := m.Match(frame, uint32(len(frame))), v.match(frame); got != want {
				t.Fatalf("%q on %x: %v, x/net %v", x, frame, got, want)
			}
		}
	})
}

func BenchmarkMatch(b *testing.B) {
	other := fiveTermFrame(true)
	other[27] = 17 // UDP: decided early
	for _, c := range []struct {
		name, x string
		frame   []byte
		strict  bool
	}{
		{"five terms, match, untagged", fiveTerms, fiveTermFrame(false), false},
		{"five terms, match, tagged", fiveTerms, fiveTermFrame(true), false},
		{"five terms, no match, tagged", fiveTerms, other, false},
		{"five terms, match, strict", fiveTerms, fiveTermFrame(false), true},
		{"host", "host 10.0.0.2", fiveTermFrame(false), false},
		{"port", "port 443", fiveTermFrame(false), false},
	} {
		b.Run(c.name, func(b *testing.B) {
			m := mustMatcher(b, c.x, Options{Link: packet.LinkEthernet, Strict: c.strict})
			b.ReportAllocs()
			for b.Loop() {
				m.Match(c.frame, uint32(len(c.frame)))
			}
		})
	}
}

func BenchmarkCompile(b *testing.B) {
	e, err := filter.Parse(fiveTerms)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Compile(e, Options{Link: packet.LinkEthernet, Target: Kernel}); err != nil {
			b.Fatal(err)
		}
	}
}
