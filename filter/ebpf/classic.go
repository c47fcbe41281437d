package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// What follows is the part of a translation that is the same wherever packets come from: all but loads and verdicts. It follows
// linux net/core/filter.c, bpf_convert_filter. Programs keep A and X in registers, as 32-bit numbers.

// Reachable marks the instructions of a classic program that can run: the verifier refuses dead code, classic BPF does not.
// Jumps go forward only. The error says that a program leaves its end.
func Reachable(p []bpf.RawInstruction) ([]bool, error) {
	if len(p) == 0 {
		return nil, errors.New("no instructions")
	}
	live := make([]bool, len(p)+1)
	live[0] = true
	for i, in := range p {
		if !live[i] {
			continue
		}
		steps := []uint64{1}
		switch {
		case in.Op&7 == clsRET:
			continue
		case in.Op&7 == clsJMP && in.Op&0xf0 == jmpJA:
			steps[0] += uint64(in.K)
		case in.Op&7 == clsJMP:
			steps = []uint64{1 + uint64(in.Jt), 1 + uint64(in.Jf)}
		}
		for _, s := range steps {
			if uint64(i)+s >= uint64(len(p)) {
				return nil, fmt.Errorf("instruction %d leads beyond the end", i)
			}
			live[uint64(i)+s] = true
		}
	}
	return live, nil
}

// ScratchUsed returns how many of the 16 scratch words a classic program uses, from M[0] on.
func ScratchUsed(p []bpf.RawInstruction) uint32 {
	var n uint32
	for _, in := range p {
		class, mode := in.Op&7, in.Op&0xe0
		if class == clsST || class == clsSTX || class <= clsLDX && mode == modeMEM {
			n = max(n, min(in.K, 15)+1)
		}
	}
	return n
}

var aluOps = map[uint16]asm.ALUOp{
	0x00: asm.Add, 0x10: asm.Sub, 0x20: asm.Mul, divide: asm.Div, 0x40: asm.Or, 0x50: asm.And, lsh: asm.LSh, rsh: asm.RSh,
	modulo: asm.Mod, 0xa0: asm.Xor,
}

// ALU translates an instruction that computes. refuse tells the label that a division by zero goes to; it is asked only if
// there may be one.
func ALU(in bpf.RawInstruction, a, x asm.Register, refuse func() string) (asm.Instructions, error) {
	code := in.Op & 0xf0
	if code == neg {
		return asm.Instructions{asm.Neg.Imm32(a, 0)}, nil
	}
	op, ok := aluOps[code]
	if !ok {
		return nil, errors.ErrUnsupported
	}
	divides, shifts := code == divide || code == modulo, code == lsh || code == rsh
	if in.Op&srcX == 0 {
		if divides && in.K == 0 || shifts && in.K > 31 {
			return nil, fmt.Errorf("bad operand %d", in.K) // as net/core/filter.c, bpf_check_classic
		}
		return asm.Instructions{op.Imm32(a, int32(in.K))}, nil
	}
	if divides {
		return asm.Instructions{asm.JEq.Imm32(x, 0, refuse()), op.Reg32(a, x)}, nil
	}
	return asm.Instructions{op.Reg32(a, x)}, nil
}

var jumpOps = map[uint16]asm.JumpOp{0x10: asm.JEq, 0x20: asm.JGT, 0x30: asm.JGE, 0x40: asm.JSet}

// Jump translates instruction i, which jumps; label tells the label of an instruction by its number.
func Jump(i int, in bpf.RawInstruction, a, x asm.Register, label func(int) string) (asm.Instructions, error) {
	code := in.Op & 0xf0
	if code == jmpJA {
		return asm.Instructions{asm.Ja.Label(label(i + 1 + int(in.K)))}, nil
	}
	op, ok := jumpOps[code]
	if !ok {
		return nil, errors.ErrUnsupported
	}
	yes, no := label(i+1+int(in.Jt)), label(i+1+int(in.Jf))
	out := asm.Instructions{op.Imm32(a, int32(in.K), yes)}
	if in.Op&srcX != 0 {
		out[0] = op.Reg32(a, x, yes)
	}
	if in.Jf != 0 {
		out = append(out, asm.Ja.Label(no))
	}
	return out, nil
}
