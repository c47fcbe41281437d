// Package ring lends blocks of frames out of an AF_PACKET ring shared with the kernel.
//
// Runs in: agent | tools
//
// A Ring is a TPACKET_V3 receive ring on one interface. The kernel fills blocks with frames; Read lends each full
// block to a callback and gives it back when the callback returns. Nothing is copied and nothing is allocated per
// block or per frame. Every packet is accounted for: see Counts.
package ring

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"time"

	"golang.org/x/net/bpf"

	"opentap/packet"
)

// Errors that Read and Drain tell apart. Test them with errors.Is.
var (
	// ErrDown: the interface is administratively down. It is reported once each time the interface goes down (and by
	// the first Read if it was down at Open). The ring stays good: packets flow again when the interface comes up.
	ErrDown = errors.New("interface is down")
	// ErrGone: the interface does not exist or was removed (or moved to another network namespace). Final; Drain
	// lends what was captured before.
	ErrGone = errors.New("interface is gone")
	// ErrClosed: the ring was closed.
	ErrClosed = errors.New("ring is closed")
)

// LinkTypeError says that frames of the interface's hardware type cannot be captured. It wraps errors.ErrUnsupported.
type LinkTypeError struct {
	Interface string
	ARPHRD    uint16 // hardware type, linux include/uapi/linux/if_arp.h
}

func (e *LinkTypeError) Error() string {
	return fmt.Sprintf("capture on interface %q: hardware type ARPHRD %d is not supported", e.Interface, e.ARPHRD)
}

// Unwrap makes errors.Is(err, errors.ErrUnsupported) true.
func (e *LinkTypeError) Unwrap() error { return errors.ErrUnsupported }

// Config says what to capture, and with how much memory.
type Config struct {
	Interface   string               // name in the network namespace of the calling thread
	Blocks      int                  // number of blocks, at least 2
	BlockSize   int                  // bytes of one block, a power of two from 64 KiB to 64 MiB; Blocks × BlockSize ≤ 16 GiB
	Retire      time.Duration        // a block with packets is lent at the latest this long after it was opened; 1 ms to 10 s, whole milliseconds
	SnapLen     int                  // octets kept of each frame, 0 = all
	Filter      []bpf.RawInstruction // classic BPF, compiled for the kernel (outer VLAN tag in metadata); nil = every packet
	Promiscuous bool                 // ask the interface for frames addressed to others
	Group       *Group               // of rings that share the interface's packets; nil = this one gets all
}

// DefaultConfig returns a ring of 64 MiB that lends blocks at least every 50 ms; Interface is still to be set.
func DefaultConfig() Config {
	return Config{Blocks: 64, BlockSize: 1 << 20, Retire: 50 * time.Millisecond}
}

// Validate reports the first field that is out of its range.
func (c *Config) Validate() error {
	switch {
	case c.Interface == "":
		return errors.New("ring config: no interface")
	case c.Blocks < 2:
		return fmt.Errorf("ring config: %d blocks, need at least 2", c.Blocks)
	case c.BlockSize < 64<<10 || c.BlockSize > 64<<20 || bits.OnesCount(uint(c.BlockSize)) != 1:
		return fmt.Errorf("ring config: block size of %d bytes is not a power of two from 64 KiB to 64 MiB", c.BlockSize)
	case int64(c.Blocks) > (16<<30)/int64(c.BlockSize) || c.Blocks > math.MaxInt/c.BlockSize:
		return fmt.Errorf("ring config: %d blocks of %d bytes are more than 16 GiB", c.Blocks, c.BlockSize)
	case c.Retire < time.Millisecond || c.Retire > 10*time.Second || c.Retire%time.Millisecond != 0:
		return fmt.Errorf("ring config: retire time %s is not 1 ms to 10 s in whole milliseconds", c.Retire)
	case c.SnapLen < 0:
		return fmt.Errorf("ring config: snap length %d is negative", c.SnapLen)
	case len(c.Filter) > 4096: // BPF_MAXINSNS, linux include/uapi/linux/bpf_common.h
		return fmt.Errorf("ring config: filter of %d instructions, the kernel takes at most 4096", len(c.Filter))
	}
	return nil
}

// Frame is one captured frame. Data is borrowed from the ring.
type Frame struct {
	Time     packet.Timestamp // when the kernel met the frame, nanosecond clock
	Data     []byte           // from the link header on, outer VLAN tag restored; valid until the callback that got the Block returns
	OrigLen  uint32           // octets of the whole frame without FCS, restored tag included
	Outgoing bool             // the host itself sent the frame
}

// Counts are the accounts of a ring in packets, cumulative since Open. At every reading
//
//	Seen = Filtered + Passed
//
// and after Stop and Drain, Passed = the packets lent + Dropped, exactly. While packets flow, a packet between the
// filter and the ring is in Passed already.
type Counts struct {
	Seen     uint64 // met the filter (without FilterCounted: those that passed it)
	Filtered uint64 // refused by the filter
	Passed   uint64 // accepted by the filter, or all without one
	Dropped  uint64 // accepted, and lost because the ring was full
	Freezes  uint64 // how often the ring ran full (one freeze can drop many packets)
	// FilterCounted is false when the kernel did not permit the counting filter: Seen and Filtered then leave out
	// what the filter refused.
	FilterCounted bool
}

// linkTypeOf maps a hardware type to how frames of a SOCK_RAW packet socket begin on such an interface. Point-to-point
// devices without a link header deliver from the IP header on.
func linkTypeOf(iface string, arphrd uint16) (packet.LinkType, error) {
	// linux include/uapi/linux/if_arp.h
	const (
		ether    = 1
		ppp      = 512
		rawIP    = 519
		tunnel   = 768
		tunnel6  = 769
		loopback = 772
		sit      = 776
		none     = 0xfffe
	)
	switch arphrd {
	case ether, loopback:
		return packet.LinkEthernet, nil
	case none, ppp, rawIP, tunnel, tunnel6, sit:
		return packet.LinkRaw, nil
	}
	return 0, &LinkTypeError{Interface: iface, ARPHRD: arphrd}
}
