package of13

import (
	"encoding/binary"
	"fmt"
)

// Port numbers with a meaning of their own (section 7.2.1, ofp_port_no).
const (
	PortMax        = 0xffffff00
	PortIn         = 0xfffffff8 // back where it came from
	PortTable      = 0xfffffff9 // through the flow table; of packet-outs
	PortNormal     = 0xfffffffa
	PortFlood      = 0xfffffffb
	PortAll        = 0xfffffffc
	PortController = 0xfffffffd
	PortLocal      = 0xfffffffe
	PortAny        = 0xffffffff
)

// PortName writes a port number for people.
func PortName(p uint32) string {
	switch p {
	case PortIn:
		return "IN_PORT"
	case PortTable:
		return "TABLE"
	case PortNormal:
		return "NORMAL"
	case PortFlood:
		return "FLOOD"
	case PortAll:
		return "ALL"
	case PortController:
		return "CONTROLLER"
	case PortLocal:
		return "LOCAL"
	case PortAny:
		return "ANY"
	}
	return fmt.Sprintf("%d", p)
}

// State bits of a port.
const (
	PortLinkDown = 1 << 0
	PortBlocked  = 1 << 1
	PortLive     = 1 << 2

	PortConfigDown = 1 << 0 // Config: taken down by an administrator
)

// Port describes one port (section 7.2.1).
type Port struct {
	Number     uint32
	Hardware   [6]byte
	Name       string // what the switch calls it; up to 15 octets, hostile text
	Config     uint32
	State      uint32
	Current    uint32 // features
	Advertised uint32
	Supported  uint32
	Peer       uint32
	SpeedKbps  uint32 // at present
	MaxKbps    uint32
}

// Up reports whether frames can pass.
func (p *Port) Up() bool { return p.State&PortLinkDown == 0 && p.Config&PortConfigDown == 0 }

func (p *Port) append(b []byte) []byte {
	b = zeros(binary.BigEndian.AppendUint32(b, p.Number), 4)
	b = append(b, p.Hardware[:]...)
	b = fixed(zeros(b, 2), p.Name, 16)
	for _, v := range [...]uint32{p.Config, p.State, p.Current, p.Advertised, p.Supported, p.Peer, p.SpeedKbps, p.MaxKbps} {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func (p *Port) decode(r *reader) {
	p.Number = r.u32()
	r.skip(4)
	copy(p.Hardware[:], r.take(6))
	r.skip(2)
	p.Name = r.text(16)
	for _, v := range [...]*uint32{&p.Config, &p.State, &p.Current, &p.Advertised, &p.Supported, &p.Peer, &p.SpeedKbps, &p.MaxKbps} {
		*v = r.u32()
	}
}

// Reasons of a PortStatus.
const (
	PortAdded uint8 = iota
	PortDeleted
	PortModified
)

// PortStatus says that a port came, went or changed (section 7.4.3).
type PortStatus struct {
	Reason uint8
	Port   Port
}

// Type implements Message.
func (*PortStatus) Type() Type { return TypePortStatus }

func (m *PortStatus) append(b []byte) []byte {
	return m.Port.append(zeros(append(b, m.Reason), 7))
}

func (m *PortStatus) decode(r *reader) {
	m.Reason = r.u8()
	r.skip(7)
	m.Port.decode(r)
}
