package cbpf

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/net/bpf"

	"opentap/filter"
)

// Matcher runs a compiled filter. It is immutable and safe for concurrent use.
type Matcher struct {
	code  []step
	quick *quick // nil: the program alone
}

// step is one decoded instruction. Targets are absolute, so that no step computes one.
type step struct {
	op   stepOp
	k    uint32
	k2   uint32 // the load's offset where the step loads and jumps
	t, f uint16
}

type stepOp uint8

const (
	sRet stepOp = iota
	sLdB
	sLdH
	sLdW
	sLdIndB
	sLdIndH
	sLdIndW
	sLdLen
	sLdImm
	sLdMem
	sLdxImm
	sLdxLen
	sLdxMem
	sLdxMSH
	sSt
	sStx
	sJa
	sJeq
	sJgt
	sJge
	sJset
	sJeqX
	sJgtX
	sJgeX
	sJsetX
	sAlu  // A = A op k; op in k2
	sAluX // A = A op X; op in k2
	sAnd
	sNeg
	sTax
	sTxa
	// A load and the jump after it in one step. A is set as by the load.
	sLdBJeq
	sLdHJeq
	sLdWJeq
	sLdIndHJeq
	sLdIndWJeq
	sAndJeq // A &= k2, then the jump
)

// NewMatcher compiles e for frames that hold all their tags. o.Target must be File.
func NewMatcher(e *filter.Expr, o Options) (*Matcher, error) {
	m, err := interpreter(e, o)
	if err != nil {
		return nil, err
	}
	// A chain of a few plain tests is as quick in the interpreter, where no headers are looked for first. Ports, which
	// are many instructions a step, gain (BenchmarkQuickMixed); long lists of addresses lose about as much as they gain.
	if q := newQuick(e, o); q != nil && len(m.code) > 20+20*len(q.steps) {
		m.quick = q
	}
	return m, nil
}

// interpreter is a Matcher that only interprets.
func interpreter(e *filter.Expr, o Options) (*Matcher, error) {
	if o.Target != File {
		return nil, fmt.Errorf("compile filter: a matcher sees no metadata: target must be File")
	}
	p, err := Compile(e, o)
	if err != nil {
		return nil, err
	}
	return NewProgramMatcher(p)
}

// NewProgramMatcher decodes any classic program without ancillary loads. It refuses what the kernel's verifier refuses.
func NewProgramMatcher(p []bpf.RawInstruction) (*Matcher, error) {
	if len(p) == 0 || len(p) > MaxInstructions {
		return nil, fmt.Errorf("decode program: %d instructions, want 1 to %d", len(p), MaxInstructions)
	}
	m := &Matcher{code: make([]step, len(p))}
	for i, r := range p {
		s, err := decode(r, i, len(p))
		if err != nil {
			return nil, fmt.Errorf("decode program: instruction %d: %w", i, err)
		}
		m.code[i] = s
	}
	if m.code[len(p)-1].op != sRet {
		return nil, fmt.Errorf("decode program: instruction %d: the last one must return", len(p)-1)
	}
	m.fuse()
	return m, nil
}

// Verdict is what a program says of a frame.
type Verdict uint8

// Verdicts.
const (
	NoMatch Verdict = iota
	Match
	Reject // the frame ends before an octet that the program reads, or it divides by zero: no match, whatever is around it
)

// Match reports whether the frame matches. origLen is the frame's length on the wire, which len, less and greater test.
// A frame that is too short for a test that is reached does not match. It keeps nothing and does not allocate.
func (m *Matcher) Match(frame []byte, origLen uint32) bool {
	if m.quick != nil {
		h := headers{frame: frame, wire: origLen}
		if h.find(m.quick.raw, m.quick.strict) {
			return m.quick.run(&h)
		}
	}
	return m.Verdict(frame, origLen) == Match
}

