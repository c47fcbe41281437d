package cbpf

import (
	"errors"

	"opentap/filter"
	"opentap/packet"
)

// ErrNoDirection is wrapped by the *filter.SyntaxError for inbound and outbound where only the frame's octets are known.
var ErrNoDirection = errors.New("the direction of a stored packet is not known")

// maxInner bounds inner(inner(...)).
const maxInner = 2

// Numbers that mark tunnels.
const (
	portVXLAN      = 4789 // RFC 7348
	portVXLANLinux = 8472 // what Linux used before, and flannel does
	portGeneve     = 6081 // RFC 8926
	portGTPU       = 2152 // 3GPP TS 29.281
	protoGRE       = 47   // RFC 2784
	typeEthernet   = 0x6558
	typeERSPAN     = 0x88be
)

// tunnel reads headers behind one kind of IP header or, if word is not 0, from where that memory word says.
type tunnel struct {
	l    *lowerer
	v6   bool
	word uint8
}

// at loads octets at off + index from the start of the transport header.
func (t tunnel) at(index *expr, off uint32, size uint8) *expr {
	switch {
	case t.word != 0:
		return &expr{kind: xSft, slot: t.word, size: size, off: off, a: index}
	case !t.v6:
		return t.l.transport(index, off, size)
	case index == nil:
		return t.l.at(t.l.sc.network+40+off, size)
	}
	return t.l.networkLoad(index, 40+off, size)
}

func (t tunnel) is(off uint32, size uint8, mask, value uint32) cond {
	return t.l.test(t.at(nil, off, size), mask, cmpEQ, value)
}

// place computes off + index from the start of the transport header, as an offset in the octets.
func (t tunnel) place(index *expr, off uint32) *expr {
	if t.word != 0 {
		x := combine(aluAdd, &expr{kind: xMem, slot: t.word}, constant(off))
		if index != nil {
			x = combine(aluAdd, index, x)
		}
		return x
	}
	base := t.l.sc.network
	if t.l.strictMeta() && base >= 16 {
		base -= 4
	}
	var x *expr
	if t.v6 {
		x = constant(base + 40 + off)
	} else {
		x = combine(aluAdd, combine(aluLsh, combine(aluAnd, t.l.at(t.l.sc.network, 1), constant(15)), constant(2)), constant(base+off))
	}
	if index != nil {
		x = combine(aluAdd, index, x)
	}
	if w := t.l.sc.net; w != 0 {
		x = combine(aluAdd, x, &expr{kind: xMem, slot: w})
	}
	return x
}

// choose is yes if c holds, no otherwise.
func choose(c, yes, no cond) cond { return condIf{c: c, yes: yes, no: no} }

// times4 is a number of 32-bit words in octets.
func times4(x *expr) *expr { return combine(aluLsh, x, constant(2)) }

// inner holds if the payload of the outermost tunnel matches.
func (l *lowerer) inner(n *filter.Inner) cond {
	switch {
	case l.depth >= maxInner:
		return l.fail(n.Pos, "", "only %d tunnels inside one another are looked into", maxInner)
	case l.sc.geneve:
		return l.fail(n.Pos, "write inner(... and inner(...))", "geneve before it moves into the tunnel already")
	}
	word := uint8(innerWord - l.depth)
	ether, etherErr := l.payload(n.X, packet.LinkEthernet, word)
	raw, _ := l.payload(n.X, packet.LinkRaw, word) // what has no meaning there matches no bare IP packet
	switch {
	case l.err != nil:
		return condBool(false)
	case etherErr != nil:
		l.err = etherErr
		return condBool(false)
	}
	p := payloads{word: uint32(word), ether: shared(ether), raw: shared(raw)}
	// Behind the transport word the way is the same for all frames, so it is there once.
	t := tunnel{l: l, word: uint8(transportWord - l.depth)}
	udp, gre := shared(t.udp(p)), shared(t.gre(p))
	behind := func(v6 bool, proto uint32, whole cond) cond {
		at := l.store(uint32(t.word), tunnel{l: l, v6: v6}.place(nil, 0))
		next := func(n uint32) cond { return l.test(l.at(l.sc.network+proto, 1), 0xffffffff, cmpEQ, n) }
		return choose(next(17), condAnd{whole, at, udp}, condAnd{next(protoGRE), whole, at, gre})
	}
	return choose(l.linkType(0x0800, n.Pos), behind(false, 9, l.firstFragment()),
		condAnd{l.linkType(0x86dd, n.Pos), behind(true, 6, condBool(true))})
}

