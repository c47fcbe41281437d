package cbpf

import (
	"testing"

	"pgregory.net/rapid"

	"opentap/filter"
	"opentap/filter/filtertest"
	"opentap/packet"
)

func both(t testing.TB, x string, o Options) (*Matcher, *Matcher) {
	t.Helper()
	e, err := filter.Parse(x)
	if err != nil {
		t.Fatal(err)
	}
	m, err := NewMatcher(e, o)
	if err == nil {
		m.quick = newQuick(e, o)
	}
	c, cerr := interpreter(e, o)
	if (err == nil) != (cerr == nil) {
		t.Fatalf("%q: %v, the interpreter %v", x, err, cerr)
	}
	if err != nil {
		return nil, nil
	}
	return m, c
}

var quickOptions = []Options{
	{Link: packet.LinkEthernet}, {Link: packet.LinkEthernet, Strict: true}, {Link: packet.LinkRaw}, {Link: packet.LinkRaw, Strict: true},
}

type failer interface{ Fatalf(string, ...any) }

func sameQuick(t failer, x string, o Options, m *Matcher, c *Matcher, frames [][]byte) {
	for i, f := range frames {
		wire := uint32(len(f))
		if i%5 == 0 {
			wire += 40 // cut by a snap length
		}
		want := c.Verdict(f, wire) == Match
		if got := m.Match(f, wire); got != want {
			t.Fatalf("%q, strict %v, link %d, on %x: %v, the interpreter %v", x, o.Strict, o.Link, f, got, want)
		}
	}
}

// TestSameAsInterpreter: on the corpus, truncated, fragmented, tagged and malformed frames among the others.
func TestQuickIsInterpreter(t *testing.T) {
	for _, o := range quickOptions {
		frames := filtertest.Frames(61, 4000, o.Link == packet.LinkRaw)
		n, direct := 0, 0
		for _, x := range filtertest.All() {
			m, c := both(t, x, o)
			if m == nil {
				continue
			}
			n++
			if m.quick != nil {
				direct++
			}
			sameQuick(t, x, o, m, c, frames)
		}
		t.Logf("link %d, strict %v: %d expressions, %d in steps", o.Link, o.Strict, n, direct)
		if direct < 250 {
			t.Errorf("only %d expressions in steps", direct)
		}
	}
}

// TestRandomTrees: the same on random trees.
func TestQuickRandomTrees(t *testing.T) {
	frames := [][][]byte{filtertest.Frames(67, 1500, false), filtertest.Frames(67, 1500, true)}
	rapid.Check(t, func(r *rapid.T) {
		x := filtertest.Expr(r, 4, true)
		e, err := filter.Parse(x)
		if err != nil {
			return
		}
		for i, o := range quickOptions {
			m, err := NewMatcher(e, o)
			if err == nil {
				m.quick = newQuick(e, o)
			}
			c, cerr := interpreter(e, o)
			if (err == nil) != (cerr == nil) {
				r.Fatalf("%q: %v, the interpreter %v", x, err, cerr)
			}
			if err == nil {
				sameQuick(r, x, o, m, c, frames[i/2])
			}
		}
	})
}

// FuzzMatch: the same on any expression and frame.
func FuzzQuick(f *testing.F) {
	for i, x := range filtertest.All() {
		if i%9 == 0 {
			f.Add(x, filtertest.Frames(uint64(i), 1, false)[0])
		}
	}
	f.Fuzz(func(t *testing.T, x string, frame []byte) {
		if len(x) > 1000 {
			return
		}
		if _, err := filter.Parse(x); err != nil {
			return
		}
		for _, o := range quickOptions {
			if m, c := both(t, x, o); m != nil {
				sameQuick(t, x, o, m, c, [][]byte{frame})
			}
		}
	})
}

func BenchmarkQuick(b *testing.B) {
	for _, c := range []struct {
		name, x string
		frame   []byte
	}{
		{"five terms", fiveTerms, fiveTermFrame(false)},
		{"five terms, tagged", fiveTerms, fiveTermFrame(true)},
		{"host", "host 10.0.0.2", fiveTermFrame(false)},
		{"port", "port 443", fiveTermFrame(false)},
		{"tcp", "tcp", fiveTermFrame(false)},
		{"inner, none", "inner(tcp port 80)", fiveTermFrame(false)},
		{"inner, VXLAN", "inner(tcp port 443)", vxlan(fiveTermFrame(false))},
	} {
		e, err := filter.Parse(c.x)
		if err != nil {
			b.Fatal(err)
		}
		m, err := NewMatcher(e, Options{Link: packet.LinkEthernet})
		if err != nil {
			b.Fatal(err)
		}
		m.quick = newQuick(e, Options{Link: packet.LinkEthernet})
		wire := uint32(len(c.frame))
		b.Run(c.name+"/steps", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Match(c.frame, wire)
			}
		})
		b.Run(c.name+"/interpreter", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				m.Verdict(c.frame, wire)
			}
		})
	}
}

// vxlan puts a frame into a tunnel.
func vxlan(f []byte) []byte {
	n := byte(20 + 16 + len(f))
	b := []byte{2, 0, 0, 0, 0, 3, 2, 0, 0, 0, 0, 4, 8, 0, 0x45, 0, 0, n, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	return append(append(b, 0xc0, 0, 0x12, 0xb5, 0, n-20, 0, 0, 8, 0, 0, 0, 0, 0, 5, 0), f...)
}

// BenchmarkQuickMixed is over frames that differ, so that no processor learns them by heart.
func BenchmarkQuickMixed(b *testing.B) {
	var frames [][]byte
	for _, f := range filtertest.Frames(71, 20000, false) {
		if h := (headers{frame: f}); h.find(false, false) {
			frames = append(frames, f)
		}
	}
	for _, x := range []string{
		fiveTerms, "tcp and src net 10.0.0.0/8 and port 443 and not host 10.0.0.7", "host 10.0.0.2", "port 443", "udp port 53 or 80",
		"host 10.9.0.1 or 10.9.0.2 or 10.9.0.3 or 10.9.0.4 or 10.9.0.5 or 10.9.0.6 or 10.9.0.7 or 10.9.0.8",
	} {
		m := mustMatcher(b, x, Options{Link: packet.LinkEthernet})
		m.quick = newQuick(mustParse(b, x), Options{Link: packet.LinkEthernet})
		for _, name := range []string{"steps", "interpreter"} {
			b.Run(x+"/"+name, func(b *testing.B) {
				i := 0
				for b.Loop() {
					f := frames[i]
					if i++; i == len(frames) {
						i = 0
					}
					if name == "steps" {
						m.Match(f, uint32(len(f)))
					} else {
						m.Verdict(f, uint32(len(f)))
					}
				}
			})
		}
	}
}
