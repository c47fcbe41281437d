package nettest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Mix names a distribution of frame lengths.
type Mix string

// The mixes. Both carry UDP, 25 % IPv6, 10 % VLAN-tagged.
const (
	Mix64   Mix = "64"   // the shortest frames: 60 octets (62 to 66 where the headers need them)
	MixIMIX Mix = "imix" // 7:4:1 of the shortest, 590 and 1514 octets: 362 on average
)

// GeneratorConfig says what to generate.
type GeneratorConfig struct {
	Interface string // end of a veth the frames are put on; they arrive at its peer, which needs a Sink
	Mix       Mix    // "" = Mix64
	Flows     int    // bidirectional flows, taken in turns, 1 to 16 million; 0 = 100,000
	CPU       int    // CPU to run on, and with it the receive path of the peer up to the ring; negative = any
}

// Generator floods a veth at some million frames a second from inside the kernel: an XDP program run with live frames
// (BPF_F_TEST_XDP_LIVE_FRAMES, linux Documentation/bpf/bpf_prog_run.rst) writes each frame and redirects it.
type Generator struct {
	cfg   GeneratorConfig
	size  int // of the frame before it is cut
	prog  *ebpf.Program
	state *ebpf.Map
	heads *ebpf.Map
	hold  link.Link // keeps prog in the XDP dispatcher, see NewGenerator; nil = could not
}

const (
	headSize  = 72 // octets of a frame the program writes: the longest headers are 66
	headSum   = 72 // u32: sum of the IPv4 header's words without checksum and flow address
	headLen   = 76 // u32: length of the frame
	headSlot  = 80
	headKinds = 4 * 2 * 3 // kind, direction, length
	flowBase4 = 10 << 24  // 10.0.0.0: the flow's number is the lower 24 bits of the address
	batch     = 64        // frames put on the veth in one go; its ring holds 256 (drivers/net/veth.c)
)

// NewGenerator loads the generator for an interface in the network namespace of the calling thread. Run must be
// called from a thread in that namespace.
func NewGenerator(cfg GeneratorConfig) (*Generator, error) {
	if cfg.Flows == 0 {
		cfg.Flows = 100_000
	}
	if cfg.Flows < 1 || cfg.Flows > 1<<24 {
		return nil, fmt.Errorf("generator: %d flows are not 1 to %d", cfg.Flows, 1<<24)
	}
	g := &Generator{cfg: cfg, size: headSize}
	lengths := [3]int{MinFrame, MinFrame, MinFrame}
	switch cfg.Mix {
	case MixIMIX:
		lengths = [3]int{MinFrame, 590, 1514}
		g.size = 1514
	case Mix64, "":
	default:
		return nil, fmt.Errorf("generator: unknown mix %q", cfg.Mix)
	}
	index, err := interfaceIndex(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("generator: find %s: %w", cfg.Interface, err)
	}
	g.heads, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: headKinds * headSlot, MaxEntries: 1})
	if err != nil {
		return nil, fmt.Errorf("generator: make map: %w", err)
	}
	if err := g.heads.Put(uint32(0), heads(lengths)); err != nil {
		g.Close()
		return nil, fmt.Errorf("generator: fill map: %w", err)
	}
	g.state, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 24, MaxEntries: 1})
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("generator: make map: %w", err)
	}
	g.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: g.program(index)})
	if err != nil {
		g.Close()
		return nil, fmt.Errorf("generator: load: %w", err)
	}
	// A run adds the program to the XDP dispatcher and takes it out again, and waits for an RCU grace period each time: some
	// 20 ms, in which nothing is sent. A program that is in there already because it is attached is left alone (linux
	// kernel/bpf/dispatcher.c, bpf_dispatcher_change_prog). Nothing arrives at this end for it to answer.
	g.hold, _ = link.AttachXDP(link.XDPOptions{Program: g.prog, Interface: index, Flags: link.XDPGenericMode})
	return g, nil
}

// Close frees the generator.
func (g *Generator) Close() error {
	var errs []error
	if g.hold != nil {
		errs = append(errs, g.hold.Close())
	}
	if g.prog != nil {
		errs = append(errs, g.prog.Close())
	}
	for _, m := range []*ebpf.Map{g.state, g.heads} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

// Run generates count frames (0 = until ctx ends), rate a second (0 = as fast as it goes). A few more than count may
// be sent; what arrived is the Sink's to say. It blocks, on a thread of its own when the caller locked one.
func (g *Generator) Run(ctx context.Context, count, rate uint64) error {
	if g.cfg.CPU >= 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var old, set unix.CPUSet
		if err := unix.SchedGetaffinity(0, &old); err != nil {
			return fmt.Errorf("generator: read CPU affinity: %w", err)
		}
		set.Set(g.cfg.CPU)
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("generator: run on CPU %d: %w", g.cfg.CPU, err)
		}
		defer unix.SchedSetaffinity(0, &old)
	}
	chunk := uint64(1 << 16)
	if rate > 0 {
		chunk = min(max(rate/500, 1), chunk) // a chunk every 2 ms
	}
	data := make([]byte, g.size)
	start := time.Now()
	for sent := uint64(0); ctx.Err() == nil && (count == 0 || sent < count); {
		n := chunk
		if count > 0 {
			n = min(n, count-sent)
		}
		_, err := g.prog.Run(&ebpf.RunOptions{Data: data, Repeat: uint32(n), Flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, BatchSize: uint32(min(n, batch))})
		if err != nil {
			return fmt.Errorf("generator: run: %w", err)
		}
		sent += n
		if rate > 0 {
			time.Sleep(time.Until(start.Add(time.Duration(float64(sent) / float64(rate) * 1e9))))
		}
	}
	return nil
}

