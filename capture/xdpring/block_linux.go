package xdpring

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"opentap/capture/ring"
	"opentap/packet"
)

// Block is a borrowed run of frames of one queue in arrival order. It is valid until the callback it was given to returns,
// and belongs to that one goroutine.
type Block struct {
	q      *queue
	first  uint32 // position of the first frame in the receive ring
	n      uint32
	octets int
	at     uint32 // frames returned
	near   uint32 // frames that are on their way to the cache
	now    int64  // wall clock when the block was lent, ns
	shift  int64  // wall clock less monotonic clock, ns
	sink   byte
}

// touch is how many frames are brought into the cache in one go, of each the first two lines: the stamp and the headers. The
// kernel wrote them on another processor, each to a page or half of one of its own, so each is a miss; read in a row they overlap.
const (
	touch = 32
	line  = 64
)

// Len returns the number of frames in the block.
func (b *Block) Len() int { return int(b.n) }

// Octets returns what the frames would occupy one after the other, a header each included.
func (b *Block) Octets() int { return b.octets }

// oldest is how far back a time stamp is believed. ns.
const oldest = int64(time.Minute)

// Next fills f with the next frame, and reports whether there was one. f.Data is borrowed from the block; its bytes may be
// changed, its capacity is cut to its length. f.Time is when the XDP program met the frame; with a driver that has no
// room for a stamp it is when the block was lent, the same for all its frames.
func (b *Block) Next(f *ring.Frame) bool {
	if b.at == b.n {
		return false
	}
	q := b.q
	mask := uint32(len(q.descs) - 1)
	if b.at == b.near {
		b.ahead(q, mask)
	}
	d := q.descs[(b.first+b.at)&mask]
	b.at++
	if d.Addr < stampSize || d.Addr > uint64(len(q.mem)) || uint64(d.Len) > uint64(len(q.mem))-d.Addr {
		f.Data, f.OrigLen, f.Time, f.Outgoing = nil, 0, packet.Timestamp(b.now), false // never from the kernel
		return true
	}
	end := d.Addr + uint64(d.Len)
	f.Data = q.mem[d.Addr:end:end]
	f.OrigLen = d.Len
	f.Outgoing = false
	stamp := (*int64)(unsafe.Pointer(&q.mem[d.Addr-stampSize]))
	t := *stamp + b.shift
	*stamp = 0 // so that it is no stamp of the frame that comes here next
	if t > b.now || t < b.now-oldest {
		t = b.now
	}
	f.Time = packet.Timestamp(t)
	return true
}

// ahead brings the next frames into the cache.
func (b *Block) ahead(q *queue, mask uint32) {
	sink, last := byte(0), uint64(len(q.mem)-1)
	b.near = min(b.near+touch, b.n)
	for i := b.at; i < b.near; i++ {
		a := q.descs[(b.first+i)&mask].Addr
		sink += q.mem[min(a, last)] + q.mem[min(a+line-stampSize, last)]
	}
	b.sink += sink
}

// clocks reads the wall clock, and how far it is ahead of the monotonic one that XDP programs know.
func clocks() (now, shift int64) {
	var wall, mono unix.Timespec
	unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono)
	unix.ClockGettime(unix.CLOCK_REALTIME, &wall)
	now = wall.Nano()
	return now, now - mono.Nano()
}
