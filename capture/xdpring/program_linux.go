package xdpring

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// program hands frames to the sockets, stamps them and counts them.
type program struct {
	prog    *ebpf.Program
	sockets *ebpf.Map // XSKMAP: by queue
	tally   *ebpf.Map // per-CPU array of one tally
}

// tally is what the program did with the frames.
type tally struct {
	Handed   uint64 // to a socket; whether that took them is in the socket's statistics
	Unserved uint64 // of queues without a socket: passed on to the host
}

// Fields of struct xdp_md and actions, linux include/uapi/linux/bpf.h.
const (
	mdData   = 0
	mdMeta   = 8
	mdQueue  = 16
	xdpPass  = 2
	xdpRedir = 4
)

func newProgram(queues int) (*program, error) {
	p := &program{}
	var err error
	if p.sockets, err = ebpf.NewMap(&ebpf.MapSpec{Name: "opentap_xsk", Type: ebpf.XSKMap, KeySize: 4, ValueSize: 4, MaxEntries: uint32(queues)}); err != nil {
		return nil, fmt.Errorf("make socket map: %w", err)
	}
	if p.tally, err = ebpf.NewMap(&ebpf.MapSpec{Name: "opentap_tally", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 16, MaxEntries: 1}); err != nil {
		return nil, errors.Join(fmt.Errorf("make counter map: %w", err), p.close())
	}
	p.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Name: "opentap_xdp", Type: ebpf.XDP, Instructions: instructions(p.sockets.FD(), p.tally.FD())})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("load XDP program: %w", err), p.close())
	}
	return p, nil
}

// instructions: stamp the frame with the monotonic clock in the metadata before it (where the driver has room for that),
// redirect it to the socket of its queue, or to the host if there is none, and count which.
func instructions(sockets, counters int) asm.Instructions {
	const key = -4
	return asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.FnKtimeGetNs.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),
		asm.Mov.Reg(asm.R1, asm.R6),
		asm.Mov.Imm(asm.R2, -stampSize),
		asm.FnXdpAdjustMeta.Call(),
		asm.JNE.Imm(asm.R0, 0, "redirect"),
		asm.LoadMem(asm.R2, asm.R6, mdMeta, asm.Word),
		asm.LoadMem(asm.R3, asm.R6, mdData, asm.Word),
		asm.Mov.Reg(asm.R4, asm.R2),
		asm.Add.Imm(asm.R4, stampSize),
		asm.JGT.Reg(asm.R4, asm.R3, "redirect"),
		asm.StoreMem(asm.R2, 0, asm.R7, asm.DWord),

		asm.LoadMem(asm.R2, asm.R6, mdQueue, asm.Word).WithSymbol("redirect"),
		asm.LoadMapPtr(asm.R1, sockets),
		asm.Mov.Imm(asm.R3, xdpPass), // when the queue has no socket
		asm.FnRedirectMap.Call(),
		asm.Mov.Reg(asm.R7, asm.R0),

		asm.StoreImm(asm.RFP, key, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, counters),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, key),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1),
		asm.JNE.Imm(asm.R7, xdpRedir, "unserved"),
		// Programs of one CPU do not interrupt one another, but on a preemptible kernel they can: atomic.
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 0),
		asm.Ja.Label("end"),
		asm.AddAtomic.Mem(asm.R0, asm.R1, asm.DWord, 8).WithSymbol("unserved"),
		asm.Mov.Reg(asm.R0, asm.R7).WithSymbol("end"),
		asm.Return(),
	}
}

// counts sums over the CPUs. Each counter only grows.
func (p *program) counts() (tally, error) {
	var cpus []tally
	if err := p.tally.Lookup(uint32(0), &cpus); err != nil {
		return tally{}, fmt.Errorf("read the XDP program's counters: %w", err)
	}
	var t tally
	for _, c := range cpus {
		t.Handed += c.Handed
		t.Unserved += c.Unserved
	}
	return t, nil
}

func (p *program) close() error {
	var errs []error
	if p.prog != nil {
		errs = append(errs, p.prog.Close())
	}
	for _, m := range []*ebpf.Map{p.tally, p.sockets} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}
