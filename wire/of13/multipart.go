package of13

import "encoding/binary"

// Part is the kind of a multipart message (section 7.3.5, ofp_multipart_type).
type Part uint16

// Kinds of multipart messages.
const (
	PartDesc          Part = 0
	PartFlow          Part = 1
	PartAggregate     Part = 2
	PartTable         Part = 3
	PartPortStats     Part = 4
	PartGroup         Part = 6
	PartGroupDesc     Part = 7
	PartGroupFeatures Part = 8
	PartMeter         Part = 9
	PartMeterConfig   Part = 10
	PartMeterFeatures Part = 11
	PartPortDesc      Part = 13
)

const moreFollows = 1 // OFPMPF_REPLY_MORE

// MultipartRequest asks for statistics or descriptions.
type MultipartRequest struct {
	Part Part
	Body []byte // see the functions that make one
}

// Type implements Message.
func (*MultipartRequest) Type() Type { return TypeMultipartRequest }

func (m *MultipartRequest) append(b []byte) []byte {
	return append(zeros(binary.BigEndian.AppendUint16(b, uint16(m.Part)), 6), m.Body...)
}

func (m *MultipartRequest) decode(r *reader) {
	m.Part = Part(r.u16())
	r.skip(6)
	m.Body = r.rest()
}

// AskFlows asks for the rules whose cookies agree with cookie where mask has bits.
func AskFlows(cookie, mask uint64) *MultipartRequest {
	b := append([]byte{0xff}, 0, 0, 0) // all tables
	b = binary.BigEndian.AppendUint32(b, PortAny)
	b = zeros(binary.BigEndian.AppendUint32(b, GroupAny), 4)
	b = binary.BigEndian.AppendUint64(b, cookie)
	b = binary.BigEndian.AppendUint64(b, mask)
	return &MultipartRequest{Part: PartFlow, Body: Match{}.append(b)}
}

// Ask asks for something that takes no arguments: descriptions of switch, ports, groups; features.
func Ask(p Part) *MultipartRequest {
	switch p {
	case PartPortStats:
		return &MultipartRequest{p, zeros(binary.BigEndian.AppendUint32(nil, PortAny), 4)}
	case PartGroup:
		return &MultipartRequest{p, zeros(binary.BigEndian.AppendUint32(nil, GroupEveryone), 4)}
	case PartMeter, PartMeterConfig:
		return &MultipartRequest{p, zeros(binary.BigEndian.AppendUint32(nil, MeterEveryone), 4)}
	}
	return &MultipartRequest{Part: p}
}

// MultipartReply is one message of an answer. What it has depends on Part; of kinds unknown here Other has the octets.
type MultipartReply struct {
	Part    Part
	More    bool // another message of the same answer follows
	Desc    *Desc
	Flows   []FlowStats
	Tables  []TableStats
	Ports   []Port
	Traffic []PortStats
	Groups  []GroupDesc
	Meters  []MeterConfig
	Limits  *Limits
	Other   []byte
}

// Desc is what a switch says of itself (section 7.3.5.1); hostile text.
type Desc struct{ Manufacturer, Hardware, Software, Serial, Datapath string }

// FlowStats is one rule of a switch (section 7.3.5.2).
type FlowStats struct {
	Table           uint8
	Seconds         uint32 // since it was installed
	Priority        uint16
	Idle, Hard      uint16
	Flags           uint16
	Cookie          uint64
	Packets, Octets uint64
	Match           Match
	Do              Instructions
}

// TableStats counts a table (section 7.3.5.4).
type TableStats struct {
	Table            uint8
	Active           uint32
	Lookups, Matched uint64
}

// PortStats counts a port (section 7.3.5.6).
type PortStats struct {
	Port                 uint32
	RxPackets, TxPackets uint64
	RxOctets, TxOctets   uint64
	RxDropped, TxDropped uint64
	RxErrors, TxErrors   uint64
}

// GroupDesc is a group as a switch has it (section 7.3.5.9).
type GroupDesc struct {
	Kind    GroupKind
	ID      uint32
	Buckets []Bucket
}

// MeterConfig is a meter as a switch has it (section 7.3.5.13).
type MeterConfig struct {
	Flags uint16
	ID    uint32
	Bands []Band
}

// Limits is what a switch has room for (sections 7.3.5.10 and 7.3.5.14).
type Limits struct {
	GroupKinds uint32 // a bit for each GroupKind
	MaxGroups  [4]uint32
	MaxMeters  uint32
	Bands      uint32 // a bit for each kind
}

// Type implements Message.
func (*MultipartReply) Type() Type { return TypeMultipartReply }

