package index

import (
	"encoding/binary"

	"opentap/filter"
	"opentap/packet"
)

// Cond is what a packet that a filter selects necessarily is. A nil Cond demands nothing.
type Cond struct {
	all  bool // of keys and subs; else one of them
	keys []Key
	subs []*Cond
}

// Limits on how many keys a network or a range of ports is spelled out as.
const (
	maxHosts = 256
	maxPorts = 256
)

// Necessary derives the condition from a filter, as filter/cbpf compiles it for files: what it selects, in the mode that
// strict says, is in the blocks that the condition finds. nil: the filter says nothing that is indexed.
func Necessary(e *filter.Expr, link packet.LinkType, strict bool) *Cond {
	if e == nil || e.Root == nil || link != packet.LinkEthernet && link != packet.LinkRaw {
		return nil
	}
	d := deriver{strict: strict}
	return d.node(e.Root)
}

// deriver walks the tree in the order in which the compiler does, since vlan, mpls and pppoes move where later
// conditions look.
type deriver struct {
	strict bool
	moved  bool // behind a label or PPPoE, or in strict mode a tag
	ppp    bool
	tags   int
	lost   bool // where later conditions look is not known to be where such a frame has it
}

func anyOf(keys ...Key) *Cond { return &Cond{keys: keys} }

// both demands what is not nil of the given.
func both(conds ...*Cond) *Cond {
	c := &Cond{all: true}
	for _, s := range conds {
		if s != nil {
			c.subs = append(c.subs, s)
		}
	}
	switch len(c.subs) {
	case 0:
		return nil
	case 1:
		return c.subs[0]
	}
	return c
}

func either(conds ...*Cond) *Cond {
	c := &Cond{}
	for _, s := range conds {
		if s == nil {
			return nil
		}
		if !s.all && len(s.subs) == 0 {
			c.keys = append(c.keys, s.keys...)
		} else {
			c.subs = append(c.subs, s)
		}
	}
	return c
}

func (d *deriver) node(n filter.Node) *Cond {
	switch n := n.(type) {
	case *filter.And:
		var terms []*Cond
		for _, t := range n.Terms {
			terms = append(terms, d.node(t))
		}
		return both(terms...)
	case *filter.Or:
		start, moved := *d, false
		var terms []*Cond
		for _, t := range n.Terms {
			if !d.strict {
				*d = start
			} else if moved {
				d.lost = true
			}
			terms = append(terms, d.node(t))
			moved = moved || *d != start
		}
		*d = start
		d.lost = d.lost || moved
		return either(terms...)
	case *filter.Not:
		start := *d
		d.node(n.X)
		moved := *d != start
		*d = start
		d.lost = d.lost || moved
		return nil
	}
	lost := d.lost
	c, ok := d.leaf(n)
	if !ok {
		d.lost = true // a condition that is new here may look anywhere, and move those after it
	}
	if lost {
		return nil
	}
	return c
}

// leaf returns what one condition demands; false: it is not known here.
func (d *deriver) leaf(n filter.Node) (*Cond, bool) {
	switch n := n.(type) {
	case *filter.Host:
		return host(n), true
	case *filter.Port:
		return port(n), true
	case *filter.Proto:
		return d.proto(n.Layer, n.Num), true
	case *filter.VLAN:
		c := anyOf(KeyTagged())
		if len(n.IDs) > 0 {
			c = vlans(n.IDs)
		}
		if d.strict {
			if d.tags++; d.tags >= maxTags {
				d.lost = true
				return nil, true
			}
		}
		return c, true
	case *filter.MPLS:
		d.moved = true
		return anyOf(KeyType(0x8847)), true
	case *filter.PPPoE:
		if n.Discovery {
			return d.proto(filter.LayerLink, 0x8863), true
		}
		d.moved, d.ppp = true, true
		return anyOf(KeyType(0x8864)), true
	case *filter.Relation:
		return d.arith(n.L), true
	case *filter.Geneve:
		d.lost = true // what follows looks into the tunnel
		return both(anyOf(KeyPort(6081)), anyOf(KeyProto(17))), true
	case *filter.Cast, *filter.MAC, *filter.Inner, *filter.Bound, *filter.LLC, *filter.OSI:
		return nil, true
	}
	return nil, false
}

// arith is what the octets that a value is made of demand: the checks before them, as the compiler has them.
func (d *deriver) arith(a filter.Arith) *Cond {
	switch a := a.(type) {
	case *filter.Binary:
		return d.arith(a.L)
	case *filter.Load:
		if a.Proto == filter.Link || a.Proto == filter.Any {
			return nil
		}
		layer, num, ok := a.Proto.Meaning()
		if !ok || layer == filter.LayerLink {
			return nil
		}
		return anyOf(KeyProto(uint8(num)))
	}
	return nil
}

