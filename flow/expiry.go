package flow

import (
	"math"

	"opentap/packet"
)

// Expiry. A flow's deadline is the earlier of its last packet plus the idle (or linger) timeout and its beginning plus the
// active timeout. Packets only move deadlines later, so a flow is not touched in the wheel when a packet comes: it stays
// in the slot of an older deadline and is looked at again when the wheel gets there. (An ordered list would be exact
// without a second look, but costs two more cache misses in every packet.) Only an end of flow moves a deadline
// earlier; that re-links, once in the life of a flow.
//
// Slots up to the cursor have been emptied into a heap ordered by (deadline, beginning), which makes the order of
// records exact to the nanosecond, independent of tick length and hash secret. A full table runs the cursor ahead
// of time to find the flow that is nearest to its end.

const (
	tickBits  = 23      // a tick is 2^23 ns = 8.4 ms
	wheelLen  = 1 << 15 // slots: 275 s; deadlines beyond are looked at again on the way
	wheelMask = wheelLen - 1
)

type expiry struct {
	heads []int32 // first entry of each slot; -1 = none
	cur   int64   // tick up to which slots have been emptied into the heap
	heap  []due
}

// due is one entry of the heap. deadline may be older than the flow's true one, never newer.
type due struct {
	deadline int64
	seq      uint64
	i        int32
}

func (x *expiry) init() {
	x.heads = make([]int32, wheelLen)
	for i := range x.heads {
		x.heads[i] = -1
	}
}

// empty forgets all flows.
func (x *expiry) empty() {
	for i := range x.heads {
		x.heads[i] = -1
	}
	x.heap = x.heap[:0]
}

// cause says what made a record come; the order of causes is the order in which one packet brings them about.
type cause uint8

const (
	causeFlush  cause = iota // Flush, or the clock stepped back
	causeTime                // its deadline came
	causePacket              // a packet that begins a flow pushed it out
)

// deadline returns when the flow ends if no packet comes, and why.
func (t *Table) deadline(e *entry, l *life) (int64, EndReason) {
	quiet, reason := t.idle, EndIdle
	if e.state&stateEnded != 0 {
		quiet, reason = t.linger, EndOfFlow
	}
	d := later(e.last, quiet)
	if a := later(l.start(), t.active); a < d {
		return a, EndActive
	}
	return d, reason
}

// later is t+d without overflow.
func later(t, d int64) int64 {
	if t > math.MaxInt64-d {
		return math.MaxInt64
	}
	return t + d
}

// schedule links a detached entry by its deadline.
func (t *Table) schedule(i int32, e *entry, l *life) {
	d, _ := t.deadline(e, l)
	x := &t.exp
	tick := d >> tickBits
	if tick <= x.cur {
		e.state |= stateHeap
		x.heap = append(x.heap, due{d, l.seq(), i})
		t.up(len(x.heap) - 1)
		if d < t.wake {
			t.wake = d
		}
		return
	}
	if tick-x.cur >= wheelLen {
		tick = x.cur + wheelLen - 1
	}
	head := &x.heads[tick&wheelMask]
	e.state |= stateWheel
	l.prev = -1 - int32(tick&wheelMask) - 1 // the head's slot, as a number below -1
	l.next = *head
	if l.next >= 0 {
		t.arena.life(l.next).prev = i
	}
	*head = i
}

// detach unlinks an entry from the wheel or the heap.
func (t *Table) detach(e *entry, l *life) {
	switch {
	case e.state&stateWheel != 0:
		if l.prev >= 0 {
			t.arena.life(l.prev).next = l.next
		} else {
			t.exp.heads[-l.prev-2] = l.next
		}
		if l.next >= 0 {
			t.arena.life(l.next).prev = l.prev
		}
	case e.state&stateHeap != 0:
		t.unheap(int(l.prev))
	}
	e.state &^= stateWheel | stateHeap
}

// turn moves the cursor one tick and empties that slot into the heap, or further along the wheel.
func (t *Table) turn() {
	x := &t.exp
	x.cur++
	head := &x.heads[x.cur&wheelMask]
	i := *head
	*head = -1
	for i >= 0 {
		e, l := t.arena.at(i), t.arena.life(i)
		next := l.next
		e.state &^= stateWheel
		t.schedule(i, e, l)
		i = next
	}
}

// Advance ends what is due at packet time now, for times without packets. A time before the newest one does nothing.
func (t *Table) Advance(now packet.Timestamp) {
	if int64(now) <= t.now {
		return
	}
	t.now = int64(now)
	if t.now >= t.wake {
		t.advance()
	}
}

// advance ends every flow whose deadline has come, in order of deadline, then beginning.
func (t *Table) advance() {
	x := &t.exp
	now := t.now
	target := now >> tickBits
	for {
		for len(x.heap) > 0 && x.heap[0].deadline <= now {
			top := x.heap[0]
			e, l := t.arena.at(top.i), t.arena.life(top.i)
			d, reason := t.deadline(e, l)
			t.detach(e, l)
			if d > top.deadline {
				t.schedule(top.i, e, l)
				continue
			}
			t.cause, t.due = causeTime, d
			t.remove(top.i, e, t.hashOf(e), reason)
		}
		if x.cur >= target {
			break
		}
		if t.stats.Flows == len(x.heap) { // the wheel is empty
			x.cur = target
			break
		}
		t.turn()
	}
	t.wake = later(x.cur<<tickBits, 1<<tickBits)
	if len(x.heap) > 0 {
		t.wake = min(t.wake, x.heap[0].deadline)
	}
}

// evict ends the flow that is nearest to its deadline, for want of room.
func (t *Table) evict() {
	x := &t.exp
	for {
		for len(x.heap) == 0 {
			t.turn()
		}
		top := x.heap[0]
		e, l := t.arena.at(top.i), t.arena.life(top.i)
		d, _ := t.deadline(e, l)
		t.detach(e, l)
		if d > top.deadline {
			t.schedule(top.i, e, l)
			continue
		}
		t.remove(top.i, e, t.hashOf(e), EndLack)
		return
	}
}

func (x *expiry) less(a, b int) bool {
	p, q := &x.heap[a], &x.heap[b]
	if p.deadline != q.deadline {
		return p.deadline < q.deadline
	}
	return p.seq < q.seq
}

// place notes the position of the heap's item n in its entry.
func (t *Table) place(n int) { t.arena.life(t.exp.heap[n].i).prev = int32(n) }

func (t *Table) up(n int) {
	x := &t.exp
	for n > 0 {
		parent := (n - 1) / 2
		if !x.less(n, parent) {
			break
		}
		x.heap[n], x.heap[parent] = x.heap[parent], x.heap[n]
		t.place(n)
		n = parent
	}
	t.place(n)
}

func (t *Table) down(n int) {
	x := &t.exp
	for {
		child := 2*n + 1
		if child >= len(x.heap) {
			break
		}
		if child+1 < len(x.heap) && x.less(child+1, child) {
			child++
		}
		if !x.less(child, n) {
			break
		}
		x.heap[n], x.heap[child] = x.heap[child], x.heap[n]
		t.place(n)
		n = child
	}
	t.place(n)
}

// unheap removes the item at position n.
func (t *Table) unheap(n int) {
	x := &t.exp
	last := len(x.heap) - 1
	if n != last {
		x.heap[n] = x.heap[last]
	}
	x.heap = x.heap[:last]
	if n != last {
		t.down(n)
		t.up(n)
	}
}
