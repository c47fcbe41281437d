package cbpf

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"opentap/filter"
	"opentap/packet"
)

// skb is a frame as an AF_PACKET socket's filter sees it.
type skb struct {
	data      []byte
	length    uint32
	present   bool
	tci, tpid uint16
	pktType   uint32
}

// tagsOf counts the tags in the octets, at most n.
func tagsOf(f []byte, n int) int {
	for i := range n {
		o := 12 + 4*i
		if len(f) < o+2 || !isTagType(uint32(binary.BigEndian.Uint16(f[o:]))) {
			return i
		}
	}
	return n
}

// stripped moves the outermost tag to the metadata.
func stripped(f []byte) skb {
	d := append(append([]byte{}, f[:12]...), f[16:]...)
	return skb{
		data: d, length: uint32(len(d)), present: true,
		tpid: binary.BigEndian.Uint16(f[12:]), tci: binary.BigEndian.Uint16(f[14:]),
	}
}

// run is a plain interpreter of classic BPF with the kernel's ancillary loads and its arithmetic modulo 2^32.
func run(t testing.TB, p []bpf.RawInstruction, s skb) bool {
	var a, x uint32
	var mem [16]uint32
	load := func(off uint32, op uint16) (uint32, bool) {
		switch off {
		case ancVLANPresent:
			if s.present {
				return 1, true
			}
			return 0, true
		case ancVLANTag:
			return uint32(s.tci), true
		case ancVLANTPID:
			return uint32(s.tpid), true
		}
		if off == ancPktType {
			return s.pktType, true
		}
		if off >= 0x80000000 {
			t.Fatalf("load at %#x", off)
		}
		n := uint64(4)
		if op&0x18 == sizeH {
			n = 2
		} else if op&0x18 == sizeB {
			n = 1
		}
		if uint64(off)+n > uint64(len(s.data)) {
			return 0, false
		}
		var v uint32
		for _, b := range s.data[off : uint64(off)+n] {
			v = v<<8 | uint32(b)
		}
		return v, true
	}
	for pc := 0; ; pc++ {
		r := p[pc]
		ok := true
		switch {
		case r.Op == opRetK:
			return r.K != 0
		case r.Op == opLdImm:
			a = r.K
		case r.Op == opLdLen:
			a = s.length
		case r.Op == opLdMem:
			a = mem[r.K]
		case r.Op == opLdxMem:
			x = mem[r.K]
		case r.Op == opSt:
			mem[r.K] = a
		case r.Op == opTax:
			x = a
		case r.Op == opLdxMSH:
			x, ok = load(r.K, sizeB)
			x = x & 15 * 4
		case r.Op&7 == 0 && r.Op&0xe0 == opLdAbs:
			a, ok = load(r.K, r.Op)
		case r.Op&7 == 0 && r.Op&0xe0 == opLdInd:
			a, ok = load(r.K+x, r.Op)
		case r.Op == opJa:
			pc += int(r.K)
		case r.Op&7 == opAlu:
			k := r.K
			if r.Op&srcX != 0 {
				k = x
			}
			a, ok = calculate(r.Op&0xf0, a, k)
		case r.Op&7 == opJmp:
			k := r.K
			if r.Op&srcX != 0 {
				k = x
			}
			var yes bool
			switch cmpOp(r.Op & 0xf0) {
			case cmpEQ:
				yes = a == k
			case cmpGT:
				yes = a > k
			case cmpGE:
				yes = a >= k
			case cmpSet:
				yes = a&k != 0
			}
			if yes {
				pc += int(r.Jt)
			} else {
				pc += int(r.Jf)
			}
		default:
			t.Fatalf("instruction %d: %+v", pc, r)
		}
		if !ok {
			return false
		}
	}
}

// transparentCorpus is every expression that transparent mode takes.
func compileAll(t *testing.T, o Options, keep func(string) bool) map[string][]bpf.RawInstruction {
	out := map[string][]bpf.RawInstruction{}
	for _, x := range ownExpressions(t) {
		e, err := filter.Parse(x)
		if err != nil || keep != nil && !keep(x) {
			continue
		}
		p, err := Compile(e, o)
		if err != nil {
			continue
		}
		out[x] = p
	}
	return out
}

// TestTransparentIsStrictWithoutTags: without conditions on tags and lengths, tag-transparent mode says of a frame what
// strict mode says of the frame with up to two tags removed.
func TestTransparentIsStrictWithoutTags(t *testing.T) {
	keep := func(x string) bool {
		for _, w := range []string{"vlan", "len", "less", "greater", "0x8100", "mpls", "pppoes", "geneve", "inner("} {
			if strings.Contains(x, w) {
				return false
			}
		}
		return true
	}
	transparent := compileAll(t, Options{Link: packet.LinkEthernet}, keep)
	strict := compileAll(t, Options{Link: packet.LinkEthernet, Strict: true}, keep)
	if len(transparent) < 250 {
		t.Fatalf("only %d expressions", len(transparent))
	}
	frames := genFrames(11, 3000, false)
	for x, p := range transparent {
		tr, st := newVM(t, p), newVM(t, strict[x])
		m, err := NewProgramMatcher(p)
		if err != nil {
			t.Fatalf("%q: %v", x, err)
		}
		for _, f := range frames {
			n := tagsOf(f, maxTags)
			if len(f) < 14+4*n { // the type field is missing; see the reference
				continue
			}
			bare := append(append([]byte{}, f[:12]...), f[12+4*n:]...)
			want := st.match(bare)
			if got := tr.match(f); got != want {
				t.Errorf("%q on %x (%d tags): transparent %v, strict without tags %v", x, f, n, got, want)
				break
			}
			if m.Match(f, uint32(len(f))) != want {
				t.Errorf("%q on %x: matcher %v", x, f, !want)
				break
			}
		}
	}
	t.Logf("%d expressions, %d frames", len(transparent), len(frames))
}

