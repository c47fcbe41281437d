package cbpf

import (
	"fmt"

	"golang.org/x/net/bpf"
)

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
