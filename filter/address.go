package filter

import (
	"encoding/binary"
	"strings"
)

// head reads qualifiers and the value after them: [src|dst] [host|net|port|portrange|proto] value.
func (p *parser) head(proto Protocol, pos int) operand {
	q := quals{proto: proto, kind: kDefault, pos: pos}
	if p.isWord(wSrc) || p.isWord(wDst) {
		first := p.tok.word.kind
		q.dir = DirSrc
		other := wDst
		if first == wDst {
			q.dir, other = DirDst, wSrc
		}
		p.advance()
		if (p.isOr() || p.isAnd()) && p.ahead.is(other) {
			q.dir = DirEither
			if p.isAnd() {
				q.dir = DirBoth
			}
			p.advance()
			p.advance()
		}
	}
	if p.tok.kind == tWord {
		kinds := map[wordKind]addrKind{wHost: kHost, wNet: kNet, wPort: kPort, wPortrange: kPortrange, wProtoNum: kProto}
		if k, ok := kinds[p.tok.word.kind]; ok {
			if k == kProto && q.dir != DirEither {
				p.fail(p.tok.pos, "", "a protocol has no direction")
			}
			q.kind = k
			p.advance()
		}
	}
	return operand{node: p.bareValue(q), q: q, pos: pos}
}

// bareValue reads the value that belongs to q: an address, a number, a name, or several of them in parentheses.
func (p *parser) bareValue(q quals) Node {
	if !p.enter() {
		return nil
	}
	defer p.leave()
	t := p.tok
	switch {
	case p.isNot():
		p.advance()
		return &Not{X: p.bareValue(q)}
	case p.isOp("("):
		p.advance()
		o := p.sequence(q)
		if p.err == nil && o.node != nil && !o.bare {
			p.fail(o.pos, "parentheses after a qualifier hold values only", "did not expect a condition here")
		}
		o = p.condition(o, q)
		if !p.isOp(")") {
			if p.tok.kind == tEOF {
				p.fail(p.tok.pos, "", "the parenthesis opened at character %d is not closed", t.pos+1)
			}
			p.unexpected()
		}
		p.advance()
		return o.node
	case t.kind == tNum:
		p.advance()
		return p.number(t.value, t.text, t.pos, q)
	case t.is(wConst):
		p.advance()
		return p.number(t.word.value, t.text, t.pos, q)
	case p.startsAddress():
		return p.address(q)
	case q.kind == kProto && t.is(wProto):
		// libpcap wants keywords escaped here (\tcp); without the backslash there is nothing else it could mean.
		p.advance()
		return p.protoName(t.text, t.pos, q)
	case q.kind == kDefault && t.kind == tOp:
		p.fail(t.pos, "", "an address must follow, not %s", t)
	case q.kind == kDefault && t.kind != tEOF, t.kind == tOp:
		p.unexpected()
	default:
		p.fail(t.pos, "", "a value must follow, not %s", t)
	}
	return nil
}

// number gives v the meaning that q says.
func (p *parser) number(v uint32, text string, pos int, q quals) Node {
	switch q.kind {
	case kUnset:
		p.fail(pos, "host, net, port or proto before it, or a comparison after it", "a number alone is no condition")
	case kDefault, kHost, kNet:
		mask := uint32(0xffffffff)
		if q.kind == kNet {
			for v != 0 && v&0xff000000 == 0 {
				v <<= 8
				mask <<= 8
			}
		}
		return p.host4(v, mask, pos, q)
	case kPort, kPortrange:
		if v > 65535 {
			p.fail(pos, "", "port %d is more than 65535", v)
			return nil
		}
		return p.port(uint16(v), uint16(v), q.proto, pos, q)
	case kProto:
		return p.protoNumber(v, pos, q)
	}
	return nil
}

// host4 makes an IPv4 condition after checking the protocol qualifier.
func (p *parser) host4(addr, mask uint32, pos int, q quals) Node {
	switch q.proto {
	case Any, IP, ARP, RARP:
	case Link:
		p.fail(pos, "ether host takes a MAC address; for IP leave ether away", "an IPv4 address is no Ethernet address")
		return nil
	case IP6:
		p.fail(pos, "write ip host, or host alone", "an IPv4 address is no IPv6 address")
		return nil
	default:
		p.fail(q.pos, "write "+q.proto.String()+" and host ...", "%s has ports, not addresses", q.proto)
		return nil
	}
	h := &Host{Pos: pos, Proto: q.proto, Dir: q.dir}
	binary.BigEndian.PutUint32(h.Addr[:4], addr)
	binary.BigEndian.PutUint32(h.Mask[:4], mask)
	return h
}

