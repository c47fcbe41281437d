package detect

import (
	"math"
	"slices"
	"strconv"
	"time"

	"opentap/packet"
	"opentap/want"
	"opentap/wire/sflow"
)

// Counter samples say what an interface has counted since it began; what is held against thresholds is what that went on by between two of
// them. They come seldom, every half minute as a rule: a rate stands until the next one comes, and for a while after, however short
// the window is.
const (
	maxCounted = 1 << 16          // interfaces whose counters are known
	longestGap = 10 * time.Minute // between two samples: after more nobody knows when it was
	standsFor  = 3                // times the time between two samples a rate stands, when no other comes
)

// reading is what an interface had counted, and when.
type reading struct {
	at   packet.Timestamp
	seq  uint32
	name string
	sflow.Counters
}

// Counters takes a counter sample that came at at: it notes which port of a switch an interface is, and what it counted. Nothing of it is kept.
func (e *Engine) Counters(at packet.Timestamp, d *sflow.Datagram, s *sflow.CounterSample) {
	if s.Source.Type != 0 {
		return
	}
	k := portKey{d.Agent, d.SubAgent, s.Source.Index}
	if s.HasPort {
		if _, ok := e.ports[k]; ok || len(e.ports) < maxPorts {
			e.ports[k] = s.Port
		}
	}
	if !s.HasInterface || !e.counts {
		return
	}
	e.Advance(at)
	e.Polled++
	was, ok := e.counted[k]
	if !ok && len(e.counted) >= maxCounted {
		e.Untracked++
		return
	}
	now := reading{at, s.Sequence, was.name, s.Interface}
	if now.name != string(s.Name) && len(s.Name) < deviceLen {
		now.name = string(s.Name)
	}
	took := at.Sub(was.at)
	if ok && took <= 0 {
		e.Late++
		return
	}
	e.counted[k] = now
	if !ok || took > longestGap || int32(now.seq-was.seq) <= 0 || now.InOctets < was.InOctets || now.OutOctets < was.OutOctets {
		return // the first, or the agent began anew
	}
	x := &e.count
	*x = Sample{At: at, Agent: d.Agent, Sub: d.SubAgent, Source: s.Source, In: s.Source.Index, Rate: 1, Duration: took, Name: now.name, Interface: true}
	x.Way, x.Octets, x.Known = Received, now.InOctets-was.InOctets, 0
	x.Packets = x.since(countsPackets, was.InUnicast, now.InUnicast) + x.since(countsPackets, was.InMulticast, now.InMulticast) + x.since(countsPackets, was.InBroadcast, now.InBroadcast)
	x.Drops = x.since(countsDrops, was.InDiscards, now.InDiscards)
	x.Errors = x.since(countsErrors, was.InErrors, now.InErrors)
	x.octets(now.InOctets)
	e.Sample(x)
	x.Way, x.Octets, x.Known = Sent, now.OutOctets-was.OutOctets, 0
	x.Packets = x.since(countsPackets, was.OutUnicast, now.OutUnicast) + x.since(countsPackets, was.OutMulticast, now.OutMulticast) + x.since(countsPackets, was.OutBroadcast, now.OutBroadcast)
	x.Drops = x.since(countsDrops, was.OutDiscards, now.OutDiscards)
	x.Errors = x.since(countsErrors, was.OutErrors, now.OutErrors)
	x.octets(now.OutOctets)
	e.Sample(x)
}

// What an interface counts.
const (
	countsOctets = 1 << iota
	countsPackets
	countsDrops
	countsErrors
)

// since is by how much a counter of 32 bits went on, which may have begun again meanwhile. What is not counted has all bits set.
func (s *Sample) since(what uint8, was, now uint32) uint64 {
	if was == math.MaxUint32 || now == math.MaxUint32 {
		return 0
	}
	s.Known |= what
	return uint64(now - was)
}

func (s *Sample) octets(now uint64) {
	if now != math.MaxUint64 {
		s.Known |= countsOctets
	}
}

// measures is what a rule looks at of a counter.
func (c *Compiled) measures() uint8 {
	switch {
	case c.Drops:
		return countsDrops
	case c.Errors:
		return countsErrors
	case c.Bits:
		return countsOctets
	}
	return countsPackets
}

// takesInterface reports whether a rule looks at the counters of an interface.
func (c *Compiled) takesInterface(s *Sample) bool {
	if c.Input != want.InputInterfaces || s.Known&c.measures() == 0 {
		return false
	}
	return len(c.Points) == 0 || s.Name != "" && slices.Contains(c.Points, s.Name) || slices.Contains(c.Points, strconv.FormatUint(uint64(s.In), 10))
}

// hold has a rate stand until the next sample.
func (f *slot) hold(value uint64, at packet.Timestamp, took time.Duration) {
	f.sum, f.samples, f.until = value, 1, at.Add(standsFor*took)
}

// fade ends a rate that nothing has renewed.
func (f *slot) fade(at packet.Timestamp) {
	if f.until != 0 && at > f.until {
		f.sum, f.samples = 0, 0
	}
}
