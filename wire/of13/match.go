package of13

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Field is a match field of OXM class OPENFLOW_BASIC (section 7.2.3.7, table 11).
type Field uint8

// Fields that are used here by name.
const (
	InPort   Field = 0
	EthDst   Field = 3
	EthSrc   Field = 4
	EthType  Field = 5
	VLANVID  Field = 6 // with VLANPresent
	IPProto  Field = 10
	IPv4Src  Field = 11
	IPv4Dst  Field = 12
	TCPSrc   Field = 13
	TCPDst   Field = 14
	UDPSrc   Field = 15
	UDPDst   Field = 16
	SCTPSrc  Field = 17
	SCTPDst  Field = 18
	ICMPType Field = 19
	ICMPCode Field = 20
	ARPSPA   Field = 22
	ARPTPA   Field = 23
	IPv6Src  Field = 26
	IPv6Dst  Field = 27
	ICMP6Typ Field = 29
	MPLSLabl Field = 34
	fieldEnd Field = 40
)

// VLANPresent is the bit of VLANVID that says that there is a tag at all (OFPVID_PRESENT).
const VLANPresent = 0x1000

// fields is the width in bits and the name of each field, as ovs-ofctl spells it.
var fields = [fieldEnd]struct {
	bits uint8
	name string
}{
	{32, "in_port"},
	{32, "in_phy_port"},
	{64, "metadata"},
	{48, "eth_dst"},
	{48, "eth_src"},
	{16, "eth_type"},
	{13, "vlan_vid"},
	{3, "vlan_pcp"},
	{6, "ip_dscp"},
	{2, "ip_ecn"},
	{8, "ip_proto"},
	{32, "ipv4_src"},
	{32, "ipv4_dst"},
	{16, "tcp_src"},
	{16, "tcp_dst"},
	{16, "udp_src"},
	{16, "udp_dst"},
	{16, "sctp_src"},
	{16, "sctp_dst"},
	{8, "icmpv4_type"},
	{8, "icmpv4_code"},
	{16, "arp_op"},
	{32, "arp_spa"},
	{32, "arp_tpa"},
	{48, "arp_sha"},
	{48, "arp_tha"},
	{128, "ipv6_src"},
	{128, "ipv6_dst"},
	{20, "ipv6_flabel"},
	{8, "icmpv6_type"},
	{8, "icmpv6_code"},
	{128, "ipv6_nd_target"},
	{48, "ipv6_nd_sll"},
	{48, "ipv6_nd_tll"},
	{20, "mpls_label"},
	{3, "mpls_tc"},
	{1, "mpls_bos"},
	{24, "pbb_isid"},
	{64, "tunnel_id"},
	{9, "ipv6_exthdr"},
}

// width is the field's length on the wire, octets.
func (f Field) width() int { return (int(fields[f].bits) + 7) / 8 }

// full is the mask of all its bits.
func (f Field) full() (m [16]byte) {
	n, bits := f.width(), int(fields[f].bits)
	for i := range n {
		m[i] = 0xff
	}
	if bits%8 != 0 {
		m[0] = 1<<(bits%8) - 1
	}
	return m
}

// String is the field's name as ovs-ofctl spells it.
func (f Field) String() string {
	if f < fieldEnd {
		return fields[f].name
	}
	return fmt.Sprintf("field %d", uint8(f))
}

// Term is one field's condition. The first octets, as many as the field is wide, count.
type Term struct {
	Field       Field
	Value, Mask [16]byte // Value has no bit that Mask has not
}

// Match is what a rule applies to. It is in canonical form: terms in the fields' order, no field twice, no empty mask. It
// is never changed: the methods return new ones. The zero Match is everything.
type Match struct {
	Terms []Term
	Other string // OXM of fields unknown here, as on the wire
}

// Uint makes a Match of one field with a number's value, exactly.
func Uint(f Field, v uint64) Match {
	full := f.full()
	return one(f, uintValue(f, v), full)
}

// UintMask makes a Match of one field with a number's value under a mask.
func UintMask(f Field, v, mask uint64) Match { return one(f, uintValue(f, v), uintValue(f, mask)) }

// Octets makes a Match of one field with these octets under a mask; a nil mask is exactly.
func Octets(f Field, value, mask []byte) Match {
	m := f.full()
	if mask != nil {
		m = [16]byte{}
		copy(m[:], mask)
	}
	var v [16]byte
	copy(v[:], value)
	return one(f, v, m)
}

func uintValue(f Field, v uint64) (out [16]byte) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], v)
	copy(out[:], b[8-min(f.width(), 8):])
	return out
}