// port makes a port condition after checking the protocol qualifier.
func (p *parser) port(lo, hi uint16, proto Protocol, pos int, q quals) Node {
	switch q.proto {
	case Any, TCP, UDP, SCTP:
	default:
		p.fail(q.pos, "tcp, udp, sctp, or none of them", "%s has no ports", q.proto)
		return nil
	}
	if lo > hi {
		lo, hi = hi, lo
	}
	return &Port{Pos: pos, Proto: proto, Dir: q.dir, Lo: lo, Hi: hi, Range: q.kind == kPortrange}
}

// protoNumber makes a protocol condition after checking the protocol qualifier.
func (p *parser) protoNumber(v uint32, pos int, q quals) Node {
	layer := LayerAnyIP
	switch q.proto {
	case Any:
	case Link:
		layer = LayerLink
	case IP:
		layer = LayerIPv4
	case IP6:
		layer = LayerIPv6
	case ISO:
		if v > 255 {
			p.fail(pos, "", "protocol number %d is more than 255, so it never matches", v)
			return nil
		}
		return &OSI{Pos: pos, NLPID: uint8(v)}
	default:
		p.fail(q.pos, "ip proto, ip6 proto, ether proto or proto alone", "%s carries no protocol number", q.proto)
		return nil
	}
	limit := uint32(255)
	if layer == LayerLink {
		limit = 0xffff
	}
	if v > limit {
		p.fail(pos, "", "protocol number %d is more than %d, so it never matches", v, limit)
		return nil
	}
	return &Proto{Pos: pos, Layer: layer, Num: v}
}

// protoName looks a protocol's name up.
func (p *parser) protoName(name string, pos int, q quals) Node {
	table := ipNames
	if q.proto == Link {
		table = linkNames
	}
	v, ok := table[name]
	if o, is := osiWords[name]; q.proto == ISO {
		v, ok = uint32(o.NLPID), is && o.PDUs == nil
	}
	if !ok {
		p.fail(pos, "give its number", "unknown protocol %q", clip(name))
		return nil
	}
	return p.protoNumber(v, pos, q)
}

// address reads an address or a name, with what belongs to it (a mask).
func (p *parser) address(q quals) Node {
	t := p.tok
	p.advance()
	switch t.kind {
	case tNum:
		return p.number(t.value, t.text, t.pos, q)
	case tIP4:
		return p.ip4(t, q)
	case tIP6:
		return p.ip6(t, q)
	case tMAC:
		return p.mac(t, q)
	}
	switch q.kind {
	case kUnset:
		hint := didYouMean(t.text)
		if hint == "" {
			hint = "conditions begin with host, net, port, a protocol, vlan, len, not, ("
		}
		p.fail(t.pos, hint, "did not expect %s here", t)
	case kDefault, kHost:
		if strings.Trim(t.text, "0123456789.") == "" {
			p.fail(t.pos, "four numbers from 0 to 255", "%q is not an IPv4 address", clip(t.text))
			break
		}
		hint := "give the address; names are not looked up, for a filter must mean the same at all times"
		if q.kind == kDefault {
			if h := didYouMean(t.text); h != "" {
				hint = h
			}
		}
		p.fail(t.pos, hint, "%q is not an address", clip(t.text))
	case kNet:
		p.fail(t.pos, "give the network's address; names are not looked up", "%q is not a network", clip(t.text))
	case kPort:
		return p.portName(t, q)
	case kPortrange:
		return p.portRange(t, q)
	case kProto:
		return p.protoName(t.text, t.pos, q)
	}
	return nil
}

