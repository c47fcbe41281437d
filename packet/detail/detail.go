// Package detail spells a frame out for people: a tree of fields, each with its place in the frame, and one line that sums
// it up.
//
// It is for showing, a screen at a time: it allocates, and goes further up than package packet, which the engines use. What a
// stranger wrote comes out as printable ASCII of bounded length, and a tree is bounded too, whatever the frame says.
//
// Runs in: agent | tools
package detail

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"opentap/packet"
)

// Field is one field, or one header with its fields. Offset and Length count octets of the frame.
type Field struct {
	Name   string  `json:"name"`
	Value  string  `json:"value,omitempty"`
	Offset int     `json:"offset"`
	Length int     `json:"length"`
	Fields []Field `json:"fields,omitempty"`
}

// Summary is a frame in one line. Src and Dst are IP addresses where there are any, else MAC addresses, else empty.
type Summary struct {
	Src      string `json:"src"`
	Dst      string `json:"dst"`
	Protocol string `json:"protocol"` // the highest that is known
	Info     string `json:"info"`
}

// Bounds of a tree.
const (
	maxFields = 600
	maxDepth  = 6   // tunnels in tunnels
	maxText   = 160 // octets of a stranger's text
)

var be = binary.BigEndian

// Decode spells a frame out, of which origLen octets were on the wire.
func Decode(link packet.LinkType, frame []byte, origLen uint32) ([]Field, Summary) {
	d := &decoder{frame: frame, end: len(frame), origLen: origLen}
	switch link {
	case packet.LinkEthernet:
		d.ethernet(0)
	case packet.LinkRaw:
		d.ip(0)
	default:
		d.sum.Protocol = "link type " + strconv.Itoa(int(link))
		d.rest("Data", 0)
	}
	return d.tree, d.sum
}

// decoder walks one frame. Every read is checked against end.
type decoder struct {
	frame   []byte
	end     int // octets that belong to what is decoded: padding does not
	origLen uint32
	tree    []Field
	sum     Summary
	count   int
	depth   int
}

// layer is a header that is being spelt out.
type layer struct {
	d     *decoder
	field Field
}

func (d *decoder) begin(name string, off int) *layer {
	return &layer{d: d, field: Field{Name: name, Offset: off}}
}

// add adds a field whose octets are there; it reports whether they are.
func (l *layer) add(name string, off, n int, value string) bool {
	if off < 0 || n < 0 || off+n > l.d.end {
		return false
	}
	if l.d.count++; l.d.count <= maxFields {
		l.field.Fields = append(l.field.Fields, Field{Name: name, Value: value, Offset: off, Length: n})
	}
	return true
}

// done puts the layer of so many octets into the tree, unless it begins behind what there is.
func (l *layer) done(n int, value string) {
	if l.field.Offset > l.d.end {
		return
	}
	l.field.Length, l.field.Value = max(0, min(n, l.d.end-l.field.Offset)), value
	if l.d.count++; l.d.count <= maxFields {
		l.d.tree = append(l.d.tree, l.field)
	}
}

// has reports whether n octets are there at off.
func (d *decoder) has(off, n int) bool { return off >= 0 && n >= 0 && off+n <= d.end }

// short says that the frame ends inside a header.
func (d *decoder) short(l *layer, what string) {
	l.done(d.end-l.field.Offset, "cut off")
	d.tell(what, what+", cut off")
}

func (d *decoder) rest(name string, off int) {
	if off < d.end {
		d.begin(name, off).done(d.end-off, octets(d.end-off))
	}
}

// tell sets the line; what comes later knows better.
func (d *decoder) tell(protocol, info string) { d.sum.Protocol, d.sum.Info = protocol, info }

func (d *decoder) u8(off int) int     { return int(d.frame[off]) }
func (d *decoder) u16(off int) int    { return int(be.Uint16(d.frame[off:])) }
func (d *decoder) u32(off int) uint32 { return be.Uint32(d.frame[off:]) }

func octets(n int) string {
	if n == 1 {
		return "1 octet"
	}
	return strconv.Itoa(n) + " octets"
}

func hex(v, digits int) string { return fmt.Sprintf("0x%0*x", digits, v) }

