package detail

import (
	"strconv"
	"strings"

	"opentap/packet"
)

func (d *decoder) ip(off int) {
	if !d.has(off, 1) {
		return
	}
	switch d.u8(off) >> 4 {
	case 4:
		d.ipv4(off)
	case 6:
		d.ipv6(off)
	default:
		d.tell("IP", "version "+strconv.Itoa(d.u8(off)>>4))
		d.rest("Data", off)
	}
}

// ipv4 is RFC 791 section 3.1.
func (d *decoder) ipv4(off int) {
	l := d.begin("IPv4", off)
	if !d.has(off, 20) {
		d.short(l, "IPv4")
		return
	}
	hl, total, frag, proto := 4*(d.u8(off)&15), d.u16(off+2), d.u16(off+6), d.u8(off+9)
	d.sum.Src, d.sum.Dst = d.ip4(off+12), d.ip4(off+16)
	l.add("Header length", off, 1, octets(hl))
	l.add("DSCP", off+1, 1, strconv.Itoa(d.u8(off+1)>>2))
	l.add("ECN", off+1, 1, strconv.Itoa(d.u8(off+1)&3))
	l.add("Total length", off+2, 2, strconv.Itoa(total))
	l.add("Identification", off+4, 2, hex(d.u16(off+4), 4))
	l.add("Flags", off+6, 1, flags(frag>>13, "reserved", "don't fragment", "more fragments"))
	l.add("Fragment offset", off+6, 2, strconv.Itoa(8*(frag&0x1fff)))
	l.add("TTL", off+8, 1, strconv.Itoa(d.u8(off+8)))
	l.add("Protocol", off+9, 1, packet.ProtoName(uint8(proto))+" ("+strconv.Itoa(proto)+")")
	l.add("Header checksum", off+10, 2, hex(d.u16(off+10), 4))
	l.add("Source", off+12, 4, d.sum.Src)
	l.add("Destination", off+16, 4, d.sum.Dst)
	if hl > 20 {
		l.add("Options", off+20, hl-20, octets(hl-20))
	}
	l.done(max(hl, 20), d.sum.Src+" → "+d.sum.Dst)
	if hl < 20 {
		d.tell("IPv4", "header length "+octets(hl))
		return
	}
	if total >= hl && off+total < d.end {
		pad := d.end
		d.end = off + total
		defer func() { d.end = pad; d.rest("Padding", off+total) }()
	}
	if frag&0x1fff != 0 {
		d.tell("IPv4", "fragment of "+packet.ProtoName(uint8(proto))+", id "+hex(d.u16(off+4), 4)+", offset "+strconv.Itoa(8*(frag&0x1fff)))
		d.rest("Fragment", off+hl)
		return
	}
	d.transport(proto, off+hl)
	if frag&0x2000 != 0 {
		d.sum.Info = "[first fragment] " + d.sum.Info
	}
}

// flags names the set bits, the highest first.
func flags(v int, names ...string) string {
	var on []string
	for i, n := range names {
		if v>>(len(names)-1-i)&1 != 0 {
			on = append(on, n)
		}
	}
	if len(on) == 0 {
		return "none"
	}
	return strings.Join(on, ", ")
}

// ipv6 is RFC 8200 sections 3 and 4.
func (d *decoder) ipv6(off int) {
	l := d.begin("IPv6", off)
	if !d.has(off, 40) {
		d.short(l, "IPv6")
		return
	}
	first, payload, next := d.u32(off), d.u16(off+4), d.u8(off+6)
	d.sum.Src, d.sum.Dst = d.ip6(off+8), d.ip6(off+24)
	l.add("Traffic class", off, 2, hex(int(first>>20&255), 2))
	l.add("Flow label", off+1, 3, hex(int(first&0xfffff), 5))
	l.add("Payload length", off+4, 2, strconv.Itoa(payload))
	l.add("Next header", off+6, 1, packet.ProtoName(uint8(next))+" ("+strconv.Itoa(next)+")")
	l.add("Hop limit", off+7, 1, strconv.Itoa(d.u8(off+7)))
	l.add("Source", off+8, 16, d.sum.Src)
	l.add("Destination", off+24, 16, d.sum.Dst)
	l.done(40, d.sum.Src+" → "+d.sum.Dst)
	if payload > 0 && off+40+payload < d.end {
		pad, at := d.end, off+40+payload
		d.end = at
		defer func() { d.end = pad; d.rest("Padding", at) }()
	}
	off += 40
	for range 12 {
		var n int
		switch next {
		case 0, 43, 60, 135:
			if d.has(off, 2) {
				n = 8 * (d.u8(off+1) + 1)
			}
		case 51:
			if d.has(off, 2) {
				n = 4 * (d.u8(off+1) + 2)
			}
		case 44:
			n = 8
		default:
			d.transport(next, off)
			return
		}
		x := d.begin("IPv6 extension "+packet.ProtoName(uint8(next)), off)
		if n == 0 || !d.has(off, n) {
			d.short(x, "IPv6")
			return
		}
		x.add("Next header", off, 1, packet.ProtoName(uint8(d.u8(off)))+" ("+strconv.Itoa(d.u8(off))+")")
		was := next
		next = d.u8(off)
		if was == 44 {
			frag := d.u16(off + 2)
			x.add("Fragment offset", off+2, 2, strconv.Itoa(frag&^7))
			x.add("More fragments", off+3, 1, strconv.Itoa(frag&1))
			x.add("Identification", off+4, 4, hex(int(d.u32(off+4)), 8))
			x.done(n, "")
			if frag&^7 != 0 {
				d.tell("IPv6", "fragment, id "+hex(int(d.u32(off+4)), 8)+", offset "+strconv.Itoa(frag&^7))
				d.rest("Fragment", off+n)
				return
			}
		} else {
			x.done(n, octets(n))
		}
		off += n
	}
	d.rest("Data", off)
}