// Made returns how many frames the program wrote since it was loaded.
func (g *Generator) Made() (uint64, error) {
	var v [24]byte
	if err := g.state.Lookup(uint32(0), &v); err != nil {
		return 0, fmt.Errorf("generator: read count: %w", err)
	}
	return binary.NativeEndian.Uint64(v[16:]), nil
}

// heads builds the frames' beginnings in the order (kind, direction, length).
func heads(lengths [3]int) []byte {
	b := make([]byte, headKinds*headSlot)
	slot := b
	for kind := range 4 {
		for dir := range 2 {
			for _, n := range lengths {
				head(slot[:headSlot], kind, dir, n)
				slot = slot[headSlot:]
			}
		}
	}
	return b
}

func head(b []byte, kind, dir, length int) {
	p := Packet{SrcPort: 1024, DstPort: 443, NoPad: true, DF: true}
	p.SrcMAC, p.DstMAC = [6]byte{2, 0, 0, 0, 1, 1}, [6]byte{2, 0, 0, 0, 1, 2}
	p.Src, p.Dst = addr4(flowBase4), addr4(198<<24|51<<16|100<<8|1)
	if kind&1 != 0 {
		p.Src, p.Dst = addr6(0), addr6(0xffff0001)
	}
	if kind&2 != 0 {
		p.Tags = []Tag{{TCI: 100}}
	}
	if dir != 0 {
		p.Src, p.Dst, p.SrcPort, p.DstPort, p.SrcMAC, p.DstMAC = p.Dst, p.Src, p.DstPort, p.SrcPort, p.DstMAC, p.SrcMAC
	}
	headers := len(p.Bytes())
	length = max(length, headers)
	p.Payload = make([]byte, length-headers)
	f := p.Bytes()
	udp := headers - 8
	f[udp+6], f[udp+7] = 0, 0 // no checksum
	if kind&1 == 0 {
		ip := udp - 20
		f[ip+10], f[ip+11] = 0, 0
		binary.NativeEndian.PutUint32(b[headSum:], sum16(f[ip:ip+20], 0))
	}
	copy(b[:headSize], f)
	binary.NativeEndian.PutUint32(b[headLen:], uint32(length))
}

