package ring

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/net/bpf"

	"opentap/internal/nettest"
)

// verdict runs a translated program on a packet in the kernel. A socket filter's test run takes the Ethernet header
// off first (linux net/bpf/test_run.c, bpf_prog_test_run_skb), so one is put in front.
func verdict(t testing.TB, f *countingFilter, pkt []byte) uint32 {
	t.Helper()
	v, err := f.prog.Run(&ebpf.RunOptions{Data: append(make([]byte, 14), pkt...), Repeat: 1})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func load(t testing.TB, prog []bpf.RawInstruction, snap uint32) *countingFilter {
	t.Helper()
	f, err := newCountingFilter(prog, snap)
	if errors.Is(err, os.ErrPermission) {
		t.Skip("needs CAP_BPF")
	}
	if err != nil {
		t.Fatalf("%v\n%v", err, prog)
	}
	return f
}

// randomProgram makes a valid program of all that the interpreter of x/net/bpf and the kernel agree on. (They differ in
// shifts by more than 31 and in offsets that wrap.)
func randomProgram(rnd *rand.Rand) []bpf.Instruction {
	n := 2 + rnd.IntN(30)
	prog := make([]bpf.Instruction, 0, n+1)
	sizes := []int{1, 2, 4}
	value := func() uint32 {
		return []uint32{0, 1, 4, 0x0800, 0x86dd, 0x7fffffff, 0x80000000, 0xffffffff, rnd.Uint32(), uint32(rnd.IntN(256))}[rnd.IntN(10)]
	}
	scratch := [16]bool{}
	for i := range n {
		left := n - i // instructions that follow, the last return included
		switch rnd.IntN(17) {
		case 0, 1, 2:
			prog = append(prog, bpf.LoadAbsolute{Off: uint32(rnd.IntN(70)), Size: sizes[rnd.IntN(3)]})
		case 3, 4:
			prog = append(prog, bpf.LoadConstant{Dst: bpf.RegX, Val: uint32(rnd.IntN(70))}, bpf.LoadIndirect{Off: uint32(rnd.IntN(20)), Size: sizes[rnd.IntN(3)]})
		case 5:
			prog = append(prog, bpf.LoadMemShift{Off: uint32(rnd.IntN(64))})
		case 6:
			prog = append(prog, bpf.LoadConstant{Dst: bpf.Register(rnd.IntN(2)), Val: value()})
		case 7:
			prog = append(prog, bpf.LoadExtension{Num: bpf.ExtLen})
		case 8:
			k := rnd.IntN(16)
			scratch[k] = true
			prog = append(prog, bpf.StoreScratch{Src: bpf.Register(rnd.IntN(2)), N: k})
		case 9:
			if k := rnd.IntN(16); scratch[k] {
				prog = append(prog, bpf.LoadScratch{Dst: bpf.Register(rnd.IntN(2)), N: k})
			}
		case 10, 11:
			op := []bpf.ALUOp{bpf.ALUOpAdd, bpf.ALUOpSub, bpf.ALUOpMul, bpf.ALUOpOr, bpf.ALUOpAnd, bpf.ALUOpXor, bpf.ALUOpDiv, bpf.ALUOpMod}[rnd.IntN(8)]
			prog = append(prog, bpf.ALUOpConstant{Op: op, Val: max(value(), 1)})
		case 12:
			op := []bpf.ALUOp{bpf.ALUOpAdd, bpf.ALUOpSub, bpf.ALUOpMul, bpf.ALUOpOr, bpf.ALUOpAnd, bpf.ALUOpXor, bpf.ALUOpDiv, bpf.ALUOpMod}[rnd.IntN(8)]
			prog = append(prog, bpf.ALUOpX{Op: op})
		case 13:
			prog = append(prog, bpf.ALUOpConstant{Op: []bpf.ALUOp{bpf.ALUOpShiftLeft, bpf.ALUOpShiftRight}[rnd.IntN(2)], Val: uint32(rnd.IntN(32))})
		case 14:
			prog = append(prog, []bpf.Instruction{bpf.TAX{}, bpf.TXA{}}[rnd.IntN(2)])
		case 15:
			skip := func() uint8 { return uint8(rnd.IntN(min(left, 4))) }
			cond := []bpf.JumpTest{bpf.JumpEqual, bpf.JumpNotEqual, bpf.JumpGreaterThan, bpf.JumpLessThan, bpf.JumpGreaterOrEqual, bpf.JumpLessOrEqual, bpf.JumpBitsSet, bpf.JumpBitsNotSet}[rnd.IntN(8)]
			if rnd.IntN(2) == 0 {
				prog = append(prog, bpf.JumpIf{Cond: cond, Val: value(), SkipTrue: skip(), SkipFalse: skip()})
			} else {
				prog = append(prog, bpf.JumpIfX{Cond: cond, SkipTrue: skip(), SkipFalse: skip()})
			}
		case 16:
			if rnd.IntN(4) == 0 {
				prog = append(prog, bpf.Jump{Skip: uint32(rnd.IntN(min(left, 3)))})
			}
		}
	}
	for range 4 { // jumps from the last instructions land here
		prog = append(prog, []bpf.Instruction{bpf.RetA{}, bpf.RetConstant{Val: value()}, bpf.RetConstant{}}[rnd.IntN(3)])
	}
	return prog
}

// jumpsPastIndex reports whether an indirect load can be met without the constant index before it: the kernel's
// offsets wrap at 32 bits then, the interpreter's do not.
func jumpsPastIndex(ins []bpf.Instruction) bool {
	for i, in := range ins {
		var skips []uint32
		switch j := in.(type) {
		case bpf.Jump:
			skips = []uint32{j.Skip}
		case bpf.JumpIf:
			skips = []uint32{uint32(j.SkipTrue), uint32(j.SkipFalse)}
		case bpf.JumpIfX:
			skips = []uint32{uint32(j.SkipTrue), uint32(j.SkipFalse)}
		}
		for _, s := range skips {
			if to := i + 1 + int(s); s > 0 && to < len(ins) {
				if _, ok := ins[to].(bpf.LoadIndirect); ok {
					return true
				}
			}
		}
	}
	return false
}

func TestNetnsTranslationAgreesWithInterpreter(t *testing.T) {
	rnd := rand.New(rand.NewPCG(7, 11))
	var pkts [][]byte
	for _, f := range zoo() {
		pkts = append(pkts, f, f[:20], f[:1])
	}
	pkts = append(pkts, nettest.Packet{Dst: netip.MustParseAddr("::1"), Proto: nettest.TCP}.Bytes())
	for range 10 {
		b := make([]byte, 1+rnd.IntN(90))
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		pkts = append(pkts, b)
	}
	programs, runs, accepted := 0, 0, 0
	for range 600 {
		ins := randomProgram(rnd)
		if jumpsPastIndex(ins) {
			continue
		}
		vm, err := bpf.NewVM(ins)
		if err != nil {
			continue
		}
		raw, err := bpf.Assemble(ins)
		if err != nil {
			t.Fatal(err)
		}
		programs++
		snap := []uint32{0, 0, 96, 1}[rnd.IntN(4)]
		f := load(t, raw, snap)
		var refused, passed uint64
		for _, p := range pkts {
			n, err := vm.Run(p)
			if err != nil {
				t.Fatal(err)
			}
			want := uint32(n)
			if snap != 0 {
				want = min(want, snap)
			}
			if want == 0 {
				refused++
			} else {
				passed++
				accepted++
			}
			runs++
			if got := verdict(t, f, p); got != want {
				t.Fatalf("program %v\nsnap length %d, packet % x\nverdict %d, interpreter %d", ins, snap, p, got, want)
			}
		}
		r, a, err := f.counts()
		if err != nil || r != refused || a != passed {
			t.Fatalf("program %v: counted %d refused, %d accepted (%v), want %d, %d", ins, r, a, err, refused, passed)
		}
		if err := f.close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d programs, %d verdicts, %d accepted", programs, runs, accepted)
	if programs < 200 || accepted < runs/20 || accepted > runs*19/20 {
		t.Error("the random programs prove too little")
	}
}

// The interpreter knows no negation.
func TestNetnsTranslateNegation(t *testing.T) {
	prog, err := bpf.Assemble([]bpf.Instruction{bpf.LoadConstant{Val: 5}, bpf.NegateA{}, bpf.RetA{}})
	if err != nil {
		t.Fatal(err)
	}
	f := load(t, prog, 0)
	defer f.close()
	if got := verdict(t, f, make([]byte, 20)); got != 1<<32-5 {
		t.Errorf("verdict %#x", got)
	}
}

func TestTranslateRefuses(t *testing.T) {
	for name, ins := range map[string]bpf.RawInstruction{
		"random number":               {Op: 0x20, K: adBase + 56},
		"relative to network header":  {Op: 0x20, K: 0xfff00000},
		"indirect to network header":  {Op: 0x40, K: 0xfff00000},
		"unknown class member":        {Op: 0xe0},
		"division by zero":            {Op: 0x34},
		"shift by 32":                 {Op: 0x64, K: 32},
		"scratch word 16":             {Op: 0x02, K: 16},
		"jump beyond the end":         {Op: 0x05, K: 9},
		"conditional beyond the end":  {Op: 0x15, Jt: 9},
		"unknown return":              {Op: 0x1e},
		"index load of unknown place": {Op: 0x21},
	} {
		if out, err := translate([]bpf.RawInstruction{ins, {Op: 0x06, K: 1}}, 0, 0); err == nil {
			t.Errorf("%s: translated to\n%v", name, out)
		}
	}
}

func FuzzTranslate(f *testing.F) {
	f.Add([]byte{0x28, 0, 0, 0, 0, 0, 0, 12, 0x06, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		var prog []bpf.RawInstruction
		for ; len(b) >= 8 && len(prog) < 4096; b = b[8:] {
			prog = append(prog, bpf.RawInstruction{Op: uint16(b[0]) | uint16(b[1])<<8, Jt: b[2], Jf: b[3], K: uint32(b[4])<<24 | uint32(b[5])<<16 | uint32(b[6])<<8 | uint32(b[7])})
		}
		out, err := translate(prog, 0, 0)
		if (err == nil) == (out == nil) {
			t.Fatalf("%d instructions and error %v", len(out), err)
		}
	})
}