// ip4 reads a dotted address and the /len or mask after it.
func (p *parser) ip4(t token, q quals) Node {
	if q.kind != kDefault && q.kind != kHost && q.kind != kNet {
		p.misplaced(t, q)
		return nil
	}
	addr, bits, ok := p.dotted(t)
	if !ok {
		return nil
	}
	mask := uint32(0xffffffff) << (32 - bits)
	explicit := true
	switch {
	case p.isOp("/"):
		p.advance()
		n := p.tok
		if n.kind != tNum || n.value > 32 {
			p.fail(n.pos, "", "the prefix length of an IPv4 network is 0 to 32, not %s", n)
			return nil
		}
		p.advance()
		mask = uint32(uint64(0xffffffff) << (32 - n.value))
	case p.isWord(wMask):
		p.advance()
		m := p.tok
		if m.kind != tIP4 {
			p.fail(m.pos, "as in mask 255.255.0.0", "a mask must follow, not %s", m)
			return nil
		}
		p.advance()
		v, _, ok := p.dotted(m)
		if !ok {
			return nil
		}
		mask = v
	default:
		explicit = false
	}
	if explicit {
		if q.kind != kNet {
			p.fail(t.pos, "write net "+clip(t.text)+"/...", "a mask belongs to net, not to a host")
			return nil
		}
		if addr&^mask != 0 {
			p.fail(t.pos, "the address of a network ends in zeroes", "%s has bits set outside its mask", clip(t.text))
			return nil
		}
	}
	return p.host4(addr, mask, t.pos, q)
}

// dotted reads one to four decimal octets; missing ones are zero. bits is how many were given.
func (p *parser) dotted(t token) (addr uint32, bits int, ok bool) {
	pos := t.pos
	for part := range strings.SplitSeq(t.text, ".") {
		v := uint32(0)
		for i := range len(part) {
			if !isDigit(part[i]) {
				p.fail(pos, "parts of an address are decimal", "%q is not part of an IPv4 address", clip(part))
				return 0, 0, false
			}
			if v = v*10 + uint32(part[i]-'0'); v > 255 {
				p.fail(pos, "each part is 0 to 255", "%s is too large for a part of an IPv4 address", clip(part))
				return 0, 0, false
			}
		}
		addr = addr<<8 | v
		bits += 8
		pos += len(part) + 1
	}
	return addr << (32 - bits), bits, true
}

// ip6 reads an IPv6 address and the /len after it.
func (p *parser) ip6(t token, q quals) Node {
	if q.kind != kDefault && q.kind != kHost && q.kind != kNet {
		p.misplaced(t, q)
		return nil
	}
	switch q.proto {
	case Any, IP6:
	case IP, ARP, RARP:
		p.fail(t.pos, "write ip6 host, or host alone", "an IPv6 address does not occur in %s", q.proto)
		return nil
	case Link:
		p.fail(t.pos, "ether host takes a MAC address", "an IPv6 address is no Ethernet address")
		return nil
	default:
		p.fail(q.pos, "write "+q.proto.String()+" and host ...", "%s has ports, not addresses", q.proto)
		return nil
	}
	bits := uint32(128)
	if p.isOp("/") {
		p.advance()
		if p.tok.kind != tNum || p.tok.value > 128 {
			p.fail(p.tok.pos, "", "the prefix length of an IPv6 network is 0 to 128, not %s", p.tok)
			return nil
		}
		bits = p.tok.value
		p.advance()
		if q.kind != kNet {
			p.fail(t.pos, "write net "+clip(t.text)+"/...", "a mask belongs to net, not to a host")
			return nil
		}
	}
	h := &Host{Pos: t.pos, Proto: q.proto, Dir: q.dir, V6: true, Addr: t.addr}
	for i := range h.Mask {
		n := min(8, max(0, int(bits)-8*i))
		h.Mask[i] = byte(0xff << (8 - n))
		if h.Addr[i]&^h.Mask[i] != 0 {
			p.fail(t.pos, "the address of a network ends in zeroes", "%s has bits set outside its mask", clip(t.text))
			return nil
		}
	}
	return h
}

// mac makes an Ethernet address condition.
func (p *parser) mac(t token, q quals) Node {
	if q.proto != Link || q.kind != kDefault && q.kind != kHost {
		if q.kind == kUnset {
			p.misplaced(t, q)
		} else {
			p.fail(t.pos, "write ether host, ether src or ether dst before it", "an Ethernet address needs ether")
		}
		return nil
	}
	return &MAC{Pos: t.pos, Dir: q.dir, Addr: t.mac}
}

// misplaced complains about an address where none belongs.
func (p *parser) misplaced(t token, q quals) {
	switch q.kind {
	case kPort, kPortrange:
		p.fail(t.pos, "a port is a number from 0 to 65535 or a name", "%s is not a port", t)
	case kProto:
		p.fail(t.pos, "", "%s is not a protocol", t)
	default:
		p.fail(t.pos, "host, net or ether host before it", "an address alone is no condition")
	}
}
