package bpftap

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// attacher puts programs at hooks. What it attaches has a path in the BPF file system and stays without us.
type attacher interface {
	// attach has the program run at a device's ingress or egress, instead of the one that path stands for, without a gap.
	attach(path string, p *ebpf.Program, ifindex int, ingress bool) error
	// detach takes it away; nil if it is not there.
	detach(path string) error
	// at says where it is attached; 0 = nowhere.
	at(path string) int
}

// tcxHook attaches by links (Linux 6.6), which are pinned. A hook holds 64 programs, BPF_MPROG_MAX of linux
// include/linux/bpf_mprog.h; those beyond are at clsact, which runs after it.
type tcxHook struct{ beyond *clsactHook }

// atClsact is the path of a program for which there was no room.
func atClsact(path string) string { return path + "-clsact" }

func (h *tcxHook) attach(path string, p *ebpf.Program, ifindex int, ingress bool) error {
	old, err := link.LoadPinnedLink(path, nil)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	if old != nil {
		defer old.Close()
		if linkedTo(old) == ifindex {
			return old.Update(p)
		}
		if err := release(old); err != nil { // of a device that is gone, or not the one any more
			return err
		}
	}
	attach := ebpf.AttachTCXEgress
	if ingress {
		attach = ebpf.AttachTCXIngress
	}
	if h.isBeyond(path) {
		return h.beyond.attach(atClsact(path), p, ifindex, ingress)
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: p, Attach: attach, Anchor: link.Head()})
	if errors.Is(err, unix.ERANGE) {
		return h.beyond.attach(atClsact(path), p, ifindex, ingress)
	}
	if err != nil {
		return err
	}
	defer l.Close()
	return l.Pin(path)
}

func (h *tcxHook) isBeyond(path string) bool {
	_, err := os.Lstat(atClsact(path))
	return err == nil
}

func (h *tcxHook) detach(path string) error {
	if h.isBeyond(path) {
		return h.beyond.detach(atClsact(path))
	}
	l, err := link.LoadPinnedLink(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned link %s: %w", path, err)
	}
	defer l.Close()
	return release(l)
}

// release detaches a link at once. Without this the kernel does it some time after the last pin and descriptor are gone.
func release(l link.Link) error {
	if err := l.Detach(); err != nil && linkedTo(l) != 0 {
		return fmt.Errorf("detach: %w", err)
	}
	return l.Unpin()
}

func (h *tcxHook) at(path string) int {
	if h.isBeyond(path) {
		return h.beyond.at(atClsact(path))
	}
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return 0
	}
	defer l.Close()
	return linkedTo(l)
}

// linkedTo is the device of a link; 0 when that is gone.
func linkedTo(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	if t := info.TCX(); t != nil {
		return int(t.Ifindex)
	}
	return 0
}

// haveTCX asks the kernel by attaching a program that does nothing to the loopback, for a moment.
func haveTCX() error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()}})
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := link.AttachTCX(link.TCXOptions{Interface: 1, Program: p, Attach: ebpf.AttachTCXIngress})
	if err != nil {
		return err
	}
	return l.Close()
}
