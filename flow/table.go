package flow

import (
	"cmp"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"slices"

	"opentap/packet"
)

// Table meters packets into flows. It is used from one goroutine at a time, and the sink must not call into it.
//
// Flows live in chunks that are never moved; an open-addressed table of (hash, number) pairs finds them; a wheel of
// ticks and a small heap end them in time (expiry.go). Nothing is allocated per packet: memory grows with the number of
// flows alive, up to MaxFlows, and is kept.
type Table struct {
	cfg    Config
	idle   int64 // nanoseconds
	active int64
	linger int64
	sink   func(*Record)
	secret secret

	slots []uint64 // hash<<32 | number+1; 0 = empty. Length is a power of two, at most 13/16 full
	mask  uint32
	room  int // flows that may be alive before the slots grow
	arena arena
	exp   expiry

	now  int64 // newest packet time
	wake int64 // nothing can end before this time
	seq  uint64

	// Of the record that is with the sink, for Parallel to put it in order.
	cause cause
	due   int64  // its deadline, when that is what it came for
	born  uint64 // when its flow began

	stats Stats
	rec   Record // lent to the sink
	batch [batchLen]digest
	touch uint64 // keeps the early loads of a batch from being left out
}

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

// life is the half of a live flow that few packets touch. Its fields are halves of numbers so that it is 44 octets long.
type life struct {
	startHigh, startLow uint32 // packet time at which the flow began: the active timeout runs from here
	seqLow, aheadLow    uint32 // order of beginning; how much earlier than start the earliest packet was, nanoseconds
	seqHigh, aheadHigh  uint16
	prev, next          int32 // links of the wheel; in the heap prev is the position
	srcMAC, dstMAC      packet.MAC
	fragments           uint16 // from 65535 on, arena.many has the number
	packetsHigh         uint8
	tos                 uint8
}

func (l *life) start() int64  { return int64(uint64(l.startHigh)<<32 | uint64(l.startLow)) }
func (l *life) seq() uint64   { return uint64(l.seqHigh)<<32 | uint64(l.seqLow) }
func (l *life) first() int64  { return l.start() - int64(uint64(l.aheadHigh)<<32|uint64(l.aheadLow)) }
func (l *life) ahead(d int64) { l.aheadHigh, l.aheadLow = uint16(d>>32), uint32(d) }

// Bits of entry.state.
const (
	stateEnded   = 1 << 0 // FIN or RST seen: waits for trailing packets
	stateSwapped = 1 << 1 // the initiator is the key's dst
	stateWheel   = 1 << 2 // linked in the wheel
	stateHeap    = 1 << 3 // in the heap
	stateLive    = 1 << 4 // not in the list of free entries
)

// reverse is the other direction of a bidirectional flow.
type reverse struct {
	octets        uint64
	packets       uint32
	packetsHigh   uint8
	tcpFlags, tos uint8
	tosSet        bool
}

// chunkLen flows are in one piece of memory: 128 KiB of entries and 88 KiB of lives, whole pages both.
const (
	chunkBits = 11
	chunkLen  = 1 << chunkBits
)

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
		a.chunks = append(a.chunks, new([chunkLen]entry))
		a.lives = append(a.lives, new([chunkLen]life))
		if bidirectional {
			a.rev = append(a.rev, new([chunkLen]reverse))
		}
	}
	a.used++
	return i
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

// New makes an empty table. sink is called on the goroutine of Add, Advance and Flush with a record that is borrowed: it
// is valid until sink returns. Records come in order of the time their flow ended, then of its beginning.
func New(cfg Config, sink func(*Record)) (*Table, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if sink == nil {
		return nil, errors.New("flow: no sink for the records")
	}
	return newTable(cfg, sink, secret{rand.Uint64(), rand.Uint64(), rand.Uint64(), rand.Uint64()}), nil
}

func newTable(cfg Config, sink func(*Record), s secret) *Table {
	t := &Table{
		cfg:    cfg,
		idle:   int64(cfg.IdleTimeout),
		active: int64(cfg.ActiveTimeout),
		linger: int64(min(cfg.LingerTimeout, cfg.IdleTimeout)),
		sink:   sink,
		secret: s,
		now:    math.MinInt64,
		wake:   math.MinInt64,
	}
	t.arena.free = -1
	t.resize(1024)
	t.exp.init()
	return t
}

// Stats returns the accounts so far.
func (t *Table) Stats() Stats { return t.stats }

