package flow

import (
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

	slots []uint64 // hash<<32 | number+1; 0 = empty. Length is a power of two, at most half full
	mask  uint32
	arena arena
	exp   expiry

	now   int64 // newest packet time
	wake  int64 // nothing can end before this time
	seq   uint64
	stats Stats
	rec   Record // lent to the sink
	order []int32
}

// entry is one live flow: two cache lines.
type entry struct {
	key     key
	last    int64
	octets  uint64
	packets uint64
	first   int64
	start   int64  // packet time at which the flow began: the active timeout runs from here
	seq     uint64 // order of beginning, from 1

	prev, next int32 // links of the wheel; in the heap prev is the position
	hash       uint32
	fragments  uint32
	srcMAC     packet.MAC
	dstMAC     packet.MAC
	tcpFlags   uint8
	tos        uint8
	state      uint8
	where      uint8
}

// Bits of entry.state.
const (
	stateEnded   = 1 << 0 // FIN or RST seen: waits for trailing packets
	stateSwapped = 1 << 1 // the initiator is the key's dst
)

// reverse is the other direction of a bidirectional flow.
type reverse struct {
	packets, octets uint64
	tcpFlags, tos   uint8
	tosSet          bool
}

const chunkBits = 10
const chunkLen = 1 << chunkBits

// arena numbers entries; chunks of them are added as needed and reused for ever.
type arena struct {
	chunks []*[chunkLen]entry
	rev    []*[chunkLen]reverse // empty unless bidirectional
	free   int32                // head of the list of free entries through next; -1 = none
	used   int32                // entries ever used
}

func (a *arena) at(i int32) *entry      { return &a.chunks[uint32(i)>>chunkBits][uint32(i)&(chunkLen-1)] }
func (a *arena) revAt(i int32) *reverse { return &a.rev[uint32(i)>>chunkBits][uint32(i)&(chunkLen-1)] }

func (a *arena) take(bidirectional bool) int32 {
	if a.free >= 0 {
		i := a.free
		a.free = a.at(i).next
		return i
	}
	i := a.used
	if int(i)>>chunkBits == len(a.chunks) {
		a.chunks = append(a.chunks, new([chunkLen]entry))
		if bidirectional {
			a.rev = append(a.rev, new([chunkLen]reverse))
		}
	}
	a.used++
	return i
}

func (a *arena) give(i int32) {
	e := a.at(i)
	e.next = a.free
	e.seq = 0
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
	t.slots = make([]uint64, 1024)
	t.mask = uint32(len(t.slots) - 1)
	t.exp.init()
	return t
}

// Stats returns the accounts so far.
func (t *Table) Stats() Stats { return t.stats }

