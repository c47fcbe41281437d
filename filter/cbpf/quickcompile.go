package cbpf

import (
	"encoding/binary"
	"errors"

	"opentap/filter"
	"opentap/packet"
)

// maxSteps bounds a matcher's steps; bigger filters are left to the interpreter.
const maxSteps = 8192

// errIndirect is for a filter that has no steps.
var errIndirect = errors.New("cannot be decided in steps")

// quickener makes steps. The last step of a condition is made first, so that each knows where it leads.
type quickener struct {
	o      Options
	steps  []quickStep
	vlans  int  // tags asked for, in tag-transparent mode
	useful bool // not only steps that the interpreter takes
}

func (c *quickener) add(s quickStep, t, f int16) (int16, error) {
	if len(c.steps) >= maxSteps {
		return 0, errIndirect
	}
	s.t, s.f = t, f
	c.useful = c.useful || s.op != quickProgram
	c.steps = append(c.steps, s)
	return int16(len(c.steps) - 1), nil
}

func either(b bool, t, f int16) int16 {
	if b {
		return t
	}
	return f
}

// build makes the steps of n that lead to t if it holds, else to f, and returns the first.
func (c *quickener) build(n filter.Node, t, f int16) (int16, error) {
	switch n := n.(type) {
	case *filter.And:
		return c.sequence(n.Terms, t, f, true)
	case *filter.Or:
		return c.sequence(n.Terms, t, f, false)
	case *filter.Not:
		start := c.vlans
		e, err := c.build(n.X, f, t)
		c.vlans = start
		return e, err
	case *filter.Host:
		return c.host(n, t, f)
	case *filter.MAC:
		return c.add(quickStep{op: quickMAC, dir: n.Dir, rare: &rare{mac: n.Addr}}, t, f)
	case *filter.Port:
		s := quickStep{op: quickPort, dir: n.Dir, lo: uint32(n.Lo), hi: uint32(n.Hi - n.Lo), set: map[filter.Protocol]uint8{filter.TCP: setTCP, filter.UDP: setUDP, filter.SCTP: setSCTP}[n.Proto]}
		if s.set == 0 {
			s.set = setTCP | setUDP | setSCTP
		}
		switch n.Dir {
		case filter.DirSrc:
			s.op = quickSrcPort
		case filter.DirDst:
			s.op = quickDstPort
		}
		return c.add(s, t, f)
	case *filter.Proto:
		return c.proto(n, t, f)
	case *filter.Cast:
		switch {
		case n.Proto == filter.IP:
			return c.add(quickStep{op: quickIPMulticast}, t, f)
		case n.Proto == filter.IP6:
			return c.add(quickStep{op: quickIP6Multicast}, t, f)
		case n.Multicast:
			return c.add(quickStep{op: quickEtherMulticast}, t, f)
		}
		return c.add(quickStep{op: quickMAC, dir: filter.DirDst, rare: &rare{mac: packet.MAC{255, 255, 255, 255, 255, 255}}}, t, f)
	case *filter.VLAN:
		if c.o.Strict { // it moves what is behind it
			return 0, errIndirect
		}
		c.vlans++
		return c.add(quickStep{op: quickVLAN, lo: uint32(c.vlans - 1), rare: &rare{vlan: n}}, t, f)
	case *filter.LLC, *filter.OSI: // no IP packets
		return f, nil
	case *filter.Relation:
		return c.relation(n, t, f)
	case *filter.Inner:
		return c.program(n, t, f)
	}
	return 0, errIndirect // MPLS, PPPoE and Geneve move what is behind them
}

// sequence builds terms. What is built first is tested last, so the tags asked for are counted in an order of their own.
func (c *quickener) sequence(terms []filter.Node, t, f int16, and bool) (int16, error) {
	at := make([]int, len(terms))
	deepest := c.vlans
	start := c.vlans
	for i, n := range terms {
		at[i] = start
		after := vlansAfter(n, start)
		deepest = max(deepest, after)
		if and {
			start = after
		}
	}
	entry := either(and, t, f)
	for i := len(terms) - 1; i >= 0; i-- {
		c.vlans = at[i]
		var err error
		if and {
			entry, err = c.build(terms[i], entry, f)
		} else {
			entry, err = c.build(terms[i], t, entry)
		}
		if err != nil {
			return 0, err
		}
	}
	c.vlans = deepest
	return entry, nil
}