func one(f Field, v, m [16]byte) Match {
	full := f.full()
	for i := range m {
		m[i] &= full[i]
		v[i] &= m[i]
	}
	if m == [16]byte{} {
		return Match{}
	}
	return Match{Terms: []Term{{f, v, m}}}
}

// Get returns the term of a field.
func (m Match) Get(f Field) (Term, bool) {
	for _, t := range m.Terms {
		if t.Field == f {
			return t, true
		}
	}
	return Term{}, false
}

// Uint returns a field's value of up to 64 bits; ok is false when the field is not matched exactly.
func (m Match) Uint(f Field) (v uint64, ok bool) {
	t, found := m.Get(f)
	if !found || t.Mask != f.full() {
		return 0, false
	}
	for _, b := range t.Value[:min(f.width(), 8)] {
		v = v<<8 | uint64(b)
	}
	return v, true
}

// And returns what both match, and false when that is nothing. Fields of others are taken to be compatible.
func (m Match) And(o Match) (Match, bool) {
	out := Match{Terms: make([]Term, 0, len(m.Terms)+len(o.Terms)), Other: m.Other}
	if out.Other == "" {
		out.Other = o.Other
	}
	i, j := 0, 0
	for i < len(m.Terms) || j < len(o.Terms) {
		switch {
		case j == len(o.Terms) || i < len(m.Terms) && m.Terms[i].Field < o.Terms[j].Field:
			out.Terms = append(out.Terms, m.Terms[i])
			i++
		case i == len(m.Terms) || o.Terms[j].Field < m.Terms[i].Field:
			out.Terms = append(out.Terms, o.Terms[j])
			j++
		default:
			a, b := m.Terms[i], o.Terms[j]
			for k := range a.Mask {
				if (a.Value[k]^b.Value[k])&a.Mask[k]&b.Mask[k] != 0 {
					return Match{}, false
				}
				a.Value[k] |= b.Value[k]
				a.Mask[k] |= b.Mask[k]
			}
			out.Terms = append(out.Terms, a)
			i++
			j++
		}
	}
	return out, true
}

// Overlaps reports whether some packet matches both.
func (m Match) Overlaps(o Match) bool {
	_, ok := m.And(o)
	return ok
}

// Covers reports whether m matches every packet that o does.
func (m Match) Covers(o Match) bool {
	if m.Other != "" && m.Other != o.Other {
		return false
	}
	for _, t := range m.Terms {
		u, ok := o.Get(t.Field)
		if !ok {
			return false
		}
		for k := range t.Mask {
			if t.Mask[k]&^u.Mask[k] != 0 || (t.Value[k]^u.Value[k])&t.Mask[k] != 0 {
				return false
			}
		}
	}
	return true
}

// Equal reports whether both are the same condition.
func (m Match) Equal(o Match) bool { return m.Other == o.Other && slices.Equal(m.Terms, o.Terms) }

// Key is the canonical form as octets, for maps.
func (m Match) Key() string { return string(m.appendOXM(nil)) }

// OXM classes (section 7.2.3.3).
const classBasic = 0x8000

func appendTerm(b []byte, t Term) []byte {
	n := t.Field.width()
	masked := t.Mask != t.Field.full()
	head := uint32(classBasic)<<16 | uint32(t.Field)<<9 | uint32(n)
	if masked {
		head += 1<<8 | uint32(n)
	}
	b = binary.BigEndian.AppendUint32(b, head)
	b = append(b, t.Value[:n]...)
	if masked {
		b = append(b, t.Mask[:n]...)
	}
	return b
}

func (m Match) appendOXM(b []byte) []byte {
	for _, t := range m.Terms {
		b = appendTerm(b, t)
	}
	return append(b, m.Other...)
}

// append writes ofp_match with its padding (section 7.2.3.1).
func (m Match) append(b []byte) []byte {
	start := len(b)
	b = append(b, 0, 1, 0, 0) // OFPMT_OXM
	b = m.appendOXM(b)
	binary.BigEndian.PutUint16(b[start+2:], uint16(len(b)-start))
	return padTo8(b, start)
}

