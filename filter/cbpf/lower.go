package cbpf

import (
	"encoding/binary"
	"fmt"

	"opentap/filter"
	"opentap/packet"
)

// EtherTypes that mark a VLAN tag, as libpcap has them.
var tagTypes = [...]uint32{0x8100, 0x88a8, 0x9100}

// maxTags is how many tags are looked through in tag-transparent mode.
const maxTags = 2

// etherMTU is the largest value of the type field that is a length (802.3).
const etherMTU = 1500

// scope says where the headers are for the next condition; vlan, mpls, pppoes and geneve move it.
type scope struct {
	link     packet.LinkType
	linkType uint32 // where the EtherType is
	network  uint32 // where the network header is
	start    uint8  // memory word to add to offsets from the start of the frame; 0 = none
	typ      uint8  // likewise to linkType
	net      uint8  // likewise to network
	geneve   bool   // behind geneve
	unset    bool   // geneve stands to the left, but it may not have held
	pos      int    // of that geneve
	vlans    int    // tags that were asked for
	labels   int    // MPLS entries that were asked for
	ppp      bool   // the type field is PPP's
}

// lowerer turns a tree into tests for one shape of frame.
type lowerer struct {
	g    *graph
	o    Options
	text string
	sc   scope
	meta bool // Kernel: the outermost tag is in the metadata
	tags int  // tag-transparent: tags in the octets
	err  error

	depth   int  // of inner(...)
	compact bool // tag-transparent: one way for all shapes, see compileCompact
}

// lowerAll builds the graph for all shapes of frame that the mode tells apart.
func lowerAll(g *graph, e *filter.Expr, o Options) (int32, error) {
	if e == nil || e.Root == nil {
		return nodeAccept, nil
	}
	shape := func(meta bool, tags int) (int32, error) {
		l := &lowerer{g: g, o: o, text: e.Text, meta: meta, tags: tags}
		l.sc.link = o.Link
		if o.Link == packet.LinkEthernet {
			l.sc.linkType, l.sc.network = 12+4*uint32(tags), 14+4*uint32(tags)
		}
		c := l.node(e.Root)
		if l.err != nil {
			return 0, l.err
		}
		return g.build(c, nodeAccept, nodeReject), nil
	}
	if o.Link != packet.LinkEthernet {
		return shape(false, 0)
	}
	var roots [2][maxTags + 1]int32
	for m := range roots {
		for n := range maxTags + 1 {
			if m == 1 && (o.Target != Kernel || n == maxTags) || n > 0 && o.Strict {
				continue
			}
			r, err := shape(m == 1, n)
			if err != nil {
				return 0, err
			}
			roots[m][n] = r
		}
	}
	root := [2]int32{}
	for m := range root {
		last := maxTags - m
		if o.Strict {
			last = 0
		}
		root[m] = roots[m][last]
		for n := last - 1; n >= 0; n-- {
			root[m] = g.tagged(12+4*uint32(n), root[m], roots[m][n])
		}
	}
	if o.Target != Kernel {
		return root[0], nil
	}
	present := g.compare(abs(ancVLANPresent, 4), 0xffffffff, cmpEQ, 0)
	return g.choose(present, root[0], root[1]), nil
}

// tagged goes to t if there is a VLAN tag at off, else to f.
func (g *graph) tagged(off uint32, t, f int32) int32 {
	if t == f {
		return t
	}
	for i := len(tagTypes) - 1; i >= 0; i-- {
		f = g.node(g.compare(abs(off, 2), 0xffffffff, cmpEQ, tagTypes[i]), t, f)
	}
	return f
}

// compare interns the test (x & mask) op k.
func (g *graph) compare(x *expr, mask uint32, op cmpOp, k uint32) int32 {
	return g.test(test{val: g.value(x, mask), rhs: -1, op: op, k: k})
}

func (l *lowerer) fail(pos int, hint, format string, args ...any) cond {
	if l.err == nil {
		l.err = &filter.SyntaxError{Expr: l.text, Pos: pos, Msg: fmt.Sprintf(format, args...), Hint: hint}
	}
	return condBool(false)
}

