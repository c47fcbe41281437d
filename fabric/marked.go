package fabric

import (
	"bytes"
	"crypto/hmac"
	"encoding/binary"

	"opentap/wire/of13"
)

// Mark is the number of a probe; its frames carry it in their source address.
type Mark uint16

// address is the probe's source address: ours, and told apart from discovery by its fourth octet.
func (m Mark) address() [6]byte {
	return [6]byte{ourMAC[0], ourMAC[1], ourMAC[2], 0xff, byte(m >> 8), byte(m)}
}

// probeType is the EtherType of probe frames: local experimental (IEEE 802, 0x88b5).
const probeType = 0x88b5

var probeWord = []byte("OTPB")

// Probe makes the frame of a probe.
func (s Seal) Probe(m Mark) []byte {
	a := m.address()
	b := append([]byte{ourMAC[0], ourMAC[1], ourMAC[2], 0xfe, 0, 1}, a[:]...)
	b = binary.BigEndian.AppendUint16(b, probeType)
	b = append(b, probeWord...)
	b = append(b, s.sum([]byte("opentap probe"), a[:])...)
	for len(b) < 60 {
		b = append(b, 0)
	}
	return b
}

// Probed reads a probe frame, with a tag or without.
func (s Seal) Probed(frame []byte) (Mark, bool) {
	if len(frame) >= 18 && frame[12] == 0x81 && frame[13] == 0 {
		frame = append(append([]byte(nil), frame[:12]...), frame[16:]...)
	}
	if len(frame) < 14+4+sealOctets || binary.BigEndian.Uint16(frame[12:]) != probeType || !bytes.Equal(frame[14:18], probeWord) {
		return 0, false
	}
	m := Mark(binary.BigEndian.Uint16(frame[10:]))
	a := m.address()
	ok := bytes.Equal(frame[6:12], a[:]) && hmac.Equal(s.sum([]byte("opentap probe"), a[:]), frame[18:18+sealOctets])
	return m, ok
}

// ProbeRules are the rules that lead a probe along a path, by switch: with the same tag over the same cables and groups as
// copies, and at every switch to the controller too, but to no tool and out of no filter port. A frame that comes to any other place is reported
// from there.
func (l *Layout) ProbeRules(p *Path, m Mark) map[uint64][]*Rule {
	a := m.address()
	from := of13.Octets(of13.EthSrc, a[:], nil)
	tell := of13.Output{Port: of13.PortController, MaxLen: of13.ToControllerIn}
	out := make(map[uint64][]*Rule)
	for _, dpid := range l.switches {
		out[dpid] = append(out[dpid], rule(kindProbe, prioProbe, from, "a probe that has lost its way", tell))
	}
	first := []of13.Action{tell}
	if len(p.Hops) > 0 {
		first = []of13.Action{of13.PushVLAN{EtherType: 0x8100}, of13.SetVLAN(p.Tag), p.Hops[0].Step}
	}
	start, _ := from.And(inPort(p.From.Port))
	out[p.From.Switch] = append(out[p.From.Switch], rule(kindProbe, prioProbe+1, start, "a probe begins", first...))
	for i, h := range p.Hops {
		do := []of13.Action{tell}
		if i+1 < len(p.Hops) {
			do = append(do, p.Hops[i+1].Step)
		}
		for _, r := range h.Rules {
			at, _ := r.Match.And(from)
			out[h.Switch] = append(out[h.Switch], rule(kindProbe, prioProbe+1, at, "a probe passes", do...))
		}
	}
	return out
}

// ForgetProbes is the message that takes all probe rules out of a switch.
func ForgetProbes() of13.Message {
	return &of13.FlowMod{
		Command: of13.FlowDelete, Cookie: cookieMark | kindProbe<<32, CookieMask: markMask | 0xffff<<32,
		OutPort: of13.PortAny, OutGroup: of13.GroupAny,
	}
}

// Add is the message that installs a rule.
func (r *Rule) Add() of13.Message {
	return &of13.FlowMod{Command: of13.FlowAdd, Cookie: r.Cookie, Priority: r.Priority, OutPort: of13.PortAny, OutGroup: of13.GroupAny, Match: r.Match, Do: r.Do}
}
