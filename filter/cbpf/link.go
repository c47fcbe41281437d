package cbpf

import (
	"opentap/filter"
	"opentap/packet"
)

// pppTypes are PPP protocol numbers of EtherTypes (IANA PPP numbers).
var pppTypes = map[uint32]uint32{0x0800: 0x0021, 0x86dd: 0x0057, 0x6003: 0x0027, 0x809b: 0x0029, 0xfe: 0x0023, 0x42: 0x0031, 0xe0: 0x002b}

// linkType tests what the frame carries: an EtherType, or an LLC SAP below 1501.
func (l *lowerer) linkType(num uint32, pos int) cond {
	if l.sc.labels > 0 {
		return l.mplsPayload(num, pos)
	}
	if l.sc.ppp {
		if v, ok := pppTypes[num]; ok {
			num = v
		}
		return l.test(l.typeField(), 0xffffffff, cmpEQ, num)
	}
	if l.sc.link != packet.LinkEthernet {
		switch num {
		case 0x0800:
			return l.test(l.at(0, 1), 0xf0, cmpEQ, 0x40)
		case 0x86dd:
			return l.test(l.at(0, 1), 0xf0, cmpEQ, 0x60)
		}
		return condBool(false)
	}
	typ := l.typeField()
	is := func(v uint32) cond { return l.test(typ, 0xffffffff, cmpEQ, v) }
	length := condNot{l.test(typ, 0xffffffff, cmpGT, etherMTU)}
	llc := func(off uint32, size uint8, v uint32) cond {
		return l.test(l.at(l.sc.network+off, size), 0xffffffff, cmpEQ, v)
	}
	snap := func(oui, v uint32) cond {
		return condAnd{llc(4, 4, oui<<16|v), llc(0, 4, 0xaaaa0300|oui>>16)}
	}
	switch num {
	case 0xfe, 0x06, 0xf0: // ISO, IP, NetBEUI: the same SAP on both sides
		return condAnd{length, llc(0, 2, num<<8|num)}
	case 0xe0: // IPX in four encapsulations
		return condOr{is(0x8137), condAnd{length, condOr{snap(0, 0x8137), llc(0, 1, 0xe0), llc(0, 2, 0xffff)}}}
	case 0x809b: // AppleTalk, also in SNAP with Apple's OUI 08-00-07
		return condOr{is(num), condAnd{length, llc(4, 4, 0x0007809b), llc(0, 4, 0xaaaa0308)}}
	case 0x80f3:
		return condOr{is(num), condAnd{length, snap(0, num)}}
	}
	if num <= etherMTU {
		return condAnd{length, llc(0, 1, num)}
	}
	if !l.o.Strict && isTagType(num) {
		return l.tagType(num)
	}
	return is(num)
}

func isTagType(num uint32) bool {
	return num == tagTypes[0] || num == tagTypes[1] || num == tagTypes[2]
}

// tagType asks in tag-transparent mode for a tag of that type, at any depth, or for a third one.
func (l *lowerer) tagType(num uint32) cond {
	if l.compact {
		return l.fail(0, "", "the types of tags cannot be tested in a compact program")
	}
	if l.sc.geneve {
		return l.fail(0, "use inner(...)", "the types of tags behind geneve are tested in strict mode only")
	}
	c := condOr{}
	if l.meta {
		c = append(c, l.test(abs(ancVLANTPID, 4), 0xffffffff, cmpEQ, num))
	}
	for i := range l.tags + 1 {
		c = append(c, l.test(l.frame(12+4*uint32(i), 2), 0xffffffff, cmpEQ, num))
	}
	return c
}

// mplsPayload guesses what is behind the last label from the first nibble, as there is no type field.
func (l *lowerer) mplsPayload(num uint32, pos int) cond {
	bottom := l.test(l.at(l.sc.network-2, 1), 1, cmpEQ, 1)
	switch num {
	case 0x0800:
		return condAnd{bottom, l.test(l.at(l.sc.network, 1), 0xf0, cmpEQ, 0x40)}
	case 0x86dd:
		return condAnd{bottom, l.test(l.at(l.sc.network, 1), 0xf0, cmpEQ, 0x60)}
	}
	return l.fail(pos, "only ip and ip6 can be recognised behind a label", "this protocol cannot be recognised behind MPLS")
}