// test is (x & mask) op k as a condition; what is constant is decided here.
func (l *lowerer) test(x *expr, mask uint32, op cmpOp, k uint32) cond {
	if x.kind == xBin && x.op == aluAnd && x.b.kind == xConst {
		x, mask = x.a, mask&x.b.off
	}
	if x.kind == xConst {
		v := x.off & mask
		return condBool(op == cmpEQ && v == k || op == cmpGT && v > k || op == cmpGE && v >= k || op == cmpSet && v&k != 0)
	}
	return condTest(l.g.compare(x, mask, op, k))
}

// strictMeta says that the tag in the metadata must be seen as octets 12 to 15.
func (l *lowerer) strictMeta() bool { return l.meta && l.o.Strict && l.sc.net == 0 }

// reserve keeps memory words from w on from the arithmetic.
func (g *graph) reserve(w uint32) { g.words = min(g.words, w) }

// store puts x into a memory word.
func (l *lowerer) store(word uint32, x *expr) cond {
	l.g.reserve(word)
	return condStore(l.g.test(test{val: l.g.value(x, 0xffffffff), rhs: -1, op: cmpSto, k: word}))
}

// frame loads octets at an offset from the start of the frame.
func (l *lowerer) frame(off uint32, size uint8) *expr {
	l.known()
	if l.sc.start != 0 && off < beyond-64 {
		return &expr{kind: xSft, slot: l.sc.start, off: off, size: size}
	}
	return abs(off, size)
}

// typeField loads the EtherType.
func (l *lowerer) typeField() *expr {
	if l.known(); l.sc.typ != 0 {
		return &expr{kind: xSft, slot: l.sc.typ, off: l.sc.linkType, size: 2}
	}
	return l.at(l.sc.linkType, 2)
}

// known complains if the scope depends on whether a geneve held.
func (l *lowerer) known() {
	if l.sc.unset {
		l.fail(l.sc.pos, "write (geneve and ...) or ..., or use inner(...)",
			"a condition to the right of this geneve would not know whether it means the tunnel's payload or the outer packet")
	}
}

// at loads octets of the header area: offsets are those of the frame with all tags in it.
func (l *lowerer) at(off uint32, size uint8) *expr {
	l.known()
	if off >= beyond-64 {
		return abs(beyond, size)
	}
	if l.sc.net != 0 {
		return &expr{kind: xSft, slot: l.sc.net, off: off, size: size}
	}
	if !l.strictMeta() || off+uint32(size) <= 12 {
		return abs(off, size)
	}
	switch {
	case off >= 16:
		return abs(off-4, size)
	case off == 12 && size == 2:
		return abs(ancVLANTPID, 4)
	case off == 14 && size == 2:
		return abs(ancVLANTag, 4)
	}
	return joinOctets(size, func(i uint32) *expr {
		switch o := off + i; {
		case o < 12:
			return abs(o, 1)
		case o == 12:
			return combine(aluRsh, abs(ancVLANTPID, 4), constant(8))
		case o == 13:
			return combine(aluAnd, abs(ancVLANTPID, 4), constant(0xff))
		case o == 14:
			return combine(aluRsh, abs(ancVLANTag, 4), constant(8))
		case o == 15:
			return combine(aluAnd, abs(ancVLANTag, 4), constant(0xff))
		default:
			return abs(o-4, 1)
		}
	})
}

// joinOctets makes a number of octets that are not neighbours.
func joinOctets(size uint8, octet func(i uint32) *expr) *expr {
	x := octet(uint32(size) - 1)
	for i := int(size) - 2; i >= 0; i-- {
		x = combine(aluOr, combine(aluLsh, octet(uint32(i)), constant(8*uint32(int(size)-1-i))), x)
	}
	return x
}

