package fabric

import (
	"errors"
	"fmt"
	"math/bits"

	"opentap/fault"
	"opentap/filter"
	"opentap/want"
	"opentap/wire/of13"
)

// clause is a condition and what holds where it is the first that matches.
type clause struct {
	match of13.Match
	yes   bool
}

// decision is clauses in order; the last matches everything. It is what an OpenFlow table is: the first rule that matches
// decides. Two decisions combine to one by the product of their clauses in lexicographic order: the first pair that matches a packet is
// the pair of the first ones that match.
type decision []clause

// maxClauses bounds a decision: it becomes as many rules.
const maxClauses = 1024

var errTooMany = fmt.Errorf("it would take more than %d rules", maxClauses)

func whole(yes bool) decision { return decision{{yes: yes}} }

// anyOf holds for what one of the matches does.
func anyOf(matches ...of13.Match) decision {
	d := make(decision, 0, len(matches)+1)
	for _, m := range matches {
		d = append(d, clause{m, true})
	}
	return append(d, clause{yes: false})
}

// not turns the decision round.
func (d decision) not() decision {
	out := make(decision, len(d))
	for i, c := range d {
		out[i] = clause{c.match, !c.yes}
	}
	return out
}

// combine makes the decision that op makes of both verdicts.
func combine(a, b decision, op func(x, y bool) bool) (decision, error) {
	var out decision
	for _, x := range a {
		for _, y := range b {
			if m, ok := x.match.And(y.match); ok {
				if len(out) >= 2*maxClauses {
					return nil, errTooMany
				}
				out = append(out, clause{m, op(x.yes, y.yes)})
			}
		}
	}
	out = simplify(out, func(c clause) of13.Match { return c.match }, func(x, y clause) bool { return x.yes == y.yes })
	if len(out) > maxClauses {
		return nil, errTooMany
	}
	return out, nil
}

// simplify leaves out what never decides, and what decides as a later one would.
func simplify[T any](list []T, match func(T) of13.Match, same func(x, y T) bool) []T {
	// Those before it cover it whole.
	kept := list[:0:0]
next:
	for _, c := range list {
		for _, k := range kept {
			if match(k).Covers(match(c)) {
				continue next
			}
		}
		kept = append(kept, c)
	}
	// One after it covers it whole with the same verdict, and none between decides otherwise for any of it.
	out := kept[:0:0]
	drop := make([]bool, len(kept))
	for i := len(kept) - 2; i >= 0; i-- {
		for j := i + 1; j < len(kept); j++ {
			if drop[j] || !match(kept[i]).Overlaps(match(kept[j])) {
				continue
			}
			if !same(kept[i], kept[j]) {
				break
			}
			if match(kept[j]).Covers(match(kept[i])) {
				drop[i] = true
				break
			}
		}
	}
	for i, c := range kept {
		if !drop[i] {
			out = append(out, c)
		}
	}
	return out
}

// lowerText turns a filter expression into a decision; what no OpenFlow switch can match is *fault.Error Unsupported.
func lowerText(text string) (decision, error) {
	if text == "" {
		return whole(true), nil
	}
	e, err := filter.Parse(text)
	if err != nil {
		var syntax *filter.SyntaxError
		f := &fault.Error{Kind: fault.Invalid, Field: "filter", Msg: err.Error()}
		if errors.As(err, &syntax) {
			f.Msg, f.Hint, f.Pos = syntax.Msg, syntax.Hint, syntax.Pos+1
		}
		return nil, f
	}
	if e.Root == nil {
		return whole(true), nil
	}
	d, err := lower(e.Root)
	if err == nil {
		return d, nil
	}
	f := &fault.Error{
		Kind: fault.Unsupported, Field: "filter", Msg: "the switches cannot match this: " + err.Error(),
		Hint: "use addresses, ports, protocols and VLAN ids; where a delivery port leads to a host (leads_to), its agent can filter the rest",
	}
	var at *cannot
	if errors.As(err, &at) {
		f.Pos = at.pos + 1
	}
	return nil, f
}

// Weight is how many rules a policy takes at a port by itself.
func (l *Layout) Weight(p *want.FabricPolicy) int {
	d, _, err := l.lowered(p)
	if err != nil {
		return 0
	}
	return len(d)
}

// Split says which part of a policy's filter is where; "" = the switches match all of it.
func (l *Layout) Split(p *want.FabricPolicy) string {
	_, split, _ := l.lowered(p)
	return split
}

// cannot is a condition that OpenFlow does not have.
type cannot struct {
	pos int
	why string
}

func (c *cannot) Error() string { return c.why }

const (
	etherIPv4 = 0x0800
	etherARP  = 0x0806
	etherIPv6 = 0x86dd
)

func ether(t uint64) of13.Match { return of13.Uint(of13.EthType, t) }

