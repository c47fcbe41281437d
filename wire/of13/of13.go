// Package of13 turns OpenFlow 1.3 messages into bytes and back.
//
// It knows what a monitoring fabric says and hears: handshake, flows, groups, meters, statistics, bundles, roles, packets to
// and from the controller. What it does not know inside a known message (experimenter matches, actions of other tables'
// owners) is kept as octets, so that somebody else's rules can be shown and compared, never altered.
//
// The layouts are those of the OpenFlow Switch Specification 1.3.5 (ONF TS-023); sections are named where they are read.
// Decode never panics and never keeps the buffer: all octets are copied.
//
// Runs in: controller
package of13

import (
	"encoding/binary"
	"fmt"
)

// Version is the wire version of OpenFlow 1.3 (section 7.1.1).
const Version = 0x04

// HeaderLen is the length of the header that begins every message, octets.
const HeaderLen = 8

// MaxMessage is the longest message: its length has 16 bits.
const MaxMessage = 1<<16 - 1

// Type is a message's type (section 7.1.1, ofp_type).
type Type uint8

// Types.
const (
	TypeHello Type = iota
	TypeError
	TypeEchoRequest
	TypeEchoReply
	TypeExperimenter
	TypeFeaturesRequest
	TypeFeaturesReply
	TypeGetConfigRequest
	TypeGetConfigReply
	TypeSetConfig
	TypePacketIn
	TypeFlowRemoved
	TypePortStatus
	TypePacketOut
	TypeFlowMod
	TypeGroupMod
	TypePortMod
	TypeTableMod
	TypeMultipartRequest
	TypeMultipartReply
	TypeBarrierRequest
	TypeBarrierReply
	TypeQueueGetConfigRequest
	TypeQueueGetConfigReply
	TypeRoleRequest
	TypeRoleReply
	TypeGetAsyncRequest
	TypeGetAsyncReply
	TypeSetAsync
	TypeMeterMod
)

var typeNames = [...]string{
	"hello", "error", "echo request", "echo reply", "experimenter", "features request", "features reply", "get-config request",
	"get-config reply", "set-config", "packet-in", "flow-removed", "port-status", "packet-out", "flow-mod", "group-mod", "port-mod",
	"table-mod", "multipart request", "multipart reply", "barrier request", "barrier reply", "queue-config request", "queue-config reply",
	"role request", "role reply", "get-async request", "get-async reply", "set-async", "meter-mod",
}

// String names the type in words.
func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("type %d", uint8(t))
}

// Header begins every message.
type Header struct {
	Version uint8
	Type    Type
	Length  uint16 // of the whole message, octets
	XID     uint32 // an answer has its question's
}

// Message is one OpenFlow message without its header: a pointer to a type of this package.
type Message interface {
	Type() Type
	append(b []byte) []byte
	decode(r *reader)
}

// ParseHeader reads the header. b has at least HeaderLen octets.
func ParseHeader(b []byte) Header {
	_ = b[HeaderLen-1]
	return Header{Version: b[0], Type: Type(b[1]), Length: binary.BigEndian.Uint16(b[2:]), XID: binary.BigEndian.Uint32(b[4:])}
}

// Append appends a message with its header. A message that would be longer than MaxMessage is refused and b returned as
// it was.
func Append(b []byte, xid uint32, m Message) ([]byte, error) {
	start := len(b)
	b = append(b, Version, byte(m.Type()), 0, 0)
	b = binary.BigEndian.AppendUint32(b, xid)
	b = m.append(b)
	n := len(b) - start
	if n > MaxMessage {
		return b[:start], fmt.Errorf("encode %s: %d octets are more than a message can have", m.Type(), n)
	}
	binary.BigEndian.PutUint16(b[start+2:], uint16(n))
	return b, nil
}