func (m *Match) decode(r *reader) {
	kind, n := r.u16(), int(r.u16())
	if r.err != nil {
		return
	}
	if kind != 1 || n < 4 {
		r.fail("a match of type %d with %d octets", kind, n)
		return
	}
	p := r.part(n-4, "match")
	for p.left() > 0 && p.err == nil {
		t, other := decodeTerm(p)
		if other != nil {
			m.Other += string(other)
			continue
		}
		if _, twice := m.Get(t.Field); twice && p.err == nil {
			p.fail("%s twice", t.Field)
		}
		if t.Mask != [16]byte{} {
			m.Terms = append(m.Terms, t)
		}
	}
	r.join(p)
	r.skip((8 - n%8) % 8)
	slices.SortFunc(m.Terms, func(a, b Term) int { return int(a.Field) - int(b.Field) })
}

// decodeTerm reads one OXM; other is the whole of one unknown here.
func decodeTerm(r *reader) (t Term, other []byte) {
	start := r.at
	head := r.u32()
	n := int(head & 0xff)
	body := r.take(n)
	if r.err != nil {
		return t, nil
	}
	f := Field(head >> 9 & 0x7f)
	masked := head&(1<<8) != 0
	if head>>16 != classBasic || f >= fieldEnd {
		return t, r.b[start:r.at]
	}
	w := f.width()
	if want := w; n != want && !masked || n != 2*want && masked {
		r.fail("%s of %d octets", f, n)
		return t, nil
	}
	t.Field, t.Mask = f, f.full()
	if masked {
		var m [16]byte
		copy(m[:], body[w:])
		for i := range m {
			t.Mask[i] &= m[i]
		}
	}
	copy(t.Value[:], body[:w])
	for i := range t.Value {
		t.Value[i] &= t.Mask[i]
	}
	return t, nil
}

// String writes the match as ovs-ofctl does, as near as its own names allow: in_port=1,eth_type=0x800,ipv4_src=10.0.0.0/8.
// Everything is "any".
func (m Match) String() string {
	var parts []string
	for _, t := range m.Terms {
		parts = append(parts, t.String())
	}
	if m.Other != "" {
		parts = append(parts, fmt.Sprintf("oxm=%x", m.Other))
	}
	if len(parts) == 0 {
		return "any"
	}
	return strings.Join(parts, ",")
}

// String writes one condition.
func (t Term) String() string {
	w := t.Field.width()
	v, mask, exact := t.Value[:w], t.Mask[:w], t.Mask == t.Field.full()
	name := t.Field.String() + "="
	switch t.Field {
	case InPort, 1:
		if exact {
			return name + PortName(binary.BigEndian.Uint32(v))
		}
	case VLANVID:
		n, k := binary.BigEndian.Uint16(v), binary.BigEndian.Uint16(mask)
		switch {
		case exact && n&VLANPresent != 0:
			return fmt.Sprintf("vlan=%d", n&^VLANPresent)
		case exact && n == 0:
			return "vlan=none"
		case k == VLANPresent && n == VLANPresent:
			return "vlan=some"
		case k == VLANPresent && n == 0:
			return "vlan=none"
		}
	case IPv4Src, IPv4Dst, ARPSPA, ARPTPA, IPv6Src, IPv6Dst, 31:
		a, _ := netip.AddrFromSlice(v)
		if exact {
			return name + a.String()
		}
		if bits, ok := prefix(mask); ok {
			return fmt.Sprintf("%s%s/%d", name, a, bits)
		}
		k, _ := netip.AddrFromSlice(mask)
		return name + a.String() + "/" + k.String()
	case EthDst, EthSrc, 24, 25, 32, 33:
		if exact {
			return name + mac(v)
		}
		return name + mac(v) + "/" + mac(mask)
	case EthType:
		if exact {
			return fmt.Sprintf("%s0x%04x", name, v)
		}
	}
	if w <= 8 {
		n, k := number(v), number(mask)
		switch {
		case exact:
			return fmt.Sprintf("%s%d", name, n)
		case t.Field >= TCPSrc && t.Field <= SCTPDst && (^k&0xffff)&(^k&0xffff+1) == 0:
			return fmt.Sprintf("%s%d-%d", name, n, n|^k&0xffff)
		}
		return fmt.Sprintf("%s0x%x/0x%x", name, n, k)
	}
	return fmt.Sprintf("%s0x%x/0x%x", name, v, mask)
}

func number(b []byte) (n uint64) {
	for _, c := range b {
		n = n<<8 | uint64(c)
	}
	return n
}

func mac(b []byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

// prefix returns the length of a mask that is a prefix.
func prefix(mask []byte) (bits int, ok bool) {
	ended := false
	for _, c := range mask {
		for i := 7; i >= 0; i-- {
			set := c&(1<<i) != 0
			if set && ended {
				return 0, false
			}
			if set {
				bits++
			}
			ended = ended || !set
		}
	}
	return bits, true
}
