package cbpf

import (
	"fmt"
	"strings"

	"golang.org/x/net/bpf"
)

// ancillary names what the kernel's extended loads read.
var ancillary = map[uint32]string{ancPktType: "pkt_type", ancVLANTag: "vlan_tci", ancVLANPresent: "vlan_present", ancVLANTPID: "vlan_proto"}

var aluNames = map[uint16]string{
	aluAdd: "add", aluSub: "sub", aluMul: "mul", aluDiv: "div", aluOr: "or", aluAnd: "and", aluLsh: "lsh", aluRsh: "rsh",
	aluNeg: "neg", aluMod: "mod", aluXor: "xor",
}

var jumpNames = map[uint16]string{uint16(cmpEQ): "jeq", uint16(cmpGT): "jgt", uint16(cmpGE): "jge", uint16(cmpSet): "jset"}

// Listing writes a program for people, an instruction a line, as tcpdump -d does.
func Listing(p []bpf.RawInstruction) string {
	var b strings.Builder
	for i, r := range p {
		name, operand := mnemonic(r, i)
		if r.Op&7 == opJmp && r.Op&0xf0 != 0 {
			fmt.Fprintf(&b, "(%03d) %-8s %-16s jt %d\tjf %d\n", i, name, operand, i+1+int(r.Jt), i+1+int(r.Jf))
			continue
		}
		fmt.Fprintf(&b, "(%03d) %-8s %s\n", i, name, operand)
	}
	return b.String()
}

func mnemonic(r bpf.RawInstruction, i int) (name, operand string) {
	switch r.Op & 7 {
	case 0, 1:
		return loadMnemonic(r)
	case 2, 3:
		return [...]string{"st", "stx"}[r.Op&7-2], fmt.Sprintf("M[%d]", r.K)
	case opAlu:
		name = aluNames[r.Op&0xf0]
		switch {
		case r.Op&0xf0 == aluNeg:
		case r.Op&srcX != 0:
			operand = "x"
		case r.Op&0xf0 == aluAnd, r.Op&0xf0 == aluOr, r.Op&0xf0 == aluXor:
			operand = fmt.Sprintf("#0x%x", r.K)
		default:
			operand = fmt.Sprintf("#%d", r.K)
		}
	case opJmp:
		name, operand = jumpNames[r.Op&0xf0], fmt.Sprintf("#0x%x", r.K)
		if r.Op&0xf0 == 0 {
			return "ja", fmt.Sprint(i + 1 + int(r.K))
		}
		if r.Op&srcX != 0 {
			operand = "x"
		}
	case 6:
		return "ret", fmt.Sprintf("#%d", r.K)
	case 7:
		name = "tax"
		if r.Op&0x80 != 0 {
			name = "txa"
		}
	}
	if name == "" {
		return "unimp", fmt.Sprintf("0x%x", r.Op)
	}
	return name, operand
}

func loadMnemonic(r bpf.RawInstruction) (name, operand string) {
	name = "ld"
	if r.Op&7 == 1 {
		name = "ldx"
	}
	suffix := map[uint16]string{sizeH: "h", sizeB: "b"}[r.Op&0x18]
	switch r.Op & 0xe0 {
	case opLdImm:
		return name, fmt.Sprintf("#0x%x", r.K)
	case opLdAbs:
		if what, ok := ancillary[r.K]; ok {
			return name, "[" + what + "]"
		}
		return name + suffix, fmt.Sprintf("[%d]", r.K)
	case opLdInd:
		return name + suffix, fmt.Sprintf("[x + %d]", r.K)
	case opLdMem:
		return name, fmt.Sprintf("M[%d]", r.K)
	case opLdLen:
		return name, "#pktlen"
	}
	return "ldxb", fmt.Sprintf("4*([%d]&0xf)", r.K)
}
