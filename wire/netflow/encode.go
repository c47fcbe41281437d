package netflow

import (
	"fmt"
	"math"

	"opentap/packet"
)

// EncoderConfig says what an Encoder writes.
type EncoderConfig struct {
	Version    Version
	Domain     uint32           // IPFIX observation domain, version 9 source identifier, version 5 engine (its low 16 bits)
	MaxMessage int              // octets of a message at most; 0 = 1400
	Boot       packet.Timestamp // versions 5 and 9: zero of the clock that flow times count on; cut to whole seconds
	Sampling   uint32           // interval of the packets counted, one in this many; 0 and 1: all
	Biflow     bool             // IPFIX: both directions in one record, RFC 5103; else each direction is a record of its own
}

// Limits of MaxMessage.
const (
	minMessage     = 512
	maxMessage     = 65535
	defaultMessage = 1400
)

// Template identifiers.
const (
	templateV4    = 256
	templateV6    = 257
	templateStats = 258
)

// field is one element of a template.
type field struct {
	id, length uint16
	reverse    bool // enterprise 29305, RFC 5103
}

// reversePEN is the enterprise number that makes an element the one of the reverse direction.
const reversePEN = 29305

// Encoder makes messages and counts their sequence numbers. Not safe for concurrent use.
type Encoder struct {
	cfg       EncoderConfig
	boot      int64 // seconds
	sequence  uint32
	templates []byte // the sets that declare all templates
	declared  uint16 // templates in them
	size4     int
	size6     int
	v4, v6    []field

	// Saturated counts records whose counters did not fit into the 32 bits of version 5.
	Saturated uint64
}

// ExportStats is what an exporting process says of itself: RFC 7011 section 4.3.
type ExportStats struct {
	Messages, Octets, Records                 uint64 // exported
	NotSentFlows, NotSentPackets, NotSentOcts uint64
}

// NewEncoder checks the configuration.
func NewEncoder(cfg EncoderConfig) (*Encoder, error) {
	if cfg.Version != V5 && cfg.Version != V9 && cfg.Version != IPFIX {
		return nil, fmt.Errorf("netflow: version %d is none of 5, 9, 10", cfg.Version)
	}
	if cfg.MaxMessage == 0 {
		cfg.MaxMessage = defaultMessage
	}
	if cfg.MaxMessage < minMessage || cfg.MaxMessage > maxMessage {
		return nil, fmt.Errorf("netflow: message size %d is outside %d..%d", cfg.MaxMessage, minMessage, maxMessage)
	}
	if cfg.Biflow && cfg.Version != IPFIX {
		return nil, fmt.Errorf("netflow: %s has no records of both directions", cfg.Version)
	}
	e := &Encoder{cfg: cfg, boot: floorSeconds(cfg.Boot)}
	switch cfg.Version {
	case V9:
		e.v4, e.v6 = fieldsV9(false, cfg.Sampling), fieldsV9(true, cfg.Sampling)
	case IPFIX:
		e.v4, e.v6 = fieldsIPFIX(false, cfg), fieldsIPFIX(true, cfg)
	}
	for _, f := range e.v4 {
		e.size4 += int(f.length)
	}
	for _, f := range e.v6 {
		e.size6 += int(f.length)
	}
	e.declare()
	return e, nil
}

func floorSeconds(t packet.Timestamp) int64 {
	s := int64(t) / 1e9
	if int64(t)%1e9 < 0 {
		s--
	}
	return s
}

func fieldsV9(v6 bool, sampling uint32) []field {
	f := []field{{id: 22, length: 4}, {id: 21, length: 4}, {id: 2, length: 8}, {id: 1, length: 8}}
	if v6 {
		f = append(f, field{id: 27, length: 16}, field{id: 28, length: 16})
	} else {
		f = append(f, field{id: 8, length: 4}, field{id: 12, length: 4})
	}
	f = append(f, field{id: 7, length: 2}, field{id: 11, length: 2}, field{id: 4, length: 1}, field{id: 6, length: 1}, field{id: 5, length: 1},
		field{id: 32, length: 2}, field{id: 58, length: 2}, field{id: 56, length: 6}, field{id: 80, length: 6})
	if sampling > 1 {
		f = append(f, field{id: 34, length: 4})
	}
	return f
}

