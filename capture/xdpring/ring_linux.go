package xdpring

import (
	"errors"
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"opentap/capture/ring"
	"opentap/packet"
)

// Ring is the sockets of all receive queues of one interface. One goroutine reads it (Read, Drain, Counts, Stop); Wake and
// Close may be called from any, but Close not from inside a callback.
type Ring struct {
	cfg      Config
	mode     Mode
	tags     error // why VLAN tags may be missing; nil = they are not
	ifindex  int
	ctl      int // a packet socket that receives nothing: to ask the interface
	switches switches
	prog     *program
	link     link.Link
	queues   []*queue
	poll     []unix.PollFd // the eventfd, then the queues' sockets
	block    Block

	read    uint64 // frames lent
	before  uint64 // tally.Unserved when the ring was opened
	missed  uint64 // tally.Unserved since then and until Stop
	lost    uint64 // handed to a socket, and neither there nor in its statistics; known after the end
	chunk   int    // octets of memory of a frame
	checked time.Time
	fitted  time.Time // when the MTU was last looked at
	down    bool
	gone    bool
	stopped bool

	gate ring.Gate
}

// LinkType says how Frame.Data begins: always with an Ethernet header.
func (r *Ring) LinkType() packet.LinkType { return packet.LinkEthernet }

// Mode says how frames get here.
func (r *Ring) Mode() Mode { return r.mode }

// Queues returns the number of receive queues. Frames of one queue come in order; those of several queues come queue after
// queue within one Read.
func (r *Ring) Queues() int { return len(r.queues) }

// Tags says why VLAN tags may be missing from frames: the device takes them out and cannot be told not to. nil: they are
// in the frames.
func (r *Ring) Tags() error { return r.tags }

// Read lends what every queue holds to fn, and returns how many blocks that were. Without any it waits up to timeout
// (negative: for ever) and returns 0, nil after it or after Wake. Once a frame is there it lets more gather for
// Config.Linger, unless many are. It returns ring.ErrDown, ErrGone and ErrClosed as they say, and ErrMTU; frames that are there are
// lent first. fn must not keep the block, nor call Read, Drain or Close.
func (r *Ring) Read(timeout time.Duration, fn func(*Block)) (int, error) {
	if !r.gate.Enter() {
		return 0, ring.ErrClosed
	}
	defer r.gate.Leave()
	var deadline time.Time
	if timeout > 0 {
		deadline = time.Now().Add(timeout)
	}
	if err := r.fits(); err != nil {
		return 0, err
	}
	for {
		if most := r.ready(); most > 0 {
			if most < uint32(r.queues[0].frames/4) {
				r.pause(min(r.cfg.Linger, time.Duration(r.queues[0].frames)*fastest))
			}
			return r.lend(fn), nil
		}
		if r.gate.Closed() {
			return 0, ring.ErrClosed
		}
		wait := timeout
		if timeout > 0 {
			wait = max(time.Until(deadline), 0)
		}
		if err := r.health(); err != nil {
			if n := r.lend(fn); n > 0 && errors.Is(err, ring.ErrGone) {
				return n, nil // it is sticky, and comes next
			} else {
				return n, err
			}
		}
		if wait < 0 || wait > healthEvery {
			wait = healthEvery
		}
		woken, err := r.wait(wait)
		if err != nil {
			return 0, err
		}
		if woken || timeout >= 0 && !time.Now().Before(deadline) {
			n := r.lend(fn)
			if n == 0 && r.gate.Closed() {
				return 0, ring.ErrClosed
			}
			return n, nil
		}
	}
}

// fastest is how soon frames of one queue may follow one another without filling its memory while Read lingers. Each time it
// does, it costs some 20 µs of waking up.
const fastest = 100 * time.Nanosecond

// ready returns how many frames wait in the fullest queue.
func (r *Ring) ready() uint32 {
	var most uint32
	for _, q := range r.queues {
		most = max(most, q.ready())
	}
	return most
}

// lend gives what each queue holds to fn, block by block, and the blocks' memory back to the kernel.
func (r *Ring) lend(fn func(*Block)) int {
	blocks := 0
	for _, q := range r.queues {
		for left := q.ready(); left > 0; {
			n, octets := q.portion(left)
			now, shift := clocks()
			r.block = Block{q: q, first: *q.rx.consumer, n: n, octets: octets, now: now, shift: shift, sink: r.block.sink}
			r.read += uint64(n)
			fn(&r.block)
			r.block.q, r.block.n, r.block.at = nil, 0, 0
			q.release(n)
			left -= n
			blocks++
			if r.gate.Closed() {
				return blocks
			}
		}
	}
	return blocks
}

// Pressed reports whether a queue's memory is three quarters full: the reader should hurry. It may be called inside a
// callback.
func (r *Ring) Pressed() bool {
	for _, q := range r.queues {
		if q.ready() >= uint32(q.frames/4*3) {
			return true
		}
	}
	return false
}

// pause waits for d, or Wake: which frames come meanwhile does not matter.
func (r *Ring) pause(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	r.poll[0].Revents = 0
	if n, err := unix.Ppoll(r.poll[:1], &ts, nil); n > 0 && err == nil {
		r.gate.Woken()
	}
}

// wait blocks until a frame may be there, the timeout is over, or Wake. It reports whether it was woken.
func (r *Ring) wait(timeout time.Duration) (woken bool, err error) {
	for i := range r.poll {
		r.poll[i].Revents = 0
	}
	ts := unix.NsecToTimespec(int64(timeout))
	if _, err := unix.Ppoll(r.poll, &ts, nil); err != nil {
		if err == unix.EINTR {
			return false, nil
		}
		return false, fmt.Errorf("poll AF_XDP sockets on %q: %w", r.cfg.Interface, err)
	}
	if r.poll[0].Revents != 0 {
		r.gate.Woken()
		return true, nil
	}
	return false, nil
}

