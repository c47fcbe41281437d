package filter

import "strings"

// portName looks a port's name up. A name of one transport only means that one.
func (p *parser) portName(t token, q quals) Node {
	if strings.Contains(t.text, "-") {
		if _, _, ok := cutRange(t.text); ok {
			p.fail(t.pos, "write portrange "+clip(t.text), "%q is a range", clip(t.text))
			return nil
		}
	}
	s, ok := services[t.text]
	if !ok {
		p.fail(t.pos, "give its number", "unknown port name %q", clip(t.text))
		return nil
	}
	proto, ok := s.under(q.proto)
	if !ok {
		p.fail(t.pos, "give the number to ask for it anyway", "port %q is not a %s port", t.text, q.proto)
		return nil
	}
	return p.port(s.port, s.port, proto, t.pos, q)
}

// under is the transport meant by the name when the text says q.
func (s service) under(q Protocol) (Protocol, bool) {
	switch {
	case q == TCP:
		return TCP, s.tcp
	case q == UDP:
		return UDP, s.udp
	case q == SCTP:
		return SCTP, s.tcp && s.udp
	case q != Any, s.tcp && s.udp:
		return q, true
	case s.tcp:
		return TCP, true
	}
	return UDP, true
}

// cutRange splits lo-hi of numbers.
func cutRange(s string) (lo, hi uint32, ok bool) {
	a, b, found := strings.Cut(s, "-")
	if !found || a == "" || b == "" || strings.Trim(a+b, "0123456789") != "" {
		return 0, 0, false
	}
	for i := range len(a) {
		lo = min(lo*10+uint32(a[i]-'0'), 1<<20)
	}
	for i := range len(b) {
		hi = min(hi*10+uint32(b[i]-'0'), 1<<20)
	}
	return lo, hi, true
}

// portRange reads lo-hi, of numbers or names, or a single name.
func (p *parser) portRange(t token, q quals) Node {
	if lo, hi, ok := cutRange(t.text); ok {
		if lo > 65535 || hi > 65535 {
			p.fail(t.pos, "", "%s: a port is at most 65535", clip(t.text))
			return nil
		}
		return p.port(uint16(lo), uint16(hi), q.proto, t.pos, q)
	}
	if _, ok := services[t.text]; ok {
		return p.portName(t, q)
	}
	p.fail(t.pos, "as in portrange 6000-6008", "%q is not a range of ports", clip(t.text))
	return nil
}