// program writes the XDP program. State: u32 flow, u32 flow modulo 20, u32 place in the length pattern, u32
// direction, u64 frames.
func (g *Generator) program(ifindex int) asm.Instructions {
	const (
		ctx, state, flow, data = asm.R6, asm.R7, asm.R8, asm.R9
		sFlow, sKind, sLength  = 0, 4, 8
		sDir, sCount           = 12, 16
		xdpDrop                = 1
	)
	out := asm.Instructions{
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(data, ctx, 0, asm.Word),
		asm.LoadMem(asm.R1, ctx, 4, asm.Word),
		asm.Mov.Reg(asm.R2, data),
		asm.Add.Imm(asm.R2, headSize),
		asm.JGT.Reg(asm.R2, asm.R1, "drop"),
		asm.LoadMapValue(state, g.state.FD(), 0),
		asm.LoadMem(asm.R1, state, sCount, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(state, sCount, asm.R1, asm.DWord),
		asm.LoadMem(flow, state, sFlow, asm.Word),
		asm.LoadMem(asm.R3, state, sKind, asm.Word),
		asm.LoadMem(asm.R4, state, sDir, asm.Word),
		// The next frame: the other direction, then the next flow.
		asm.Mov.Reg(asm.R1, asm.R4),
		asm.Xor.Imm(asm.R1, 1),
		asm.StoreMem(state, sDir, asm.R1, asm.Word),
		asm.JNE.Imm(asm.R1, 0, "length"),
		asm.Mov.Reg(asm.R1, flow),
		asm.Add.Imm(asm.R1, 1),
		asm.Mov.Reg(asm.R2, asm.R3),
		asm.Add.Imm(asm.R2, 1),
		asm.JLT.Imm(asm.R2, 20, "kept"),
		asm.Mov.Imm(asm.R2, 0),
		asm.JLT.Imm(asm.R1, int32(g.cfg.Flows), "store").WithSymbol("kept"),
		asm.Mov.Imm(asm.R1, 0),
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(state, sFlow, asm.R1, asm.Word).WithSymbol("store"),
		asm.StoreMem(state, sKind, asm.R2, asm.Word),
		// Lengths 7:4:1, spread over a pattern of 12: R2 = 0, 1 or 2 slots.
		asm.LoadMem(asm.R1, state, sLength, asm.Word).WithSymbol("length"),
		asm.Mov.Reg(asm.R2, asm.R1),
		asm.Add.Imm(asm.R2, 1),
		asm.JLT.Imm(asm.R2, 12, "pattern"),
		asm.Mov.Imm(asm.R2, 0),
		asm.StoreMem(state, sLength, asm.R2, asm.Word).WithSymbol("pattern"),
		asm.Mov.Imm(asm.R2, 2*headSlot),
		asm.JEq.Imm(asm.R1, 5, "kind"),
		asm.Mov.Imm(asm.R2, headSlot),
		asm.JEq.Imm(asm.R1, 1, "kind"),
		asm.JEq.Imm(asm.R1, 4, "kind"),
		asm.JEq.Imm(asm.R1, 7, "kind"),
		asm.JEq.Imm(asm.R1, 10, "kind"),
		asm.Mov.Imm(asm.R2, 0),
		// Kinds by flow modulo 20: five IPv6, one of them tagged; one tagged IPv4; else IPv4.
		asm.LoadMapValue(asm.R5, g.heads.FD(), 0).WithSymbol("kind"),
		asm.Add.Reg(asm.R5, asm.R2),
	}
	for _, c := range []struct {
		k    int32
		kind string
	}{{0, "1"}, {4, "1"}, {8, "1"}, {12, "3"}, {16, "1"}, {1, "2"}} {
		out = append(out, asm.JEq.Imm(asm.R3, c.k, "kind"+c.kind))
	}
	for kind := range 4 {
		name := fmt.Sprintf("kind%d", kind)
		out = append(out, asm.JNE.Imm(asm.R4, 0, name+"back").WithSymbol(name))
		for dir := range 2 {
			write := g.write(kind, dir, data, flow)
			if dir == 1 {
				write[0] = write[0].WithSymbol(name + "back")
			}
			out = append(out, write...)
			out = append(out, asm.Ja.Label("send"))
		}
	}
	return append(out,
		asm.LoadMem(asm.R2, asm.R5, headLen, asm.Word).WithSymbol("send"),
		asm.Sub.Imm(asm.R2, int32(g.size)),
		asm.Mov.Reg(asm.R1, ctx),
		asm.FnXdpAdjustTail.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
		asm.Mov.Imm(asm.R1, int32(ifindex)),
		asm.Mov.Imm(asm.R2, 0),
		asm.FnRedirect.Call(),
		asm.Return(),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("drop"),
		asm.Return(),
	)
}

// write copies a frame's beginning and puts the flow's number into address, port and checksum. R5 is moved to the slot.
func (g *Generator) write(kind, dir int, data, flow asm.Register) asm.Instructions {
	out := asm.Instructions{asm.Add.Imm(asm.R5, int32((kind*2+dir)*3*headSlot))}
	for i := int16(0); i < headSize; i += 8 {
		out = append(out, asm.LoadMem(asm.R1, asm.R5, i, asm.DWord), asm.StoreMem(data, i, asm.R1, asm.DWord))
	}
	ip := int16(14)
	if kind&2 != 0 {
		ip += 4
	}
	address, udp := ip+12, ip+20 // of the source
	next := int16(4)
	if kind&1 != 0 {
		address, udp, next = ip+8+12, ip+40, 16 // the last four octets of 16
	}
	port := udp
	if dir != 0 {
		address, port = address+next, udp+2
	}
	out = append(out,
		asm.Mov.Reg32(asm.R1, flow),
	)
	if kind&1 == 0 {
		out = append(out, asm.Or.Imm32(asm.R1, flowBase4))
	}
	out = append(out,
		asm.HostTo(asm.BE, asm.R1, asm.Word),
		asm.StoreMem(data, address, asm.R1, asm.Word),
		asm.Mov.Reg32(asm.R1, flow),
		asm.And.Imm32(asm.R1, 0x7fff),
		asm.Add.Imm32(asm.R1, 1024),
		asm.HostTo(asm.BE, asm.R1, asm.Half),
		asm.StoreMem(data, port, asm.R1, asm.Half),
	)
	if kind&1 == 0 {
		out = append(out,
			asm.LoadMem(asm.R1, asm.R5, headSum, asm.Word),
			asm.Mov.Reg32(asm.R2, flow),
			asm.RSh.Imm32(asm.R2, 16),
			asm.Add.Reg32(asm.R1, asm.R2),
			asm.Mov.Reg32(asm.R2, flow),
			asm.And.Imm32(asm.R2, 0xffff),
			asm.Add.Reg32(asm.R1, asm.R2),
		)
		for range 2 {
			out = append(out,
				asm.Mov.Reg32(asm.R2, asm.R1),
				asm.RSh.Imm32(asm.R2, 16),
				asm.And.Imm32(asm.R1, 0xffff),
				asm.Add.Reg32(asm.R1, asm.R2),
			)
		}
		out = append(out,
			asm.Xor.Imm32(asm.R1, 0xffff),
			asm.HostTo(asm.BE, asm.R1, asm.Half),
			asm.StoreMem(data, ip+10, asm.R1, asm.Half),
		)
	}
	return out
}
