package ebpf

import (
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
	"pgregory.net/rapid"

	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/filter/filtertest"
	"opentap/packet"
)

// arrive is a program's beginning that makes the packet what it shall be. It puts the type in skb->priority where it belongs,
// since the kernel's test run refuses frames that end within an IP header, and the tag in skb->mark (type, control
// information) beside the packet, as a network card does.
var arrive = asm.Instructions{
	asm.Mov.Reg(asm.R6, asm.R1),
	asm.LoadMem(asm.R1, asm.R6, 32, asm.Word),
	asm.HostTo(asm.BE, asm.R1, asm.Half),
	asm.StoreMem(asm.RFP, -8, asm.R1, asm.DWord),
	asm.Mov.Reg(asm.R1, asm.R6),
	asm.Mov.Imm(asm.R2, 12),
	asm.Mov.Reg(asm.R3, asm.RFP),
	asm.Add.Imm(asm.R3, -8),
	asm.Mov.Imm(asm.R4, 2),
	asm.Mov.Imm(asm.R5, 0),
	asm.FnSkbStoreBytes.Call(),
	asm.LoadMem(asm.R7, asm.R6, 8, asm.Word),
	asm.JEq.Imm(asm.R7, 0, "untagged"),
	asm.Mov.Reg(asm.R1, asm.R6),
	asm.Mov.Reg(asm.R2, asm.R7),
	asm.RSh.Imm(asm.R2, 16),
	asm.HostTo(asm.BE, asm.R2, asm.Half),
	asm.Mov.Reg(asm.R3, asm.R7),
	asm.And.Imm(asm.R3, 0xffff),
	asm.FnSkbVlanPush.Call(),
	asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("untagged"),
}

type program struct {
	t    testing.TB
	coll *ebpf.Collection
}

// load puts the program for an expression into the kernel.
func load(t testing.TB, p []bpf.RawInstruction, size int) program {
	t.Helper()
	spec, err := Classifier(p, size)
	if err != nil {
		t.Fatal(err)
	}
	ps := spec.Programs[ProgramName]
	ps.Instructions = append(append(asm.Instructions{}, arrive...), ps.Instructions...)
	c, err := ebpf.NewCollection(spec)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs CAP_BPF and CAP_NET_ADMIN")
	}
	if err != nil {
		t.Fatalf("load: %+v", err)
	}
	return program{t, c}
}

// match runs the program on a frame; with a tag it is taken out of the octets and put beside them.
func (p program) match(f []byte, tagged bool) bool {
	p.t.Helper()
	mark, d := uint32(0), append([]byte{}, f...)
	if tagged {
		mark, d = binary.BigEndian.Uint32(f[12:]), append(d[:12], d[16:]...)
	}
	var skb struct {
		_, _, Mark uint32
		_          [5]uint32
		Priority   uint32
	}
	skb.Mark, skb.Priority = mark, uint32(binary.BigEndian.Uint16(d[12:]))
	d[12], d[13] = 0x99, 0x99
	v, err := p.coll.Programs[ProgramName].Run(&ebpf.RunOptions{Data: d, Repeat: 1, Context: skb})
	if err != nil {
		p.t.Fatalf("run on %x (tag beside it: %v): %v", f, tagged, err)
	}
	return v != 0
}

// canPush reports whether the outer tag can be moved beside the frame.
func canPush(f []byte) bool {
	if len(f) < 19 {
		return false
	}
	typ := binary.BigEndian.Uint16(f[12:])
	return typ == 0x8100 || typ == 0x88a8
}

// same compares the kernel's verdict on the header copy with the interpreter's on as many octets.
func same(t interface {
	Fatalf(string, ...any)
}, x string, p program, m *cbpf.Matcher, size int, frames [][]byte,
) (matches int) {
	for _, f := range frames {
		if len(f) < 15 { // the kernel's test run wants an Ethernet header and an octet
			continue
		}
		want := m.Match(f[:min(len(f), size)], uint32(len(f)))
		if want {
			matches++
		}
		if got := p.match(f, false); got != want {
			t.Fatalf("%q on %x: eBPF %v, interpreter %v", x, f, got, want)
		}
		if canPush(f) {
			if got := p.match(f, true); got != want {
				t.Fatalf("%q on %x with the tag beside it: eBPF %v, interpreter %v", x, f, got, want)
			}
		}
	}
	return matches
}

// TestNetnsClassifier: the verifier takes every program of the corpus, and its verdicts are the interpreter's.
func TestNetnsClassifier(t *testing.T) {
	frames := filtertest.Frames(51, 250, false)
	n, longest, matches := 0, 0, 0
	for _, x := range filtertest.All() {
		e, err := filter.Parse(x)
		if err != nil {
			t.Fatal(err)
		}
		for _, strict := range []bool{false, true} {
			raw, err := cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet, Strict: strict})
			if err != nil {
				continue
			}
			m, err := cbpf.NewProgramMatcher(raw)
			if err != nil {
				t.Fatal(err)
			}
			size := []int{DefaultOctets, MinOctets, 160, 1024}[n%4]
			p := load(t, raw, size)
			matches += same(t, x, p, m, size, frames)
			p.coll.Close()
			longest = max(longest, len(raw))
			n++
		}
	}
	t.Logf("%d programs on %d frames, %d matches; the longest of %d classic instructions", n, len(frames), matches, longest)
	if n < 900 {
		t.Errorf("only %d programs", n)
	}
}

// TestNetnsRandomTrees: interpreter and eBPF agree on random trees.
func TestNetnsRandomTrees(t *testing.T) {
	frames := filtertest.Frames(53, 300, false)
	load(t, []bpf.RawInstruction{{Op: 6, K: 1}}, 0).coll.Close() // skips outside of r, which cannot
	n := 0
	rapid.Check(t, func(r *rapid.T) {
		x := filtertest.Expr(r, 3, true)
		e, err := filter.Parse(x)
		if err != nil {
			return
		}
		raw, err := cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet, Strict: rapid.Bool().Draw(r, "strict")})
		if err != nil {
			return
		}
		m, err := cbpf.NewProgramMatcher(raw)
		if err != nil {
			r.Fatalf("%q: %v", x, err)
		}
		p := load(t, raw, DefaultOctets)
		defer p.coll.Close()
		same(r, x, p, m, DefaultOctets, frames)
		n++
	})
	t.Logf("%d trees on %d frames", n, len(frames))
}

// BenchmarkNetnsClassifier measures the copy and the filter in the kernel.
func BenchmarkNetnsClassifier(b *testing.B) {
	for _, x := range []string{"", "tcp port 443", "inner(tcp port 80)"} {
		b.Run(x, func(b *testing.B) {
			e, err := filter.Parse(x)
			if err != nil {
				b.Fatal(err)
			}
			raw, err := cbpf.Compile(e, cbpf.Options{Link: packet.LinkEthernet})
			if err != nil {
				b.Fatal(err)
			}
			p := load(b, raw, 0)
			defer p.coll.Close()
			f := filtertest.Frames(51, 1, false)[0]
			f = append(f, make([]byte, max(0, 128-len(f)))...)
			_, d, err := p.coll.Programs[ProgramName].Benchmark(f, 1_000_000, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(d.Nanoseconds()), "ns/packet")
		})
	}
}
