// Package capture turns rings into recordings and live consumers of packets, and keeps the ledger of each.
//
// A Source is one ring at one point; everybody who wants the same packets of that point shares it. Blocks are lent by
// the kernel, decoded once, and shown to each consumer in turn on the source's own goroutine; nobody gets packets
// through a channel.
//
// Runs in: agent
package capture

import (
	"errors"
	"time"

	"opentap/capture/ring"
	"opentap/ledger"
	"opentap/packet"
)

// ErrPoint is wrapped by errors that say that a point cannot be read now and may be later.
var ErrPoint = errors.New("point cannot be read")

// Frame is one packet as a consumer sees it, borrowed until the call that brought it returns.
type Frame struct {
	*ring.Frame
	whole []byte // before the consumer's snap length
	src   *source
}

// Parsed returns the decoded packet, whole whatever the snap length is. However many consumers ask, it is decoded once.
func (f *Frame) Parsed() *packet.Parsed {
	s := f.src
	if !s.decoded {
		s.decoded = true
		s.parsed.Decode(s.link, f.whole, f.OrigLen)
		s.parsed.Time = f.Time
	}
	return &s.parsed
}

// Consumer takes packets. All calls come from one goroutine, the source's, and must not block on anything but memory.
type Consumer interface {
	// Begin and End enclose the packets of one block, so that a consumer takes its own lock once a block.
	Begin()
	// Frame takes one packet. Its answer says what became of it.
	Frame(f *Frame) Verdict
	End()
	// Idle is called between blocks, at least a few times a second. Packet time has reached now, also when no packets
	// come. a is the consumer's account so far.
	Idle(now packet.Timestamp, a *ledger.Account)
}

// Patient is a Consumer that would rather have a block later than lose packets of it: one that writes to a disk.
type Patient interface {
	// Ready reports whether the consumer can take a block of so many octets of ring memory now. While it cannot, the
	// source lets packets gather in the ring, which is there for that: until the ring is three quarters full, so that others
	// who share it lose nothing, and for at most Patience.
	Ready(octets int) bool
}

// Patience bounds how long a block is held back for a consumer that is not ready. One that let it pass is not waited for
// again until it was ready once.
const Patience = 500 * time.Millisecond

// Verdict is what a consumer did with a packet.
type Verdict uint8

// Verdicts.
const (
	Took       Verdict = iota // captured
	LostDisk                  // wanted, but the disk is late or refuses
	Full                      // not taken: the consumer's own limit is reached, this packet is beyond it; the consumer is done
	TookLast                  // captured, and the limit is reached with it
	LostReader                // wanted, but whoever reads the packets live is late
)

// Spec says which packets a consumer wants.
type Spec struct {
	Point       string           // device name
	Filter      string           // pcap-filter expression; "" = all
	Strict      bool             // libpcap's meaning of the filter
	Snap        int              // octets kept; 0 = all
	From        packet.Timestamp // packets before are not the consumer's: they are in no account
	To          packet.Timestamp // exclusive; 0 = until Detach
	Promiscuous bool
}

// EndReason says why an attachment ended.
type EndReason uint8

// Reasons.
const (
	EndWindow   EndReason = iota + 1 // To has come
	EndLimit                         // the consumer said Full or TookLast
	EndDetached                      // Detach was called
	EndError                         // the source failed for good; Err says how
)

// Gap is a stretch in which the source could not see the point.
type Gap struct {
	From, To time.Time // To is zero while it lasts
	Reason   string
}

// Progress is the state of an attachment at one moment.
type Progress struct {
	Account ledger.Account
	Began   time.Time // when the attachment began to see packets; zero = not yet
	Gaps    []Gap     // the last one may be open
	End     EndReason // 0 while it lasts
	Err     error     // of EndError
}