// transport goes on with what an IP protocol number names.
func (d *decoder) transport(proto, off int) {
	d.tell(packet.ProtoName(uint8(proto)), octets(max(0, d.end-off)))
	switch proto {
	case packet.ProtoTCP:
		d.tcp(off)
	case packet.ProtoUDP:
		d.udp(off)
	case packet.ProtoICMP, packet.ProtoICMP6:
		d.icmp(off, proto == packet.ProtoICMP6)
	case 4, 41:
		d.inner(off, d.ip)
	case 47:
		d.gre(off)
	default:
		d.rest(packet.ProtoName(uint8(proto)), off)
	}
}

var icmpTypes = map[int]string{0: "echo reply", 3: "destination unreachable", 5: "redirect", 8: "echo request", 11: "time exceeded", 12: "parameter problem"}

var icmp6Types = map[int]string{
	1: "destination unreachable", 2: "packet too big", 3: "time exceeded", 4: "parameter problem", 128: "echo request", 129: "echo reply",
	133: "router solicitation", 134: "router advertisement", 135: "neighbour solicitation", 136: "neighbour advertisement", 143: "multicast listener report",
}

func (d *decoder) icmp(off int, six bool) {
	name, types := "ICMP", icmpTypes
	if six {
		name, types = "ICMPv6", icmp6Types
	}
	l := d.begin(name, off)
	if !d.has(off, 4) {
		d.short(l, name)
		return
	}
	typ, code := d.u8(off), d.u8(off+1)
	info := types[typ]
	if info == "" {
		info = "type " + strconv.Itoa(typ)
	}
	l.add("Type", off, 1, named(types, typ, strconv.Itoa(typ)))
	l.add("Code", off+1, 1, strconv.Itoa(code))
	l.add("Checksum", off+2, 2, hex(d.u16(off+2), 4))
	n := 4
	if echo := !six && (typ == 0 || typ == 8) || six && (typ == 128 || typ == 129); echo && d.has(off, 8) {
		l.add("Identifier", off+4, 2, strconv.Itoa(d.u16(off+4)))
		l.add("Sequence", off+6, 2, strconv.Itoa(d.u16(off+6)))
		info += ", id " + strconv.Itoa(d.u16(off+4)) + ", seq " + strconv.Itoa(d.u16(off+6))
		n = 8
	} else if six && (typ == 135 || typ == 136) && d.has(off, 24) {
		l.add("Target", off+8, 16, d.ip6(off+8))
		info += " " + d.ip6(off+8)
		n = 24
	} else if code != 0 {
		info += ", code " + strconv.Itoa(code)
	}
	l.done(n, info)
	d.tell(name, info)
	d.rest("Data", off+n)
}

// gre is RFC 2784 and RFC 2890.
func (d *decoder) gre(off int) {
	l := d.begin("GRE", off)
	if !d.has(off, 4) {
		d.short(l, "GRE")
		return
	}
	f, typ, n := d.u16(off), d.u16(off+2), 4
	l.add("Flags", off, 2, hex(f, 4))
	l.add("Protocol", off+2, 2, named(etherTypes, typ, hex(typ, 4)))
	for _, x := range []struct {
		bit  int
		name string
	}{{0x8000, "Checksum"}, {0x2000, "Key"}, {0x1000, "Sequence"}} {
		if f&x.bit != 0 {
			if !d.has(off+n, 4) {
				d.short(l, "GRE")
				return
			}
			l.add(x.name, off+n, 4, strconv.Itoa(int(d.u32(off+n))))
			n += 4
		}
	}
	l.done(n, etherTypes[typ])
	d.tell("GRE", named(etherTypes, typ, hex(typ, 4)))
	if typ == 0x0800 || typ == 0x86dd || typ == 0x6558 {
		d.inner(off+n, func(at int) {
			if typ == 0x6558 {
				d.ethernet(at)
			} else {
				d.ip(at)
			}
		})
		return
	}
	d.rest("Data", off+n)
}