func (d *decoder) mac(off int) string {
	m := d.frame[off : off+6]
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

func (d *decoder) ip4(off int) string { return netip.AddrFrom4([4]byte(d.frame[off : off+4])).String() }

func (d *decoder) ip6(off int) string {
	return netip.AddrFrom16([16]byte(d.frame[off : off+16])).String()
}

// text makes a stranger's octets printable.
func text(b []byte) string {
	cut := len(b) > maxText
	if cut {
		b = b[:maxText]
	}
	var s strings.Builder
	for _, c := range b {
		if c >= ' ' && c < 0x7f && c != '\\' {
			s.WriteByte(c)
		} else {
			fmt.Fprintf(&s, `\x%02x`, c)
		}
	}
	if cut {
		s.WriteString("…")
	}
	return s.String()
}

var etherTypes = map[int]string{
	0x0800: "IPv4", 0x0806: "ARP", 0x86dd: "IPv6", 0x8100: "802.1Q", 0x88a8: "802.1ad", 0x9100: "QinQ", 0x8847: "MPLS", 0x8848: "MPLS",
	0x8863: "PPPoE discovery", 0x8864: "PPPoE", 0x88cc: "LLDP", 0x8035: "RARP", 0x888e: "802.1X", 0x88e5: "MACsec", 0x88f7: "PTP", 0x6558: "Ethernet",
}

func named(names map[int]string, v int, number string) string {
	if s, ok := names[v]; ok {
		return s + " (" + number + ")"
	}
	return number
}

func (d *decoder) ethernet(off int) {
	l := d.begin("Ethernet", off)
	if !d.has(off, 14) {
		d.short(l, "Ethernet")
		return
	}
	d.sum.Dst, d.sum.Src = d.mac(off), d.mac(off+6)
	l.add("Destination", off, 6, d.sum.Dst)
	l.add("Source", off+6, 6, d.sum.Src)
	typ := d.u16(off + 12)
	if typ < 1536 {
		l.add("Length", off+12, 2, strconv.Itoa(typ))
		l.done(14, d.sum.Src+" → "+d.sum.Dst)
		d.tell("802.3", "LLC, "+octets(typ))
		d.rest("LLC", off+14)
		return
	}
	l.add("Type", off+12, 2, named(etherTypes, typ, hex(typ, 4)))
	l.done(14, d.sum.Src+" → "+d.sum.Dst)
	off += 14
	for n := 0; typ == 0x8100 || typ == 0x88a8 || typ == 0x9100; n++ {
		v := d.begin(etherTypes[typ]+" tag", off)
		if !d.has(off, 4) || n == 8 {
			d.short(v, "802.1Q")
			return
		}
		tci := d.u16(off)
		v.add("Priority", off, 1, strconv.Itoa(tci>>13))
		v.add("Drop eligible", off, 1, strconv.Itoa(tci>>12&1))
		v.add("VLAN", off, 2, strconv.Itoa(tci&0xfff))
		typ = d.u16(off + 2)
		v.add("Type", off+2, 2, named(etherTypes, typ, hex(typ, 4)))
		v.done(4, "VLAN "+strconv.Itoa(tci&0xfff))
		off += 4
	}
	d.etherType(typ, off)
}

// etherType goes on with what a type names.
func (d *decoder) etherType(typ, off int) {
	switch typ {
	case 0x0800, 0x86dd:
		d.ip(off)
	case 0x0806:
		d.arp(off)
	case 0x6558:
		d.inner(off, d.ethernet)
	case 0x8847, 0x8848:
		d.mpls(off)
	default:
		name := etherTypes[typ]
		if name == "" {
			name = "EtherType " + hex(typ, 4)
		}
		d.tell(name, octets(d.end-off))
		d.rest(name, off)
	}
}

func (d *decoder) mpls(off int) {
	for range 16 {
		l := d.begin("MPLS", off)
		if !d.has(off, 4) {
			d.short(l, "MPLS")
			return
		}
		e := d.u32(off)
		l.add("Label", off, 3, strconv.Itoa(int(e>>12)))
		l.add("Traffic class", off+2, 1, strconv.Itoa(int(e>>9&7)))
		l.add("Bottom of stack", off+2, 1, strconv.Itoa(int(e>>8&1)))
		l.add("TTL", off+3, 1, strconv.Itoa(int(e&255)))
		l.done(4, "label "+strconv.Itoa(int(e>>12)))
		off += 4
		if e&0x100 != 0 {
			d.tell("MPLS", "label "+strconv.Itoa(int(e>>12)))
			if d.has(off, 1) && (d.u8(off)>>4 == 4 || d.u8(off)>>4 == 6) {
				d.ip(off)
			} else {
				d.rest("Data", off)
			}
			return
		}
	}
}

// inner decodes what a tunnel carries.
func (d *decoder) inner(off int, next func(int)) {
	if d.depth++; d.depth > maxDepth {
		d.rest("Data", off)
		return
	}
	outer := d.sum.Protocol
	next(off)
	if outer != "" && d.sum.Protocol != outer {
		d.sum.Info = outer + " › " + d.sum.Info
	}
}

func (d *decoder) arp(off int) {
	l := d.begin("ARP", off)
	if !d.has(off, 8) {
		d.short(l, "ARP")
		return
	}
	hl, pl, op := d.u8(off+4), d.u8(off+5), d.u16(off+6)
	l.add("Hardware type", off, 2, strconv.Itoa(d.u16(off)))
	l.add("Protocol type", off+2, 2, named(etherTypes, d.u16(off+2), hex(d.u16(off+2), 4)))
	l.add("Hardware length", off+4, 1, strconv.Itoa(hl))
	l.add("Protocol length", off+5, 1, strconv.Itoa(pl))
	l.add("Operation", off+6, 2, named(map[int]string{1: "request", 2: "reply"}, op, strconv.Itoa(op)))
	if hl != 6 || pl != 4 || !d.has(off+8, 20) {
		l.done(8, "")
		d.tell("ARP", "operation "+strconv.Itoa(op))
		return
	}
	sm, si, tm, ti := d.mac(off+8), d.ip4(off+14), d.mac(off+18), d.ip4(off+24)
	l.add("Sender MAC", off+8, 6, sm)
	l.add("Sender IP", off+14, 4, si)
	l.add("Target MAC", off+18, 6, tm)
	l.add("Target IP", off+24, 4, ti)
	info := "who has " + ti + "? tell " + si
	if op == 2 {
		info = si + " is at " + sm
	}
	l.done(28, info)
	d.tell("ARP", info)
}
