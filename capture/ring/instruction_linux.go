package ring

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func (t *translator) instruction(i int, in bpf.RawInstruction, n int) error {
	switch in.Op & 7 {
	case unix.BPF_LD:
		return t.load(in)
	case unix.BPF_LDX:
		return t.loadX(in)
	case unix.BPF_ST, unix.BPF_STX:
		if in.K > 15 {
			return fmt.Errorf("no scratch word %d", in.K)
		}
		reg := regA
		if in.Op&7 == unix.BPF_STX {
			reg = regX
		}
		t.emit(asm.StoreMem(asm.RFP, scratch(in.K), reg, asm.Word))
	case unix.BPF_ALU:
		return t.alu(in)
	case unix.BPF_JMP:
		return t.jump(i, in, n)
	case unix.BPF_RET:
		return t.ret(in)
	case unix.BPF_MISC:
		switch in.Op & 0xf8 {
		case unix.BPF_TAX:
			t.emit(asm.Mov.Reg32(regX, regA))
		case unix.BPF_TXA:
			t.emit(asm.Mov.Reg32(regA, regX))
		default:
			return errors.ErrUnsupported
		}
	}
	return nil
}

var sizes = map[uint16]struct {
	asm   asm.Size
	bytes int32
}{unix.BPF_W: {asm.Word, 4}, unix.BPF_H: {asm.Half, 2}, unix.BPF_B: {asm.Byte, 1}}

func (t *translator) load(in bpf.RawInstruction) error {
	size, ok := sizes[in.Op&0x18]
	if !ok {
		return errors.ErrUnsupported
	}
	switch in.Op & 0xe0 {
	case unix.BPF_IMM:
		t.emit(asm.Mov.Imm32(regA, int32(in.K)))
	case unix.BPF_LEN:
		t.emit(asm.Mov.Reg32(regA, regLen))
	case unix.BPF_MEM:
		if in.K > 15 {
			return fmt.Errorf("no scratch word %d", in.K)
		}
		t.emit(asm.LoadMem(regA, asm.RFP, scratch(in.K), asm.Word))
	case unix.BPF_ABS:
		if in.K >= 1<<31 {
			return t.ancillary(in.K)
		}
		if in.K > 1<<30 { // beyond every packet
			t.emit(asm.JGE.Imm32(regLen, 0, labelRefuse)) // always
			return nil
		}
		t.emit(asm.JLT.Imm32(regLen, int32(in.K)+size.bytes, labelRefuse), asm.LoadAbs(int32(in.K), size.asm))
	case unix.BPF_IND:
		if in.K >= 1<<31 { // relative to the network header or the ancillary data
			return errors.ErrUnsupported
		}
		// The offset is the 32-bit sum, as in the kernel. One that turns negative means a special area there and
		// nothing to classic BPF at large: refused here, like any load outside the packet.
		t.emit(
			asm.Mov.Reg32(regTmp, regX),
			asm.Add.Imm32(regTmp, int32(in.K)),
			asm.JGT.Imm32(regTmp, 1<<30, labelRefuse),
			asm.Add.Imm32(regTmp, size.bytes),
			asm.JLT.Reg32(regLen, regTmp, labelRefuse),
			asm.LoadInd(asm.R0, regX, int32(in.K), size.asm),
		)
	default:
		return errors.ErrUnsupported
	}
	return nil
}

// ancillary loads what the kernel knows beside the packet; the size of such a load means nothing.
func (t *translator) ancillary(k uint32) error {
	field := func(offset int16) { t.emit(asm.LoadMem(regA, regCtx, offset, asm.Word)) }
	switch k {
	case adProtocol:
		field(skbProtocol)
		t.emit(asm.HostTo(asm.BE, regA, asm.Half))
	case adPktType:
		field(skbPktType)
	case adIfindex:
		field(skbIfindex)
	case adVLANTag:
		field(skbVLANTCI)
	case adVLANPresent:
		field(skbVLANPresent)
	case adVLANTPID:
		field(skbVLANProto)
		t.emit(asm.HostTo(asm.BE, regA, asm.Half))
	default:
		return errors.ErrUnsupported
	}
	return nil
}

