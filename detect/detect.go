// Package detect finds flows that are remarkable: their rate, as packet samples show it, is over a threshold.
//
// Runs in: agent | tools
//
// Time is the samples' alone, and all that is compared are whole numbers: the same samples with the same times decide the same,
// live and in replay. A rate is of a window that slides in eighths. Each data source of each agent is added up apart, and a
// flow is told once however many sources see it: the same packet on its way through two switches, or a copy that a tap made of
// it, does not count twice, and a tap cannot keep alive what caused it.
package detect

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"time"

	"opentap/packet"
	"opentap/want"
	"opentap/wire/sflow"
)

// Sample is a packet, or some, that somebody saw.
type Sample struct {
	At      packet.Timestamp
	Agent   netip.Addr
	Sub     uint32
	Source  sflow.Source
	In, Out uint32         // ifIndex; 0 = not known, or several
	Packet  *packet.Parsed // what is known of it
	Header  []byte         // its octets, from an Ethernet header on; nil = they are made up from Packet for filters
	Octets  uint64         // of one packet
	Rate    uint32         // the packets this stands for

	Point string // of packets of a device of ours: its name

	// Of counters of a device of ours, Point: what they went on by since they were last read. Packet is nil.
	Way    Way
	Drops  uint64
	Errors uint64

	// Of counters of an interface of an agent, with Way; Duration is what they are of.
	Interface bool
	Name      string // of the port, if the agent says it; text from the network
	Known     uint8  // what is counted at all

	// Of flow records and counters: Octets are those of all packets.
	Packets  uint64 // multiplied by the sampling rate, as Octets are
	Duration time.Duration
	Counted  uint64 // packets that were really seen
}

// Way is which way the counters of a device count.
type Way uint8

// The ways. The zero value is of what is no counter.
const (
	Received Way = 1 + iota
	Sent
)

// SampleOf makes a Sample of a flow sample of sFlow, of which p was made.
func SampleOf(at packet.Timestamp, d *sflow.Datagram, f *sflow.FlowSample, p *packet.Parsed) Sample {
	s := Sample{At: at, Agent: d.Agent, Sub: d.SubAgent, Source: f.Source, Packet: p, Octets: uint64(f.Octets()), Rate: max(f.Rate, 1)}
	s.In, _ = f.Input.Known()
	s.Out, _ = f.Output.Known()
	if f.Protocol == 1 {
		s.Header = f.Header
	}
	return s
}

// Bounds of an Engine.
const (
	slices8    = 8       // parts of a window
	maxFlows   = 1 << 16 // of a rule
	maxPorts   = 1 << 14 // interfaces whose OpenFlow port is known
	giveUpLook = 8       // flows that are looked at when one has to go
)

// Engine runs rules over samples. Not safe for concurrent use.
type Engine struct {
	rules   []*rule
	emit    func(want.Crossing)
	now     packet.Timestamp
	ports   map[portKey]sflow.OpenFlowPort
	counts  bool // a rule looks at counters of interfaces
	counted map[portKey]reading
	count   Sample // of an interface
	buf     []byte
	frame   []byte // made up for filters
	want.DetectCounts
}

type portKey struct {
	agent netip.Addr
	sub   uint32
	index uint32
}

// slot is one flow at one source.
type slot struct {
	key     string // source and flow
	newest  int64  // the part of the window that was added to last, in parts since 1970
	sums    [slices8]uint64
	counts  [slices8]uint32
	sum     uint64
	samples uint64
	until   packet.Timestamp // of a rate that stands: after it there is none

	state state
	since packet.Timestamp // active: below clear since, 0 = it is not; cooling: until
	peak  uint64
	agent netip.Addr
	point string // of packets of a device of ours
}

type state uint8

const (
	quiet state = iota
	active
	cooling
)

