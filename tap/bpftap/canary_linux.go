package bpftap

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"opentap/tap"
)

// MostInjected bounds what Inject can put on a device, octets: the kernel has room for one page less its own needs
// (bpf_prog_test_run_skb, net/bpf/test_run.c).
const MostInjected = 4096 - 512

// Inject puts frames on a device as if its port's owner had sent them (tap.Out) or as if they were sent to it (tap.In). They take the way of
// all packets, taps included; none is longer than MostInjected. It must be called on a thread in the device's network namespace.
func Inject(device string, d tap.Direction, frames [][]byte) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("put frames on %s: %w: %w", device, tap.ErrNoDevice, err)
	}
	flags := int32(0)
	if faces(l) == (d == tap.Out) {
		flags = 1 // BPF_F_INGRESS
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "opentap_canary", Type: ebpf.SchedCLS, Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R2, int32(l.Attrs().Index)),
		asm.Mov.Imm(asm.R3, flags),
		asm.FnCloneRedirect.Call(),
		asm.Return(),
	}})
	if err != nil {
		return fmt.Errorf("put frames on %s: %w", device, err)
	}
	defer p.Close()
	for _, f := range frames {
		ret, err := p.Run(&ebpf.RunOptions{Data: f, Repeat: 1})
		if err != nil {
			return fmt.Errorf("put a frame of %d octets on %s: %w", len(f), device, err)
		}
		if ret != 0 {
			return fmt.Errorf("put a frame of %d octets on %s: the kernel refuses it with %d", len(f), device, int32(ret))
		}
	}
	return nil
}

// Hear calls fn with each frame that passes a device, in either direction, with its tag in its place, until ctx ends. f is valid until fn returns. begun is
// called when it listens. It must be called on a thread in the device's network namespace.
func Hear(ctx context.Context, device string, begun func(), fn func(f []byte, at time.Time)) error {
	l, err := netlink.LinkByName(device)
	if err != nil {
		return fmt.Errorf("listen on %s: %w: %w", device, tap.ErrNoDevice, err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", device, err)
	}
	defer unix.Close(fd)
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 50_000}),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: l.Attrs().Index}),
	); err != nil {
		return fmt.Errorf("listen on %s: %w", device, err)
	}
	begun()
	buf, oob, tagged := make([]byte, 1<<16), make([]byte, 256), make([]byte, 0, 1<<16+4)
	for ctx.Err() == nil {
		n, k, _, _, err := unix.Recvmsg(fd, buf, oob, 0)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return fmt.Errorf("listen on %s: %w", device, err)
		}
		fn(withTag(tagged[:0], buf[:n], oob[:k]), time.Now())
	}
	return nil
}

// withTag appends the frame to b, with the tag of struct tpacket_auxdata (linux include/uapi/linux/if_packet.h) in its place.
func withTag(b, f, oob []byte) []byte {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(f) < 12 {
		return append(b, f...)
	}
	for _, m := range msgs {
		if m.Header.Level != unix.SOL_PACKET || m.Header.Type != unix.PACKET_AUXDATA || len(m.Data) < 20 || m.Data[0]&unix.TP_STATUS_VLAN_VALID == 0 {
			continue
		}
		b = append(b, f[:12]...)
		if m.Data[0]&unix.TP_STATUS_VLAN_TPID_VALID != 0 {
			b = append(b, m.Data[19], m.Data[18])
		} else {
			b = append(b, 0x81, 0)
		}
		return append(append(b, m.Data[17], m.Data[16]), f[12:]...)
	}
	return append(b, f...)
}