// Verdict runs the program alone. It tells no match from a frame that is too short, for a part of a bigger condition.
func (m *Matcher) Verdict(frame []byte, origLen uint32) Verdict {
	var a, x uint32
	var mem [16]uint32
	code := m.code
	size := uint64(len(frame))
	for pc := 0; pc < len(code); {
		s := &code[pc]
		pc++
		switch s.op {
		case sLdHJeq:
			o := uint64(s.k2)
			if o+2 > size {
				return Reject
			}
			a = uint32(binary.BigEndian.Uint16(frame[o:]))
			if a == s.k {
				pc = int(s.t)
			} else {
				pc = int(s.f)
			}
		case sLdBJeq:
			o := uint64(s.k2)
			if o >= size {
				return Reject
			}
			a = uint32(frame[o])
			if a == s.k {
				pc = int(s.t)
			} else {
				pc = int(s.f)
			}
		case sLdWJeq:
			o := uint64(s.k2)
			if o+4 > size {
				return Reject
			}
			a = binary.BigEndian.Uint32(frame[o:])
			if a == s.k {
				pc = int(s.t)
			} else {
				pc = int(s.f)
			}
		case sLdIndHJeq:
			o := uint64(s.k2) + uint64(x)
			if o+2 > size {
				return Reject
			}
			a = uint32(binary.BigEndian.Uint16(frame[o:]))
			if a == s.k {
				pc = int(s.t)
			} else {
				pc = int(s.f)
			}
		case sLdIndWJeq:
			o := uint64(s.k2) + uint64(x)
			if o+4 > size {
				return Reject
			}
			a = binary.BigEndian.Uint32(frame[o:])
			if a == s.k {
				pc = int(s.t)
			} else {
				pc = int(s.f)
			}
		case sAndJeq:
			a &= s.k2
			if a == s.k {
				pc = int(s.t)
			} else {
				pc = int(s.f)
			}
		case sJeq:
			pc = int(s.f)
			if a == s.k {
				pc = int(s.t)
			}
		case sJset:
			pc = int(s.f)
			if a&s.k != 0 {
				pc = int(s.t)
			}
		case sJgt:
			pc = int(s.f)
			if a > s.k {
				pc = int(s.t)
			}
		case sJge:
			pc = int(s.f)
			if a >= s.k {
				pc = int(s.t)
			}
		case sLdB, sLdIndB:
			o := uint64(s.k)
			if s.op == sLdIndB {
				o += uint64(x)
			}
			if o >= size {
				return Reject
			}
			a = uint32(frame[o])
		case sLdH, sLdIndH:
			o := uint64(s.k)
			if s.op == sLdIndH {
				o += uint64(x)
			}
			if o+2 > size {
				return Reject
			}
			a = uint32(binary.BigEndian.Uint16(frame[o:]))
		case sLdW, sLdIndW:
			o := uint64(s.k)
			if s.op == sLdIndW {
				o += uint64(x)
			}
			if o+4 > size {
				return Reject
			}
			a = binary.BigEndian.Uint32(frame[o:])
		case sLdxMSH:
			if uint64(s.k) >= size {
				return Reject
			}
			x = 4 * uint32(frame[s.k]&15)
		case sAnd:
			a &= s.k
		case sRet:
			if s.k == 0 {
				return NoMatch
			}
			return Match
		case sJa:
			pc = int(s.t)
		case sLdLen:
			a = origLen
		case sLdImm:
			a = s.k
		case sLdMem:
			a = mem[s.k&15]
		case sLdxImm:
			x = s.k
		case sLdxLen:
			x = origLen
		case sLdxMem:
			x = mem[s.k&15]
		case sSt:
			mem[s.k&15] = a
		case sStx:
			mem[s.k&15] = x
		case sJeqX:
			pc = int(s.f)
			if a == x {
				pc = int(s.t)
			}
		case sJgtX:
			pc = int(s.f)
			if a > x {
				pc = int(s.t)
			}
		case sJgeX:
			pc = int(s.f)
			if a >= x {
				pc = int(s.t)
			}
		case sJsetX:
			pc = int(s.f)
			if a&x != 0 {
				pc = int(s.t)
			}
		case sAlu, sAluX:
			k := s.k
			if s.op == sAluX {
				k = x
			}
			v, ok := calculate(uint16(s.k2), a, k)
			if !ok {
				if s.k2 == aluDiv || s.k2 == aluMod {
					return Reject
				}
				v = 0 // a shift by 32 and more leaves nothing
			}
			a = v
		case sNeg:
			a = -a
		case sTax:
			x = a
		case sTxa:
			a = x
		}
	}
	return Reject
}
