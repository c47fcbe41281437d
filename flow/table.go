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

	index index
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
	t.index.resize(1024)
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
	x, y := t.touch, uint32(0)
	slots, mask, tag := t.index.slots, t.index.mask, t.index.tag
	for i := range ds {
		y ^= slots[ds[i].h&mask]
	}
	for i := range ds {
		h := ds[i].h
		for pos := h & mask; ; pos = (pos + 1) & mask {
			slot := slots[pos]
			if slot == 0 {
				break
			}
			if (slot^h)&tag == 0 {
				n := int32(slot&mask) - 1
				x ^= t.arena.at(n).octets
				if t.cfg.Bidirectional {
					y ^= t.arena.revAt(n).octets
				}
				break
			}
		}
	}
	t.touch = x ^ uint64(y)
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
	h, mask, tag := d.h, t.index.mask, t.index.tag
	for pos := h & mask; ; pos = (pos + 1) & mask {
		slot := t.index.slots[pos]
		if slot == 0 {
			t.begin(d)
			return
		}
		if (slot^h)&tag != 0 {
			continue
		}
		i := int32(slot&mask) - 1
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
	if t.stats.Flows >= t.index.room {
		t.grow()
	}
	i := t.arena.take(t.cfg.Bidirectional)
	t.index.insert(d.h, i)
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
		t.earlier(i, e, now)
	}
	if d.has(digestFragment) {
		t.fragment(i)
	}
	flags := d.tcpFlags
	if d.has(digestSwapped) != (e.state&stateSwapped != 0) {
		t.arena.countBack(i, e, d)
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

// earlier notes that a flow that began at a later time has a packet of time now. Its active timeout comes earlier then.
func (t *Table) earlier(i int32, e *entry, now int64) {
	l := t.arena.life(i)
	if now >= l.start() {
		return
	}
	l.begins(now)
	if e.state&(stateWheel|stateHeap) != 0 {
		t.detach(e, l)
		t.schedule(i, e, l)
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
		First: packet.Timestamp(l.start()), Last: packet.Timestamp(e.last),
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
		r.RevPackets = uint64(l.revPacketsHigh)<<32 | uint64(rev.packets)
		r.RevOctets = uint64(l.revOctetsTop)<<48 | uint64(rev.octetsHigh)<<32 | uint64(rev.octets)
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
	many := len(list) > (len(t.index.slots)+len(t.exp.heads))/32
	if many {
		clear(t.index.slots)
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