// node lowers one condition.
func (l *lowerer) node(n filter.Node) cond {
	switch n := n.(type) {
	case *filter.And:
		c := make(condAnd, 0, len(n.Terms))
		for _, t := range n.Terms {
			c = append(c, l.node(t))
		}
		return c
	case *filter.Or:
		c := make(condOr, 0, len(n.Terms))
		start, deepest := l.sc, l.sc
		geneves := 0
		for _, t := range n.Terms {
			if !l.o.Strict {
				l.sc = start
			} else if l.sc.geneve && !start.geneve {
				l.sc.unset = true
			}
			c = append(c, l.node(t))
			if l.sc.geneve {
				geneves++
			}
			if l.sc.network > deepest.network || l.sc.vlans > deepest.vlans {
				deepest = l.sc
			}
		}
		switch {
		case l.o.Strict:
			l.sc.unset = l.sc.unset || l.sc.geneve && !start.geneve
		case geneves > 0 && !start.geneve:
			l.sc.unset = l.sc.unset || geneves < len(n.Terms)
		default:
			l.sc = deepest
		}
		return c
	case *filter.Not:
		start := l.sc
		c := condNot{l.node(n.X)}
		if !l.o.Strict {
			l.sc = start
		} else if l.sc.geneve && !start.geneve {
			l.sc.unset = true
		}
		return c
	case *filter.Geneve:
		return l.geneve(n)
	case *filter.Inner:
		return l.inner(n)
	case *filter.Bound:
		return l.bound(n)
	case *filter.LLC:
		return l.llc(n)
	case *filter.OSI:
		return l.osi(n)
	case *filter.Host:
		return l.host(n, n.Proto)
	case *filter.MAC:
		return l.mac(n)
	case *filter.Port:
		return condOr{l.port6(n), l.port4(n)}
	case *filter.Proto:
		return l.proto(n.Layer, n.Num, n.Pos)
	case *filter.Cast:
		return l.cast(n)
	case *filter.VLAN:
		return l.vlan(n)
	case *filter.MPLS:
		return l.mpls(n)
	case *filter.PPPoE:
		return l.pppoe(n)
	case *filter.Relation:
		return l.relation(n)
	}
	return l.fail(0, "", "condition %T is not supported", n)
}

// dirs combines the two directions as asked for.
func dirs(d filter.Dir, src, dst func() cond) cond {
	switch d {
	case filter.DirSrc:
		return src()
	case filter.DirDst:
		return dst()
	case filter.DirBoth:
		return condAnd{src(), dst()}
	}
	return condOr{src(), dst()}
}

func (l *lowerer) host(h *filter.Host, p filter.Protocol) cond {
	if h.V6 {
		side := func(off uint32) func() cond {
			return func() cond {
				c := condAnd{l.linkType(0x86dd, h.Pos)}
				for i := uint32(0); i < 16; i += 4 {
					c = append(c, l.test(l.at(l.sc.network+off+i, 4), binary.BigEndian.Uint32(h.Mask[i:]), cmpEQ,
						binary.BigEndian.Uint32(h.Addr[i:])))
				}
				return c
			}
		}
		return dirs(h.Dir, side(8), side(24))
	}
	if p == filter.Any {
		if l.sc.labels > 0 {
			return l.host(h, filter.IP)
		}
		return condOr{l.host(h, filter.IP), l.host(h, filter.ARP), l.host(h, filter.RARP)}
	}
	src, dst := uint32(12), uint32(16)
	if p != filter.IP {
		src, dst = 14, 24
	}
	_, etherType, _ := p.Meaning()
	side := func(off uint32) func() cond {
		return func() cond {
			return condAnd{l.linkType(etherType, h.Pos), l.test(l.at(l.sc.network+off, 4),
				binary.BigEndian.Uint32(h.Mask[:]), cmpEQ, binary.BigEndian.Uint32(h.Addr[:]))}
		}
	}
	return dirs(h.Dir, side(src), side(dst))
}

func (l *lowerer) mac(m *filter.MAC) cond {
	if l.sc.link != packet.LinkEthernet {
		return l.fail(m.Pos, "", "packets of a raw IP link have no Ethernet addresses")
	}
	side := func(off uint32) func() cond {
		return func() cond {
			return condAnd{
				l.test(l.frame(off+2, 4), 0xffffffff, cmpEQ, binary.BigEndian.Uint32(m.Addr[2:])),
				l.test(l.frame(off, 2), 0xffffffff, cmpEQ, uint32(binary.BigEndian.Uint16(m.Addr[:]))),
			}
		}
	}
	return condAnd{l.hasFrame(), dirs(m.Dir, side(6), side(0))}
}

// transports lists the protocol numbers that a port condition tests, in libpcap's order.
func transports(p filter.Protocol) []uint32 {
	switch p {
	case filter.TCP:
		return []uint32{6}
	case filter.UDP:
		return []uint32{17}
	case filter.SCTP:
		return []uint32{132}
	}
	return []uint32{132, 6, 17}
}

