package ebpf

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// Registers of a translated program.
const (
	regA      = asm.R0
	regCopy   = asm.R6
	regX      = asm.R7
	regOctets = asm.R8 // octets in the copy
	regLength = asm.R9 // of the packet on the wire
)

// Classic BPF opcodes, linux include/uapi/linux/bpf_common.h.
const (
	clsLD, clsLDX, clsST, clsSTX, clsALU, clsJMP, clsRET, clsMISC = 0, 1, 2, 3, 4, 5, 6, 7

	modeIMM, modeABS, modeIND, modeMEM, modeLEN, modeMSH = 0x00, 0x20, 0x40, 0x60, 0x80, 0xa0

	srcX  = 0x08
	aluA  = 0x10 // of RET: the accumulator
	jmpJA = 0x00
	txa   = 0x80
	tax   = 0x00

	divide, modulo, lsh, rsh, neg = 0x30, 0x90, 0x60, 0x70, 0x80
)

type translator struct {
	out     asm.Instructions
	prefix  string // of labels
	label   string // of the next instruction
	size    uint32 // of the copy
	refuses bool   // something jumps to refuse
}

func (t *translator) at(i int) string { return t.prefix + strconv.Itoa(i) }

// refuse is the label of return 0.
func (t *translator) refuse() string {
	t.refuses = true
	return t.prefix + "refuse"
}

func (t *translator) emit(ins ...asm.Instruction) {
	if t.label != "" {
		ins[0] = ins[0].WithSymbol(t.label)
		t.label = ""
	}
	t.out = append(t.out, ins...)
}

// scratch is the place of M[k] on the stack.
func scratch(k uint32) int16 { return -4 - 4*int16(k) }

func (t *translator) instruction(i int, in bpf.RawInstruction) error {
	switch in.Op & 7 {
	case clsLD:
		return t.load(in, regA)
	case clsLDX:
		return t.load(in, regX)
	case clsST, clsSTX:
		if in.K > 15 {
			return fmt.Errorf("no scratch word %d", in.K)
		}
		reg := regA
		if in.Op&7 == clsSTX {
			reg = regX
		}
		t.emit(asm.StoreMem(asm.RFP, scratch(in.K), reg, asm.Word))
	case clsALU:
		ins, err := ALU(in, regA, regX, t.refuse)
		if err != nil {
			return err
		}
		t.emit(ins...)
	case clsJMP:
		ins, err := Jump(i, in, regA, regX, t.at)
		if err != nil {
			return err
		}
		t.emit(ins...)
	case clsRET:
		switch in.Op & 0x18 {
		case 0:
			t.emit(asm.Mov.Imm32(asm.R0, min(1, int32(min(in.K, 1)))), asm.Return())
		case aluA:
			t.emit(asm.JEq.Imm32(regA, 0, t.refuse()), asm.Mov.Imm32(asm.R0, 1), asm.Return())
		default:
			return errors.ErrUnsupported
		}
	case clsMISC:
		if in.Op&0xf8 == txa {
			t.emit(asm.Mov.Reg32(regA, regX))
		} else {
			t.emit(asm.Mov.Reg32(regX, regA))
		}
	}
	return nil
}

// load translates LD and LDX into a register.
func (t *translator) load(in bpf.RawInstruction, to asm.Register) error {
	switch in.Op & 0xe0 {
	case modeIMM:
		t.emit(asm.Mov.Imm32(to, int32(in.K)))
		return nil
	case modeLEN:
		t.emit(asm.Mov.Reg32(to, regLength))
		return nil
	case modeMEM:
		if in.K > 15 {
			return fmt.Errorf("no scratch word %d", in.K)
		}
		t.emit(asm.LoadMem(to, asm.RFP, scratch(in.K), asm.Word))
		return nil
	case modeMSH: // X = 4 × low nibble of an octet: the length of an IPv4 header
		if to != regX {
			return errors.ErrUnsupported
		}
		if t.bounded(in.K, 1) {
			t.emit(asm.LoadMem(regX, regCopy, int16(in.K), asm.Byte), asm.And.Imm32(regX, 15), asm.LSh.Imm32(regX, 2))
		}
		return nil
	}
	if to != regA || in.K >= 0xfffff000 { // SKF_AD_OFF
		return errors.ErrUnsupported
	}
	size, octets := asm.Word, uint32(4)
	switch in.Op & 0x18 {
	case 0x08:
		size, octets = asm.Half, 2
	case 0x10:
		size, octets = asm.Byte, 1
	case 0x18:
		return errors.ErrUnsupported
	}
	switch in.Op & 0xe0 {
	case modeABS:
		if !t.bounded(in.K, octets) {
			return nil
		}
		t.emit(asm.LoadMem(regA, regCopy, int16(in.K), size))
	case modeIND:
		if in.K+octets > t.size || in.K > t.size {
			t.never()
			return nil
		}
		// The sum is of 64 bits, so it does not wrap. The verifier wants to see the offset bounded by a constant.
		t.emit(
			asm.Mov.Reg32(asm.R1, regX),
			asm.Add.Imm(asm.R1, int32(in.K)),
			asm.JGT.Imm(asm.R1, int32(t.size-octets), t.refuse()),
			asm.Mov.Reg(asm.R2, asm.R1),
			asm.Add.Imm(asm.R2, int32(octets)),
			asm.JGT.Reg(asm.R2, regOctets, t.refuse()),
			asm.Mov.Reg(asm.R2, regCopy),
			asm.Add.Reg(asm.R2, asm.R1),
			asm.LoadMem(regA, asm.R2, 0, size),
		)
	default:
		return errors.ErrUnsupported
	}
	if octets > 1 {
		t.emit(asm.HostTo(asm.BE, regA, size))
	}
	return nil
}

// bounded checks that octets at off are in the copy. It returns false if they never are.
func (t *translator) bounded(off, octets uint32) bool {
	if off > t.size || off+octets > t.size {
		t.never()
		return false
	}
	t.emit(asm.JLT.Imm(regOctets, int32(off+octets), t.refuse()))
	return true
}

// never refuses all packets, in a form that does not make what follows dead code.
func (t *translator) never() { t.emit(asm.JGE.Imm(regOctets, 0, t.refuse())) }
