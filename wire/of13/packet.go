package of13

import "encoding/binary"

// Reasons of a PacketIn.
const (
	ReasonNoMatch uint8 = iota
	ReasonAction
	ReasonInvalidTTL
)

// PacketIn is a packet that the switch sends to the controller (section 7.4.1).
type PacketIn struct {
	Total  uint16 // length of the packet, octets; Data may be less
	Reason uint8
	Table  uint8
	Cookie uint64 // of the rule that sent it
	Match  Match  // where it came in, at least
	Data   []byte
}

// Type implements Message.
func (*PacketIn) Type() Type { return TypePacketIn }

func (m *PacketIn) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, noBuffer)
	b = append(binary.BigEndian.AppendUint16(b, m.Total), m.Reason, m.Table)
	b = binary.BigEndian.AppendUint64(b, m.Cookie)
	return append(zeros(m.Match.append(b), 2), m.Data...)
}

func (m *PacketIn) decode(r *reader) {
	r.skip(4)
	m.Total, m.Reason, m.Table, m.Cookie = r.u16(), r.u8(), r.u8(), r.u64()
	m.Match.decode(r)
	r.skip(2)
	m.Data = r.rest()
}

// InPort is the port the packet came in by; 0 = the switch does not say.
func (m *PacketIn) InPort() uint32 {
	p, _ := m.Match.Uint(InPort)
	return uint32(p)
}

// PacketOut has the switch send a packet (section 7.3.7).
type PacketOut struct {
	InPort uint32 // as if it had come in there; PortController = nowhere
	Do     []Action
	Data   []byte
}

// Type implements Message.
func (*PacketOut) Type() Type { return TypePacketOut }

func (m *PacketOut) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, noBuffer)
	b = binary.BigEndian.AppendUint32(b, m.InPort)
	at := len(b)
	b = appendActions(zeros(b, 8), m.Do)
	binary.BigEndian.PutUint16(b[at:], uint16(len(b)-at-8))
	return append(b, m.Data...)
}

func (m *PacketOut) decode(r *reader) {
	r.skip(4)
	m.InPort = r.u32()
	n := int(r.u16())
	r.skip(6)
	p := r.part(n, "actions")
	m.Do = decodeActions(p)
	r.join(p)
	m.Data = r.rest()
}
