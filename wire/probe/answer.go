package probe

import (
	"bytes"
	"fmt"
	"net/netip"

	"opentap/packet"
	"opentap/want"
)

// Answer is what a frame says of one of ours.
type Answer struct {
	Number  int // of the frame that it answers, from 0; negative with Ports of one and UDP, where it cannot be known
	Outcome string
	From    netip.Addr
	TTL     uint8
	Octets  int // of its IP packet
	Text    string
	MTU     int
	Damaged bool
}

// unknown is the number of a frame that an answer does not say.
const unknown = -1

// Read reads an answer. in is what was decoded of frame, which came to the device; frames is how many were sent so far. false: it answers
// none of them.
func (p *Plan) Read(frame []byte, in *packet.Parsed, frames int) (a Answer, ok bool) {
	if !in.IsIP() || in.L4Offset == 0 || in.Layers&packet.LayerFragment != 0 || in.DstAddr() != p.Src || !p.tagged(in) {
		return a, false
	}
	at := int(in.L4Offset)
	end := min(int(in.L3Offset)+int(in.IPOctets), len(frame))
	if at > end {
		return a, false
	}
	b := frame[at:end]
	a = Answer{From: in.SrcAddr(), TTL: in.TTL, Octets: int(in.IPOctets), Number: unknown}
	switch {
	case in.Proto == packet.ProtoICMP && p.Src.Is4(), in.Proto == packet.ProtoICMP6 && p.Src.Is6():
		if in.Layers&packet.LayerICMP == 0 || len(b) < 8 {
			return a, false
		}
		if p.Kind == want.ProbePing && (in.Proto == packet.ProtoICMP && b[0] == echoReply || in.Proto == packet.ProtoICMP6 && b[0] == echoReply6) {
			if b[1] != 0 || be.Uint16(b[4:]) != uint16(p.Token) || !p.from(a.From) {
				return a, false
			}
			a.Number, a.Outcome = int(be.Uint16(b[6:])), want.ProbeReply
			a.Damaged = !bytes.Equal(b[8:], p.Payload)
			return a, a.Number < frames
		}
		return p.readError(a, b, in.Proto, frames)
	case in.Proto == packet.ProtoUDP && p.Kind == want.ProbeUDP:
		if in.Layers&packet.LayerTransport == 0 || !p.from(a.From) || in.SrcPort != p.Port {
			return a, false
		}
		a.Outcome = want.ProbeReply
		a.Number, ok = p.byPort(in.DstPort, frames)
		return a, ok
	case in.Proto == packet.ProtoTCP && p.Kind == want.ProbeTCPSYN:
		if in.Layers&packet.LayerTCP == 0 || a.From != p.Dst || in.SrcPort != p.Port || len(b) < 20 {
			return a, false
		}
		switch flags := b[13]; {
		case flags&flagACK == 0: // whoever answers a SYN has seen its number
			return a, false
		case flags&flagRST != 0:
			a.Outcome = want.ProbeClosed
		case flags&flagSYN != 0:
			a.Outcome = want.ProbeOpen
		default:
			return a, false
		}
		a.Number, ok = p.bySequence(be.Uint32(b[8:])-1, in.DstPort, frames)
		return a, ok
	}
	return a, false
}

// tagged reports whether a frame has the tag that ours have.
func (p *Plan) tagged(in *packet.Parsed) bool {
	vlan := uint16(0)
	if in.Layers&packet.LayerVLAN != 0 && in.VLANCount > 0 {
		vlan = in.VLANs[0] & 0xfff
	}
	return vlan == p.VLAN
}

// from reports whether somebody can answer as the target: itself, or anybody of a group.
func (p *Plan) from(who netip.Addr) bool {
	return who == p.Dst || p.Dst.IsMulticast() || p.DstMAC[0]&1 != 0
}

// byPort is the frame that came from a port.
func (p *Plan) byPort(port uint16, frames int) (n int, ok bool) {
	if len(p.Ports) == 1 {
		if frames == 1 {
			return 0, p.Ports[0] == port
		}
		return unknown, p.Ports[0] == port && frames > 0
	}
	for n, have := range p.Ports[:min(frames, len(p.Ports))] {
		if have == port {
			return n, true
		}
	}
	return 0, false
}

// bySequence is the SYN with a sequence number from a port.
func (p *Plan) bySequence(seq uint32, port uint16, frames int) (n int, ok bool) {
	for n := range frames {
		if p.sourcePort(n) == port && p.first(n) == seq {
			return n, true
		}
	}
	return 0, false
}