// New makes an Engine of rules that Compile has taken. emit is called from Sample and Advance, and must not call the Engine.
func New(rules []*Compiled, emit func(want.Crossing)) *Engine {
	e := &Engine{emit: emit, ports: make(map[portKey]sflow.OpenFlowPort), counted: make(map[portKey]reading)}
	for _, c := range rules {
		e.counts = e.counts || c.Input == want.InputInterfaces
		e.rules = append(e.rules, &rule{
			Compiled: c, index: make(map[string]int32), told: make(map[string]int32), step: packet.Timestamp(c.Window / slices8),
		})
	}
	return e
}

// rule is a rule at work.
type rule struct {
	*Compiled
	step  packet.Timestamp
	slots []slot
	free  []int32
	index map[string]int32 // by source and flow
	told  map[string]int32 // by flow: the slot that is active
	turn  packet.Timestamp // when the window moves next; 0 = no sample has come
	hand  int              // where the search for one to give up goes on
	turns uint64
}

// sourceLen is how many octets of a key are its source: address, sub-agent, type, index.
const sourceLen = 16 + 4 + 4 + 4

// Sample takes a sample. Nothing of it is kept.
func (e *Engine) Sample(s *Sample) {
	e.Advance(s.At)
	e.Samples++
	filled := false
	for _, r := range e.rules {
		if !r.takes(s) {
			continue
		}
		if len(r.Sources) > 0 && !slices.Contains(r.Sources, s.Agent) {
			continue
		}
		if r.match != nil {
			frame, length := s.Header, uint32(s.Octets)
			if frame == nil {
				if !filled {
					e.frame, filled = appendFrame(e.frame[:0], s.Packet), true
				}
				frame = e.frame
			}
			if !r.match.Match(frame, max(length, uint32(len(frame)))) {
				continue
			}
		}
		var ok bool
		if e.buf, ok = e.appendKey(e.buf[:0], r, s); !ok {
			continue // it has not what the rule looks at
		}
		value, samples := r.value(s)
		e.add(r, s, value, samples)
	}
}

// appendKey appends source and flow. false: the packet has no such thing.
func (e *Engine) appendKey(b []byte, r *rule, s *Sample) ([]byte, bool) {
	a := s.Agent.As16()
	b = append(b, a[:]...)
	b = binary.BigEndian.AppendUint32(b, s.Sub)
	b = binary.BigEndian.AppendUint32(b, s.Source.Type)
	b = binary.BigEndian.AppendUint32(b, s.Source.Index)
	for _, k := range r.keys {
		var ok bool
		if b, ok = k.append(b, e, s); !ok {
			return b, false
		}
	}
	return b, true
}

// add adds to the flow in e.buf, and tells when it has come to be remarkable.
func (e *Engine) add(r *rule, s *Sample, value uint64, samples uint32) {
	i, ok := r.index[string(e.buf)]
	if !ok {
		if i = r.place(e); i < 0 {
			e.Untracked++
			return
		}
		r.slots[i] = slot{key: string(e.buf), agent: s.Agent, point: s.Point}
		r.index[r.slots[i].key] = i
	}
	f := &r.slots[i]
	part := int64(s.At) / int64(r.step)
	switch {
	case f.newest-part >= slices8:
		e.Late++
		return
	case part > f.newest:
		f.move(part)
	}
	if s.Interface {
		f.hold(value, s.At, s.Duration)
	} else {
		k := part % slices8
		f.sums[k] += value
		f.counts[k] += samples
		f.sum += value
		f.samples += uint64(samples)
	}
	if f.state != active {
		if f.state == quiet && f.sum >= r.aboveSum && f.samples >= uint64(r.MinSamples) {
			e.begin(r, i, s.At)
		}
		return
	}
	f.peak = max(f.peak, f.sum)
}

// move has the window end with part.
func (f *slot) move(part int64) {
	if f.until != 0 { // it stands
		f.newest = part
		return
	}
	if part-f.newest >= slices8 {
		f.sums, f.counts, f.sum, f.samples = [slices8]uint64{}, [slices8]uint32{}, 0, 0
	} else {
		for p := f.newest + 1; p <= part; p++ {
			k := p % slices8
			f.sum -= f.sums[k]
			f.samples -= uint64(f.counts[k])
			f.sums[k], f.counts[k] = 0, 0
		}
	}
	f.newest = part
}

