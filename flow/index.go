package flow

import "unsafe"

// index finds a flow by the hash of its key: an open-addressed table of 32-bit slots, where the low bits of a hash say at
// which slot to begin. From the top, a slot holds how far it is from there, a few bits of the hash that tell flows apart
// before their memory is asked for (seven with a million flows, none with 2^27), and the flow's number plus one. 0 is an empty slot.
type index struct {
	slots []uint32 // a power of two, at most 13/16 full
	mask  uint32   // of the low bits
	tag   uint32   // mask of the bits of the hash that a slot has
	room  int      // flows that may be alive before the slots grow
}

// Distances from farAway on are not kept exactly.
const (
	farShift = 28
	farAway  = 1<<(32-farShift) - 1
)

func (x *index) resize(n int) {
	x.slots = make([]uint32, n)
	if n >= 16*manyFlows {
		hugePages(unsafe.Pointer(&x.slots[0]), uintptr(4*n))
	}
	x.mask = uint32(n - 1)
	x.tag = (1<<farShift - 1) &^ x.mask
	x.room = n / 16 * 13
}

// insert puts flow i of hash h into the first free slot from its home.
func (x *index) insert(h uint32, i int32) { x.add(h&x.mask, h&x.tag|uint32(i+1)) }

func (x *index) add(home, slot uint32) {
	pos := home
	for x.slots[pos] != 0 {
		pos = (pos + 1) & x.mask
	}
	x.put(pos, slot, (pos-home)&x.mask)
}

// put writes a slot that is so far from its home.
func (x *index) put(pos, slot, far uint32) {
	x.slots[pos] = slot&(1<<farShift-1) | min(far, farAway)<<farShift
}

// home says where the search for the flow at a slot begins.
func (t *Table) home(pos uint32) uint32 {
	x := &t.index
	slot := x.slots[pos]
	if far := slot >> farShift; far < farAway {
		return (pos - far) & x.mask
	}
	return t.hashOf(t.arena.at(int32(slot&x.mask)-1)) & x.mask
}

// erase takes flow i out of the index and closes the gap, so that no tombstones are left (Knuth, volume 3, 6.4, algorithm R).
func (t *Table) erase(h uint32, i int32) {
	x := &t.index
	pos := h & x.mask
	for x.slots[pos]&x.mask != uint32(i+1) {
		pos = (pos + 1) & x.mask
	}
	hole := pos
	for {
		pos = (pos + 1) & x.mask
		slot := x.slots[pos]
		if slot == 0 {
			break
		}
		if far, gap := (pos-t.home(pos))&x.mask, (pos-hole)&x.mask; far >= gap {
			x.put(hole, slot, far-gap)
			hole = pos
		}
	}
	x.slots[hole] = 0
}

// grow doubles the slots: a home gets one bit more of the hash, which the slot has had. The pause is proportional to the
// flows alive: about 10 ms at the last step to a million.
func (t *Table) grow() {
	var wide index
	x := &t.index
	wide.resize(2 * len(x.slots))
	bit := x.mask + 1
	for pos, slot := range x.slots {
		if slot != 0 {
			wide.add(t.home(uint32(pos))|slot&bit, slot&^bit)
		}
	}
	t.index = wide
}
