package cbpf

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/filter/filtertest"
	"opentap/packet"
)

var update = flag.Bool("update", false, "write testdata/libpcap-*.txt with the programs of the installed tcpdump")

// golden is what libpcap makes of one expression: as generated, and after its optimizer (nil: it refuses what can never
// match), or a complaint.
type golden struct {
	expr             string
	plain, optimized []bpf.RawInstruction
	refused          bool
}

var links = []struct {
	name string
	link packet.LinkType
}{{"ethernet", packet.LinkEthernet}, {"raw", packet.LinkRaw}}

func expressions(testing.TB) []string { return filtertest.Libpcap() }

func ownExpressions(testing.TB) []string { return filtertest.All() }

var genFrames = filtertest.Frames

// ask makes the golden of one expression.
func ask(file, expr string) golden {
	g := golden{expr: expr}
	var msg string
	if g.plain, msg = libpcap(file, expr, false); msg != "" {
		return golden{expr: expr, refused: true}
	}
	g.optimized, _ = libpcap(file, expr, true)
	return g
}

func goldens(t testing.TB, name string, link packet.LinkType) []golden {
	path := "testdata/libpcap-" + name + ".txt"
	if *update {
		needTcpdump(t)
		file := emptyCapture(t, link)
		var b strings.Builder
		for _, e := range expressions(t) {
			g := ask(file, e)
			switch {
			case g.refused:
				fmt.Fprintf(&b, "%s\n\trefused\n", e)
			case g.optimized == nil:
				fmt.Fprintf(&b, "%s\n\t%s\n\tnone\n", e, formatProgram(g.plain))
			default:
				fmt.Fprintf(&b, "%s\n\t%s\n\t%s\n", e, formatProgram(g.plain), formatProgram(g.optimized))
			}
		}
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var out []golden
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		l := s.Text()
		if !strings.HasPrefix(l, "\t") {
			out = append(out, golden{expr: l})
			continue
		}
		g := &out[len(out)-1]
		switch l = l[1:]; {
		case l == "refused":
			g.refused = true
		case l == "none":
		case g.plain == nil:
			g.plain = parseProgram(l)
		default:
			g.optimized = parseProgram(l)
		}
	}
	return out
}

// vm runs a program in x/net's interpreter.
type vm struct{ *bpf.VM }

func newVM(t testing.TB, p []bpf.RawInstruction) vm {
	t.Helper()
	v, err := tryVM(p)
	if err != nil {
		t.Fatalf("new VM for %v: %v", p, err)
	}
	return v
}

func tryVM(p []bpf.RawInstruction) (vm, error) {
	p = append([]bpf.RawInstruction(nil), p...)
	for i := range p {
		if p[i].Op == opAlu|aluNeg { // x/net's VM skips it
			p[i] = bpf.RawInstruction{Op: opAlu | aluMul, K: 0xffffffff}
		}
	}
	ins, all := bpf.Disassemble(p)
	if !all {
		return vm{}, errors.New("unknown instruction")
	}
	v, err := bpf.NewVM(ins)
	return vm{v}, err
}

func (v vm) match(frame []byte) bool {
	n, err := v.Run(frame)
	return err == nil && n > 0
}

// sameAsLibpcap compares our strict programs with libpcap's on all frames. It returns on how many frames libpcap's
// optimizer changed the verdict (it may reorder loads, which shows on short frames).
func sameAsLibpcap(t testing.TB, g golden, link packet.LinkType, frames [][]byte) (reordered int) {
	t.Helper()
	e, err := filter.Parse(g.expr)
	var p []bpf.RawInstruction
	if err == nil {
		p, err = Compile(e, Options{Link: link, Strict: true})
	}
	if g.refused {
		if err == nil {
			t.Errorf("%q: libpcap refuses it, we do not", g.expr)
		}
		return 0
	}
	if err != nil {
		t.Errorf("%q: libpcap takes it, we do not: %v", g.expr, err)
		return 0
	}
	again, err := filter.Parse(e.String())
	if err != nil {
		t.Errorf("%q: canonical %q: %v", g.expr, e.String(), err)
		return 0
	}
	if again.String() != e.String() {
		t.Errorf("%q: canonical %q prints as %q", g.expr, e.String(), again.String())
	}
	ours, theirs := newVM(t, p), newVM(t, g.plain)
	m, err := NewMatcher(again, Options{Link: link, Strict: true})
	if err != nil {
		t.Errorf("%q: canonical %q: %v", g.expr, e.String(), err)
		return 0
	}
	var optimized vm
	if g.optimized != nil {
		// Folding ip[-2:2], libpcap's optimizer makes an offset that x/net's VM takes for an extension and refuses.
		optimized, _ = tryVM(g.optimized)
	}
	for _, f := range frames {
		want := theirs.match(f)
		if got := ours.match(f); got != want {
			t.Errorf("%q on %x: verdict %v, libpcap %v", g.expr, f, got, want)
			return
		}
		if got := m.Match(f, uint32(len(f))); got != want {
			t.Errorf("%q as %q on %x: matcher %v, program %v", g.expr, e.String(), f, got, want)
			return
		}
		if optimized.VM != nil && optimized.match(f) != want {
			reordered++
		}
	}
	return reordered
}

// TestLibpcapGolden: strict mode has libpcap's verdict on every frame, for the stored programs.
func TestLibpcapGolden(t *testing.T) {
	for _, l := range links {
		t.Run(l.name, func(t *testing.T) {
			frames := genFrames(7, 4000, l.link == packet.LinkRaw)
			verdicts, reordered, taken := 0, 0, 0
			for _, g := range goldens(t, l.name, l.link) {
				reordered += sameAsLibpcap(t, g, l.link, frames)
				verdicts += len(frames)
				if !g.refused {
					taken++
				}
			}
			t.Logf("%d expressions, %d verdicts; libpcap's own optimizer differs from its generator on %d", taken, verdicts, reordered)
		})
	}
}