// portAtom tests one port, loaded by at.
func (l *lowerer) portAtom(p *filter.Port, at func(off uint32) *expr) func(off uint32) func() cond {
	return func(off uint32) func() cond {
		return func() cond {
			if p.Range {
				return condAnd{
					l.test(at(off), 0xffffffff, cmpGE, uint32(p.Lo)),
					condNot{l.test(at(off), 0xffffffff, cmpGT, uint32(p.Hi))},
				}
			}
			return l.test(at(off), 0xffffffff, cmpEQ, uint32(p.Lo))
		}
	}
}

func (l *lowerer) port4(p *filter.Port) cond {
	atom := l.portAtom(p, func(off uint32) *expr { return l.transport(nil, off, 2) })
	var c condOr
	for _, num := range transports(p.Proto) {
		c = append(c, condAnd{
			l.test(l.at(l.sc.network+9, 1), 0xffffffff, cmpEQ, num), l.firstFragment(), dirs(p.Dir, atom(0), atom(2)),
		})
	}
	return condAnd{l.linkType(0x0800, p.Pos), c}
}

func (l *lowerer) port6(p *filter.Port) cond {
	atom := l.portAtom(p, func(off uint32) *expr { return l.at(l.sc.network+40+off, 2) })
	var c condOr
	for _, num := range transports(p.Proto) {
		c = append(c, condAnd{l.test(l.at(l.sc.network+6, 1), 0xffffffff, cmpEQ, num), dirs(p.Dir, atom(0), atom(2))})
	}
	return condAnd{l.linkType(0x86dd, p.Pos), c}
}

// firstFragment holds for datagrams that are whole or the first fragment.
func (l *lowerer) firstFragment() cond {
	return condNot{l.test(l.at(l.sc.network+6, 2), 0xffffffff, cmpSet, 0x1fff)}
}

// transport loads octets behind the IPv4 header, whatever its length.
func (l *lowerer) transport(index *expr, off uint32, size uint8) *expr {
	base := l.sc.network
	if l.strictMeta() && base >= 16 {
		base -= 4
	}
	if off >= beyond-base-64 {
		off = beyond - base - 64
	}
	kind := xMSH
	if l.sc.net != 0 {
		kind = xSMH
	}
	l.known()
	return &expr{kind: kind, slot: l.sc.net, size: size, base: base, off: base + off, a: index}
}

func (l *lowerer) proto(layer filter.Layer, num uint32, pos int) cond {
	switch layer {
	case filter.LayerLink:
		return l.linkType(num, pos)
	case filter.LayerIPv4:
		return condAnd{l.linkType(0x0800, pos), l.test(l.at(l.sc.network+9, 1), 0xffffffff, cmpEQ, num)}
	case filter.LayerIPv6:
		next := func(off, v uint32) cond { return l.test(l.at(l.sc.network+off, 1), 0xffffffff, cmpEQ, v) }
		return condAnd{l.linkType(0x86dd, pos), condOr{next(6, num), condAnd{next(6, 44), next(40, num)}}}
	}
	return condOr{l.proto(filter.LayerIPv4, num, pos), l.proto(filter.LayerIPv6, num, pos)}
}

func (l *lowerer) cast(c *filter.Cast) cond {
	switch c.Proto {
	case filter.IP:
		return condAnd{l.linkType(0x0800, c.Pos), l.test(l.at(l.sc.network+16, 1), 0xffffffff, cmpGE, 224)}
	case filter.IP6:
		return condAnd{l.linkType(0x86dd, c.Pos), l.test(l.at(l.sc.network+24, 1), 0xffffffff, cmpEQ, 255)}
	}
	if l.sc.link != packet.LinkEthernet {
		return l.fail(c.Pos, "ip multicast and ip6 multicast work there", "packets of a raw IP link have no Ethernet addresses")
	}
	if c.Multicast {
		return condAnd{l.hasFrame(), l.test(l.frame(0, 1), 0xffffffff, cmpSet, 1)}
	}
	return condAnd{l.hasFrame(), l.test(l.frame(2, 4), 0xffffffff, cmpEQ, 0xffffffff), l.test(l.frame(0, 2), 0xffffffff, cmpEQ, 0xffff)}
}
