package ring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"opentap/packet"
)

// Ring is a receive ring on one interface. One goroutine reads it (Read, Drain, Counts, Stop); Wake and Close may be
// called from any, but Close not from inside a callback.
type Ring struct {
	cfg     Config
	link    packet.LinkType
	ifindex int
	fd      int // the packet socket
	mem     []byte
	next    int // block to look at next
	block   Block
	poll    [2]unix.PollFd
	filter  *countingFilter // nil without Config.Filter or where eBPF is not permitted

	read    uint64 // packets lent
	packets uint64 // passed the filter, dropped included: sum of tp_packets
	drops   uint64
	freezes uint64

	wasDown bool // at least once
	gone    bool
	stopped bool
	member  bool // of cfg.Group

	gate Gate
}

// unusedProtocol is an EtherType for local experiments (IEEE 802): no frame of it gets past the closed filter.
const unusedProtocol = 0x88b5

// LinkType says how Frame.Data begins.
func (r *Ring) LinkType() packet.LinkType { return r.link }

// Read lends every block that is ready to fn, one after the other, at most once around the ring, and returns how
// many. Without any it waits up to timeout (negative: for ever) and returns 0, nil after it or after Wake. It returns
// ErrDown, ErrGone and ErrClosed as they say; blocks that are ready are lent first. fn must not keep the block, nor
// call Read, Drain or Close.
func (r *Ring) Read(timeout time.Duration, fn func(*Block)) (int, error) {
	if !r.gate.Enter() {
		return 0, ErrClosed
	}
	defer r.gate.Leave()
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	for {
		if n := r.lend(fn); n > 0 {
			return n, nil
		}
		if r.gate.Closed() {
			return 0, ErrClosed
		}
		if r.gone {
			return 0, ErrGone
		}
		wait := timeout
		if timeout > 0 {
			wait = max(time.Until(deadline), 0)
		}
		woken, err := r.wait(wait)
		if err == nil && (woken || (timeout >= 0 && wait == 0)) {
			if n := r.lend(fn); n > 0 {
				return n, nil
			}
			if r.gate.Closed() {
				return 0, ErrClosed
			}
			return 0, nil
		}
		if err != nil {
			if n := r.lend(fn); n > 0 {
				if errors.Is(err, ErrDown) {
					return n, err
				}
				return n, nil // ErrGone is sticky, and comes next
			}
			return 0, err
		}
	}
}

// lend gives the ready blocks to fn and then back to the kernel.
func (r *Ring) lend(fn func(*Block)) int {
	for n := range r.cfg.Blocks {
		mem := r.mem[r.next*r.cfg.BlockSize : (r.next+1)*r.cfg.BlockSize : (r.next+1)*r.cfg.BlockSize]
		status := (*uint32)(unsafe.Pointer(&mem[blockStatus]))
		// The kernel writes frames, then barrier, then status (net/packet/af_packet.c, prb_flush_block called from
		// prb_close_block): an acquiring load of the status orders our reads of the frames after it. Go's atomics
		// are sequentially consistent.
		if atomic.LoadUint32(status)&unix.TP_STATUS_USER == 0 {
			return n
		}
		r.block.reset(mem)
		r.read += uint64(r.block.count)
		fn(&r.block)
		r.block.mem = nil
		r.block.left = 0
		// A releasing store: the kernel reuses the block as soon as it sees the status (af_packet.c,
		// prb_dispatch_next_block tests TP_STATUS_USER), so our last access must come before it.
		atomic.StoreUint32(status, unix.TP_STATUS_KERNEL)
		if r.next++; r.next == r.cfg.Blocks {
			r.next = 0
		}
		if r.gate.Closed() {
			return n + 1
		}
	}
	return r.cfg.Blocks
}

// Pressed reports whether the ring is at least three quarters full: a reader that can wait should not any more. Only the reading
// goroutine may call it, also inside a callback.
func (r *Ring) Pressed() bool {
	at := (r.next + r.cfg.Blocks*3/4) % r.cfg.Blocks * r.cfg.BlockSize
	return atomic.LoadUint32((*uint32)(unsafe.Pointer(&r.mem[at+blockStatus])))&unix.TP_STATUS_USER != 0
}

// gonePoll is how often a Read looks whether an interface that went down still exists: the kernel tells the socket
// nothing more when it is removed (af_packet.c, packet_notifier), not even whether it came up in between.
const gonePoll = 200 * time.Millisecond

// wait blocks until a block may be ready, the timeout (negative: none) is over, or Wake. It reports whether it was woken.
func (r *Ring) wait(timeout time.Duration) (woken bool, err error) {
	if r.wasDown {
		if err := r.checkGone(); err != nil {
			return false, err
		}
		if timeout < 0 || timeout > gonePoll {
			timeout = gonePoll
		}
	}
	ms := -1
	if timeout >= 0 {
		ms = int(min((timeout+time.Millisecond-1)/time.Millisecond, 1<<30))
	}
	r.poll[0].Revents, r.poll[1].Revents = 0, 0
	_, err = unix.Poll(r.poll[:], ms)
	if err != nil {
		if err == unix.EINTR {
			return false, nil
		}
		return false, fmt.Errorf("poll ring on %q: %w", r.cfg.Interface, err)
	}
	if r.poll[1].Revents != 0 {
		r.gate.Woken()
		return true, nil
	}
	if r.poll[0].Revents&(unix.POLLERR|unix.POLLHUP|unix.POLLNVAL) != 0 {
		return false, r.socketError()
	}
	return false, nil
}

