package of13

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Command says what a mod does.
type Command uint8

// Commands of FlowMod (section 7.3.4.1).
const (
	FlowAdd Command = iota
	FlowModify
	FlowModifyStrict
	FlowDelete
	FlowDeleteStrict
)

// Flags of FlowMod.
const (
	FlagSendRemoved  = 1 << 0
	FlagCheckOverlap = 1 << 1
)

// FlowMod changes a table's rules (section 7.3.4.1).
type FlowMod struct {
	Cookie, CookieMask uint64 // the mask is of modify and delete alone
	Table              uint8
	Command            Command
	Idle, Hard         uint16 // timeouts, s; 0 = none
	Priority           uint16
	OutPort, OutGroup  uint32 // of deletes; PortAny and GroupAny = whatever
	Flags              uint16
	Match              Match
	Do                 Instructions
}

// Type implements Message.
func (*FlowMod) Type() Type { return TypeFlowMod }

func (m *FlowMod) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Cookie)
	b = binary.BigEndian.AppendUint64(b, m.CookieMask)
	b = append(b, m.Table, byte(m.Command))
	for _, v := range [...]uint16{m.Idle, m.Hard, m.Priority} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	for _, v := range [...]uint32{noBuffer, m.OutPort, m.OutGroup} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	b = zeros(binary.BigEndian.AppendUint16(b, m.Flags), 2)
	return m.Do.append(m.Match.append(b))
}

func (m *FlowMod) decode(r *reader) {
	m.Cookie, m.CookieMask, m.Table, m.Command = r.u64(), r.u64(), r.u8(), Command(r.u8())
	m.Idle, m.Hard, m.Priority = r.u16(), r.u16(), r.u16()
	r.skip(4)
	m.OutPort, m.OutGroup, m.Flags = r.u32(), r.u32(), r.u16()
	r.skip(2)
	m.Match.decode(r)
	m.Do.decode(r)
}

// FlowRemoved says that a rule is gone (section 7.4.2).
type FlowRemoved struct {
	Cookie   uint64
	Priority uint16
	Reason   uint8 // 0 idle, 1 hard timeout, 2 deleted, 3 its group was deleted
	Table    uint8
	Packets  uint64
	Octets   uint64
	Match    Match
}

// Type implements Message.
func (*FlowRemoved) Type() Type { return TypeFlowRemoved }

func (m *FlowRemoved) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.Cookie)
	b = binary.BigEndian.AppendUint16(b, m.Priority)
	b = zeros(append(b, m.Reason, m.Table), 12)
	b = binary.BigEndian.AppendUint64(b, m.Packets)
	b = binary.BigEndian.AppendUint64(b, m.Octets)
	return m.Match.append(b)
}

func (m *FlowRemoved) decode(r *reader) {
	m.Cookie, m.Priority, m.Reason, m.Table = r.u64(), r.u16(), r.u8(), r.u8()
	r.skip(12)
	m.Packets, m.Octets = r.u64(), r.u64()
	m.Match.decode(r)
}

// GroupKind is what a group does with its buckets (section 5.6.1).
type GroupKind uint8

// Kinds of groups.
const (
	GroupAll      GroupKind = iota // every bucket
	GroupSelect                    // one, by the switch's choice
	GroupIndirect                  // the one it has
	GroupFailover                  // the first that lives
)