func (t *translator) loadX(in bpf.RawInstruction) error {
	switch in.Op & 0xe0 {
	case unix.BPF_IMM:
		t.emit(asm.Mov.Imm32(regX, int32(in.K)))
	case unix.BPF_LEN:
		t.emit(asm.Mov.Reg32(regX, regLen))
	case unix.BPF_MEM:
		if in.K > 15 {
			return fmt.Errorf("no scratch word %d", in.K)
		}
		t.emit(asm.LoadMem(regX, asm.RFP, scratch(in.K), asm.Word))
	case unix.BPF_MSH: // X = 4 × low nibble of a byte: the length of an IPv4 header
		if in.K > 1<<30 {
			return errors.ErrUnsupported
		}
		t.emit(
			asm.JLT.Imm32(regLen, int32(in.K)+1, labelRefuse),
			asm.Mov.Reg32(regTmp, regA),
			asm.LoadAbs(int32(in.K), asm.Byte),
			asm.And.Imm32(asm.R0, 0xf),
			asm.LSh.Imm32(asm.R0, 2),
			asm.Mov.Reg32(regX, asm.R0),
			asm.Mov.Reg32(regA, regTmp),
		)
	default:
		return errors.ErrUnsupported
	}
	return nil
}

var aluOps = map[uint16]asm.ALUOp{
	unix.BPF_ADD: asm.Add, unix.BPF_SUB: asm.Sub, unix.BPF_MUL: asm.Mul, unix.BPF_DIV: asm.Div, unix.BPF_MOD: asm.Mod,
	unix.BPF_OR: asm.Or, unix.BPF_AND: asm.And, unix.BPF_XOR: asm.Xor, unix.BPF_LSH: asm.LSh, unix.BPF_RSH: asm.RSh,
}

func (t *translator) alu(in bpf.RawInstruction) error {
	code := in.Op & 0xf0
	if code == unix.BPF_NEG {
		t.emit(asm.Neg.Imm32(regA, 0))
		return nil
	}
	op, ok := aluOps[code]
	if !ok {
		return errors.ErrUnsupported
	}
	divides := code == unix.BPF_DIV || code == unix.BPF_MOD
	if in.Op&unix.BPF_X != 0 {
		if divides { // division by zero refuses the packet
			t.emit(asm.JEq.Imm32(regX, 0, labelRefuse))
		}
		t.emit(op.Reg32(regA, regX))
		return nil
	}
	if divides && in.K == 0 || (code == unix.BPF_LSH || code == unix.BPF_RSH) && in.K > 31 {
		return fmt.Errorf("bad operand %d", in.K) // as net/core/filter.c, bpf_check_classic
	}
	t.emit(op.Imm32(regA, int32(in.K)))
	return nil
}

var jumpOps = map[uint16]asm.JumpOp{
	unix.BPF_JEQ: asm.JEq, unix.BPF_JGT: asm.JGT, unix.BPF_JGE: asm.JGE, unix.BPF_JSET: asm.JSet,
}

func (t *translator) jump(i int, in bpf.RawInstruction, n int) error {
	target := func(off uint32) (string, error) {
		if uint64(i)+1+uint64(off) >= uint64(n) {
			return "", errors.New("jump beyond the end")
		}
		return "i" + strconv.Itoa(i+1+int(off)), nil
	}
	code := in.Op & 0xf0
	if code == unix.BPF_JA {
		to, err := target(in.K)
		if err != nil {
			return err
		}
		t.emit(asm.Ja.Label(to))
		return nil
	}
	op, ok := jumpOps[code]
	if !ok {
		return errors.ErrUnsupported
	}
	yes, err := target(uint32(in.Jt))
	if err != nil {
		return err
	}
	no, err := target(uint32(in.Jf))
	if err != nil {
		return err
	}
	if in.Op&unix.BPF_X != 0 {
		t.emit(op.Reg32(regA, regX, yes))
	} else {
		t.emit(op.Imm32(regA, int32(in.K), yes))
	}
	if in.Jf != 0 {
		t.emit(asm.Ja.Label(no))
	}
	return nil
}

func (t *translator) ret(in bpf.RawInstruction) error {
	switch in.Op & 0x18 {
	case unix.BPF_K:
		k := in.K
		if t.snap != 0 {
			k = min(k, t.snap)
		}
		if k == 0 {
			t.emit(asm.Ja.Label(labelRefuse))
			return nil
		}
		t.emit(asm.Mov.Imm32(regTmp, int32(k)), asm.Ja.Label(labelAccept))
	case unix.BPF_A:
		t.emit(asm.JEq.Imm32(regA, 0, labelRefuse), asm.Mov.Reg32(regTmp, regA))
		if t.snap != 0 {
			t.emit(asm.JLE.Imm32(regTmp, int32(t.snap), labelAccept), asm.Mov.Imm32(regTmp, int32(t.snap)))
		}
		t.emit(asm.Ja.Label(labelAccept))
	default:
		return errors.ErrUnsupported
	}
	return nil
}