// TestKernelIsFile: the kernel program on what a socket sees, with the outer tag in the metadata or in the octets, says
// what the file program says on the frame with all tags.
func TestKernelIsFile(t *testing.T) {
	frames := genFrames(13, 3000, false)
	for _, strict := range []bool{false, true} {
		file := compileAll(t, Options{Link: packet.LinkEthernet, Strict: strict}, nil)
		kernel := compileAll(t, Options{Link: packet.LinkEthernet, Strict: strict, Target: Kernel}, nil)
		t.Logf("strict %v: %d expressions for files, %d for the kernel", strict, len(file), len(kernel))
		if len(kernel) < 400 {
			t.Errorf("strict %v: only %d expressions", strict, len(kernel))
		}
		for x, k := range kernel {
			if file[x] == nil && strings.Contains(x, "bound") {
				continue // the direction is not in the file
			}
			m, err := NewProgramMatcher(file[x])
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				if len(f) < 14 {
					continue
				}
				want := m.Match(f, uint32(len(f)))
				if got := run(t, k, skb{data: f, length: uint32(len(f))}); got != want {
					t.Errorf("strict %v: %q on %x, tag in the octets: kernel %v, file %v", strict, x, f, got, want)
					break
				}
				if len(f) < 18 || tagsOf(f, 1) == 0 {
					continue
				}
				if got := run(t, k, stripped(f)); got != want {
					t.Errorf("strict %v: %q on %x, tag in the metadata: kernel %v, file %v", strict, x, f, got, want)
					break
				}
			}
		}
	}
}

// TestTags states what conditions on tags mean in tag-transparent mode.
func TestTags(t *testing.T) {
	frame := func(tags ...uint32) []byte {
		b := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2}
		for _, g := range tags {
			b = binary.BigEndian.AppendUint32(b, g)
		}
		b = append(b, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2)
		return append(b, 0, 80, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0)
	}
	plain, one := frame(), frame(0x81000064)
	two := frame(0x88a80064, 0x810000c8)
	for _, c := range []struct {
		expr            string
		plain, one, two bool
	}{
		{"port 80", true, true, true},
		{"vlan", false, true, true},
		{"not vlan", true, false, false},
		{"vlan 100", false, true, true},
		{"vlan 200", false, false, false},
		{"vlan 100 and port 80", false, true, true},
		{"port 80 and vlan 100", false, true, true},
		{"vlan 100 and vlan 200", false, false, true},
		{"vlan and vlan 200 and port 80", false, false, true},
		{"vlan 200 or vlan 100", false, true, true},
		{"(vlan 100 or vlan 300) and vlan 200", false, false, true},
		{"not vlan 300 and vlan 100", false, true, true},
		{"vlan and vlan", false, false, true},
		{"vlan and not vlan", false, true, false},
		{"ether proto 0x800", true, true, true},
		{"ether proto 0x8100", false, true, true},
		{"ether proto 0x88a8", false, false, true},
		{"ether[12:2] = 0x800", true, true, true},
		{"ether[10:4] = 0x00020800", true, true, true},
		{"len = 54", true, false, false},
		{"len = 58", false, true, false},
		{"greater 62", false, false, true},
	} {
		e, err := filter.Parse(c.expr)
		if err != nil {
			t.Fatal(err)
		}
		m, err := NewMatcher(e, Options{Link: packet.LinkEthernet})
		if err != nil {
			t.Fatalf("%q: %v", c.expr, err)
		}
		k, err := Compile(e, Options{Link: packet.LinkEthernet, Target: Kernel})
		if err != nil {
			t.Fatalf("%q: %v", c.expr, err)
		}
		for i, f := range [][]byte{plain, one, two} {
			want := [...]bool{c.plain, c.one, c.two}[i]
			if m.Match(f, uint32(len(f))) != want {
				t.Errorf("%q with %d tags: want %v", c.expr, i, want)
			}
			if i > 0 && run(t, k, stripped(f)) != want {
				t.Errorf("%q with %d tags, the outer one in the metadata: want %v", c.expr, i, want)
			}
		}
	}
}

// TestCompactIsShapes: the compact form of a tag-transparent program says the same as the one with a way for each shape.
func TestCompactIsShapes(t *testing.T) {
	frames := genFrames(17, 3000, false)
	for _, target := range []Target{File, Kernel} {
		o := Options{Link: packet.LinkEthernet, Target: target, SnapLen: DefaultSnapLen}
		n := 0
		for _, x := range ownExpressions(t) {
			e, err := filter.Parse(x)
			if err != nil {
				t.Fatal(err)
			}
			c, err := compileCompact(e, o)
			if err != nil {
				continue
			}
			n++
			p, err := compileShapes(e, o)
			if errors.Is(err, ErrTooBig) {
				t.Logf("%q: %d instructions, and too many with shapes", x, len(c))
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range frames {
				if len(f) < 14+4*tagsOf(f, maxTags) {
					continue
				}
				s := skb{data: f, length: uint32(len(f))}
				got, want := run(t, c, s), run(t, p, s)
				if tagsOf(f, 1) == 1 && target == Kernel && got == want {
					got, want = run(t, c, stripped(f)), run(t, p, stripped(f))
				}
				if got != want {
					t.Errorf("target %d: %q on %x: compact %v, with shapes %v\n%v", target, x, f, got, want, c)
					break
				}
			}
		}
		t.Logf("target %d: %d expressions", target, n)
		if n < 300 {
			t.Errorf("only %d expressions", n)
		}
	}
}
