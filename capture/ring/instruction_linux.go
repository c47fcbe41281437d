package ring

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	febpf "opentap/filter/ebpf"
)

func (t *translator) instruction(i int, in bpf.RawInstruction) error {
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
		ins, err := febpf.ALU(in, regA, regX, func() string { return labelRefuse })
		if err != nil {
			return err
		}
		t.emit(ins...)
	case unix.BPF_JMP:
		ins, err := febpf.Jump(i, in, regA, regX, label)
		if err != nil {
			return err
		}
		t.emit(ins...)
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
