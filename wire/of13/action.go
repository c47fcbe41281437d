package of13

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Action is one act on a packet (section 7.2.5): Output, Group, PushVLAN, PopVLAN, SetField, Truncate or OtherAction. All are
// comparable with ==.
type Action interface {
	fmt.Stringer
	append(b []byte) []byte
}

// Action types (ofp_action_type).
const (
	actOutput       = 0
	actPushVLAN     = 17
	actPopVLAN      = 18
	actGroup        = 22
	actSetField     = 25
	actExperimenter = 0xffff
)

// The Nicira extension of Open vSwitch that cuts packets (include/openvswitch/ofp-actions.h and lib/ofp-actions.c of Open
// vSwitch 3.1: NXAST_OUTPUT_TRUNC).
const (
	nicira         = 0x00002320
	nxOutputTrunc  = 39
	noBuffer       = 0xffffffff
	ToControllerIn = 0xffff // MaxLen of an Output to the controller: the whole packet
)

// Output sends the packet out of a port.
type Output struct {
	Port   uint32
	MaxLen uint16 // octets sent to the controller; of no meaning for other ports
}

// Group hands the packet to a group.
type Group struct{ ID uint32 }

// PushVLAN puts a new outermost tag on the packet: 0x8100 or 0x88a8.
type PushVLAN struct{ EtherType uint16 }

// PopVLAN takes the outermost tag off.
type PopVLAN struct{}

// SetField changes a header field; its mask is full.
type SetField struct{ Term Term }

// Truncate sends the packet out of a port, cut to MaxLen octets. It is an extension of Open vSwitch.
type Truncate struct {
	Port   uint16
	MaxLen uint32 // at least 14
}

// OtherAction is one that this package does not know; Data is all after its length.
type OtherAction struct {
	Kind uint16
	Data string
}

// SetVLAN is the action that sets the id of the outermost tag.
func SetVLAN(id uint16) SetField {
	return SetField{Uint(VLANVID, uint64(id)|VLANPresent).Terms[0]}
}

func head(b []byte, kind, n uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, kind), n)
}

func (a Output) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(head(b, actOutput, 16), a.Port)
	return zeros(binary.BigEndian.AppendUint16(b, a.MaxLen), 6)
}

func (a Group) append(b []byte) []byte {
	return binary.BigEndian.AppendUint32(head(b, actGroup, 8), a.ID)
}

func (a PushVLAN) append(b []byte) []byte {
	return zeros(binary.BigEndian.AppendUint16(head(b, actPushVLAN, 8), a.EtherType), 2)
}
func (PopVLAN) append(b []byte) []byte { return zeros(head(b, actPopVLAN, 8), 4) }
func (a SetField) append(b []byte) []byte {
	start := len(b)
	b = padTo8(appendTerm(head(b, actSetField, 0), a.Term), start)
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return b
}

func (a Truncate) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(head(b, actExperimenter, 16), nicira)
	b = binary.BigEndian.AppendUint16(b, nxOutputTrunc)
	b = binary.BigEndian.AppendUint16(b, a.Port)
	return binary.BigEndian.AppendUint32(b, a.MaxLen)
}

func (a OtherAction) append(b []byte) []byte {
	return append(head(b, a.Kind, uint16(4+len(a.Data))), a.Data...)
}

// String implements fmt.Stringer.
func (a Output) String() string { return "output:" + PortName(a.Port) }

// String implements fmt.Stringer.
func (a Group) String() string { return fmt.Sprintf("group:0x%x", a.ID) }

// String implements fmt.Stringer.
func (a PushVLAN) String() string { return fmt.Sprintf("push_vlan:0x%04x", a.EtherType) }

// String implements fmt.Stringer.
func (PopVLAN) String() string { return "pop_vlan" }

// String implements fmt.Stringer.
func (a SetField) String() string { return "set " + a.Term.String() }

// String implements fmt.Stringer.
func (a Truncate) String() string { return fmt.Sprintf("output:%d(first %d octets)", a.Port, a.MaxLen) }

// String implements fmt.Stringer.
func (a OtherAction) String() string { return fmt.Sprintf("action %d %x", a.Kind, a.Data) }

func appendActions(b []byte, list []Action) []byte {
	for _, a := range list {
		b = a.append(b)
	}
	return b
}

// decodeActions reads actions to the end of r.
func decodeActions(r *reader) []Action {
	var out []Action
	for r.left() > 0 && r.err == nil {
		kind, n := r.u16(), int(r.u16())
		if r.err != nil {
			break
		}
		if n < 8 || n%8 != 0 {
			r.fail("action %d of %d octets", kind, n)
			break
		}
		p := r.part(n-4, "action")
		if a := decodeAction(p, kind, n); a != nil {
			out = append(out, a)
		}
		r.join(p)
	}
	return out
}