// Decode reads one whole message. The error says where the octets stop making sense; the header is valid whenever there
// were octets for one.
func Decode(b []byte) (Header, Message, error) {
	if len(b) < HeaderLen {
		return Header{}, nil, fmt.Errorf("decode message: %d octets are no header", len(b))
	}
	h := ParseHeader(b)
	if int(h.Length) != len(b) {
		return h, nil, fmt.Errorf("decode %s: %d octets, its header says %d", h.Type, len(b), h.Length)
	}
	if h.Version != Version && h.Type != TypeHello && h.Type != TypeError {
		return h, nil, fmt.Errorf("decode %s: version %d is not that of OpenFlow 1.3", h.Type, h.Version)
	}
	m := newMessage(h.Type)
	r := &reader{b: b, at: HeaderLen, what: h.Type.String()}
	m.decode(r)
	if r.err != nil {
		return h, nil, r.err
	}
	if r.at != len(b) {
		return h, nil, fmt.Errorf("decode %s: %d octets are left over at offset %d", h.Type, len(b)-r.at, r.at)
	}
	return h, m, nil
}

func newMessage(t Type) Message {
	switch t {
	case TypeHello:
		return &Hello{}
	case TypeError:
		return &Error{}
	case TypeEchoRequest:
		return &Echo{}
	case TypeEchoReply:
		return &Echo{Reply: true}
	case TypeExperimenter:
		return &Experimenter{}
	case TypeFeaturesRequest, TypeGetConfigRequest, TypeBarrierRequest, TypeBarrierReply, TypeGetAsyncRequest:
		return &Bare{Kind: t}
	case TypeFeaturesReply:
		return &Features{}
	case TypeGetConfigReply:
		return &SwitchConfig{Reply: true}
	case TypeSetConfig:
		return &SwitchConfig{}
	case TypePacketIn:
		return &PacketIn{}
	case TypeFlowRemoved:
		return &FlowRemoved{}
	case TypePortStatus:
		return &PortStatus{}
	case TypePacketOut:
		return &PacketOut{}
	case TypeFlowMod:
		return &FlowMod{}
	case TypeGroupMod:
		return &GroupMod{}
	case TypeMeterMod:
		return &MeterMod{}
	case TypeMultipartRequest:
		return &MultipartRequest{}
	case TypeMultipartReply:
		return &MultipartReply{}
	case TypeRoleRequest:
		return &RoleMessage{}
	case TypeRoleReply:
		return &RoleMessage{Reply: true}
	}
	return &Unknown{Kind: t}
}

// Bare is a message of a header alone: features request, barrier request and reply, get-config request.
type Bare struct{ Kind Type }

// Type implements Message.
func (m *Bare) Type() Type             { return m.Kind }
func (m *Bare) append(b []byte) []byte { return b }
func (m *Bare) decode(*reader)         {}

// Unknown is a message whose inside this package does not know.
type Unknown struct {
	Kind Type
	Data []byte
}

// Type implements Message.
func (m *Unknown) Type() Type             { return m.Kind }
func (m *Unknown) append(b []byte) []byte { return append(b, m.Data...) }
func (m *Unknown) decode(r *reader)       { m.Data = r.rest() }

// Echo asks whether the other side lives; the answer has the same data (section 7.5.2).
type Echo struct {
	Reply bool
	Data  []byte
}

// Type implements Message.
func (m *Echo) Type() Type {
	if m.Reply {
		return TypeEchoReply
	}
	return TypeEchoRequest
}
func (m *Echo) append(b []byte) []byte { return append(b, m.Data...) }
func (m *Echo) decode(r *reader)       { m.Data = r.rest() }

// Experimenter is an extension's message (section 7.5.4).
type Experimenter struct {
	ID, Kind uint32 // whose, and which
	Data     []byte
}

// Type implements Message.
func (*Experimenter) Type() Type { return TypeExperimenter }

func (m *Experimenter) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, m.ID)
	b = binary.BigEndian.AppendUint32(b, m.Kind)
	return append(b, m.Data...)
}

func (m *Experimenter) decode(r *reader) {
	m.ID, m.Kind = r.u32(), r.u32()
	m.Data = r.rest()
}
