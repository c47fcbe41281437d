package nettest

import (
	"errors"
	"fmt"
	"net/netip"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Sink makes one end of a veth take a Generator's frames, and counts them: an XDP program that passes every frame on to the
// host, where rings see it.
type Sink struct {
	prog  *ebpf.Program
	count *ebpf.Map
	link  link.Link
}

// NewSink attaches a sink to an interface in the network namespace of the calling thread, and turns receive
// offload off, which would join frames.
func NewSink(iface string) (*Sink, error) {
	index, err := interfaceIndex(iface)
	if err != nil {
		return nil, fmt.Errorf("sink: find %s: %w", iface, err)
	}
	if err := setGRO(iface, false); err != nil {
		return nil, fmt.Errorf("sink: turn GRO of %s off: %w", iface, err)
	}
	s := &Sink{}
	if s.count, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: 1}); err != nil {
		return nil, fmt.Errorf("sink: make map: %w", err)
	}
	s.prog, err = ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, Instructions: asm.Instructions{
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, s.count.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord),
		asm.Add.Imm(asm.R1, 1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, 2).WithSymbol("pass"), // XDP_PASS
		asm.Return(),
	}})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("sink: load: %w", err)
	}
	s.link, err = link.AttachXDP(link.XDPOptions{Program: s.prog, Interface: index, Flags: link.XDPDriverMode})
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("sink: attach to %s: %w", iface, err)
	}
	return s, nil
}

// Delivered returns how many frames were passed on to the host since the sink was attached.
func (s *Sink) Delivered() (uint64, error) {
	var cpus []uint64
	if err := s.count.Lookup(uint32(0), &cpus); err != nil {
		return 0, fmt.Errorf("sink: read count: %w", err)
	}
	var n uint64
	for _, c := range cpus {
		n += c
	}
	return n, nil
}

// Close detaches the sink.
func (s *Sink) Close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.prog != nil {
		errs = append(errs, s.prog.Close())
	}
	return errors.Join(append(errs, s.count.Close())...)
}

func interfaceIndex(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, req); err != nil {
		return 0, err
	}
	return int(req.Uint32()), nil
}

// setGRO sets generic receive offload, linux include/uapi/linux/ethtool.h.
func setGRO(name string, on bool) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	value := struct{ cmd, data uint32 }{cmd: unix.ETHTOOL_SGRO}
	if on {
		value.data = 1
	}
	req := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&value)}
	copy(req.name[:unix.IFNAMSIZ-1], name)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&req))); errno != 0 {
		return errno
	}
	return nil
}

func addr4(v uint32) netip.Addr {
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// addr6 returns an address in 2001:db8::/32 (RFC 3849) that ends in v.
func addr6(v uint32) netip.Addr {
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 12: byte(v >> 24), 13: byte(v >> 16), 14: byte(v >> 8), 15: byte(v)})
}