// readError reads an ICMP error b, which repeats the begin of the packet that it is about.
func (p *Plan) readError(a Answer, b []byte, proto uint8, frames int) (Answer, bool) {
	typ, code := b[0], b[1]
	if proto == packet.ProtoICMP {
		a.Outcome, a.Text = errorWords(typ, code)
		if a.Outcome == want.ProbeTooBig {
			a.MTU = int(be.Uint16(b[6:])) // RFC 1191 section 4
		}
	} else {
		a.Outcome, a.Text = errorWords6(typ, code)
		if a.Outcome == want.ProbeTooBig {
			a.MTU = int(min(be.Uint32(b[4:]), 1<<20)) // RFC 4443 section 3.2
		}
	}
	if a.Outcome == "" {
		return a, false
	}
	var in packet.Parsed
	in.Decode(packet.LinkRaw, b[8:], uint32(len(b)-8))
	if !in.IsIP() || in.SrcAddr() != p.Src || in.DstAddr() != p.Dst || in.L4Offset == 0 || len(b) < 8+int(in.L4Offset)+8 {
		return a, false
	}
	l4 := b[8+int(in.L4Offset):]
	var ok bool
	switch {
	case p.Kind == want.ProbePing && (in.Proto == packet.ProtoICMP || in.Proto == packet.ProtoICMP6):
		if l4[0] != echoRequest && l4[0] != echoRequest6 || be.Uint16(l4[4:]) != uint16(p.Token) {
			return a, false
		}
		a.Number = int(be.Uint16(l4[6:]))
		ok = a.Number < frames
	case p.Kind == want.ProbeUDP && in.Proto == packet.ProtoUDP && be.Uint16(l4[2:]) == p.Port:
		if a.Number, ok = p.byPort(be.Uint16(l4), frames); ok && a.Number == unknown && p.Src.Is4() {
			if n := int(uint16(in.FragID) - uint16(p.Token>>16)); n < frames { // the identification says which
				a.Number = n
			}
		}
	case p.Kind == want.ProbeTCPSYN && in.Proto == packet.ProtoTCP && be.Uint16(l4[2:]) == p.Port:
		a.Number, ok = p.bySequence(be.Uint32(l4[4:]), be.Uint16(l4), frames)
	}
	return a, ok
}

// errorWords says what an ICMP error means: RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1. outcome "" = it is no error.
func errorWords(typ, code byte) (outcome, text string) {
	switch typ {
	case 3:
		words := []string{
			"network unreachable", "host unreachable", "protocol unreachable", "port unreachable: nobody listens there", "too big, and not to be fragmented",
			"source route failed", "destination network unknown", "destination host unknown", "source host isolated",
			"network administratively prohibited", "host administratively prohibited", "network unreachable for this type of service",
			"host unreachable for this type of service", "administratively prohibited: a filter stands in between", "host precedence violation", "precedence cut off",
		}
		if code == 4 {
			return want.ProbeTooBig, words[4]
		}
		if int(code) < len(words) {
			return want.ProbeUnreachable, words[code]
		}
		return want.ProbeUnreachable, fmt.Sprintf("unreachable, code %d", code)
	case 11:
		if code == 1 {
			return want.ProbeExpired, "fragments did not all come in time"
		}
		return want.ProbeExpired, "time to live exceeded on the way"
	case 12:
		return want.ProbeProblem, fmt.Sprintf("a header is wrong, code %d", code)
	}
	return "", ""
}

// errorWords6 is errorWords for ICMPv6: RFC 4443 section 3.
func errorWords6(typ, code byte) (outcome, text string) {
	switch typ {
	case 1:
		words := []string{
			"no route to the destination", "administratively prohibited: a filter stands in between", "beyond the scope of the source address", "address unreachable",
			"port unreachable: nobody listens there", "source address failed policy", "route to the destination is one that rejects",
		}
		if int(code) < len(words) {
			return want.ProbeUnreachable, words[code]
		}
		return want.ProbeUnreachable, fmt.Sprintf("unreachable, code %d", code)
	case 2:
		return want.ProbeTooBig, "too big for a link on the way"
	case 3:
		if code == 1 {
			return want.ProbeExpired, "fragments did not all come in time"
		}
		return want.ProbeExpired, "hop limit exceeded on the way"
	case 4:
		return want.ProbeProblem, fmt.Sprintf("a header is wrong, code %d", code)
	}
	return "", ""
}