// healthEvery is how often an idle Read looks after the interface: the kernel does not wake an AF_XDP socket when it goes.
const healthEvery = 50 * time.Millisecond

// health asks whether the interface is there and up: ring.ErrGone, which is final, or ring.ErrDown once each time.
func (r *Ring) health() error {
	if r.gone {
		return ring.ErrGone
	}
	if now := time.Now(); now.Sub(r.checked) < healthEvery {
		return nil
	} else {
		r.checked = now
	}
	flags, err := r.flags()
	if err != nil {
		if !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENXIO) {
			return fmt.Errorf("look after %q: %w", r.cfg.Interface, err)
		}
		r.gone = true
		return errors.Join(ring.ErrGone, r.settle())
	}
	was := r.down
	r.down = flags&unix.IFF_UP == 0
	if r.down && !was {
		return ring.ErrDown
	}
	return nil
}

// flags finds the interface by its index, whatever it is called by now.
func (r *Ring) flags() (uint16, error) {
	name, err := nameOf(r.ctl, r.ifindex)
	if err != nil {
		return 0, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(r.ctl, unix.SIOCGIFFLAGS, req); err != nil {
		return 0, err
	}
	return req.Uint16(), nil
}

// fits asks now and then whether frames still fit their memory, also while many come. An interface that cannot be asked is health's.
func (r *Ring) fits() error {
	now := time.Now()
	if r.gone || now.Sub(r.fitted) < healthEvery {
		return nil
	}
	r.fitted = now
	mtu, err := mtuOf(r.ctl, r.ifindex)
	if err != nil {
		return nil
	}
	if chunk, err := chunkFor(mtu); err != nil || chunk > r.chunk {
		return fmt.Errorf("read AF_XDP ring on %q: %w", r.cfg.Interface, ErrMTU)
	}
	return nil
}

// Counts reads the accounts: Passed is what the XDP program handed to a socket or would have, Dropped what the sockets had
// no room for or, once the ring is stopped, is not there. Frames that a device loses before the program runs (zero copy,
// no memory left) are in the interface's own counters and not here. Only the reading goroutine may call it; inside a
// callback is fine.
func (r *Ring) Counts() (ring.Counts, error) {
	if !r.gate.Enter() {
		return ring.Counts{}, ring.ErrClosed
	}
	defer r.gate.Leave()
	return r.counts()
}

func (r *Ring) counts() (ring.Counts, error) {
	c := ring.Counts{FilterCounted: true}
	for _, q := range r.queues { // before what was handed over, so that this is never less
		full, other, err := q.dropped()
		if err != nil {
			return ring.Counts{}, err
		}
		c.Dropped += full + other
		c.Freezes += full
	}
	t, err := r.prog.counts()
	if err != nil {
		return ring.Counts{}, err
	}
	if !r.stopped {
		r.missed = t.Unserved - r.before
	}
	c.Dropped += r.missed + r.lost
	c.Passed = t.Handed + r.missed
	c.Seen = c.Passed
	return c, nil
}

// Stop lets nothing more in and returns when no frame is on its way any more: from then on Counts is final, and the host has
// the interface again. What is in the memory stays readable; Drain reads it. Stop may be called again.
func (r *Ring) Stop() error {
	if !r.gate.Enter() {
		return ring.ErrClosed
	}
	defer r.gate.Leave()
	return r.stop()
}

func (r *Ring) stop() error {
	if r.stopped {
		return nil
	}
	if _, err := r.counts(); err != nil { // of queues without a socket: all are, from here on
		return err
	}
	r.stopped = true
	for id := range r.queues {
		if err := r.prog.sockets.Delete(uint32(id)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("stop AF_XDP ring on %q: %w", r.cfg.Interface, err)
		}
	}
	return synchronize()
}

// synchronize returns when no CPU runs a receive path that it entered before: closing a packet socket waits for that
// (net/packet/af_packet.c, packet_release → synchronize_net), and XDP programs and the flush of their redirects run
// inside one (net/core/filter.c, xdp_do_flush).
func synchronize() error {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make packet socket: %w", err)
	}
	return unix.Close(fd)
}

// Drain stops the ring and lends what is in it. What was handed to a socket and is neither there nor in its statistics is
// counted as dropped.
func (r *Ring) Drain(fn func(*Block)) error {
	if !r.gate.Enter() {
		return ring.ErrClosed
	}
	defer r.gate.Leave()
	if err := r.stop(); err != nil {
		return err
	}
	for r.lend(fn) > 0 {
		if r.gate.Closed() {
			return ring.ErrClosed
		}
	}
	return r.settle()
}

// settle finds what was lost on the way, when no more can come.
func (r *Ring) settle() error {
	r.lost = 0
	c, err := r.counts()
	if err != nil {
		return err
	}
	held := uint64(0)
	for _, q := range r.queues {
		held += uint64(q.ready())
	}
	if known := r.read + held + c.Dropped; c.Passed > known {
		r.lost = c.Passed - known
	}
	return nil
}

// Wake makes a Read that waits, or else the next one that would wait, return.
func (r *Ring) Wake() { r.gate.Wake() }

// Close ends a waiting Read, waits until no call is in progress, gives the interface back to the host with the settings it
// had, and memory and sockets to the kernel. A second Close returns ring.ErrClosed.
func (r *Ring) Close() error {
	if !r.gate.Shut() {
		return ring.ErrClosed
	}
	return r.release()
}