// payload lowers x for a payload that begins where the memory word says.
func (l *lowerer) payload(x filter.Node, link packet.LinkType, word uint8) (cond, error) {
	one := func(tags int) (cond, error) {
		in := &lowerer{g: l.g, o: l.o, text: l.text, tags: tags, depth: l.depth + 1, sc: scope{link: link, start: word, typ: word, net: word}}
		if link == packet.LinkEthernet {
			in.sc.linkType, in.sc.network = 12+4*uint32(tags), 14+4*uint32(tags)
		}
		c := in.node(x)
		if in.err != nil {
			return condBool(false), in.err
		}
		return shared(c), nil
	}
	if l.o.Strict || link != packet.LinkEthernet {
		return one(0)
	}
	c, err := one(maxTags)
	for n := maxTags - 1; n >= 0 && err == nil; n-- {
		var bare cond
		if bare, err = one(n); err == nil {
			c = condIf{l.isTag(&expr{kind: xSft, slot: word, off: 12 + 4*uint32(n), size: 2}), c, bare, true}
		}
	}
	return c, err
}

// payloads are the conditions on what a tunnel carries.
type payloads struct {
	word       uint32 // memory word for where it begins
	ether, raw cond
}

// put holds if the payload that begins at x matches. It must have an octet.
func (t tunnel) put(p payloads, x *expr, body cond) cond {
	first := &expr{kind: xSft, slot: uint8(p.word), size: 1}
	return condAnd{t.l.store(p.word, x), condTest(t.l.g.compare(first, 0xffffffff, cmpGE, 0)), body}
}

func (t tunnel) udp(p payloads) cond {
	port := func(n uint32) cond { return t.is(2, 2, 0xffffffff, n) }
	return choose(condOr{port(portVXLAN), port(portVXLANLinux)}, t.vxlan(p),
		choose(port(portGeneve), t.geneve(p), condAnd{port(portGTPU), t.gtpu(p)}))
}

// vxlan: RFC 7348 section 5. The flag I says that the VNI is valid.
func (t tunnel) vxlan(p payloads) cond {
	return condAnd{t.l.test(t.at(nil, 8, 1), 0xffffffff, cmpSet, 0x08), t.put(p, t.place(nil, 16), p.ether)}
}

// geneveOptions is the length of the options, RFC 8926 section 3.4.
func (t tunnel) geneveOptions() *expr {
	return times4(combine(aluAnd, t.at(nil, 8, 1), constant(0x3f)))
}

func (t tunnel) geneve(p payloads) cond {
	start := t.place(t.geneveOptions(), 16)
	ip := condOr{t.is(10, 2, 0xffffffff, 0x0800), t.is(10, 2, 0xffffffff, 0x86dd)}
	return condAnd{t.is(8, 1, 0xc0, 0), choose(t.is(10, 2, 0xffffffff, typeEthernet), t.put(p, start, p.ether), condAnd{ip, t.put(p, start, p.raw)})}
}

// gre: RFC 2784, RFC 2890: version 0 without source routes; each of checksum, key and sequence number is four octets.
// ERSPAN behind a sequence number has a header of eight octets (type II), else none (type I).
func (t tunnel) gre(p payloads) cond {
	flags := t.at(nil, 0, 1)
	bit := func(right, value uint32) *expr {
		return combine(aluAnd, combine(aluRsh, flags, constant(right)), constant(value))
	}
	length := combine(aluAdd, bit(5, 4), combine(aluAdd, bit(3, 4), bit(2, 4)))
	ip := condOr{t.is(2, 2, 0xffffffff, 0x0800), t.is(2, 2, 0xffffffff, 0x86dd)}
	span := combine(aluAdd, length, combine(aluAnd, combine(aluRsh, flags, constant(1)), constant(8)))
	return condAnd{t.is(0, 2, 0x4007, 0), choose(t.is(2, 2, 0xffffffff, typeEthernet), t.put(p, t.place(length, 4), p.ether),
		choose(ip, t.put(p, t.place(length, 4), p.raw), condAnd{t.is(2, 2, 0xffffffff, typeERSPAN), t.put(p, t.place(span, 4), p.ether)}))}
}

// gtpu: 3GPP TS 29.281 section 5: version 1, a G-PDU, with up to two extension headers.
func (t tunnel) gtpu(p payloads) cond {
	none := func(index *expr) cond { return t.l.test(t.at(index, 19, 1), 0xffffffff, cmpEQ, 0) } // no next extension header
	put := func(index *expr, off uint32) cond { return t.put(p, t.place(index, off), p.raw) }
	some := func(index *expr) cond { return condNot{t.l.test(index, 0xffffffff, cmpEQ, 0)} }
	first := t.at(nil, 20, 1) // the length of the extension header, in four octets
	one := times4(first)
	second := t.at(one, 20, 1)
	two := combine(aluAdd, one, times4(second))
	return condAnd{
		t.is(8, 1, 0xf0, 0x30), t.is(9, 1, 0xffffffff, 0xff),
		choose(t.is(8, 1, 7, 0), put(nil, 16),
			choose(condOr{t.is(8, 1, 4, 0), none(nil)}, put(nil, 20),
				condAnd{some(first), choose(none(one), put(one, 20), condAnd{some(second), none(two), put(two, 20)})})),
	}
}

