// Package ebpf translates classic BPF programs to eBPF programs that decide on a copy of a packet's headers.
//
// Runs in: agent
//
// Programs at TC and XDP cannot use the classic loads from the packet. So the headers are copied into a buffer, a VLAN tag
// that the kernel keeps beside the packet is put back into the copy, and the filter, compiled for files (cbpf.File), runs on
// that. Reading beyond the copy means no match, as reading beyond the packet does.
package ebpf

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"
)

// Octets of headers that are copied.
const (
	DefaultOctets = 256
	MinOctets     = 64
	MaxOctets     = 4096
)

// Names in the CollectionSpec of Classifier.
const (
	ProgramName = "opentap_filter"
	MapName     = "opentap_headers"
)

// ErrOctets is wrapped by the error for a size of the copy that is not within MinOctets and MaxOctets.
var ErrOctets = errors.New("size of the header copy out of range")

// Function translates a program to an eBPF function of this name:
//
//	int name(const void *copy, u32 octets, u32 length)
//
// copy has room for size octets, of which the first octets (at most size) are the packet's; length is the packet's on the
// wire. It returns 1 for a match, else 0. Programs with ancillary loads are refused with an error that wraps
// errors.ErrUnsupported. The same program gives the same instructions.
func Function(name string, p []bpf.RawInstruction, size int) (asm.Instructions, error) {
	if size < MinOctets || size > MaxOctets {
		return nil, fmt.Errorf("translate filter: %w: %d, want %d to %d", ErrOctets, size, MinOctets, MaxOctets)
	}
	t := translator{size: uint32(size), prefix: name + "_", label: name}
	t.emit(
		asm.Mov.Reg(regCopy, asm.R1),
		asm.Mov.Reg32(regOctets, asm.R2),
		asm.Mov.Reg32(regLength, asm.R3),
		asm.Mov.Imm32(regA, 0),
		asm.Mov.Imm32(regX, 0),
	)
	for i := range ScratchUsed(p) {
		t.emit(asm.StoreImm(asm.RFP, scratch(uint32(i)), 0, asm.Word))
	}
	live, err := Reachable(p)
	if err != nil {
		return nil, fmt.Errorf("translate filter: %w", err)
	}
	for i, in := range p {
		if !live[i] {
			continue // the verifier refuses dead code, classic BPF does not
		}
		t.label = first(t.label, t.at(i))
		if err := t.instruction(i, in); err != nil {
			return nil, fmt.Errorf("translate filter: instruction %d (code %#x): %w", i, in.Op, err)
		}
	}
	if t.refuses {
		t.label = t.refuse()
		t.emit(asm.Mov.Imm32(asm.R0, 0), asm.Return())
	}
	return t.out, nil
}

// Offsets in struct __sk_buff, linux include/uapi/linux/bpf.h.
const (
	skbLen         = 0
	skbVLANPresent = 20
	skbVLANTCI     = 24
	skbVLANProto   = 28
)

// Classifier describes a TC program (BPF_PROG_TYPE_SCHED_CLS) that returns 1 for packets that match and 0 for others, and
// the map that it needs. size is how many octets of headers it looks at; 0 = DefaultOctets.
func Classifier(p []bpf.RawInstruction, size int) (*ebpf.CollectionSpec, error) {
	if size == 0 {
		size = DefaultOctets
	}
	filter, err := Function("filter", p, size)
	if err != nil {
		return nil, err
	}
	ins := append(CopyHeaders(MapName, size, "none"),
		asm.Mov.Reg(asm.R1, asm.R7),
		asm.Mov.Reg(asm.R2, asm.R9),
		asm.Mov.Reg(asm.R3, asm.R8),
		asm.Call.Label("filter"),
		asm.Return(),
		asm.Mov.Imm(asm.R0, 0).WithSymbol("none"),
		asm.Return(),
	)
	return &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{MapName: HeadersMap(size)},
		Programs: map[string]*ebpf.ProgramSpec{ProgramName: {
			Name: ProgramName, Type: ebpf.SchedCLS, Instructions: append(ins, filter...), License: "Dual MIT/GPL",
		}},
	}, nil
}

// HeadersMap describes the map for CopyHeaders: a buffer for each CPU.
func HeadersMap(size int) *ebpf.MapSpec {
	return &ebpf.MapSpec{Name: MapName, Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: uint32(size), MaxEntries: 1}
}

// CopyHeaders is the beginning of a TC program (context in R1): it copies up to size octets of the packet's headers into the
// one value of the map, with the tag that the kernel keeps beside the packet where it stood on the wire. Then R6 is the context, R7
// the copy, R8 the length of the packet on the wire and R9 the octets in the copy. It jumps to none if nothing can be copied.
// It uses eight octets of stack.
func CopyHeaders(mapName string, size int, none string) asm.Instructions {
	n := int32(size)
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, 0).WithReference(mapName),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, none),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.LoadMem(asm.R8, asm.R6, skbLen, asm.Word),
		asm.LoadMem(asm.R1, asm.R6, skbVLANPresent, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "copy_tagged"),

		asm.JLT.Imm(asm.R8, 1, none),
		asm.Mov.Reg(asm.R9, asm.R8),
		asm.JLE.Imm(asm.R9, n, "copy_plain"),
		asm.Mov.Imm(asm.R9, n),
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("copy_plain"),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Mov.Reg(asm.R4, asm.R9),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, none),
		asm.Ja.Label("copied"),

		// The addresses, the tag, the rest.
		asm.Mov.Reg(asm.R1, asm.R6).WithSymbol("copy_tagged"),
		asm.Mov.Imm(asm.R2, 0),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Mov.Imm(asm.R4, 12),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, none),
		asm.LoadMem(asm.R1, asm.R6, skbVLANProto, asm.Word), // in network order
		asm.StoreMem(asm.R7, 12, asm.R1, asm.Half),
		asm.LoadMem(asm.R1, asm.R6, skbVLANTCI, asm.Word), // in the host's
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(asm.R7, 14, asm.R1, asm.Half),
		asm.Add.Imm(asm.R8, 4),
		asm.Mov.Reg(asm.R9, asm.R8),
		asm.JLE.Imm(asm.R9, n, "copy_rest"),
		asm.Mov.Imm(asm.R9, n),
		asm.JLE.Imm(asm.R9, 16, "copied").WithSymbol("copy_rest"),
		asm.Mov.Reg(asm.R4, asm.R9),
		asm.Sub.Imm(asm.R4, 16),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, 12),
		asm.Mov.Reg(asm.R3, asm.R7),
		asm.Add.Imm(asm.R3, 16),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, none),
		asm.Mov.Reg(asm.R0, asm.R7).WithSymbol("copied"),
	}
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