// and joins conditions that do not contradict each other.
func and(first of13.Match, rest ...of13.Match) of13.Match {
	for _, m := range rest {
		first, _ = first.And(m)
	}
	return first
}

func lower(n filter.Node) (decision, error) {
	switch n := n.(type) {
	case *filter.And:
		return fold(n.Terms, true, func(x, y bool) bool { return x && y })
	case *filter.Or:
		return fold(n.Terms, false, func(x, y bool) bool { return x || y })
	case *filter.Not:
		d, err := lower(n.X)
		return d.not(), err
	case *filter.Host:
		return lowerHost(n)
	case *filter.MAC:
		m := func(f of13.Field) of13.Match { return of13.Octets(f, n.Addr[:], nil) }
		return ends(n.Dir, m(of13.EthSrc), m(of13.EthDst)), nil
	case *filter.Port:
		return lowerPort(n)
	case *filter.Proto:
		return lowerProto(n)
	case *filter.Cast:
		switch {
		case !n.Multicast:
			return anyOf(of13.UintMask(of13.EthDst, 0xffffffffffff, 0xffffffffffff)), nil
		case n.Proto == filter.IP:
			return anyOf(and(ether(etherIPv4), of13.UintMask(of13.IPv4Dst, 0xe0000000, 0xe0000000))), nil
		case n.Proto == filter.IP6:
			return anyOf(and(ether(etherIPv6), of13.Octets(of13.IPv6Dst, []byte{0xff}, []byte{0xff}))), nil
		}
		return anyOf(of13.UintMask(of13.EthDst, 1<<40, 1<<40)), nil
	case *filter.VLAN:
		if len(n.IDs) == 0 {
			return anyOf(of13.UintMask(of13.VLANVID, of13.VLANPresent, of13.VLANPresent)), nil
		}
		var all []of13.Match
		for _, r := range n.IDs {
			for _, p := range prefixes(r.Lo, r.Hi, 12) {
				all = append(all, of13.UintMask(of13.VLANVID, uint64(p.value)|of13.VLANPresent, uint64(p.mask&0xfff)|of13.VLANPresent))
			}
		}
		return anyOf(all...), nil
	case *filter.MPLS:
		return nil, &cannot{n.Pos, "mpls: what is behind a label stack is not seen"}
	case *filter.PPPoE:
		return nil, &cannot{n.Pos, "pppoe sessions"}
	case *filter.Geneve:
		return nil, &cannot{n.Pos, "what a tunnel carries"}
	case *filter.Inner:
		return nil, &cannot{n.Pos, "what a tunnel carries"}
	case *filter.Bound:
		return nil, &cannot{n.Pos, "inbound and outbound: say direction: both, or ingress"}
	case *filter.Relation:
		return lowerRelation(n)
	}
	return nil, &cannot{0, "LLC and OSI conditions"}
}