// geneve tests for the tunnel, and moves the scope into it, as libpcap does: three memory words say where the frame, its
// EtherType and its network header are.
func (l *lowerer) geneve(n *filter.Geneve) cond {
	switch {
	case l.sc.geneve:
		return l.fail(n.Pos, "write inner(geneve) ... with inner for the tunnel in the tunnel", "geneve inside geneve is not recognised")
	case l.depth > 0:
		return l.fail(n.Pos, "write inner(... and inner(...))", "geneve inside inner(...) is not recognised")
	}
	port := &filter.Port{Pos: n.Pos, Proto: filter.UDP, Dir: filter.DirDst, Lo: portGeneve, Hi: portGeneve}
	side := func(t tunnel, ported cond) cond {
		c := condAnd{ported, t.is(8, 1, 0xc0, 0)}
		if n.HasVNI {
			c = append(c, t.is(12, 4, 0xffffff00, n.VNI<<8))
		}
		options := t.geneveOptions()
		words := func(typ *expr, network uint32) cond {
			return condAnd{l.store(geneveFrame, t.place(options, 16)), l.store(geneveLinkType, typ), l.store(geneveNetwork, t.place(options, network))}
		}
		ether := words(t.place(options, 28), 30)
		if !l.o.Strict {
			tag := func(off uint32) cond { return l.isTag(t.at(options, off, 2)) }
			ether = choose(tag(28), choose(tag(32), words(t.place(options, 36), 38), words(t.place(options, 32), 34)), ether)
		}
		return append(c, choose(t.is(10, 2, 0xffffffff, typeEthernet), ether, words(t.place(nil, 10), 16)))
	}
	c := condOr{side(tunnel{l: l}, l.port4(port)), side(tunnel{l: l, v6: true}, l.port6(port))}
	l.sc = scope{link: packet.LinkEthernet, start: geneveFrame, typ: geneveLinkType, net: geneveNetwork, geneve: true, pos: n.Pos}
	return c
}

// hasFrame holds unless geneve carries something else than an Ethernet frame.
func (l *lowerer) hasFrame() cond {
	if !l.sc.geneve {
		return condBool(true)
	}
	word := func(w uint8) int32 { return l.g.value(&expr{kind: xMem, slot: w}, 0xffffffff) }
	return condNot{condTest(l.g.test(test{val: word(l.sc.start), rhs: word(l.sc.net), op: cmpEQ}))}
}

// bound tests the direction, which only the kernel knows (SKF_AD_PKTTYPE; 4 is PACKET_OUTGOING, linux/if_packet.h).
func (l *lowerer) bound(n *filter.Bound) cond {
	if l.o.Target != Kernel {
		if l.err == nil {
			l.err = &filter.SyntaxError{
				Expr: l.text, Pos: n.Pos, Err: ErrNoDirection,
				Msg: "a stored packet does not tell its direction", Hint: "ask for it when the packets are captured",
			}
		}
		return condBool(false)
	}
	c := l.test(abs(ancPktType, 4), 0xffffffff, cmpEQ, 4)
	if n.Out {
		return c
	}
	return condNot{c}
}

// llc tests for an 802.2 header: a length, and not the IPX of old without one.
func (l *lowerer) llc(n *filter.LLC) cond {
	if l.sc.link != packet.LinkEthernet || l.sc.labels > 0 || l.sc.ppp {
		return l.fail(n.Pos, "", "there are no LLC headers here")
	}
	c := condAnd{condNot{l.test(l.typeField(), 0xffffffff, cmpGT, etherMTU)}, condNot{l.test(l.at(l.sc.network, 2), 0xffffffff, cmpEQ, 0xffff)}}
	if n.Mask != 0 {
		c = append(c, l.test(l.at(l.sc.network+2, 1), uint32(n.Mask), cmpEQ, uint32(n.Value)))
	}
	return c
}

// osi tests the network layer protocol identifier and the type of an IS-IS PDU.
func (l *lowerer) osi(n *filter.OSI) cond {
	if l.sc.labels > 0 || l.sc.ppp {
		return l.fail(n.Pos, "", "OSI protocols behind MPLS or PPPoE are not recognised")
	}
	c := condAnd{l.linkType(0xfe, n.Pos), l.test(l.at(l.sc.network+3, 1), 0xffffffff, cmpEQ, uint32(n.NLPID))}
	if len(n.PDUs) > 0 {
		var pdus condOr
		for _, v := range n.PDUs {
			pdus = append(pdus, l.test(l.at(l.sc.network+7, 1), 0xffffffff, cmpEQ, uint32(v)))
		}
		c = append(c, pdus)
	}
	return c
}
