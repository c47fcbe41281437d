package xdpring

import (
	"errors"
	"fmt"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// queue is the AF_XDP socket of one receive queue, with memory of its own (linux Documentation/networking/af_xdp.rst).
type queue struct {
	fd       int
	frames   int    // a power of two; also the size of both rings
	chunk    uint64 // octets of memory each frame has
	mem      []byte
	rx, fill index
	descs    []unix.XDPDesc // the kernel's: frames received
	addrs    []uint64       // ours: memory that may be filled
	maps     [][]byte       // the rings as mapped
}

// index is the shared part of a ring: positions that only grow, modulo 2³².
type index struct {
	producer, consumer, flags *uint32
}

func openQueue(ifindex, id, frames, chunk int, bindFlags uint16) (*queue, error) {
	q := &queue{fd: -1, frames: frames, chunk: uint64(chunk)}
	if err := q.open(ifindex, id, bindFlags); err != nil {
		return nil, errors.Join(fmt.Errorf("queue %d: %w", id, err), q.close())
	}
	return q, nil
}

func (q *queue) open(ifindex, id int, bindFlags uint16) error {
	var err error
	if q.fd, err = unix.Socket(unix.AF_XDP, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
		return fmt.Errorf("make AF_XDP socket: %w", err)
	}
	if q.mem, err = unix.Mmap(-1, 0, q.frames*int(q.chunk), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return fmt.Errorf("take %d octets of memory: %w", q.frames*int(q.chunk), err)
	}
	_ = unix.Madvise(q.mem, unix.MADV_HUGEPAGE) // only faster
	reg := unix.XDPUmemReg{Addr: uint64(uintptr(unsafe.Pointer(&q.mem[0]))), Len: uint64(len(q.mem)), Size: uint32(q.chunk), Headroom: ownRoom}
	if err := setsockopt(q.fd, unix.XDP_UMEM_REG, unsafe.Pointer(&reg), unsafe.Sizeof(reg)); err != nil {
		return fmt.Errorf("register %d octets of memory (needs CAP_IPC_LOCK or a higher limit of locked memory): %w", len(q.mem), err)
	}
	const completions = 64 // nothing is sent, but the kernel wants the ring
	for _, o := range []struct {
		opt, n int
		name   string
	}{{unix.XDP_UMEM_FILL_RING, q.frames, "fill"}, {unix.XDP_UMEM_COMPLETION_RING, completions, "completion"}, {unix.XDP_RX_RING, q.frames, "receive"}} {
		if err := unix.SetsockoptInt(q.fd, unix.SOL_XDP, o.opt, o.n); err != nil {
			return fmt.Errorf("make %s ring of %d: %w", o.name, o.n, err)
		}
	}
	if err := q.mapRings(); err != nil {
		return err
	}
	for i := range q.addrs {
		q.addrs[i] = uint64(i) * q.chunk
	}
	atomic.StoreUint32(q.fill.producer, uint32(q.frames))
	if err := unix.Bind(q.fd, &unix.SockaddrXDP{Flags: bindFlags, Ifindex: uint32(ifindex), QueueID: uint32(id)}); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func (q *queue) mapRings() error {
	var off unix.XDPMmapOffsets
	if err := getsockopt(q.fd, unix.XDP_MMAP_OFFSETS, unsafe.Pointer(&off), unsafe.Sizeof(off)); err != nil {
		return fmt.Errorf("read the rings' layout: %w", err)
	}
	ring := func(page int64, o unix.XDPRingOffset, entry uintptr) (index, unsafe.Pointer, error) {
		if o.Flags == 0 || o.Desc == 0 {
			return index{}, nil, errors.New("the kernel's AF_XDP rings have no flags (Linux 5.4)")
		}
		m, err := unix.Mmap(q.fd, page, int(o.Desc)+q.frames*int(entry), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
		if err != nil {
			return index{}, nil, fmt.Errorf("map ring: %w", err)
		}
		q.maps = append(q.maps, m)
		at := func(o uint64) *uint32 { return (*uint32)(unsafe.Pointer(&m[o])) }
		return index{at(o.Producer), at(o.Consumer), at(o.Flags)}, unsafe.Pointer(&m[o.Desc]), nil
	}
	var p unsafe.Pointer
	var err error
	if q.rx, p, err = ring(unix.XDP_PGOFF_RX_RING, off.Rx, unsafe.Sizeof(unix.XDPDesc{})); err != nil {
		return err
	}
	q.descs = unsafe.Slice((*unix.XDPDesc)(p), q.frames)
	if q.fill, p, err = ring(unix.XDP_UMEM_PGOFF_FILL_RING, off.Fr, 8); err != nil {
		return err
	}
	q.addrs = unsafe.Slice((*uint64)(p), q.frames)
	return nil
}

// ready returns how many frames wait to be read. The kernel writes descriptors and frames, then releases the producer
// (net/xdp/xsk_queue.h, __xskq_prod_submit): our load acquires it. Only the reader moves the consumer.
func (q *queue) ready() uint32 {
	return min(atomic.LoadUint32(q.rx.producer)-*q.rx.consumer, uint32(q.frames))
}

// blockOctets is how much of the frames' octets makes a block: small enough for the caches of the consumer's own memory,
// large enough that what is done once a block does not count.
const blockOctets = 1 << 20

// frameCost is what a frame takes beside its octets in the accounts of a block, as in a packet socket's ring.
const frameCost = 96

// portion returns how many of the first frames, of which there are most, make a block, and the octets that takes.
func (q *queue) portion(most uint32) (n uint32, octets int) {
	mask := uint32(q.frames - 1)
	first := *q.rx.consumer
	for n < most && octets < blockOctets {
		octets += int(q.descs[(first+n)&mask].Len) + frameCost
		n++
	}
	return n, octets
}

// release gives the memory of the n oldest frames back, and then their places in the receive ring. The rings hold as many
// as there is memory for, so there is always room in the fill ring.
func (q *queue) release(n uint32) {
	mask := uint32(q.frames - 1)
	cons, prod := *q.rx.consumer, *q.fill.producer
	for i := range n {
		q.addrs[(prod+i)&mask] = q.descs[(cons+i)&mask].Addr &^ (q.chunk - 1)
	}
	atomic.StoreUint32(q.fill.producer, prod+n) // releases the addresses written above, and our reads of the frames
	atomic.StoreUint32(q.rx.consumer, cons+n)
	if atomic.LoadUint32(q.fill.flags)&unix.XDP_RING_NEED_WAKEUP != 0 {
		// The driver waits for memory (zero copy only): a poll that does not wait tells it.
		fds := [1]unix.PollFd{{Fd: int32(q.fd), Events: unix.POLLIN}}
		unix.Poll(fds[:], 0)
	}
}

// dropped returns how many frames the socket was handed and could not take.
func (q *queue) dropped() (full, other uint64, err error) {
	var st unix.XDPStatistics
	if err := getsockopt(q.fd, unix.XDP_STATISTICS, unsafe.Pointer(&st), unsafe.Sizeof(st)); err != nil {
		return 0, 0, fmt.Errorf("read statistics of AF_XDP socket: %w", err)
	}
	// Without memory a copied frame is in Rx_dropped, and in Rx_fill_ring_empty_descs as well (net/xdp/xsk.c, __xsk_rcv; net/xdp/
	// xsk_buff_pool.c, __xp_alloc): that one is not added.
	return st.Rx_ring_full, st.Rx_dropped, nil
}

func (q *queue) close() error {
	var errs []error
	if q.fd >= 0 {
		errs = append(errs, unix.Close(q.fd))
		q.fd = -1
	}
	for _, m := range q.maps {
		errs = append(errs, unix.Munmap(m))
	}
	if q.mem != nil {
		errs = append(errs, unix.Munmap(q.mem))
	}
	q.maps, q.mem, q.descs, q.addrs = nil, nil, nil, nil
	return errors.Join(errs...)
}

func setsockopt(fd, opt int, p unsafe.Pointer, n uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_SETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt), uintptr(p), n, 0); errno != 0 {
		return errno
	}
	return nil
}

func getsockopt(fd, opt int, p unsafe.Pointer, n uintptr) error {
	size := uint32(n)
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_XDP, uintptr(opt), uintptr(p), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return errno
	}
	return nil
}
