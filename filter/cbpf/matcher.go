package cbpf

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/net/bpf"

	"opentap/filter"
)

// Matcher runs a compiled filter. It is immutable and safe for concurrent use.
type Matcher struct{ code []step }

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

var errInvalid = fmt.Errorf("invalid opcode")

func decode(r bpf.RawInstruction, i, n int) (step, error) {
	s := step{k: r.K}
	size := func(b, h, w stepOp) stepOp {
		switch r.Op & 0x18 {
		case sizeB:
			return b
		case sizeH:
			return h
		}
		return w
	}
	switch r.Op & 7 {
	case 0: // ld
		switch {
		case r.Op&0x18 == 0x18:
			return s, errInvalid
		case r.Op&0xe0 == opLdAbs && r.K < ancBase:
			s.op = size(sLdB, sLdH, sLdW)
		case r.Op&0xe0 == opLdInd:
			s.op = size(sLdIndB, sLdIndH, sLdIndW)
		case r.Op == opLdImm:
			s.op = sLdImm
		case r.Op == opLdLen:
			s.op = sLdLen
		case r.Op == opLdMem && r.K < 16:
			s.op = sLdMem
		default:
			return s, errInvalid
		}
	case 1: // ldx
		switch {
		case r.Op == 0x01:
			s.op = sLdxImm
		case r.Op == 0x81:
			s.op = sLdxLen
		case r.Op == opLdxMem && r.K < 16:
			s.op = sLdxMem
		case r.Op == opLdxMSH:
			s.op = sLdxMSH
		default:
			return s, errInvalid
		}
	case 2, 3:
		if r.K >= 16 || r.Op > 3 {
			return s, errInvalid
		}
		s.op = sSt + stepOp(r.Op-2)
	case opAlu:
		s.k2 = uint32(r.Op & 0xf0)
		switch {
		case s.k2 > aluXor || r.Op > 0xff:
			return s, errInvalid
		case s.k2 == aluNeg:
			s.op = sNeg
		case r.Op&srcX != 0:
			s.op = sAluX
		case (s.k2 == aluDiv || s.k2 == aluMod) && r.K == 0, (s.k2 == aluLsh || s.k2 == aluRsh) && r.K > 31:
			return s, errInvalid
		case s.k2 == aluAnd:
			s.op = sAnd
		default:
			s.op = sAlu
		}
	case opJmp:
		if r.Op == opJa {
			if uint64(i)+1+uint64(r.K) >= uint64(n) {
				return s, fmt.Errorf("jump out of the program")
			}
			s.op, s.t = sJa, uint16(i+1+int(r.K))
			return s, nil
		}
		base := sJeq
		if r.Op&srcX != 0 {
			base = sJeqX
		}
		c := r.Op & 0xf0
		if c < 0x10 || c > 0x40 || r.Op > 0xff {
			return s, errInvalid
		}
		s.op = base + stepOp(c>>4-1)
		t, f := i+1+int(r.Jt), i+1+int(r.Jf)
		if t >= n || f >= n {
			return s, fmt.Errorf("jump out of the program")
		}
		s.t, s.f = uint16(t), uint16(f)
	case 6:
		if r.Op != opRetK {
			return s, errInvalid
		}
		s.op = sRet
	case 7:
		switch r.Op {
		case opTax:
			s.op = sTax
		case 0x87:
			s.op = sTxa
		default:
			return s, errInvalid
		}
	}
	return s, nil
}

// fuse joins loads with the equality jump after them. The jump stays where it is for others that jump to it.
func (m *Matcher) fuse() {
	for i := 0; i+1 < len(m.code); i++ {
		s, j := &m.code[i], m.code[i+1]
		if j.op != sJeq {
			continue
		}
		fused := step{k2: s.k, k: j.k, t: j.t, f: j.f}
		switch s.op {
		case sLdB, sLdH, sLdW:
			fused.op = s.op - sLdB + sLdBJeq
		case sLdIndH:
			fused.op = sLdIndHJeq
		case sLdIndW:
			fused.op = sLdIndWJeq
		case sAnd:
			fused.op = sAndJeq
		default:
			continue
		}
		*s = fused
	}
}

// Match reports whether the frame matches. origLen is the frame's length on the wire, which len, less and greater test.
// A frame that is too short for a test that is reached does not match. It keeps nothing and does not allocate.
func (m *Matcher) Match(frame []byte, origLen uint32) bool {
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
				return false
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
				return false
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
				return false
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
				return false
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
				return false
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
				return false
			}
			a = uint32(frame[o])
		case sLdH, sLdIndH:
			o := uint64(s.k)
			if s.op == sLdIndH {
				o += uint64(x)
			}
			if o+2 > size {
				return false
			}
			a = uint32(binary.BigEndian.Uint16(frame[o:]))
		case sLdW, sLdIndW:
			o := uint64(s.k)
			if s.op == sLdIndW {
				o += uint64(x)
			}
			if o+4 > size {
				return false
			}
			a = binary.BigEndian.Uint32(frame[o:])
		case sLdxMSH:
			if uint64(s.k) >= size {
				return false
			}
			x = 4 * uint32(frame[s.k]&15)
		case sAnd:
			a &= s.k
		case sRet:
			return s.k != 0
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
					return false
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
	return false
}