func fieldsIPFIX(v6 bool, cfg EncoderConfig) []field {
	f := []field{{id: 152, length: 8}, {id: 153, length: 8}, {id: 2, length: 8}, {id: 1, length: 8}}
	icmp := uint16(32)
	if v6 {
		f = append(f, field{id: 27, length: 16}, field{id: 28, length: 16})
		icmp = 139
	} else {
		f = append(f, field{id: 8, length: 4}, field{id: 12, length: 4})
	}
	f = append(f, field{id: 7, length: 2}, field{id: 11, length: 2}, field{id: 4, length: 1}, field{id: 6, length: 2}, field{id: 5, length: 1},
		field{id: icmp, length: 2}, field{id: 58, length: 2}, field{id: 245, length: 2}, field{id: 56, length: 6}, field{id: 80, length: 6}, field{id: 136, length: 1})
	if cfg.Sampling > 1 {
		f = append(f, field{id: 34, length: 4})
	}
	if cfg.Biflow {
		f = append(f, field{id: 2, length: 8, reverse: true}, field{id: 1, length: 8, reverse: true}, field{id: 6, length: 2, reverse: true}, field{id: 5, length: 1, reverse: true})
	}
	return f
}

// statsFields are the scope, which is the observation domain, and the counts of RFC 7011 section 4.3.
var statsFields = []field{{id: 149, length: 4}, {id: 41, length: 8}, {id: 40, length: 8}, {id: 42, length: 8}, {id: 165, length: 8}, {id: 166, length: 8}, {id: 167, length: 8}}

// declare builds the sets that declare the templates.
func (e *Encoder) declare() {
	if e.cfg.Version == V5 {
		return
	}
	set := uint16(0) // version 9: template FlowSet
	if e.cfg.Version == IPFIX {
		set = 2
	}
	b := be.AppendUint16(nil, set)
	b = be.AppendUint16(b, 0)
	b = appendTemplate(b, templateV4, e.v4)
	b = appendTemplate(b, templateV6, e.v6)
	be.PutUint16(b[2:], uint16(len(b)))
	e.declared = 2
	if e.cfg.Version == IPFIX {
		from := len(b)
		b = be.AppendUint16(b, 3) // options template set
		b = be.AppendUint16(b, 0)
		b = be.AppendUint16(b, templateStats)
		b = be.AppendUint16(b, uint16(len(statsFields)))
		b = be.AppendUint16(b, 1) // scope fields
		b = appendFields(b, statsFields)
		be.PutUint16(b[from+2:], uint16(len(b)-from))
		e.declared++
	}
	e.templates = b
}

func appendTemplate(b []byte, id uint16, fields []field) []byte {
	b = be.AppendUint16(b, id)
	b = be.AppendUint16(b, uint16(len(fields)))
	return appendFields(b, fields)
}

func appendFields(b []byte, fields []field) []byte {
	for _, f := range fields {
		if f.reverse {
			b = be.AppendUint16(b, f.id|0x8000)
			b = be.AppendUint16(b, f.length)
			b = be.AppendUint32(b, reversePEN)
			continue
		}
		b = be.AppendUint16(b, f.id)
		b = be.AppendUint16(b, f.length)
	}
	return b
}

// Takes reports whether the protocol can carry the flow: version 5 has no IPv6.
func (e *Encoder) Takes(f *Flow) bool {
	return f.IP == 4 || f.IP == 6 && e.cfg.Version != V5
}

// Reset begins a new transport session: sequence numbers start again at 0, as RFC 7011 section 10.3 wants it for each
// connection.
func (e *Encoder) Reset() { e.sequence = 0 }

