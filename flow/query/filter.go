// Package query asks questions of flow records: which ones a filter means, who has most of them, and how they lie in time.
//
// Runs in: tools
//
// A record with both directions is taken for two, one for each direction, in the counts of Top and Series, so that a source
// is always who sent the packets.
package query

import (
	"bytes"
	"fmt"

	"opentap/filter"
	"opentap/flow"
	"opentap/packet"
)

// Filter says whether a record is meant by a pcap-filter expression. It is immutable.
type Filter struct{ match func(r *flow.Record) bool }

// Match reports whether the filter means the record. Its directions are the record's: src is who sent the first packet.
func (f *Filter) Match(r *flow.Record) bool { return f == nil || f.match(r) }

// NewFilter makes a Filter of the part of the language that a record can answer: hosts, networks, ports, protocols, MAC
// addresses, VLANs, broadcast and multicast, with and, or and not. The error is a *filter.SyntaxError that points at what
// it cannot: packet octets, lengths, MPLS, PPPoE, tunnels, capture directions.
func NewFilter(expr string) (*Filter, error) {
	e, err := filter.Parse(expr)
	if err != nil {
		return nil, err
	}
	if e.Root == nil {
		return nil, nil
	}
	c := compiler{text: expr}
	match, _, err := c.compile(e.Root, 0)
	if err != nil {
		return nil, err
	}
	return &Filter{match}, nil
}

type compiler struct{ text string }

type matcher = func(r *flow.Record) bool

func (c *compiler) refuse(pos int, what string) error {
	return &filter.SyntaxError{
		Expr: c.text, Pos: pos, Msg: "a flow record does not know " + what,
		Hint: "hosts, networks, ports, protocols, MAC addresses and VLANs can be asked for",
	}
}

// compile makes the test of a node. tags is how many VLAN tags the terms to the left have looked at.
func (c *compiler) compile(n filter.Node, tags int) (matcher, int, error) {
	switch n := n.(type) {
	case *filter.And:
		var all []matcher
		for _, x := range n.Terms {
			m, t, err := c.compile(x, tags)
			if err != nil {
				return nil, 0, err
			}
			tags = t
			all = append(all, m)
		}
		return func(r *flow.Record) bool {
			for _, m := range all {
				if !m(r) {
					return false
				}
			}
			return true
		}, tags, nil
	case *filter.Or:
		var any []matcher
		deepest := tags
		for _, x := range n.Terms {
			m, t, err := c.compile(x, tags)
			if err != nil {
				return nil, 0, err
			}
			deepest = max(deepest, t)
			any = append(any, m)
		}
		return func(r *flow.Record) bool {
			for _, m := range any {
				if m(r) {
					return true
				}
			}
			return false
		}, deepest, nil
	case *filter.Not:
		m, t, err := c.compile(n.X, tags)
		if err != nil {
			return nil, 0, err
		}
		return func(r *flow.Record) bool { return !m(r) }, t, nil
	case *filter.Host:
		return host(n), tags, nil
	case *filter.MAC:
		return func(r *flow.Record) bool {
			return ends(n.Dir, r.SrcMAC == packet.MAC(n.Addr), r.DstMAC == packet.MAC(n.Addr))
		}, tags, nil
	case *filter.Port:
		return port(n), tags, nil
	case *filter.Proto:
		return proto(n), tags, nil
	case *filter.Cast:
		return cast(n), tags, nil
	case *filter.VLAN:
		if tags > 1 {
			return nil, 0, c.refuse(n.Pos, "a third VLAN tag")
		}
		return vlan(n, tags), tags + 1, nil
	case *filter.MPLS:
		return nil, 0, c.refuse(n.Pos, "MPLS labels")
	case *filter.PPPoE:
		return nil, 0, c.refuse(n.Pos, "PPPoE sessions")
	case *filter.Geneve:
		return nil, 0, c.refuse(n.Pos, "tunnels")
	case *filter.Inner:
		return nil, 0, c.refuse(n.Pos, "tunnels")
	case *filter.Bound:
		return nil, 0, c.refuse(n.Pos, "on which way a packet crossed the point")
	case *filter.Relation:
		return nil, 0, c.refuse(n.Pos, "octets and lengths of packets")
	}
	return nil, 0, c.refuse(0, fmt.Sprintf("this condition (%T)", n))
}

func ends(d filter.Dir, src, dst bool) bool {
	switch d {
	case filter.DirSrc:
		return src
	case filter.DirDst:
		return dst
	case filter.DirBoth:
		return src && dst
	}
	return src || dst
}

func host(n *filter.Host) matcher {
	version, from, size := uint8(4), 12, 4
	if n.V6 {
		version, from, size = 6, 0, 16
	}
	if n.Proto != filter.Any && n.Proto != filter.IP && n.Proto != filter.IP6 { // ARP: in no flow
		return func(*flow.Record) bool { return false }
	}
	is := func(a *[16]byte) bool {
		for i := range size {
			if a[from+i]&n.Mask[i] != n.Addr[i]&n.Mask[i] {
				return false
			}
		}
		return true
	}
	return func(r *flow.Record) bool { return r.Version == version && ends(n.Dir, is(&r.Src), is(&r.Dst)) }
}

func port(n *filter.Port) matcher {
	is := func(p uint16) bool { return p >= n.Lo && p <= n.Hi }
	return func(r *flow.Record) bool {
		switch {
		case r.PortsUnknown:
			return false
		case r.Proto == packet.ProtoTCP && (n.Proto == filter.Any || n.Proto == filter.TCP):
		case r.Proto == packet.ProtoUDP && (n.Proto == filter.Any || n.Proto == filter.UDP):
		case r.Proto == packet.ProtoSCTP && (n.Proto == filter.Any || n.Proto == filter.SCTP):
		default:
			return false
		}
		return ends(n.Dir, is(r.SrcPort), is(r.DstPort))
	}
}

func proto(n *filter.Proto) matcher {
	return func(r *flow.Record) bool {
		switch n.Layer {
		case filter.LayerAnyIP:
			return uint32(r.Proto) == n.Num
		case filter.LayerIPv4:
			return r.Version == 4 && uint32(r.Proto) == n.Num
		case filter.LayerIPv6:
			return r.Version == 6 && uint32(r.Proto) == n.Num
		}
		return n.Num == packet.EtherTypeIPv4 && r.Version == 4 || n.Num == packet.EtherTypeIPv6 && r.Version == 6
	}
}

func cast(n *filter.Cast) matcher {
	return func(r *flow.Record) bool {
		switch {
		case n.Proto == filter.IP:
			return r.Version == 4 && r.Dst[12] >= 224 && (n.Multicast || bytes.Equal(r.Dst[12:], []byte{255, 255, 255, 255}))
		case n.Proto == filter.IP6:
			return r.Version == 6 && r.Dst[0] == 0xff
		case n.Multicast:
			return r.DstMAC[0]&1 != 0
		}
		return r.DstMAC == packet.MAC{255, 255, 255, 255, 255, 255}
	}
}

func vlan(n *filter.VLAN, depth int) matcher {
	return func(r *flow.Record) bool {
		id := r.VLAN
		if depth == 1 {
			id = r.InnerVLAN
		}
		if len(n.IDs) == 0 {
			return id != 0
		}
		for _, v := range n.IDs {
			if id >= v.Lo && id <= v.Hi && id != 0 {
				return true
			}
		}
		return false
	}
}
