package of13

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Hello opens a connection (section 7.5.1). It is the one message that any version may have sent.
type Hello struct {
	// Versions are those of the version bitmap; empty = the sender has none, and speaks all up to its header's version.
	Versions []uint8
}

// Type implements Message.
func (*Hello) Type() Type { return TypeHello }

// helloVersionBitmap is OFPHET_VERSIONBITMAP.
const helloVersionBitmap = 1

func (m *Hello) append(b []byte) []byte {
	if len(m.Versions) == 0 {
		return b
	}
	var words []uint32
	for _, v := range m.Versions {
		for int(v)/32 >= len(words) {
			words = append(words, 0)
		}
		words[v/32] |= 1 << (v % 32)
	}
	start := len(b)
	b = binary.BigEndian.AppendUint16(b, helloVersionBitmap)
	b = binary.BigEndian.AppendUint16(b, uint16(4+4*len(words)))
	for _, w := range words {
		b = binary.BigEndian.AppendUint32(b, w)
	}
	return padTo8(b, start)
}

func (m *Hello) decode(r *reader) {
	// Elements that are unknown or make no sense are passed over: the hello of a later version may have any.
	for r.left() >= 4 && r.err == nil {
		kind, n := r.u16(), int(r.u16())
		if n < 4 {
			r.fail("an element of %d octets", n)
			return
		}
		p := r.part(n-4, "element")
		for i := 0; kind == helloVersionBitmap && p.left() >= 4 && i < 8; i++ {
			w := p.u32()
			for bit := range 32 {
				if w&(1<<bit) != 0 {
					m.Versions = append(m.Versions, uint8(32*i+bit))
				}
			}
		}
		r.join(p)
		r.skip(min((8-n%8)%8, r.left()))
	}
	r.skip(r.left())
}

// Negotiate returns the version that both sides speak best: mine are this side's (at least one), hello came with the header's version.
// The error says what the other side speaks.
func Negotiate(version uint8, hello *Hello, mine ...uint8) (uint8, error) {
	best := uint8(0)
	if len(hello.Versions) == 0 { // section 6.3.1: then it is the lower of both headers' versions, or none
		if v := min(version, slices.Max(mine)); slices.Contains(mine, v) {
			best = v
		}
	}
	for _, v := range hello.Versions {
		if v > best && slices.Contains(mine, v) {
			best = v
		}
	}
	if best != 0 {
		return best, nil
	}
	theirs := "OpenFlow " + VersionName(version)
	if len(hello.Versions) > 0 {
		theirs = "OpenFlow"
		for i, v := range hello.Versions {
			if i > 0 {
				theirs += ","
			}
			theirs += " " + VersionName(v)
		}
	}
	return 0, fmt.Errorf("the switch speaks %s; OpenFlow 1.3 is needed", theirs)
}

// VersionName is a wire version as people write it: 1.0 for 1.
func VersionName(v uint8) string {
	switch {
	case v >= 1 && v <= 6:
		return fmt.Sprintf("1.%d", v-1)
	}
	return fmt.Sprintf("with wire version %d", v)
}

// Features says what a switch is and can (section 7.3.1).
type Features struct {
	DatapathID   uint64
	Buffers      uint32
	Tables       uint8
	Auxiliary    uint8
	Capabilities uint32
}

// Capabilities.
const (
	CapFlowStats  = 1 << 0
	CapTableStats = 1 << 1
	CapPortStats  = 1 << 2
	CapGroupStats = 1 << 3
)

// Type implements Message.
func (*Features) Type() Type { return TypeFeaturesReply }

func (m *Features) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, m.DatapathID)
	b = binary.BigEndian.AppendUint32(b, m.Buffers)
	b = append(b, m.Tables, m.Auxiliary, 0, 0)
	b = binary.BigEndian.AppendUint32(b, m.Capabilities)
	return zeros(b, 4)
}

func (m *Features) decode(r *reader) {
	m.DatapathID, m.Buffers, m.Tables, m.Auxiliary = r.u64(), r.u32(), r.u8(), r.u8()
	r.skip(2)
	m.Capabilities = r.u32()
	r.skip(4)
}

// SwitchConfig says how the switch treats packets for the controller (section 7.3.2).
type SwitchConfig struct {
	Reply       bool // the answer to a get-config request; else set-config
	Flags       uint16
	MissSendLen uint16 // octets of a packet that are sent along
}

// Type implements Message.
func (m *SwitchConfig) Type() Type {
	if m.Reply {
		return TypeGetConfigReply
	}
	return TypeSetConfig
}

func (m *SwitchConfig) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.Flags)
	return binary.BigEndian.AppendUint16(b, m.MissSendLen)
}

func (m *SwitchConfig) decode(r *reader) { m.Flags, m.MissSendLen = r.u16(), r.u16() }

// Role is what a controller is to a switch (section 6.3.4).
type Role uint32

// Roles.
const (
	RoleNoChange Role = iota
	RoleEqual
	RoleMaster
	RoleSlave
)

// String is the role's word in the specification.
func (r Role) String() string {
	switch r {
	case RoleNoChange:
		return "nochange"
	case RoleEqual:
		return "equal"
	case RoleMaster:
		return "master"
	case RoleSlave:
		return "slave"
	}
	return fmt.Sprintf("role %d", uint32(r))
}

// RoleMessage asks for a role, or says which one it is (section 7.3.9).
type RoleMessage struct {
	Reply      bool
	Role       Role
	Generation uint64 // of the election; a switch refuses one older than it has seen
}

// Type implements Message.
func (m *RoleMessage) Type() Type {
	if m.Reply {
		return TypeRoleReply
	}
	return TypeRoleRequest
}

func (m *RoleMessage) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(m.Role))
	b = zeros(b, 4)
	return binary.BigEndian.AppendUint64(b, m.Generation)
}

func (m *RoleMessage) decode(r *reader) {
	m.Role = Role(r.u32())
	r.skip(4)
	m.Generation = r.u64()
}