// socketError takes the socket's pending error and says what it means.
func (r *Ring) socketError() error {
	n, err := unix.GetsockoptInt(r.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("read error of ring on %q: %w", r.cfg.Interface, err)
	}
	if err := r.checkGone(); err != nil {
		return err
	}
	switch errno := unix.Errno(n); errno {
	case 0:
		return nil
	case unix.ENETDOWN:
		r.wasDown = true
		return ErrDown
	case unix.ENODEV, unix.ENXIO:
		r.gone = true
		return ErrGone
	default:
		return fmt.Errorf("ring on %q: %w", r.cfg.Interface, errno)
	}
}

// checkGone asks the socket for its interface: it is -1 once that was unregistered (af_packet.c, packet_notifier).
func (r *Ring) checkGone() error {
	sa, err := unix.Getsockname(r.fd)
	if err != nil {
		return fmt.Errorf("read address of ring on %q: %w", r.cfg.Interface, err)
	}
	if ll, ok := sa.(*unix.SockaddrLinklayer); ok && ll.Ifindex != r.ifindex {
		r.gone = true
		return ErrGone
	}
	return nil
}

// Counts reads the accounts. Only the reading goroutine may call it; inside a callback is fine.
func (r *Ring) Counts() (Counts, error) {
	if !r.gate.Enter() {
		return Counts{}, ErrClosed
	}
	defer r.gate.Leave()
	return r.counts()
}

func (r *Ring) counts() (Counts, error) {
	// The kernel resets its statistics when they are read, and counts dropped packets in tp_packets as well
	// (af_packet.c, packet_getsockopt).
	st, err := unix.GetsockoptTpacketStatsV3(r.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return Counts{}, fmt.Errorf("read statistics of ring on %q: %w", r.cfg.Interface, err)
	}
	r.packets += uint64(st.Packets)
	r.drops += uint64(st.Drops)
	r.freezes += uint64(st.Freeze_q_cnt)
	c := Counts{Seen: r.packets, Passed: r.packets, Dropped: r.drops, Freezes: r.freezes, FilterCounted: len(r.cfg.Filter) == 0}
	if r.filter != nil {
		c.FilterCounted = true
		if c.Filtered, c.Passed, err = r.filter.counts(); err != nil {
			return Counts{}, fmt.Errorf("read filter counts of ring on %q: %w", r.cfg.Interface, err)
		}
		c.Seen = c.Filtered + c.Passed
	}
	return c, nil
}

// Stop lets nothing more into the ring and returns when no packet is on its way any more: from then on Counts is
// final. What is in the ring stays readable; Drain reads it. Stop may be called again.
func (r *Ring) Stop() error {
	if !r.gate.Enter() {
		return ErrClosed
	}
	defer r.gate.Leave()
	if r.stopped {
		return nil
	}
	if err := r.attachClassic(refuse); err != nil {
		return fmt.Errorf("stop ring on %q: %w", r.cfg.Interface, err)
	}
	// Packets on other CPUs may still be inside the old filter. Binding to another protocol takes the socket off the
	// receive path and waits for them (af_packet.c, packet_do_bind → __unregister_prot_hook → synchronize_net).
	// An interface that is gone has been waited for already.
	var err error
	if r.member {
		err = awaitReceivers()
	} else {
		err = r.bind(unusedProtocol)
	}
	if err != nil && !errors.Is(err, ErrGone) {
		return fmt.Errorf("stop ring on %q: %w", r.cfg.Interface, err)
	}
	r.stopped = true
	return nil
}

// Drain stops the ring and lends what is in it until every packet that passed the filter was lent or counted as
// dropped. It takes at most a few retire times; an error says how many packets were missing.
func (r *Ring) Drain(fn func(*Block)) error {
	if err := r.Stop(); err != nil {
		return err
	}
	if !r.gate.Enter() {
		return ErrClosed
	}
	defer r.gate.Leave()
	deadline := time.Now().Add(2*time.Second + 4*r.cfg.Retire)
	for {
		r.lend(fn)
		c, err := r.counts()
		if err != nil {
			return err
		}
		// Not c.Passed: the socket's own statistics are what the ring can give.
		if r.read+c.Dropped >= r.packets {
			return nil
		}
		if r.gate.Closed() {
			return ErrClosed
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("drain ring on %q: %d of %d packets did not arrive", r.cfg.Interface, r.packets-c.Dropped-r.read, r.packets)
		}
		// The last block is closed by the kernel's retire timer. Errors (down, gone) do not matter any more.
		if _, err := r.wait(r.cfg.Retire); err != nil && !errors.Is(err, ErrDown) && !errors.Is(err, ErrGone) {
			return err
		}
	}
}

// Wake makes a Read that waits, or else the next one that would wait, return.
func (r *Ring) Wake() { r.gate.Wake() }

// Close ends a waiting Read, waits until no call is in progress, and gives memory and sockets back. A second Close
// returns ErrClosed.
func (r *Ring) Close() error {
	if !r.gate.Shut() {
		return ErrClosed
	}
	return r.release()
}