// String is the kind's word.
func (k GroupKind) String() string {
	switch k {
	case GroupAll:
		return "all"
	case GroupSelect:
		return "select"
	case GroupIndirect:
		return "indirect"
	case GroupFailover:
		return "fast_failover"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Commands of GroupMod and MeterMod.
const (
	GroupAdd Command = iota
	GroupModify
	GroupDelete

	MeterAdd    = GroupAdd
	MeterModify = GroupModify
	MeterDelete = GroupDelete
)

// Groups and meters with a meaning of their own.
const (
	GroupAny       = 0xffffffff
	GroupEveryone  = 0xfffffffc // all groups, of deletes
	MeterEveryone  = 0xffffffff
	MeterMaxNumber = 0xffff0000
)

// Bucket is one of a group's lists of actions.
type Bucket struct {
	Weight     uint16 // of GroupSelect
	WatchPort  uint32 // the bucket lives while this port does; PortAny = always
	WatchGroup uint32
	Do         []Action
}

func appendBuckets(b []byte, list []Bucket) []byte {
	for _, k := range list {
		start := len(b)
		b = append(b, 0, 0)
		b = binary.BigEndian.AppendUint16(b, k.Weight)
		b = binary.BigEndian.AppendUint32(b, k.WatchPort)
		b = zeros(binary.BigEndian.AppendUint32(b, k.WatchGroup), 4)
		b = appendActions(b, k.Do)
		binary.BigEndian.PutUint16(b[start:], uint16(len(b)-start))
	}
	return b
}

// decodeBuckets reads buckets to the end of r.
func decodeBuckets(r *reader) []Bucket {
	var out []Bucket
	for r.left() > 0 && r.err == nil {
		n := int(r.u16())
		if r.err == nil && n < 16 {
			r.fail("a bucket of %d octets", n)
		}
		p := r.part(n-2, "bucket")
		k := Bucket{Weight: p.u16(), WatchPort: p.u32(), WatchGroup: p.u32()}
		p.skip(4)
		k.Do = decodeActions(p)
		r.join(p)
		out = append(out, k)
	}
	return out
}

// GroupMod changes the groups (section 7.3.4.2).
type GroupMod struct {
	Command Command
	Kind    GroupKind
	ID      uint32
	Buckets []Bucket
}

// Type implements Message.
func (*GroupMod) Type() Type { return TypeGroupMod }

func (m *GroupMod) append(b []byte) []byte {
	b = append(binary.BigEndian.AppendUint16(b, uint16(m.Command)), byte(m.Kind), 0)
	return appendBuckets(binary.BigEndian.AppendUint32(b, m.ID), m.Buckets)
}

func (m *GroupMod) decode(r *reader) {
	command := r.u16()
	if command > 0xff {
		r.fail("group command %d", command)
	}
	m.Command, m.Kind = Command(command), GroupKind(r.u8())
	r.skip(1)
	m.ID = r.u32()
	m.Buckets = decodeBuckets(r)
}

// BucketsString writes a group for people.
func BucketsString(kind GroupKind, list []Bucket) string {
	parts := make([]string, len(list))
	for i, k := range list {
		parts[i] = ActionsString(k.Do)
		if k.WatchPort != PortAny && k.WatchPort != 0 {
			parts[i] += " while " + PortName(k.WatchPort) + " is up"
		}
		if kind == GroupSelect {
			parts[i] += fmt.Sprintf(" (weight %d)", k.Weight)
		}
	}
	return kind.String() + "[" + strings.Join(parts, " | ") + "]"
}

// Flags of meters (section 7.3.4.4).
const (
	MeterKbps  = 1 << 0
	MeterPktps = 1 << 1
	MeterBurst = 1 << 2
	MeterStats = 1 << 3
)

// Band drops what is above a rate; other kinds of bands are kept as they come.
type Band struct {
	Kind  uint16 // 1 = drop
	Rate  uint32
	Burst uint32
	Other string // of other kinds: all after the burst
}

const bandDrop = 1

func appendBands(b []byte, list []Band) []byte {
	for _, d := range list {
		b = head(b, d.Kind, uint16(12+max(len(d.Other), 4)))
		b = binary.BigEndian.AppendUint32(b, d.Rate)
		b = binary.BigEndian.AppendUint32(b, d.Burst)
		b = zeros(append(b, d.Other...), max(4-len(d.Other), 0))
	}
	return b
}

func decodeBands(r *reader) []Band {
	var out []Band
	for r.left() > 0 && r.err == nil {
		d := Band{Kind: r.u16()}
		n := int(r.u16())
		if r.err == nil && n < 16 {
			r.fail("a meter band of %d octets", n)
		}
		p := r.part(n-4, "meter band")
		d.Rate, d.Burst = p.u32(), p.u32()
		if d.Kind != bandDrop && p.err == nil {
			d.Other = string(p.rest())
		}
		r.join(p)
		out = append(out, d)
	}
	return out
}

// DropBand is the band that drops what is above the rate.
func DropBand(rate, burst uint32) Band { return Band{Kind: bandDrop, Rate: rate, Burst: burst} }

// MeterMod changes the meters (section 7.3.4.4).
type MeterMod struct {
	Command Command
	Flags   uint16
	ID      uint32
	Bands   []Band
}

// Type implements Message.
func (*MeterMod) Type() Type { return TypeMeterMod }

func (m *MeterMod) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(m.Command))
	b = binary.BigEndian.AppendUint16(b, m.Flags)
	return appendBands(binary.BigEndian.AppendUint32(b, m.ID), m.Bands)
}

func (m *MeterMod) decode(r *reader) {
	command := r.u16()
	if command > 0xff {
		r.fail("meter command %d", command)
	}
	m.Command, m.Flags, m.ID = Command(command), r.u16(), r.u32()
	m.Bands = decodeBands(r)
}