func (d *deriver) proto(l filter.Layer, num uint32) *Cond {
	switch l {
	case filter.LayerLink:
		ip := num == 0x0800 || num == 0x86dd
		if num <= 1535 || num > 0xffff || isTag(uint16(num)) || num == 0x809b || num == 0x80f3 || d.moved && !ip {
			return nil
		}
		return anyOf(KeyType(uint16(num)))
	case filter.LayerIPv4:
		return both(anyOf(KeyType(0x0800)), anyOf(KeyProto(uint8(num))))
	case filter.LayerIPv6:
		return both(anyOf(KeyType(0x86dd)), anyOf(KeyProto(uint8(num))))
	case filter.LayerAnyIP:
		return anyOf(KeyProto(uint8(num)))
	}
	return nil
}

// host spells out small networks; of larger ones it knows nothing.
func host(h *filter.Host) *Cond {
	size, word := 4, h.Addr[:4]
	if h.V6 {
		size, word = 16, h.Addr[:]
	}
	mask := binary.BigEndian.Uint32(h.Mask[size-4:])
	for _, m := range h.Mask[:size-4] {
		if m != 0xff {
			return nil
		}
	}
	if rest := ^mask; rest >= maxHosts || rest&(rest+1) != 0 { // the zeros are at the end
		return nil
	}
	c := &Cond{}
	addr := make([]byte, size)
	copy(addr, word)
	base := be.Uint32(addr[size-4:])
	for i := uint32(0); i <= ^mask; i++ {
		be.PutUint32(addr[size-4:], base|i)
		if h.V6 {
			c.keys = append(c.keys, KeyIPv6(addr))
		} else {
			c.keys = append(c.keys, KeyIPv4(base|i))
		}
	}
	return c
}

func vlans(ids []filter.VLANRange) *Cond {
	c := &Cond{}
	for _, r := range ids {
		if len(c.keys)+int(r.Hi)-int(r.Lo) >= maxPorts {
			return anyOf(KeyTagged())
		}
		for id := int(r.Lo); id <= int(r.Hi); id++ {
			c.keys = append(c.keys, KeyVLAN(uint16(id)))
		}
	}
	return c
}

func port(p *filter.Port) *Cond {
	c := &Cond{}
	switch p.Proto {
	case filter.Any:
	case filter.TCP, filter.UDP, filter.SCTP:
		_, num, _ := p.Proto.Meaning()
		c = anyOf(KeyProto(uint8(num)))
	default:
		return nil
	}
	proto := c
	if len(c.keys) == 0 {
		proto = anyOf(KeyProto(6), KeyProto(17), KeyProto(132))
	}
	if int(p.Hi)-int(p.Lo) >= maxPorts {
		return proto
	}
	ports := &Cond{}
	for i := int(p.Lo); i <= int(p.Hi); i++ {
		ports.keys = append(ports.keys, KeyPort(uint16(i)))
	}
	return both(ports, proto)
}

// Find returns the blocks of the part that can hold what the condition demands. c is not nil.
func (p *Part) Find(c *Cond) (Bitmap, error) {
	m, err := p.eval(c)
	if err != nil {
		return nil, err
	}
	if !p.looked {
		o := p.empty()
		if err := p.lookup(keyOpaque(), o); err != nil {
			return nil, err
		}
		p.looked = true
		if !o.Empty() {
			p.opaque = o
		}
	}
	for i := range p.opaque {
		m[i] |= p.opaque[i]
	}
	return m, nil
}

func (p *Part) eval(c *Cond) (Bitmap, error) {
	m := p.empty()
	if !c.all {
		for _, k := range c.keys {
			if err := p.lookup(k, m); err != nil {
				return nil, err
			}
		}
		for _, s := range c.subs {
			o, err := p.eval(s)
			if err != nil {
				return nil, err
			}
			for i := range m {
				m[i] |= o[i]
			}
		}
		return m, nil
	}
	for i := range m {
		m[i] = ^uint64(0)
	}
	if n := p.head.blocks & 63; n != 0 {
		m[len(m)-1] = 1<<n - 1
	}
	for _, s := range c.subs {
		o, err := p.eval(s)
		if err != nil {
			return nil, err
		}
		for i := range m {
			m[i] &= o[i]
		}
		if m.Empty() {
			break
		}
	}
	return m, nil
}