func (m *MultipartReply) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(m.Part))
	flags := uint16(0)
	if m.More {
		flags = moreFollows
	}
	b = zeros(binary.BigEndian.AppendUint16(b, flags), 4)
	sized := func(fn func()) { // an entry that begins with its own length
		start := len(b)
		b = append(b, 0, 0)
		fn()
		binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start))
	}
	switch {
	case m.Desc != nil:
		for i, s := range [...]string{m.Desc.Manufacturer, m.Desc.Hardware, m.Desc.Software, m.Desc.Serial, m.Desc.Datapath} {
			b = fixed(b, s, descWidths[i])
		}
	case m.Limits != nil && m.Part == PartGroupFeatures:
		b = zeros(binary.BigEndian.AppendUint32(b, m.Limits.GroupKinds), 4)
		for _, n := range m.Limits.MaxGroups {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		b = zeros(b, 16)
	case m.Limits != nil:
		b = binary.BigEndian.AppendUint32(b, m.Limits.MaxMeters)
		b = zeros(binary.BigEndian.AppendUint32(b, m.Limits.Bands), 8)
	}
	for i := range m.Flows {
		sized(func() { b = m.Flows[i].append(b) })
	}
	for _, t := range m.Tables {
		b = binary.BigEndian.AppendUint32(append(b, t.Table, 0, 0, 0), t.Active)
		b = binary.BigEndian.AppendUint64(b, t.Lookups)
		b = binary.BigEndian.AppendUint64(b, t.Matched)
	}
	for i := range m.Ports {
		b = m.Ports[i].append(b)
	}
	for _, p := range m.Traffic {
		b = zeros(binary.BigEndian.AppendUint32(b, p.Port), 4)
		for _, v := range [...]uint64{p.RxPackets, p.TxPackets, p.RxOctets, p.TxOctets, p.RxDropped, p.TxDropped, p.RxErrors, p.TxErrors} {
			b = binary.BigEndian.AppendUint64(b, v)
		}
		b = zeros(b, 40)
	}
	for _, g := range m.Groups {
		sized(func() {
			b = append(b, byte(g.Kind), 0)
			b = appendBuckets(binary.BigEndian.AppendUint32(b, g.ID), g.Buckets)
		})
	}
	for _, c := range m.Meters {
		sized(func() {
			b = binary.BigEndian.AppendUint16(b, c.Flags)
			b = appendBands(binary.BigEndian.AppendUint32(b, c.ID), c.Bands)
		})
	}
	return append(b, m.Other...)
}

var descWidths = [...]int{256, 256, 256, 32, 256}

func (m *MultipartReply) decode(r *reader) {
	m.Part = Part(r.u16())
	m.More = r.u16()&moreFollows != 0
	r.skip(4)
	switch m.Part {
	case PartDesc:
		m.Desc = &Desc{}
		for i, s := range [...]*string{&m.Desc.Manufacturer, &m.Desc.Hardware, &m.Desc.Software, &m.Desc.Serial, &m.Desc.Datapath} {
			*s = r.text(descWidths[i])
		}
	case PartFlow:
		m.each(r, "rule", func(p *reader) {
			var f FlowStats
			f.decode(p)
			m.Flows = append(m.Flows, f)
		})
	case PartTable:
		for r.left() > 0 && r.err == nil {
			t := TableStats{Table: r.u8()}
			r.skip(3)
			t.Active, t.Lookups, t.Matched = r.u32(), r.u64(), r.u64()
			m.Tables = append(m.Tables, t)
		}
	case PartPortDesc:
		for r.left() > 0 && r.err == nil {
			var p Port
			p.decode(r)
			m.Ports = append(m.Ports, p)
		}
	case PartPortStats:
		for r.left() > 0 && r.err == nil {
			p := PortStats{Port: r.u32()}
			r.skip(4)
			for _, v := range [...]*uint64{&p.RxPackets, &p.TxPackets, &p.RxOctets, &p.TxOctets, &p.RxDropped, &p.TxDropped, &p.RxErrors, &p.TxErrors} {
				*v = r.u64()
			}
			r.skip(40)
			m.Traffic = append(m.Traffic, p)
		}
	case PartGroupDesc:
		m.each(r, "group", func(p *reader) {
			g := GroupDesc{Kind: GroupKind(p.u8())}
			p.skip(1)
			g.ID = p.u32()
			g.Buckets = decodeBuckets(p)
			m.Groups = append(m.Groups, g)
		})
	case PartMeterConfig:
		m.each(r, "meter", func(p *reader) {
			c := MeterConfig{Flags: p.u16(), ID: p.u32()}
			c.Bands = decodeBands(p)
			m.Meters = append(m.Meters, c)
		})
	case PartGroupFeatures:
		m.Limits = &Limits{GroupKinds: r.u32()}
		r.skip(4)
		for i := range m.Limits.MaxGroups {
			m.Limits.MaxGroups[i] = r.u32()
		}
		r.skip(16)
	case PartMeterFeatures:
		m.Limits = &Limits{MaxMeters: r.u32(), Bands: r.u32()}
		r.skip(8)
	default:
		m.Other = r.rest()
	}
}

// each reads entries that begin with their own length.
func (m *MultipartReply) each(r *reader, what string, fn func(p *reader)) {
	for r.left() > 0 && r.err == nil {
		n := int(r.u16())
		if r.err == nil && n < 8 {
			r.fail("a %s of %d octets", what, n)
		}
		p := r.part(n-2, what)
		if p.err == nil {
			fn(p)
		}
		r.join(p)
	}
}

func (f *FlowStats) append(b []byte) []byte {
	b = append(b, f.Table, 0)
	b = zeros(binary.BigEndian.AppendUint32(b, f.Seconds), 4)
	for _, v := range [...]uint16{f.Priority, f.Idle, f.Hard, f.Flags} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	b = zeros(b, 4)
	for _, v := range [...]uint64{f.Cookie, f.Packets, f.Octets} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return f.Do.append(f.Match.append(b))
}

func (f *FlowStats) decode(p *reader) {
	f.Table = p.u8()
	p.skip(1)
	f.Seconds = p.u32()
	p.skip(4)
	f.Priority, f.Idle, f.Hard, f.Flags = p.u16(), p.u16(), p.u16(), p.u16()
	p.skip(4)
	f.Cookie, f.Packets, f.Octets = p.u64(), p.u64(), p.u64()
	f.Match.decode(p)
	f.Do.decode(p)
}