func decodeAction(p *reader, kind uint16, n int) Action {
	if p.err != nil {
		return nil
	}
	body := p.b[p.at:]
	want := map[uint16]int{actOutput: 16, actGroup: 8, actPushVLAN: 8, actPopVLAN: 8}[kind]
	if want != 0 && n != want {
		p.fail("action %d of %d octets", kind, n)
		return nil
	}
	switch {
	case kind == actOutput:
		a := Output{Port: p.u32(), MaxLen: p.u16()}
		if a.Port != PortController {
			a.MaxLen = 0
		}
		return a
	case kind == actGroup:
		return Group{p.u32()}
	case kind == actPushVLAN:
		return PushVLAN{p.u16()}
	case kind == actPopVLAN:
		return PopVLAN{}
	case kind == actSetField:
		t, other := decodeTerm(p)
		if other == nil && p.err == nil {
			return SetField{t}
		}
		if p.err != nil {
			return nil
		}
	case kind == actExperimenter && len(body) == 12 && binary.BigEndian.Uint32(body) == nicira && binary.BigEndian.Uint16(body[4:]) == nxOutputTrunc:
		return Truncate{Port: binary.BigEndian.Uint16(body[6:]), MaxLen: binary.BigEndian.Uint32(body[8:])}
	}
	return OtherAction{kind, string(body)}
}

// ActionsString writes a list of actions for people; an empty one is "drop".
func ActionsString(list []Action) string {
	if len(list) == 0 {
		return "drop"
	}
	parts := make([]string, len(list))
	for i, a := range list {
		parts[i] = a.String()
	}
	return strings.Join(parts, ", ")
}

// Instructions are what a rule does (section 7.2.4). Their order on the wire is of no meaning; they are kept by kind.
type Instructions struct {
	Meter uint32   // 0 = none
	Apply []Action // at once, in this order
	Clear bool     // forget what was to be done at the end
	Write []Action // at the end
	Goto  uint8    // table to go on in; 0 = none
	Other string   // instructions unknown here, as on the wire
}

// Instruction types (ofp_instruction_type).
const (
	insGoto  = 1
	insWrite = 3
	insApply = 4
	insClear = 5
	insMeter = 6
)

func (m *Instructions) append(b []byte) []byte {
	if m.Meter != 0 {
		b = binary.BigEndian.AppendUint32(head(b, insMeter, 8), m.Meter)
	}
	list := func(kind uint16, actions []Action) {
		if len(actions) == 0 {
			return
		}
		start := len(b)
		b = appendActions(zeros(head(b, kind, 0), 4), actions)
		binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	}
	list(insApply, m.Apply)
	if m.Clear {
		b = zeros(head(b, insClear, 8), 4)
	}
	list(insWrite, m.Write)
	b = append(b, m.Other...)
	if m.Goto != 0 {
		b = zeros(append(head(b, insGoto, 8), m.Goto), 3)
	}
	return b
}

// decode reads instructions to the end of r.
func (m *Instructions) decode(r *reader) {
	for r.left() > 0 && r.err == nil {
		start := r.at
		kind, n := r.u16(), int(r.u16())
		if r.err != nil {
			return
		}
		if n < 8 || n%8 != 0 {
			r.fail("instruction %d of %d octets", kind, n)
			return
		}
		p := r.part(n-4, "instruction")
		switch {
		case p.err != nil:
		case kind == insMeter && n == 8 && m.Meter == 0:
			m.Meter = p.u32()
		case kind == insGoto && n == 8 && m.Goto == 0:
			m.Goto = p.u8()
		case kind == insApply && m.Apply == nil:
			p.skip(4)
			m.Apply = decodeActions(p)
		case kind == insWrite && m.Write == nil:
			p.skip(4)
			m.Write = decodeActions(p)
		case kind == insClear && n == 8:
			m.Clear = true
		default:
			m.Other += string(r.b[start:r.at])
		}
		r.join(p)
	}
}

// Equal reports whether both do the same.
func (m *Instructions) Equal(o *Instructions) bool {
	return string(m.append(nil)) == string(o.append(nil))
}

// String writes what is done for people.
func (m *Instructions) String() string {
	var parts []string
	if m.Meter != 0 {
		parts = append(parts, fmt.Sprintf("meter:%d", m.Meter))
	}
	if len(m.Apply) > 0 {
		parts = append(parts, ActionsString(m.Apply))
	}
	if m.Clear {
		parts = append(parts, "clear")
	}
	if len(m.Write) > 0 {
		parts = append(parts, "write("+ActionsString(m.Write)+")")
	}
	if m.Goto != 0 {
		parts = append(parts, fmt.Sprintf("goto_table:%d", m.Goto))
	}
	if m.Other != "" {
		parts = append(parts, fmt.Sprintf("instructions %x", m.Other))
	}
	if len(parts) == 0 {
		return "drop"
	}
	return strings.Join(parts, ", ")
}