func (l *lowerer) vlan(v *filter.VLAN) cond {
	if l.sc.link != packet.LinkEthernet {
		return l.fail(v.Pos, "", "packets of a raw IP link have no VLAN tags")
	}
	if l.sc.labels > 0 {
		return l.fail(v.Pos, "write vlan before mpls", "a VLAN tag behind MPLS is not recognised")
	}
	if l.sc.ppp {
		return l.fail(v.Pos, "write vlan before pppoes", "a VLAN tag behind PPPoE is not recognised")
	}
	if !l.o.Strict {
		return l.vlanTransparent(v)
	}
	c := condAnd{l.hasFrame(), l.isTag(l.typeField())}
	if len(v.IDs) > 0 {
		c = append(c, l.vlanID(v, l.at(l.sc.network, 2)))
	}
	l.sc.linkType += 4
	l.sc.network += 4
	l.sc.vlans++
	return c
}

// vlanTransparent: the tags of this shape of frame are known; only the id is looked at.
func (l *lowerer) vlanTransparent(v *filter.VLAN) cond {
	if l.sc.geneve {
		return l.fail(v.Pos, "write inner(vlan ...)", "a VLAN tag behind geneve is recognised in strict mode only")
	}
	if l.compact {
		return l.fail(v.Pos, "", "tags cannot be tested in a compact program")
	}
	depth := l.sc.vlans
	if depth >= maxTags {
		return l.fail(v.Pos, "use the strict mode for more", "only %d nested VLAN tags are looked at", maxTags)
	}
	l.sc.vlans++
	total := l.tags
	if l.meta {
		total++
	}
	switch {
	case depth >= total:
		return condBool(false)
	case len(v.IDs) == 0:
		return condBool(true)
	case l.meta && depth == 0:
		return l.vlanID(v, abs(ancVLANTag, 4))
	case l.meta:
		depth--
	}
	return l.vlanID(v, l.frame(14+4*uint32(depth), 2))
}

// isTag holds if the EtherType is one of a VLAN tag.
func (l *lowerer) isTag(typ *expr) cond {
	var c condOr
	for _, t := range tagTypes {
		c = append(c, l.test(typ, 0xffffffff, cmpEQ, t))
	}
	return c
}

// vlanID tests the id in the tag's control information.
func (l *lowerer) vlanID(v *filter.VLAN, tci *expr) cond {
	var c condOr
	for _, r := range v.IDs {
		switch {
		case r.Lo == r.Hi:
			c = append(c, l.test(tci, 0x0fff, cmpEQ, uint32(r.Lo)))
		case r.Hi == 0x0fff:
			c = append(c, l.test(tci, 0x0fff, cmpGE, uint32(r.Lo)))
		default:
			c = append(c, condAnd{l.test(tci, 0x0fff, cmpGE, uint32(r.Lo)), condNot{l.test(tci, 0x0fff, cmpGT, uint32(r.Hi))}})
		}
	}
	return c
}

func (l *lowerer) mpls(m *filter.MPLS) cond {
	if l.sc.ppp {
		return l.fail(m.Pos, "", "MPLS behind PPPoE is not recognised")
	}
	if l.sc.link != packet.LinkEthernet {
		return l.fail(m.Pos, "", "packets of a raw IP link have no MPLS labels")
	}
	var c condAnd
	if l.sc.labels > 0 {
		c = condAnd{l.test(l.at(l.sc.network-2, 1), 1, cmpEQ, 0)} // not the bottom of the stack
	} else {
		c = condAnd{l.linkType(0x8847, m.Pos)}
	}
	if m.HasLabel {
		c = append(c, l.test(l.at(l.sc.network, 4), 0xfffff000, cmpEQ, m.Label<<12))
	}
	l.sc.network += 4
	l.sc.labels++
	return c
}

func (l *lowerer) pppoe(p *filter.PPPoE) cond {
	if p.Discovery {
		return l.linkType(0x8863, p.Pos)
	}
	if l.sc.ppp || l.sc.labels > 0 {
		return l.fail(p.Pos, "", "PPPoE behind MPLS or PPPoE is not recognised")
	}
	c := condAnd{l.linkType(0x8864, p.Pos)}
	if p.HasSession {
		c = append(c, l.test(l.at(l.sc.network, 4), 0xffff, cmpEQ, uint32(p.Session)))
	}
	l.sc.linkType, l.sc.typ = l.sc.network+6, l.sc.net
	l.sc.network += 8
	l.sc.ppp = true
	return c
}
