// Package bpftap mirrors the packets of network devices with eBPF.
//
// Each tap is a program of its own at its device's hook, so taps on one device know nothing of each other. What it does not ask for is not in its program.
// Copies that are to be cut or put into a tunnel go through the devices tapmux0 and tapmux1, where the kernel segments them first. Everything is pinned in a BPF file system, goes on without us, and is found again there.
//
// Runs in: agent
package bpftap

import (
	"log/slog"
	"strings"
)

//go:generate bash generate.sh

// Hook is where in the kernel programs are attached.
type Hook string

// Hooks. TCX is taken when nobody says and the kernel has it (6.6), else Clsact.
const (
	TCX    Hook = "tcx"
	Clsact Hook = "clsact"
)

// Config says where a Driver keeps its things.
type Config struct {
	// PinRoot is the mount point of a BPF file system; "" = /sys/fs/bpf. It is mounted if it is none. Each network namespace
	// has a directory of its own below.
	PinRoot  string
	Instance string       // tells agents of one host apart: each leaves what another one made alone. "" = "agent"
	Hook     Hook         // "" = the best there is
	Log      *slog.Logger // nil discards
}

// fill puts in what is taken when nobody says.
func (c *Config) fill() {
	if c.PinRoot == "" {
		c.PinRoot = "/sys/fs/bpf"
	}
	if c.Instance == "" {
		c.Instance = "agent"
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

// Names of the devices that we make in a network namespace: copies are sent to the first, a bridge, which passes them on
// to the second, its only port and one end of a cable, where they are taken away. Where another agent has these, others are taken. The alias is
// the mark; the instance follows it.
const (
	muxIn    = "tapmux0"
	muxOut   = "tapmux1"
	muxPeer  = "tapmux2"
	muxAlias = "OpenTap: cuts and encapsulates copies of "
)

// OwnAlias reports whether an alias is of a device that carries copies on their way: nobody's port, and not to be captured from.
func OwnAlias(alias string) bool { return strings.HasPrefix(alias, muxAlias) }

// Marks of copies, as in bpf/tunnel.h.
const (
	copyMagic     = 0x7a900000
	copyDelivered = copyMagic | 0xffff
	copyOut       = 0x8000
)

// maxIndex is the greatest number of a tap whose copies go through the multiplexer. 0 is of the others.
const maxIndex = 0xfffe
