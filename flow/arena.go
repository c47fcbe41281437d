package flow

import (
	"math"
	"unsafe"
)

// entry is the half of a live flow that each packet touches: one cache line.
type entry struct {
	src, dst [2]uint64
	mid      uint64
	last     int64
	octets   uint64
	packets  uint32 // low bits; the rest are life.packetsHigh
	inner    uint16
	tcpFlags uint8
	state    uint8
}

// is compares without a call; the words that differ most often come first.
func (e *entry) is(k *key) bool {
	return (k.mid^e.mid)|(k.dst[1]^e.dst[1])|(k.src[1]^e.src[1])|(k.src[0]^e.src[0])|(k.dst[0]^e.dst[0])|uint64(k.inner^e.inner) == 0
}

func (e *entry) key() key { return key{src: e.src, dst: e.dst, mid: e.mid, inner: e.inner} }

// Bits of entry.state.
const (
	stateEnded   = 1 << 0 // FIN or RST seen: waits for trailing packets
	stateSwapped = 1 << 1 // the initiator is the key's dst
	stateWheel   = 1 << 2 // linked in the wheel
	stateHeap    = 1 << 3 // in the heap
	stateLive    = 1 << 4 // not in the list of free entries
	stateBack    = 1 << 5 // a packet of the other direction came
)

// life is the half of a live flow that few packets touch. Its fields are parts of numbers so that it is 40 octets long.
type life struct {
	startHigh, startLow uint32 // time of the earliest packet: the active timeout runs from here
	seqLow              uint32 // order of beginning
	seqHigh             uint16
	fragments           uint16 // from 65535 on, arena.many has the number
	prev, next          int32  // links of the wheel; in the heap prev is the position
	srcMAC, dstMAC      [6]byte
	tos                 uint8
	packetsHigh         uint8 // bits 32 to 39 of entry.packets
	revPacketsHigh      uint8 // and of reverse.packets
	revOctetsTop        uint8 // bits 48 to 55 of reverse.octets
}

func (l *life) start() int64    { return int64(uint64(l.startHigh)<<32 | uint64(l.startLow)) }
func (l *life) begins(at int64) { l.startHigh, l.startLow = uint32(uint64(at)>>32), uint32(at) }
func (l *life) seq() uint64     { return uint64(l.seqHigh)<<32 | uint64(l.seqLow) }

// reverse is the other direction of a bidirectional flow, 12 octets.
type reverse struct {
	octets, packets uint32 // low bits
	octetsHigh      uint16
	tcpFlags, tos   uint8
}

// chunkLen flows are in one piece of memory: 128 KiB of entries, 80 KiB of lives and 24 KiB of reverses, all whole pages.
const (
	chunkBits = 11
	chunkLen  = 1 << chunkBits
)

// manyFlows are so many that they fill huge pages.
const manyFlows = 1 << 15

// arena numbers entries; chunks of them are added as needed and reused for ever.
type arena struct {
	chunks []*[chunkLen]entry
	lives  []*[chunkLen]life
	rev    []*[chunkLen]reverse // empty unless bidirectional
	many   map[int32]uint32     // fragments of flows with 65535 and more
	free   int32                // head of the list of free entries through next; -1 = none
	used   int32                // entries ever used
}

func (a *arena) at(i int32) *entry { return &a.chunks[uint32(i)>>chunkBits][uint32(i)&(chunkLen-1)] }

func (a *arena) life(i int32) *life { return &a.lives[uint32(i)>>chunkBits][uint32(i)&(chunkLen-1)] }

func (a *arena) revAt(i int32) *reverse { return &a.rev[uint32(i)>>chunkBits][uint32(i)&(chunkLen-1)] }

func (a *arena) take(bidirectional bool) int32 {
	if a.free >= 0 {
		i := a.free
		a.free = a.life(i).next
		return i
	}
	i := a.used
	if int(i)>>chunkBits == len(a.chunks) {
		a.chunks = append(a.chunks, chunk[[chunkLen]entry](i))
		a.lives = append(a.lives, chunk[[chunkLen]life](i))
		if bidirectional {
			a.rev = append(a.rev, chunk[[chunkLen]reverse](i))
		}
	}
	a.used++
	return i
}

// chunk makes the memory for flows from i on.
func chunk[T any](i int32) *T {
	c := new(T)
	if i >= manyFlows {
		hugePages(unsafe.Pointer(c), unsafe.Sizeof(*c))
	}
	return c
}

func (a *arena) give(i int32) {
	l := a.life(i)
	l.next = a.free
	if l.fragments == math.MaxUint16 {
		delete(a.many, i)
	}
	a.at(i).state = 0
	a.free = i
}

// countBack adds a packet to the other direction of flow i.
func (a *arena) countBack(i int32, e *entry, d *digest) {
	r := a.revAt(i)
	if e.state&stateBack == 0 {
		e.state |= stateBack
		r.tos = d.tos
	}
	if r.packets++; r.packets == 0 {
		a.life(i).revPacketsHigh++
	}
	was := r.octets
	if r.octets += d.octets; r.octets < was {
		if r.octetsHigh++; r.octetsHigh == 0 {
			a.life(i).revOctetsTop++
		}
	}
	r.tcpFlags |= d.tcpFlags
}