// vlansAfter counts the tags that n moves the scope by.
func vlansAfter(n filter.Node, start int) int {
	end := start
	switch n := n.(type) {
	case *filter.VLAN:
		return start + 1
	case *filter.And:
		for _, t := range n.Terms {
			end = vlansAfter(t, end)
		}
	case *filter.Or:
		for _, t := range n.Terms {
			end = max(end, vlansAfter(t, start))
		}
	}
	return end
}

func (c *quickener) host(h *filter.Host, t, f int16) (int16, error) {
	if h.V6 {
		be := binary.BigEndian.Uint64
		return c.add(quickStep{op: quickHost6, dir: h.Dir, rare: &rare{wide: [4]uint64{be(h.Addr[:8]), be(h.Addr[8:]), be(h.Mask[:8]), be(h.Mask[8:])}}}, t, f)
	}
	if h.Proto != filter.Any && h.Proto != filter.IP { // ARP is no IP packet
		return f, nil
	}
	s := quickStep{op: quickHost4, dir: h.Dir, lo: binary.BigEndian.Uint32(h.Addr[:4]), hi: binary.BigEndian.Uint32(h.Mask[:4])}
	switch h.Dir {
	case filter.DirSrc:
		s.op = quickSrc4
	case filter.DirDst:
		s.op = quickDst4
	}
	return c.add(s, t, f)
}

func (c *quickener) proto(n *filter.Proto, t, f int16) (int16, error) {
	s := quickStep{op: quickProto, proto: uint8(n.Num), set: set4 | set6}
	switch n.Layer {
	case filter.LayerIPv4:
		s.set = set4
	case filter.LayerIPv6:
		s.set = set6
	case filter.LayerLink:
		switch n.Num {
		case packet.EtherTypeIPv4:
			return c.add(quickStep{op: quickFamily, set: set4}, t, f)
		case packet.EtherTypeIPv6:
			return c.add(quickStep{op: quickFamily, set: set6}, t, f)
		case packet.EtherTypeVLAN, packet.EtherTypeQinQ, packet.EtherTypeOldQ:
			return c.program(n, t, f)
		}
		return f, nil
	}
	return c.add(s, t, f)
}

// program leaves n to the interpreter.
func (c *quickener) program(n filter.Node, t, f int16) (int16, error) {
	m, err := interpreter(&filter.Expr{Root: n}, c.o)
	if err != nil {
		return 0, err
	}
	return c.add(quickStep{op: quickProgram, rare: &rare{program: m}}, t, f)
}

// relation decides comparisons of the length, or of octets at a fixed offset, with a number.
func (c *quickener) relation(r *filter.Relation, t, f int16) (int16, error) {
	k, ok := r.R.(*filter.Const)
	if !ok {
		return c.program(r, t, f)
	}
	s := quickStep{op: quickLength, rel: r.Op, lo: k.V, hi: 0xffffffff}
	x := r.L
	if b, ok := x.(*filter.Binary); ok && b.Op == filter.OpAnd {
		m, ok := b.R.(*filter.Const)
		if !ok {
			return c.program(r, t, f)
		}
		x, s.hi = b.L, m.V
	}
	switch x := x.(type) {
	case *filter.Len:
	case *filter.Load:
		i, ok := x.Index.(*filter.Const)
		if !ok || i.V > 32768 {
			return c.program(r, t, f)
		}
		s.off, s.size = uint16(i.V), x.Size
		switch x.Proto {
		case filter.IP, filter.IP6:
			s.op, s.set = quickLoadNetwork, set4
			if x.Proto == filter.IP6 {
				s.set = set6
			}
		case filter.TCP, filter.UDP, filter.SCTP, filter.ICMP, filter.IGMP, filter.IGRP, filter.PIM, filter.VRRP, filter.CARP:
			_, num, _ := x.Proto.Meaning()
			s.op, s.set, s.proto = quickLoadTransport, set4|setWhole, uint8(num)
		case filter.ICMP6:
			s.op, s.set, s.proto = quickLoadTransport, set6, 58
		default:
			return c.program(r, t, f)
		}
	default:
		return c.program(r, t, f)
	}
	return c.add(s, t, f)
}