// fold combines all terms.
func fold(terms []filter.Node, start bool, op func(x, y bool) bool) (decision, error) {
	d := whole(start)
	tags := 0
	for _, t := range terms {
		if start && hasVLAN(t) {
			if tags++; tags > 1 {
				return nil, &cannot{vlanPos(t), "a second VLAN tag"}
			}
		}
		x, err := lower(t)
		if err != nil {
			return nil, err
		}
		if d, err = combine(d, x, op); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func hasVLAN(n filter.Node) bool { return vlanPos(n) >= 0 }

// vlanPos is where the tree speaks of a tag first; -1 = nowhere.
func vlanPos(n filter.Node) int {
	switch n := n.(type) {
	case *filter.VLAN:
		return n.Pos
	case *filter.Not:
		return vlanPos(n.X)
	case *filter.And:
		for _, t := range n.Terms {
			if p := vlanPos(t); p >= 0 {
				return p
			}
		}
	case *filter.Or:
		for _, t := range n.Terms {
			if p := vlanPos(t); p >= 0 {
				return p
			}
		}
	}
	return -1
}

// ends makes the decision for one of the two ends of a packet, either, or both.
func ends(d filter.Dir, src, dst of13.Match) decision {
	switch d {
	case filter.DirSrc:
		return anyOf(src)
	case filter.DirDst:
		return anyOf(dst)
	case filter.DirBoth:
		if m, ok := src.And(dst); ok {
			return anyOf(m)
		}
		return whole(false)
	case filter.DirEither:
	}
	return anyOf(src, dst)
}

func either(a, b decision) decision {
	d, _ := combine(a, b, func(x, y bool) bool { return x || y }) // both are small
	return d
}

func lowerHost(n *filter.Host) (decision, error) {
	at := func(t uint64, src, dst of13.Field, octets int) decision {
		m := func(f of13.Field) of13.Match {
			return and(ether(t), of13.Octets(f, n.Addr[:octets], n.Mask[:octets]))
		}
		return ends(n.Dir, m(src), m(dst))
	}
	switch {
	case n.V6:
		return at(etherIPv6, of13.IPv6Src, of13.IPv6Dst, 16), nil
	case n.Proto == filter.RARP:
		return nil, &cannot{n.Pos, "addresses in reverse ARP"}
	case n.Proto == filter.ARP:
		return at(etherARP, of13.ARPSPA, of13.ARPTPA, 4), nil
	case n.Proto == filter.IP:
		return at(etherIPv4, of13.IPv4Src, of13.IPv4Dst, 4), nil
	}
	return either(at(etherIPv4, of13.IPv4Src, of13.IPv4Dst, 4), at(etherARP, of13.ARPSPA, of13.ARPTPA, 4)), nil
}

// transports are the protocols with ports.
var transports = [...]struct {
	proto    filter.Protocol
	number   uint64
	src, dst of13.Field
}{
	{filter.TCP, 6, of13.TCPSrc, of13.TCPDst}, {filter.UDP, 17, of13.UDPSrc, of13.UDPDst}, {filter.SCTP, 132, of13.SCTPSrc, of13.SCTPDst},
}

func lowerPort(n *filter.Port) (decision, error) {
	var all []of13.Match
	for _, t := range transports {
		if n.Proto != filter.Any && n.Proto != t.proto {
			continue
		}
		for _, e := range [...]uint64{etherIPv4, etherIPv6} {
			head := and(ether(e), of13.Uint(of13.IPProto, t.number))
			var src, dst []of13.Match
			for _, p := range prefixes(n.Lo, n.Hi, 16) {
				src = append(src, of13.UintMask(t.src, uint64(p.value), uint64(p.mask)))
				dst = append(dst, of13.UintMask(t.dst, uint64(p.value), uint64(p.mask)))
			}
			switch n.Dir {
			case filter.DirBoth:
				for _, s := range src {
					for _, d := range dst {
						all = append(all, and(head, s, d))
					}
				}
				continue
			case filter.DirSrc:
				dst = nil
			case filter.DirDst:
				src = nil
			case filter.DirEither:
			}
			for _, m := range append(src, dst...) {
				all = append(all, and(head, m))
			}
		}
	}
	if len(all) > maxClauses {
		return nil, errTooMany
	}
	return anyOf(all...), nil
}

func lowerProto(n *filter.Proto) (decision, error) {
	over := func(types ...uint64) decision {
		var all []of13.Match
		for _, t := range types {
			all = append(all, and(ether(t), of13.Uint(of13.IPProto, uint64(n.Num))))
		}
		return anyOf(all...)
	}
	switch n.Layer {
	case filter.LayerLink:
		if n.Num < 0x600 {
			return nil, &cannot{n.Pos, "frames without an EtherType"}
		}
		switch n.Num {
		case 0x8100, 0x88a8, 0x9100:
			return nil, &cannot{n.Pos, "a tag as an EtherType: say vlan"}
		}
		return anyOf(ether(uint64(n.Num))), nil
	case filter.LayerIPv4:
		return over(etherIPv4), nil
	case filter.LayerIPv6:
		return over(etherIPv6), nil
	case filter.LayerAnyIP:
	}
	return over(etherIPv4, etherIPv6), nil
}

// lowerRelation knows the one relation that OpenFlow has a field for: an ICMP type or code equal to a number.
func lowerRelation(n *filter.Relation) (decision, error) {
	load, ok1 := n.L.(*filter.Load)
	value, ok2 := n.R.(*filter.Const)
	if ok1 && ok2 && load.Proto == filter.ICMP && load.Size == 1 && value.V <= 0xff && (n.Op == filter.RelEQ || n.Op == filter.RelNE) {
		if index, ok := load.Index.(*filter.Const); ok && index.V <= 1 {
			f := [...]of13.Field{of13.ICMPType, of13.ICMPCode}[index.V]
			icmp := and(ether(etherIPv4), of13.Uint(of13.IPProto, 1))
			m := and(icmp, of13.Uint(f, uint64(value.V)))
			if n.Op == filter.RelEQ {
				return anyOf(m), nil
			}
			return decision{{m, false}, {icmp, true}, {}}, nil
		}
	}
	return nil, &cannot{n.Pos, "computed conditions on octets or lengths"}
}

// prefixed is the numbers that agree with value where mask has bits.
type prefixed struct{ value, mask uint16 }

// prefixes splits lo to hi, inclusive, of numbers with so many bits, into the fewest blocks.
func prefixes(lo, hi uint16, width int) []prefixed {
	var out []prefixed
	end := uint32(1) << width
	for n := uint32(lo); n <= uint32(hi) && n < end; {
		size := end
		if n != 0 {
			size = 1 << bits.TrailingZeros32(n)
		}
		for n+size-1 > uint32(hi) {
			size /= 2
		}
		out = append(out, prefixed{uint16(n), uint16(end-1) &^ uint16(size-1)})
		n += size
	}
	return out
}