// Add meters one packet at p.Time; p is not kept. It first ends what is due at that time. Zero allocation but for the
// growth of the table.
func (t *Table) Add(p *packet.Parsed) {
	t.stats.Packets++
	if now := int64(p.Time); now >= t.now {
		t.now = now
	} else {
		t.late(now)
	}
	if t.now >= t.wake {
		t.advance()
	}
	if !p.IsIP() {
		switch p.Defect {
		case packet.DefectTruncated:
			t.stats.Truncated++
		case packet.DefectMalformed:
			t.stats.Malformed++
		default:
			t.stats.NonIP++
		}
		return
	}

	t.stats.Metered++
	t.stats.Octets += uint64(p.IPOctets)
	var k key
	if k.fill(p) {
		t.stats.PortsUnknown++
	}
	swapped := t.cfg.Bidirectional && k.unite()
	h := t.secret.hash(&k)

	for pos := h & t.mask; ; pos = (pos + 1) & t.mask {
		slot := t.slots[pos]
		if slot == 0 {
			t.begin(p, &k, h, swapped)
			return
		}
		if uint32(slot>>32) != h {
			continue
		}
		i := int32(uint32(slot)) - 1
		e := t.arena.at(i)
		if !e.key.equal(&k) {
			continue
		}
		if e.state&stateEnded != 0 && p.Layers&packet.LayerTCP != 0 && t.opens(p.TCPFlags) {
			// The same ports again, for a new connection: the old one need not wait for trailing packets.
			t.detach(i, e)
			t.remove(i, e, EndOfFlow)
			t.begin(p, &k, h, swapped)
			return
		}
		t.count(i, e, p, swapped)
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

func (t *Table) begin(p *packet.Parsed, k *key, h uint32, swapped bool) {
	if t.stats.Flows >= t.cfg.MaxFlows {
		t.evict()
	}
	if (t.stats.Flows+1)*2 > len(t.slots) {
		t.grow()
	}
	i := t.arena.take(t.cfg.Bidirectional)
	t.insert(h, i)
	t.seq++
	t.stats.Flows++
	t.stats.FlowsBegun++
	e := t.arena.at(i)
	e.key = *k
	e.last, e.first, e.start = int64(p.Time), int64(p.Time), int64(p.Time)
	e.seq = t.seq
	e.hash = h
	e.octets, e.packets, e.fragments = 0, 0, 0
	e.srcMAC, e.dstMAC = p.SrcMAC, p.DstMAC
	e.tcpFlags, e.tos, e.state = 0, p.TOS, 0
	if swapped {
		e.state = stateSwapped
	}
	if t.cfg.Bidirectional {
		*t.arena.revAt(i) = reverse{}
	}
	e.where = whereNone
	t.count(i, e, p, swapped)
	if e.where == whereNone { // a FIN or RST has scheduled it already
		t.schedule(i, e)
	}
}

// count adds one packet to a live flow.
func (t *Table) count(i int32, e *entry, p *packet.Parsed, swapped bool) {
	now := int64(p.Time)
	if now > e.last {
		e.last = now
	}
	if now < e.first {
		e.first = now
	}
	if p.Layers&packet.LayerFragment != 0 {
		t.stats.Fragments++
		if e.fragments != math.MaxUint32 {
			e.fragments++
		}
	}
	var flags uint8
	if p.Layers&packet.LayerTCP != 0 {
		flags = p.TCPFlags
	}
	if swapped != (e.state&stateSwapped != 0) {
		r := t.arena.revAt(i)
		r.packets++
		r.octets += uint64(p.IPOctets)
		r.tcpFlags |= flags
		if !r.tosSet {
			r.tos, r.tosSet = p.TOS, true
		}
	} else {
		e.packets++
		e.octets += uint64(p.IPOctets)
		e.tcpFlags |= flags
	}
	if flags&(tcpFIN|tcpRST) != 0 && e.state&stateEnded == 0 {
		if flags&tcpRST != 0 || !t.cfg.Bidirectional || e.tcpFlags&t.arena.revAt(i).tcpFlags&tcpFIN != 0 {
			e.state |= stateEnded
			t.detach(i, e)
			t.schedule(i, e)
		}
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

// grow doubles the slots. The pause is proportional to the flows alive: about 10 ms at the last step to a million.
func (t *Table) grow() {
	old := t.slots
	t.slots = make([]uint64, 2*len(old))
	t.mask = uint32(len(t.slots) - 1)
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
func (t *Table) remove(i int32, e *entry, reason EndReason) {
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
	t.erase(e.hash, i)
	t.arena.give(i)
	t.sink(&t.rec)
}

// fill writes every field of the record but the end reason.
func (t *Table) fill(r *Record, i int32, e *entry) {
	k := e.key
	kind := k.kind()
	*r = Record{
		First: packet.Timestamp(e.first), Last: packet.Timestamp(e.last),
		VLAN: uint16(k.mid), InnerVLAN: uint16(k.low),
		Proto: k.proto(), Version: 4,
		TOS: e.tos, TCPFlags: e.tcpFlags,
		PortsUnknown: kind&kindNoPort != 0,
		SrcMAC:       e.srcMAC, DstMAC: e.dstMAC,
		Packets: e.packets, Octets: e.octets, Fragments: uint64(e.fragments),
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
		r.RevPackets, r.RevOctets = rev.packets, rev.octets
		r.RevTCPFlags, r.RevTOS = rev.tcpFlags, rev.tos
	}
}

func put(dst *[16]byte, a [2]uint64) {
	for i := range 8 {
		dst[i] = byte(a[0] >> (56 - 8*i))
		dst[8+i] = byte(a[1] >> (56 - 8*i))
	}
}

// Flush ends every flow now, in the order they began. The table stays usable; time goes on from where it was.
func (t *Table) Flush(reason EndReason) {
	for _, i := range t.bySeq() {
		e := t.arena.at(i)
		t.detach(i, e)
		t.remove(i, e, reason)
	}
}

// Snapshot gives every live flow as a partial record (EndNone), in the order they began. The record is borrowed until
// fn returns; the table does not change and fn must not call into it.
func (t *Table) Snapshot(fn func(*Record)) {
	var r Record
	for _, i := range t.bySeq() {
		t.fill(&r, i, t.arena.at(i))
		fn(&r)
	}
}

func (t *Table) bySeq() []int32 {
	t.order = t.order[:0]
	for i := range t.arena.used {
		if t.arena.at(i).seq != 0 {
			t.order = append(t.order, i)
		}
	}
	slices.SortFunc(t.order, func(a, b int32) int {
		if t.arena.at(a).seq < t.arena.at(b).seq {
			return -1
		}
		return 1
	})
	return t.order
}