// Add meters one packet at p.Time; p is not kept. It first ends what is due at that time. Zero allocation but for the
// growth of the table.
func (t *Table) Add(p *packet.Parsed) {
	d := &t.batch[0]
	t.stats.arrived(p)
	t.digest(d, p)
	t.pass(int64(d.time))
	if d.has(digestFlow) {
		t.meter(d)
	}
}

// batchLen is how many packets are looked up ahead: enough for the memory to be busy, few enough to stay in its caches.
const batchLen = 32

// AddBatch is Add for each of ps in order. It is quicker with a large table: it asks for the memory of many flows at
// once before it works on the first.
func (t *Table) AddBatch(ps []packet.Parsed) {
	for len(ps) > 0 {
		n := min(len(ps), batchLen)
		for i := range ps[:n] {
			t.stats.arrived(&ps[i])
			t.digest(&t.batch[i], &ps[i])
		}
		t.settle(t.batch[:n])
		ps = ps[n:]
	}
}

// settle meters a few packets that were counted already.
func (t *Table) settle(ds []digest) {
	t.warm(ds)
	for i := range ds {
		d := &ds[i]
		t.pass(int64(d.time))
		if d.has(digestFlow) {
			t.meter(d)
		}
	}
}

// warm reads what the packets of a batch will need, without using it. The loads do not wait for one another.
func (t *Table) warm(ds []digest) {
	x := t.touch
	for i := range ds {
		x ^= t.slots[ds[i].h&t.mask]
	}
	for i := range ds {
		h := ds[i].h
		for pos := h & t.mask; ; pos = (pos + 1) & t.mask {
			slot := t.slots[pos]
			if slot == 0 {
				break
			}
			if uint32(slot>>32) == h {
				n := int32(uint32(slot)) - 1
				x ^= t.arena.at(n).octets
				if t.cfg.Bidirectional {
					x ^= t.arena.revAt(n).octets
				}
				break
			}
		}
	}
	t.touch = x
}

// pass moves the time to that of the packet that comes next, and ends what is due then.
func (t *Table) pass(now int64) {
	t.seq++
	if now >= t.now {
		t.now = now
	} else {
		t.late(now)
	}
	if t.now >= t.wake {
		t.advance()
	}
}

// meter adds a packet to its flow.
func (t *Table) meter(d *digest) {
	if d.has(digestNoPorts) {
		t.stats.PortsUnknown++
	}
	h := d.h
	for pos := h & t.mask; ; pos = (pos + 1) & t.mask {
		slot := t.slots[pos]
		if slot == 0 {
			t.begin(d)
			return
		}
		if uint32(slot>>32) != h {
			continue
		}
		i := int32(uint32(slot)) - 1
		e := t.arena.at(i)
		if !e.is(&d.k) {
			continue
		}
		if e.state&stateEnded != 0 && d.has(digestTCP) && t.opens(d.tcpFlags) {
			// The same ports again, for a new connection: the old one need not wait for trailing packets.
			t.cause, t.due = causePacket, 0
			t.detach(e, t.arena.life(i))
			t.remove(i, e, h, EndOfFlow)
			t.begin(d)
			return
		}
		t.count(i, e, d)
		return
	}
}

// opens says whether TCP flags begin a connection. In one direction only, a SYN+ACK does, too.
func (t *Table) opens(flags uint8) bool {
	return flags&tcpSYN != 0 && (!t.cfg.Bidirectional || flags&tcpACK == 0)
}

// late handles a packet older than the newest one.
func (t *Table) late(now int64) {
	t.stats.Late++
	if uint64(t.now)-uint64(now) > uint64(t.cfg.MaxReorder) {
		t.stats.ClockSteps++
		t.Flush(EndForced)
		t.now = now
		t.exp.cur = now >> tickBits // the wheel is empty
		t.wake = now
	}
}

func (t *Table) begin(d *digest) {
	if t.stats.Flows >= t.cfg.MaxFlows {
		t.cause, t.due = causePacket, 0
		t.evict()
	}
	if t.stats.Flows >= t.room {
		t.grow()
	}
	i := t.arena.take(t.cfg.Bidirectional)
	t.insert(d.h, i)
	t.stats.Flows++
	t.stats.FlowsBegun++
	e := t.arena.at(i)
	*e = entry{src: d.k.src, dst: d.k.dst, mid: d.k.mid, inner: d.k.inner, last: int64(d.time), state: stateLive}
	if d.has(digestSwapped) {
		e.state |= stateSwapped
	}
	*t.arena.life(i) = life{
		startHigh: uint32(uint64(d.time) >> 32), startLow: uint32(d.time),
		seqHigh: uint16(t.seq >> 32), seqLow: uint32(t.seq), srcMAC: d.srcMAC, dstMAC: d.dstMAC, tos: d.tos,
	}
	if t.cfg.Bidirectional {
		*t.arena.revAt(i) = reverse{}
	}
	t.count(i, e, d)
	if e.state&(stateWheel|stateHeap) == 0 { // a FIN or RST has scheduled it already
		t.schedule(i, e, t.arena.life(i))
	}
}