// Append appends one message to dst with as many of flows as fit, all of which the protocol must take, and says how many
// that were. Unless Biflow, a flow with a reverse direction becomes two records. templates puts the templates in front;
// version 5 has none. stats, when not nil, goes with it (IPFIX only). now is the time of export.
func (e *Encoder) Append(dst []byte, now packet.Timestamp, flows []Flow, templates bool, stats *ExportStats) (msg []byte, n int) {
	start := len(dst)
	switch e.cfg.Version {
	case V5:
		return e.appendV5(dst, now, flows)
	case V9:
		dst = append(dst, make([]byte, 20)...)
	default:
		dst = append(dst, make([]byte, 16)...)
	}
	limit := start + e.cfg.MaxMessage
	records, declared := 0, 0
	if templates {
		dst = append(dst, e.templates...)
		declared = int(e.declared)
	}
	if stats != nil && e.cfg.Version == IPFIX {
		dst = be.AppendUint16(dst, templateStats)
		dst = be.AppendUint16(dst, 4+4+6*8)
		dst = be.AppendUint32(dst, e.cfg.Domain)
		for _, v := range [...]uint64{stats.Messages, stats.Octets, stats.Records, stats.NotSentFlows, stats.NotSentPackets, stats.NotSentOcts} {
			dst = be.AppendUint64(dst, v)
		}
		records++
	}
	set, setID := 0, uint16(0) // offset of the open set
	closeSet := func() {
		if setID != 0 {
			if e.cfg.Version == V9 { // FlowSets end on 32 bits, RFC 3954 section 5.3
				for (len(dst)-set)%4 != 0 {
					dst = append(dst, 0)
				}
			}
			be.PutUint16(dst[set+2:], uint16(len(dst)-set))
		}
	}
	for n < len(flows) {
		f := &flows[n]
		id, size := uint16(templateV4), e.size4
		if f.IP == 6 {
			id, size = templateV6, e.size6
		}
		twice := !e.cfg.Biflow && f.RevPackets > 0
		if twice {
			size *= 2
		}
		if id != setID {
			size += 4
		}
		if len(dst)+size+3 > limit && records+declared > 0 {
			break
		}
		if id != setID {
			closeSet()
			set, setID = len(dst), id
			dst = be.AppendUint16(dst, id)
			dst = be.AppendUint16(dst, 0)
		}
		dst = e.appendFlow(dst, f)
		records++
		if twice {
			r := f.Reversed()
			dst = e.appendFlow(dst, &r)
			records++
		}
		n++
	}
	closeSet()
	h := dst[start:]
	be.PutUint16(h, uint16(e.cfg.Version))
	seconds := floorSeconds(now)
	if e.cfg.Version == V9 {
		be.PutUint16(h[2:], uint16(records+declared))
		be.PutUint32(h[4:], uint32((seconds-e.boot)*1000))
		be.PutUint32(h[8:], uint32(seconds))
		be.PutUint32(h[12:], e.sequence)
		be.PutUint32(h[16:], e.cfg.Domain)
		e.sequence++ // messages, RFC 3954 section 5.1
		return dst, n
	}
	be.PutUint16(h[2:], uint16(len(h)))
	be.PutUint32(h[4:], uint32(seconds))
	be.PutUint32(h[8:], e.sequence)
	be.PutUint32(h[12:], e.cfg.Domain)
	e.sequence += uint32(records) // data records, RFC 7011 section 3.1
	return dst, n
}

// Reversed is the other direction as a flow of its own. Its times are those of both.
func (f *Flow) Reversed() Flow {
	r := *f
	r.Src, r.Dst, r.SrcPort, r.DstPort, r.SrcMAC, r.DstMAC, r.Input, r.Output = f.Dst, f.Src, f.DstPort, f.SrcPort, f.DstMAC, f.SrcMAC, f.Output, f.Input
	r.Packets, r.Octets, r.TCPFlags, r.TOS = f.RevPackets, f.RevOctets, f.RevTCPFlags, f.RevTOS
	r.RevPackets, r.RevOctets, r.RevTCPFlags, r.RevTOS = f.Packets, f.Octets, f.TCPFlags, f.TOS
	if f.Proto == packet.ProtoICMP || f.Proto == packet.ProtoICMP6 { // the type stands in the destination port
		r.SrcPort, r.DstPort = 0, replyTo(f.Proto, f.DstPort)
		r.ICMPTypeCode = r.DstPort
	}
	return r
}

// replyTo is the type and code that answers a query.
func replyTo(proto uint8, typeCode uint16) uint16 {
	typ := typeCode >> 8
	switch {
	case proto == packet.ProtoICMP6 && typ == 128:
		typ = 129
	case proto == packet.ProtoICMP6 && typ == 129:
		typ = 128
	case proto == packet.ProtoICMP && typ == 8:
		typ = 0
	case proto == packet.ProtoICMP && typ == 0:
		typ = 8
	case proto == packet.ProtoICMP && (typ == 13 || typ == 15 || typ == 17):
		typ++
	case proto == packet.ProtoICMP && (typ == 14 || typ == 16 || typ == 18):
		typ--
	}
	return typ<<8 | typeCode&0xff
}

// uptime is a time on the exporter's clock, in milliseconds.
func (e *Encoder) uptime(t packet.Timestamp) uint32 {
	s := floorSeconds(t)
	return uint32((s-e.boot)*1000 + (int64(t)-s*1e9)/1e6)
}

func milliseconds(t packet.Timestamp) uint64 {
	s := floorSeconds(t)
	return uint64(s*1000 + (int64(t)-s*1e9)/1e6)
}

