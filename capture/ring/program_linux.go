package ring

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/net/bpf"

	febpf "opentap/filter/ebpf"
)

// countingFilter is a classic filter translated to an eBPF socket filter that counts its verdicts.
type countingFilter struct {
	verdicts *ebpf.Map // per-CPU array of one verdictCounts
	prog     *ebpf.Program
}

type verdictCounts struct{ Refused, Accepted uint64 }

func newCountingFilter(classic []bpf.RawInstruction, snap uint32) (*countingFilter, error) {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "opentap_verdict", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("make counter map: %w", err)
	}
	ins, err := translate(classic, snap, m.FD())
	if err != nil {
		m.Close()
		return nil, err
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "opentap_filter", Type: ebpf.SocketFilter, Instructions: ins})
	if err != nil {
		m.Close()
		return nil, fmt.Errorf("load counting filter: %w", err)
	}
	return &countingFilter{m, p}, nil
}

func (f *countingFilter) fd() int { return f.prog.FD() }

func (f *countingFilter) close() error { return errors.Join(f.prog.Close(), f.verdicts.Close()) }

// counts sums over the CPUs. Each counter only grows.
func (f *countingFilter) counts() (refused, accepted uint64, err error) {
	var cpus []verdictCounts
	if err := f.verdicts.Lookup(uint32(0), &cpus); err != nil {
		return 0, 0, err
	}
	for _, c := range cpus {
		refused += c.Refused
		accepted += c.Accepted
	}
	return refused, accepted, nil
}

// Registers of the translated program. Loads from the packet need the context in R6, leave their value in R0 and
// destroy R1-R5 (linux Documentation/bpf/classic_vs_extended.rst).
const (
	regA   = asm.R0
	regCtx = asm.R6
	regX   = asm.R7
	regLen = asm.R8 // octets of the packet
	regTmp = asm.R9 // survives a load; at the end the verdict
)

// Offsets in struct __sk_buff, linux include/uapi/linux/bpf.h.
const (
	skbLen         = 0
	skbPktType     = 4
	skbProtocol    = 16
	skbVLANPresent = 20
	skbVLANTCI     = 24
	skbVLANProto   = 28
	skbIfindex     = 40
)

// Ancillary loads, linux include/uapi/linux/filter.h.
const (
	adBase        = 0xfffff000 // SKF_AD_OFF
	adProtocol    = adBase + 0
	adPktType     = adBase + 4
	adIfindex     = adBase + 8
	adVLANTag     = adBase + 44
	adVLANPresent = adBase + 48
	adVLANTPID    = adBase + 60
)

const (
	labelRefuse = "refuse"
	labelAccept = "accept"
)

// translate turns a classic program into the eBPF socket filter with the same verdicts, at most snap octets (0 = no
// limit), that adds each verdict to the verdictCounts at key 0 of the map. It follows linux net/core/filter.c,
// bpf_convert_filter, with one difference in form: each packet load is preceded by a comparison with the packet's
// length, because a load beyond it would end the program uncounted. Programs with loads that have no counterpart are
// refused with errors.ErrUnsupported.
func translate(classic []bpf.RawInstruction, snap uint32, mapFD int) (asm.Instructions, error) {
	t := translator{snap: snap}
	t.emit(
		asm.Mov.Reg(regCtx, asm.R1),
		asm.LoadMem(regLen, regCtx, skbLen, asm.Word),
		asm.Mov.Imm32(regA, 0),
		asm.Mov.Imm32(regX, 0),
	)
	for i := range febpf.ScratchUsed(classic) {
		t.emit(asm.StoreImm(asm.RFP, scratch(uint32(i)), 0, asm.Word))
	}
	live, err := febpf.Reachable(classic)
	if err != nil {
		return nil, err
	}
	for i, in := range classic {
		if !live[i] {
			continue // the verifier refuses dead code, classic BPF does not
		}
		t.label = label(i)
		if err := t.instruction(i, in); err != nil {
			return nil, fmt.Errorf("translate instruction %d (code %#x): %w", i, in.Op, err)
		}
	}
	if t.jumpsTo(labelRefuse) {
		t.label = labelRefuse
		t.emit(asm.Mov.Imm32(regTmp, 0))
		t.count("end", mapFD, 0)
	}
	if t.jumpsTo(labelAccept) {
		t.label = labelAccept
		t.count("end", mapFD, 8)
	}
	t.label = "end"
	t.emit(asm.Mov.Reg32(asm.R0, regTmp), asm.Return())
	return t.out, nil
}

type translator struct {
	out   asm.Instructions
	label string // of the next instruction
	snap  uint32
}

func (t *translator) emit(ins ...asm.Instruction) {
	if t.label != "" {
		ins[0] = ins[0].WithSymbol(t.label)
		t.label = ""
	}
	t.out = append(t.out, ins...)
}

func (t *translator) jumpsTo(label string) bool {
	for _, in := range t.out {
		if in.Reference() == label {
			return true
		}
	}
	return false
}

// count adds one to a counter of this CPU's map value and goes to end. The program runs with soft interrupts off,
// where an ordinary addition would do; the atomic one also holds on a preemptible kernel.
func (t *translator) count(end string, mapFD int, field int16) {
	const key = -4
	t.emit(
		asm.StoreImm(asm.RFP, key, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, mapFD),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, end),
		asm.Mov.Imm(asm.R1, 1),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, field),
		asm.Ja.Label(end),
	)
}

// label is that of an instruction.
func label(i int) string { return "i" + strconv.Itoa(i) }

// scratch is the place of M[k] on the stack, below the map key.
func scratch(k uint32) int16 { return -8 - 4*int16(k) }