// count adds one packet to a live flow.
func (t *Table) count(i int32, e *entry, d *digest) {
	now := int64(d.time)
	if now > e.last {
		e.last = now
	}
	if now < t.now { // late: it may be the flow's earliest
		if l := t.arena.life(i); now < l.first() {
			l.ahead(l.start() - now)
		}
	}
	if d.has(digestFragment) {
		t.fragment(i)
	}
	flags := d.tcpFlags
	if d.has(digestSwapped) != (e.state&stateSwapped != 0) {
		r := t.arena.revAt(i)
		if r.packets++; r.packets == 0 {
			r.packetsHigh++
		}
		r.octets += uint64(d.octets)
		r.tcpFlags |= flags
		if !r.tosSet {
			r.tos, r.tosSet = d.tos, true
		}
	} else {
		if e.packets++; e.packets == 0 {
			t.arena.life(i).packetsHigh++
		}
		e.octets += uint64(d.octets)
		e.tcpFlags |= flags
	}
	if flags&(tcpFIN|tcpRST) != 0 && e.state&stateEnded == 0 {
		if flags&tcpRST != 0 || !t.cfg.Bidirectional || e.tcpFlags&t.arena.revAt(i).tcpFlags&tcpFIN != 0 {
			e.state |= stateEnded
			l := t.arena.life(i)
			t.detach(e, l)
			t.schedule(i, e, l)
		}
	}
}

// fragment counts a fragment of flow i.
func (t *Table) fragment(i int32) {
	t.stats.Fragments++
	a := &t.arena
	l := a.life(i)
	if l.fragments < math.MaxUint16-1 {
		l.fragments++
		return
	}
	if a.many == nil {
		a.many = make(map[int32]uint32)
	}
	if l.fragments < math.MaxUint16 {
		l.fragments = math.MaxUint16
		a.many[i] = math.MaxUint16
	} else if n := a.many[i]; n != math.MaxUint32 {
		a.many[i] = n + 1
	}
}

// insert puts an entry into the first free slot from its home.
func (t *Table) insert(h uint32, i int32) {
	pos := h & t.mask
	for t.slots[pos] != 0 {
		pos = (pos + 1) & t.mask
	}
	t.slots[pos] = uint64(h)<<32 | uint64(uint32(i+1))
}

// erase takes an entry out and closes the gap, so that no tombstones are left (Knuth, volume 3, 6.4, algorithm R).
func (t *Table) erase(h uint32, i int32) {
	want := uint64(h)<<32 | uint64(uint32(i+1))
	pos := h & t.mask
	for t.slots[pos] != want {
		pos = (pos + 1) & t.mask
	}
	hole := pos
	for {
		pos = (pos + 1) & t.mask
		slot := t.slots[pos]
		if slot == 0 {
			break
		}
		home := uint32(slot>>32) & t.mask
		if (pos-home)&t.mask >= (pos-hole)&t.mask {
			t.slots[hole] = slot
			hole = pos
		}
	}
	t.slots[hole] = 0
}

func (t *Table) resize(n int) {
	t.slots = make([]uint64, n)
	t.mask = uint32(n - 1)
	t.room = n / 16 * 13
}

// grow doubles the slots. The pause is proportional to the flows alive: about 10 ms at the last step to a million.
func (t *Table) grow() {
	old := t.slots
	t.resize(2 * len(old))
	for _, slot := range old {
		if slot == 0 {
			continue
		}
		pos := uint32(slot>>32) & t.mask
		for t.slots[pos] != 0 {
			pos = (pos + 1) & t.mask
		}
		t.slots[pos] = slot
	}
}

// remove gives the record of a detached entry to the sink and frees it. A flow that waits for trailing packets has
// ended by itself, whatever else makes it leave now.
func (t *Table) remove(i int32, e *entry, h uint32, reason EndReason) {
	if e.state&stateEnded != 0 && reason != EndActive {
		reason = EndOfFlow
	}
	if reason == EndLack {
		t.stats.FlowsEvicted++
	}
	t.stats.RecordsGiven++
	t.stats.Flows--
	t.fill(&t.rec, i, e)
	t.rec.EndReason = reason
	t.born = t.arena.life(i).seq()
	t.erase(h, i)
	t.arena.give(i)
	t.sink(&t.rec)
}

