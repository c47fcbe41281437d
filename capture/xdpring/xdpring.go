// Package xdpring lends blocks of frames out of AF_XDP sockets, one for each receive queue of an interface.
//
// Runs in: agent | tools
//
// An XDP program hands every frame that the interface receives to the sockets before the host's network stack sees it: the
// host gets none of them. That is right only for a port that receives nothing but mirrored traffic. While no Ring is open
// the interface is an ordinary one. What the host itself sends through the interface is not seen.
//
// A Ring has the shape of ring.Ring and speaks its words: frames, counts and errors are that package's.
package xdpring

import (
	"errors"
	"fmt"
	"math/bits"
	"time"
)

// ErrMTU is what Read returns once the interface's MTU has been raised beyond what the memory of a frame holds: longer frames are
// dropped by the kernel, and counted. It is final; another Ring has room for them, or says that AF_XDP cannot.
var ErrMTU = errors.New("the interface's MTU was raised while it was read")

// Mode is how frames get from the driver into the sockets' memory.
type Mode uint8

// Modes, the best first.
const (
	Best     Mode = iota // the first of the following that the interface can
	ZeroCopy             // the device writes into the memory itself
	Native               // the program runs in the driver, before there is a socket buffer; the kernel copies each frame
	Generic              // the program runs on socket buffers, in any driver; the kernel copies each frame
)

// String returns the mode in words.
func (m Mode) String() string {
	switch m {
	case ZeroCopy:
		return "AF_XDP, zero copy"
	case Native:
		return "AF_XDP, native, copying"
	case Generic:
		return "AF_XDP, generic, copying"
	}
	return "AF_XDP"
}

// Config says what to read, and with how much memory.
type Config struct {
	Interface   string        // name in the network namespace of the calling thread
	Memory      int           // octets of frame memory, shared by the queues; 4 MiB to 16 GiB. Each frame takes 2 or 4 KiB of it
	Linger      time.Duration // frames are lent at the latest this long after the first of them came, sooner with little memory; 100 µs to 1 s
	Promiscuous bool          // ask the interface for frames addressed to others
	Mode        Mode
}

// DefaultConfig returns 256 MiB of memory (128 Ki frames) that lends at least every 10 ms; Interface is still to be set.
func DefaultConfig() Config { return Config{Memory: 256 << 20, Linger: 10 * time.Millisecond} }

// Limits of Config.Memory.
const (
	MinMemory = 4 << 20
	MaxMemory = 16 << 30
)

// Validate reports the first field that is out of its range.
func (c *Config) Validate() error {
	switch {
	case c.Interface == "":
		return errors.New("xdp ring config: no interface")
	case c.Memory < MinMemory || int64(c.Memory) > MaxMemory:
		return fmt.Errorf("xdp ring config: memory of %d octets is not 4 MiB to 16 GiB", c.Memory)
	case c.Linger < 100*time.Microsecond || c.Linger > time.Second:
		return fmt.Errorf("xdp ring config: linger time %s is not 100 µs to 1 s", c.Linger)
	case c.Mode > Generic:
		return fmt.Errorf("xdp ring config: mode %d is not known", c.Mode)
	}
	return nil
}

const (
	// room before each frame: XDP_PACKET_HEADROOM of the kernel (linux include/uapi/linux/bpf.h) and ours. With ours the time
	// stamp, which the program writes right before the frame, shares a pair of cache lines with the headers.
	kernelRoom = 256
	ownRoom    = 16
	room       = kernelRoom + ownRoom

	stampSize = 8       // octets of the time stamp before each frame
	linkRoom  = 14 + 8  // Ethernet header and two VLAN tags
	maxChunk  = 4 << 10 // a page: the kernel takes no more without huge pages
)

// chunkFor returns how many octets of memory each frame of an interface takes. A frame that fits no page is refused.
func chunkFor(mtu int) (int, error) {
	for _, chunk := range []int{2 << 10, maxChunk} {
		if mtu+linkRoom+room <= chunk {
			return chunk, nil
		}
	}
	return 0, fmt.Errorf("an MTU of %d is more than the %d that AF_XDP takes in one piece", mtu, maxChunk-linkRoom-room)
}

// share returns how many frames each of so many queues gets: a power of two.
func share(memory, queues, chunk int) (int, error) {
	n := memory / queues / chunk
	if n < 512 {
		return 0, fmt.Errorf("%d octets of memory are too few for %d queues", memory, queues)
	}
	return min(1<<(bits.Len(uint(n))-1), 1<<22), nil
}
