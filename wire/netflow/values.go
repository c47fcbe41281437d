package netflow

import (
	"math"

	"opentap/packet"
)

// values are what a record says that is not the Flow's as it stands: it is settled when the record is read.
type values struct {
	octetsSum, octetsLayer2, packetsSum uint64
	hasOctets, hasPackets               bool
	icmpType, icmpCode                  uint8
	hasICMP                             bool
	hasFirst, hasLast                   bool
	duration                            int64 // nanoseconds
	boot                                packet.Timestamp
	firstUp, lastUp                     uint32
	hasFirstUp, hasLastUp, hasBoot      bool
	ipVersion                           uint8
	later                               bool // a later fragment

	sampler                                uint64
	hasSampler                             bool
	sampling                               uint64
	selected, skipped, sampled, population uint64

	notSentFlows, notSentPackets uint64
	hasNotSent                   bool
}

// read fills f and v from a record of a template without variable fields; b holds the record.
func (t *template) read(b []byte, h *header, f *Flow, v *values) {
	*f = Flow{}
	at := 0
	for i := range t.steps {
		s := &t.steps[i]
		at += int(s.skip)
		end := at + int(s.size)
		s.op.apply(b[at:end], h, f, v)
		at = end
	}
}

// walk is read of a template with variable fields, and says how many octets the record had.
func (t *template) walk(b []byte, h *header, f *Flow, v *values) (int, error) {
	*f = Flow{}
	r := reader{b: b}
	for i := range t.steps {
		s := &t.steps[i]
		n := int(s.size)
		if n == variable {
			n = 0
			if p := r.take(1); p != nil {
				n = int(p[0])
			}
			if n == 255 {
				n = int(r.uint16())
			}
		}
		p := r.take(n)
		if r.short {
			return 0, errShort
		}
		if s.op != opSkip && n >= 1 && (s.size != variable || n <= 8) {
			s.op.apply(p, h, f, v)
		}
	}
	return len(b) - len(r.b), nil
}

// apply is one field. b has the octets that the element's shape allows.
func (o op) apply(b []byte, h *header, f *Flow, v *values) {
	switch o {
	case opSkip:
	case opOctets:
		f.Octets, v.hasOctets = number(b), true
	case opOctetsSum:
		v.octetsSum = number(b)
	case opOctetsLayer2:
		v.octetsLayer2 = number(b)
	case opPackets:
		f.Packets, v.hasPackets = number(b), true
	case opPacketsSum:
		v.packetsSum = number(b)
	case opProto:
		f.Proto = uint8(number(b))
	case opTOS:
		f.TOS = uint8(number(b))
	case opFlags:
		f.TCPFlags = uint8(number(b)) // RFC 7125: the low octet of two
	case opSrcPort:
		f.SrcPort = uint16(number(b))
	case opDstPort:
		f.DstPort = uint16(number(b))
	case opSrc4:
		if f.IP != 6 || be.Uint32(b) != 0 { // some templates name both versions, and leave one empty
			f.IP, f.Src = 4, v4(b)
		}
	case opDst4:
		if f.IP != 6 || be.Uint32(b) != 0 {
			f.IP, f.Dst = 4, v4(b)
		}
	case opSrc6:
		if a := [16]byte(b); f.IP != 4 || a != [16]byte{} {
			f.IP, f.Src = 6, a
		}
	case opDst6:
		if a := [16]byte(b); f.IP != 4 || a != [16]byte{} {
			f.IP, f.Dst = 6, a
		}
	case opInput:
		f.Input = uint32(number(b))
	case opOutput:
		f.Output = uint32(number(b))
	case opFirstUptime:
		v.firstUp, v.hasFirstUp = uint32(number(b)), true
	case opLastUptime:
		v.lastUp, v.hasLastUp = uint32(number(b)), true
	case opICMPTypeCode:
		f.ICMPTypeCode = uint16(number(b))
	case opICMPType:
		v.icmpType, v.hasICMP = uint8(number(b)), true
	case opICMPCode:
		v.icmpCode, v.hasICMP = uint8(number(b)), true
	case opSampling:
		v.sampling = number(b)
	case opSampler:
		v.sampler, v.hasSampler = number(b), true
	case opSelectedPackets:
		v.selected = number(b)
	case opSkippedPackets:
		v.skipped = number(b)
	case opSampleSize:
		v.sampled = number(b)
	case opPopulation:
		v.population = number(b)
	case opSrcMAC:
		f.SrcMAC = packet.MAC(b)
	case opDstMAC:
		f.DstMAC = packet.MAC(b)
	case opVLAN:
		if id := uint16(number(b)) & 0xfff; id != 0 {
			f.VLAN = id
		}
	case opInnerVLAN:
		f.InnerVLAN = uint16(number(b)) & 0xfff
	case opEndReason:
		f.EndReason = uint8(number(b))
	case opIPVersion:
		v.ipVersion = uint8(number(b))
	case opFragments:
		v.later = number(b) != 0
	case opFirstSeconds:
		f.First, v.hasFirst = seconds(number(b)), true
	case opLastSeconds:
		f.Last, v.hasLast = seconds(number(b)), true
	case opFirstMillis:
		f.First, v.hasFirst = millis(number(b)), true
	case opLastMillis:
		f.Last, v.hasLast = millis(number(b)), true
	case opFirstNTP:
		f.First, v.hasFirst = ntp(be.Uint64(b)), true
	case opLastNTP:
		f.Last, v.hasLast = ntp(be.Uint64(b)), true
	case opFirstDelta:
		f.First, v.hasFirst = h.export-packet.Timestamp(min(number(b), math.MaxUint32))*1e3, true
	case opLastDelta:
		f.Last, v.hasLast = h.export-packet.Timestamp(min(number(b), math.MaxUint32))*1e3, true
	case opDuration:
		v.duration = int64(min(number(b), math.MaxUint32)) * 1e6
	case opDurationU:
		v.duration = int64(min(number(b), math.MaxUint32)) * 1e3
	case opBoot:
		v.boot, v.hasBoot = millis(number(b)), true
	case opRevOctets:
		f.RevOctets = number(b)
	case opRevPackets:
		f.RevPackets = number(b)
	case opRevFlags:
		f.RevTCPFlags = uint8(number(b))
	case opRevTOS:
		f.RevTOS = uint8(number(b))
	case opNotSentFlows:
		v.notSentFlows, v.hasNotSent = number(b), true
	case opNotSentPackets:
		v.notSentPackets, v.hasNotSent = number(b), true
	}
}