// hashOf is the hash of a live flow.
func (t *Table) hashOf(e *entry) uint32 {
	k := e.key()
	return t.secret.hash(&k)
}

// fill writes every field of the record but the end reason.
func (t *Table) fill(r *Record, i int32, e *entry) {
	k, l := e.key(), t.arena.life(i)
	kind := k.kind()
	*r = Record{
		First: packet.Timestamp(l.first()), Last: packet.Timestamp(e.last),
		VLAN: uint16(k.mid), InnerVLAN: k.inner,
		Proto: k.proto(), Version: 4,
		TOS: l.tos, TCPFlags: e.tcpFlags,
		PortsUnknown: kind&kindNoPort != 0, Sampling: t.cfg.Sampling,
		SrcMAC: l.srcMAC, DstMAC: l.dstMAC,
		Packets: uint64(l.packetsHigh)<<32 | uint64(e.packets), Octets: e.octets, Fragments: uint64(l.fragments),
	}
	if l.fragments == math.MaxUint16 {
		r.Fragments = uint64(t.arena.many[i])
	}
	if kind&kindV6 != 0 {
		r.Version = 6
	}
	icmp := (r.Proto == packet.ProtoICMP || r.Proto == packet.ProtoICMP6) && !r.PortsUnknown
	if e.state&stateSwapped != 0 {
		if icmp {
			k.src, k.dst = k.dst, k.src
			k.mid = k.mid&^(0xff<<40) | uint64(icmpReply(r.Proto, uint8(k.mid>>40)))<<40
		} else {
			k.swap()
		}
	}
	put(&r.Src, k.src)
	put(&r.Dst, k.dst)
	r.SrcPort, r.DstPort = k.ports()
	if icmp {
		r.ICMPType, r.ICMPCode = uint8(r.DstPort>>8), uint8(r.DstPort)
	}
	if t.cfg.Bidirectional {
		rev := t.arena.revAt(i)
		r.RevPackets, r.RevOctets = uint64(rev.packetsHigh)<<32|uint64(rev.packets), rev.octets
		r.RevTCPFlags, r.RevTOS = rev.tcpFlags, rev.tos
	}
}

func put(dst *[16]byte, a [2]uint64) {
	binary.BigEndian.PutUint64(dst[:], a[0])
	binary.BigEndian.PutUint64(dst[8:], a[1])
}

// Flush ends every flow now, in the order they began. The table stays usable; time goes on from where it was.
func (t *Table) Flush(reason EndReason) {
	t.cause, t.due = causeFlush, 0
	list := t.bySeq()
	// All leave, so many need not be taken out one by one; but few in a large table are, lest a clock that steps with
	// every packet costs a sweep each time.
	many := len(list) > (len(t.slots)+len(t.exp.heads))/32
	if many {
		clear(t.slots)
		t.exp.empty()
	}
	for _, b := range list {
		e, why := t.arena.at(b.i), reason
		if !many {
			t.detach(e, t.arena.life(b.i))
			t.erase(t.hashOf(e), b.i)
		}
		if e.state&stateEnded != 0 && reason != EndActive {
			why = EndOfFlow
		}
		t.stats.RecordsGiven++
		t.stats.Flows--
		t.fill(&t.rec, b.i, e)
		t.rec.EndReason = why
		t.born = b.seq
		t.arena.give(b.i)
		t.sink(&t.rec)
	}
}

// Snapshot gives every live flow as a partial record (EndNone), in the order they began. The record is borrowed until
// fn returns; the table does not change and fn must not call into it.
func (t *Table) Snapshot(fn func(*Record)) {
	var r Record
	for _, b := range t.bySeq() {
		t.fill(&r, b.i, t.arena.at(b.i))
		fn(&r)
	}
}

// born says when a flow began.
type born struct {
	seq uint64
	i   int32
}

// bySeq lists the flows alive in the order they began.
func (t *Table) bySeq() []born {
	order := make([]born, 0, t.stats.Flows)
	sorted, last := true, uint64(0)
	for i := range t.arena.used {
		if t.arena.at(i).state&stateLive != 0 {
			seq := t.arena.life(i).seq()
			sorted = sorted && seq > last
			last = seq
			order = append(order, born{seq, i})
		}
	}
	if !sorted {
		slices.SortFunc(order, func(a, b born) int { return cmp.Compare(a.seq, b.seq) })
	}
	return order
}