// appendFlow writes a record of the template of its IP version, in the order of fieldsV9 and fieldsIPFIX.
func (e *Encoder) appendFlow(b []byte, f *Flow) []byte {
	ipfix := e.cfg.Version == IPFIX
	if ipfix {
		b = be.AppendUint64(b, milliseconds(f.First))
		b = be.AppendUint64(b, milliseconds(f.Last))
	} else {
		b = be.AppendUint32(b, e.uptime(f.First))
		b = be.AppendUint32(b, e.uptime(f.Last))
	}
	b = be.AppendUint64(b, f.Packets)
	b = be.AppendUint64(b, f.Octets)
	if f.IP == 6 {
		b = append(b, f.Src[:]...)
		b = append(b, f.Dst[:]...)
	} else {
		b = append(b, f.Src[12:]...)
		b = append(b, f.Dst[12:]...)
	}
	b = be.AppendUint16(b, f.SrcPort)
	b = be.AppendUint16(b, f.DstPort)
	if ipfix {
		b = append(b, f.Proto, 0, f.TCPFlags, f.TOS)
	} else {
		b = append(b, f.Proto, f.TCPFlags, f.TOS)
	}
	b = be.AppendUint16(b, f.ICMPTypeCode)
	b = be.AppendUint16(b, f.VLAN)
	if ipfix {
		b = be.AppendUint16(b, f.InnerVLAN)
	}
	b = append(b, f.SrcMAC[:]...)
	b = append(b, f.DstMAC[:]...)
	if ipfix {
		b = append(b, f.EndReason)
	}
	if e.cfg.Sampling > 1 {
		b = be.AppendUint32(b, e.cfg.Sampling)
	}
	if e.cfg.Biflow {
		b = be.AppendUint64(b, f.RevPackets)
		b = be.AppendUint64(b, f.RevOctets)
		b = append(b, 0, f.RevTCPFlags, f.RevTOS)
	}
	return b
}

// Version 5: 24 octets of header, 30 records of 48 octets at most.
const (
	headerV5 = 24
	recordV5 = 48
	mostV5   = 30
)

func (e *Encoder) appendV5(dst []byte, now packet.Timestamp, flows []Flow) ([]byte, int) {
	start := len(dst)
	seconds := floorSeconds(now)
	room := min(mostV5, (e.cfg.MaxMessage-headerV5)/recordV5)
	dst = append(dst, make([]byte, headerV5)...)
	n, records := 0, 0
	for n < len(flows) {
		f := &flows[n]
		need := 1
		if f.RevPackets > 0 {
			need = 2
		}
		if records+need > room {
			break
		}
		dst = e.recordV5(dst, f)
		if f.RevPackets > 0 {
			r := f.Reversed()
			dst = e.recordV5(dst, &r)
		}
		records += need
		n++
	}
	h := dst[start:]
	be.PutUint16(h, uint16(V5))
	be.PutUint16(h[2:], uint16(records))
	be.PutUint32(h[4:], uint32((seconds-e.boot)*1000))
	be.PutUint32(h[8:], uint32(seconds))
	be.PutUint32(h[16:], e.sequence)
	be.PutUint16(h[20:], uint16(e.cfg.Domain))
	if e.cfg.Sampling > 1 {
		be.PutUint16(h[22:], 1<<14|uint16(min(e.cfg.Sampling, 1<<14-1)))
	}
	e.sequence += uint32(records) // records
	return dst, n
}

func (e *Encoder) recordV5(b []byte, f *Flow) []byte {
	b = append(b, f.Src[12:]...)
	b = append(b, f.Dst[12:]...)
	b = append(b, 0, 0, 0, 0) // next hop
	b = be.AppendUint16(b, uint16(min(f.Input, math.MaxUint16)))
	b = be.AppendUint16(b, uint16(min(f.Output, math.MaxUint16)))
	if f.Packets > math.MaxUint32 || f.Octets > math.MaxUint32 {
		e.Saturated++
	}
	b = be.AppendUint32(b, uint32(min(f.Packets, math.MaxUint32)))
	b = be.AppendUint32(b, uint32(min(f.Octets, math.MaxUint32)))
	b = be.AppendUint32(b, e.uptime(f.First))
	b = be.AppendUint32(b, e.uptime(f.Last))
	b = be.AppendUint16(b, f.SrcPort)
	b = be.AppendUint16(b, f.DstPort)
	b = append(b, 0, f.TCPFlags, f.Proto, f.TOS)
	return append(b, 0, 0, 0, 0, 0, 0, 0, 0) // autonomous systems, prefix lengths, padding
}