// begin tells of a flow, unless another source has told of it or there are too many.
func (e *Engine) begin(r *rule, i int32, at packet.Timestamp) {
	f := &r.slots[i]
	flow := f.key[sourceLen:]
	if _, told := r.told[flow]; told {
		return
	}
	if len(r.told) >= r.Top {
		e.Suppressed++
		return
	}
	f.state, f.since, f.peak = active, 0, f.sum
	r.told[flow] = i
	e.emit(r.crossing(f, at, false))
}

// crossing is what is told of a flow.
func (r *rule) crossing(f *slot, at packet.Timestamp, over bool) want.Crossing {
	src := f.key[16:]
	if f.point != "" {
		return want.Crossing{
			Rule: r.Name, Keys: r.Text(f.key[sourceLen:]), Agent: f.point, Source: f.point, Over: over, Value: r.perSecond(f.sum), Peak: r.perSecond(f.peak),
			Samples: f.samples, At: at.Time(),
		}
	}
	return want.Crossing{
		Rule: r.Name, Keys: r.Text(f.key[sourceLen:]), Agent: f.agent.String(), Over: over, Value: r.perSecond(f.sum), Peak: r.perSecond(f.peak),
		Samples: f.samples, At: at.Time(),
		Source: fmt.Sprintf("%d/%d/%d", binary.BigEndian.Uint32([]byte(src[0:4])), binary.BigEndian.Uint32([]byte(src[4:8])), binary.BigEndian.Uint32([]byte(src[8:12]))),
	}
}

// Advance moves time on to at, which the samples to come are not before.
func (e *Engine) Advance(at packet.Timestamp) {
	if at <= e.now {
		return
	}
	e.now = at
	for _, r := range e.rules {
		if r.turn == 0 {
			r.turn = (at/r.step + 1) * r.step
			continue
		}
		for r.turn <= at {
			if len(r.told) == 0 && len(r.index) == 0 { // nothing that time could change
				r.turn = (at/r.step + 1) * r.step
				break
			}
			e.turn(r, r.turn)
			r.turn += r.step
		}
	}
}

// turn looks after all flows that are told when the window has moved to end at at, and once a window after all others.
func (e *Engine) turn(r *rule, at packet.Timestamp) {
	part := int64(at)/int64(r.step) - 1
	if len(r.told) > 0 {
		for _, flow := range sortedKeys(r.told) {
			i := r.told[flow]
			f := &r.slots[i]
			if part > f.newest {
				f.move(part)
			}
			f.fade(at)
			switch {
			case f.sum >= r.clearSum:
				f.since = 0
			case f.since == 0:
				f.since = at
			}
			if f.since != 0 && at.Sub(f.since) >= r.Hold {
				e.end(r, i, at)
			}
		}
	}
	if r.turns++; r.turns%slices8 != 0 {
		return
	}
	for i := range r.slots {
		f := &r.slots[i]
		if f.key == "" || f.state == active {
			continue
		}
		if part > f.newest {
			f.move(part)
		}
		f.fade(at)
		if f.state == cooling && at >= f.since {
			f.state, f.since = quiet, 0
		}
		if f.state == quiet && f.samples == 0 {
			r.drop(int32(i))
		}
	}
}

func sortedKeys(m map[string]int32) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// end tells that a flow is not remarkable any more.
func (e *Engine) end(r *rule, i int32, at packet.Timestamp) {
	f := &r.slots[i]
	delete(r.told, f.key[sourceLen:])
	e.emit(r.crossing(f, at, true))
	f.state, f.since = quiet, 0
	if r.CoolDown > 0 {
		f.state, f.since = cooling, at.Add(r.CoolDown)
	}
}

func (r *rule) drop(i int32) {
	delete(r.index, r.slots[i].key)
	r.slots[i] = slot{}
	r.free = append(r.free, i)
}