// latest is the greatest time that is taken for one, the end of the year 2261: beyond it nanoseconds have no room.
const latest = math.MaxInt64 - 1_000_000_000_000_000_000

func seconds(n uint64) packet.Timestamp {
	return packet.Timestamp(min(n, latest/1_000_000_000) * 1_000_000_000)
}

func millis(n uint64) packet.Timestamp { return packet.Timestamp(min(n, latest/1_000_000) * 1_000_000) }

// rate is the sampling interval that a record names: one in so many; 0 = none.
func (v *values) rate() uint32 {
	switch {
	case v.sampling > 0:
		return uint32(min(v.sampling, math.MaxUint32))
	case v.selected > 0 && v.skipped <= math.MaxUint32 && v.selected <= math.MaxUint32: // RFC 5477 section 8.2
		return uint32(min((v.selected+v.skipped+v.selected/2)/v.selected, math.MaxUint32))
	case v.sampled > 0 && v.population >= v.sampled:
		return uint32(min(v.population/v.sampled, math.MaxUint32))
	}
	return 0
}

// settle brings f to an end, and reports whether it is a flow at all.
func (v *values) settle(h *header, dom *domain, f *Flow) bool {
	if !v.hasOctets {
		if f.Octets = v.octetsSum; f.Octets == 0 {
			f.Octets = v.octetsLayer2
		}
	}
	if !v.hasPackets {
		f.Packets = v.packetsSum
	}
	if f.IP == 0 && f.SrcMAC == (packet.MAC{}) && f.DstMAC == (packet.MAC{}) || f.Packets|f.Octets|f.RevPackets|f.RevOctets == 0 {
		return false
	}
	v.times(h, f)
	if v.hasICMP {
		f.ICMPTypeCode = uint16(v.icmpType)<<8 | uint16(v.icmpCode)
	}
	if f.Proto == packet.ProtoICMP || f.Proto == packet.ProtoICMP6 {
		if f.ICMPTypeCode == 0 {
			f.ICMPTypeCode = f.DstPort
		}
		f.SrcPort, f.DstPort = 0, f.ICMPTypeCode
	}
	switch rate := v.rate(); {
	case rate > 0:
		f.Sampling = rate
	case v.hasSampler:
		f.Sampling = dom.samplers[v.sampler]
		if f.Sampling == 0 {
			f.Sampling = dom.sampling
		}
	default:
		f.Sampling = dom.sampling
		if f.Sampling == 0 && len(dom.samplers) == 1 { // the only one there is
			for _, rate := range dom.samplers {
				f.Sampling = rate
			}
		}
	}
	return true
}

// times makes times of what the record says, in the order of trust; without any it is when the message was made.
func (v *values) times(h *header, f *Flow) {
	boot := *h
	if v.hasBoot {
		boot.boot = v.boot
	}
	if h.version == V9 || v.hasBoot {
		if !v.hasFirst && v.hasFirstUp {
			f.First, v.hasFirst = boot.at(v.firstUp), true
		}
		if !v.hasLast && v.hasLastUp {
			f.Last, v.hasLast = boot.at(v.lastUp), true
		}
	}
	switch {
	case v.hasFirst && !v.hasLast:
		f.Last = f.First + packet.Timestamp(v.duration)
	case v.hasLast && !v.hasFirst:
		f.First = f.Last - packet.Timestamp(v.duration)
	case !v.hasFirst:
		f.First, f.Last = h.export-packet.Timestamp(v.duration), h.export
	}
	if f.Last < f.First {
		f.Last = f.First
	}
}