// place finds room for a flow: of the next few that are not told, the smallest goes. Negative: there is none.
func (r *rule) place(e *Engine) int32 {
	if n := len(r.free); n > 0 {
		i := r.free[n-1]
		r.free = r.free[:n-1]
		return i
	}
	if len(r.slots) < maxFlows {
		r.slots = append(r.slots, slot{})
		return int32(len(r.slots) - 1)
	}
	least := -1
	for range giveUpLook {
		r.hand = (r.hand + 1) % len(r.slots)
		if f := &r.slots[r.hand]; f.state == quiet && (least < 0 || f.sum < r.slots[least].sum) {
			least = r.hand
		}
	}
	if least < 0 {
		return -1
	}
	e.Untracked++
	r.drop(int32(least))
	r.free = r.free[:len(r.free)-1]
	return int32(least)
}

// Top returns the n largest flows of each rule as of now, and all that are told, each as the source sees it that sees most of it.
func (e *Engine) Top(n int) map[string][]want.Ranked {
	out := make(map[string][]want.Ranked, len(e.rules))
	for _, r := range e.rules {
		part := int64(e.now) / int64(r.step)
		best := make(map[string]int32)
		for i := range r.slots {
			f := &r.slots[i]
			if f.key == "" {
				continue
			}
			if part > f.newest {
				f.move(part)
			}
			f.fade(e.now)
			flow := f.key[sourceLen:]
			if k, ok := best[flow]; f.sum > 0 && (!ok || f.sum > r.slots[k].sum) {
				best[flow] = int32(i)
			}
		}
		flows := sortedKeys(best)
		slices.SortStableFunc(flows, func(a, b string) int { return cmp.Compare(r.slots[best[b]].sum, r.slots[best[a]].sum) })
		list := []want.Ranked{}
		for i, flow := range flows {
			f := &r.slots[best[flow]]
			k, on := r.told[flow]
			if i >= n && !on {
				continue
			}
			x := want.Ranked{Keys: r.Text(flow), Agent: f.seenBy(), Value: r.perSecond(f.sum), Samples: f.samples, Active: on}
			if on {
				x.Peak = r.perSecond(r.slots[k].peak)
			}
			list = append(list, x)
		}
		out[r.Name] = list
	}
	return out
}

// seenBy names the agent or the point.
func (f *slot) seenBy() string {
	if f.point != "" {
		return f.point
	}
	return f.agent.String()
}

// takes reports whether a rule looks at such samples.
func (c *Compiled) takes(s *Sample) bool {
	switch {
	case s.Interface:
		return c.takesInterface(s)
	case s.Way != 0:
		return c.Input == want.InputCounters && slices.Contains(c.Points, s.Point)
	case s.Point != "":
		return c.Input == want.InputPackets && slices.Contains(c.Points, s.Point)
	case s.Packets > 0:
		return c.Input == want.InputRecords
	}
	return c.Input == want.InputSamples
}

// value is what a sample adds to its flow, and for how many packets that were seen it stands. Of a flow record that lasted longer than
// the window it is what the flow had in one window on average: when it comes nobody knows when it was.
func (c *Compiled) value(s *Sample) (value uint64, samples uint32) {
	if s.Way != 0 {
		switch {
		case c.Bits:
			value = 8 * min(s.Octets, math.MaxUint64/8)
		case c.Drops:
			value = s.Drops
		case c.Errors:
			value = s.Errors
		default:
			value = s.Packets
		}
		if s.Interface {
			value = mulDiv(value, uint64(c.Window), uint64(s.Duration))
		}
		return value, 1
	}
	if s.Packets == 0 {
		if c.Bits {
			return uint64(s.Rate) * 8 * s.Octets, 1
		}
		return uint64(s.Rate), 1
	}
	if value = s.Packets; c.Bits {
		value = 8 * min(s.Octets, math.MaxUint64/8)
	}
	if s.Duration > c.Window {
		value = mulDiv(value, uint64(c.Window), uint64(s.Duration))
	}
	return value, uint32(min(s.Counted, math.MaxUint16))
}

// perSecond is a sum over the window as a rate.
func (c *Compiled) perSecond(sum uint64) uint64 {
	return mulDiv(sum, uint64(time.Second), uint64(c.Window))
}
