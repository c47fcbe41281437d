// Package probe builds the frames of a probe, and reads what answers them.
//
// Runs in: agent | tools
//
// A probe is an ICMP echo request (RFC 792, RFC 4443), a UDP datagram (RFC 768) or the first segment of a TCP connection
// (RFC 9293). Frames are octets in memory, and nothing here looks at a clock. What answers is anybody's: nothing in it is believed beyond what
// it repeats of the frame it answers.
package probe

import (
	"encoding/binary"
	"net/netip"

	"opentap/fault"
	"opentap/packet"
	"opentap/want"
)

var be = binary.BigEndian

// Plan says how all frames of a probe look. It is immutable once frames are built.
type Plan struct {
	Kind           string // of want
	SrcMAC, DstMAC packet.MAC
	Src, Dst       netip.Addr // of one family, without zones
	VLAN           uint16     // 0 = untagged
	Priority       uint8
	TTL, TOS       uint8
	DontFragment   bool
	Port           uint16   // of the target
	Ports          []uint16 // of the source: one for all frames, or one for each
	Token          uint32   // random: what tells this probe's frames from others'
	Payload        []byte
}

// Bounds of a probe. They keep it a question: a flood takes other tools.
const (
	MostFrames   = 1000
	LeastPause   = 1e6 // nanoseconds between frames
	MostPause    = 60e9
	MostWait     = 30e9
	MostTime     = 100e9 // of it all
	MostPayload  = 65000
	MostPattern  = 1024
	MostToGroups = 10 // frames to a group: each may be answered by many

	defaultFrames = 5
	defaultPause  = 200e6
	defaultWait   = 1e9
	defaultTTL    = 64
	pingPayload   = 56 // as ping(8)
)

// Fill checks a probe and fills in what it leaves out, except what only the host that runs it knows. Errors are *fault.Error and name the
// field.
func Fill(p *want.Probe) error {
	if err := fillNumbers(p); err != nil {
		return err
	}
	p.Target, p.Source, p.Via = p.Target.Unmap().WithZone(""), p.Source.Unmap().WithZone(""), p.Via.Unmap().WithZone("")
	switch p.Kind {
	case want.ProbePing:
		if p.Port != 0 || p.SourcePort != 0 {
			return fault.Field("port", "means nothing with ping")
		}
	case want.ProbeUDP, want.ProbeTCPSYN:
		if p.Port == 0 {
			return fault.Field("port", "is missing: a %s probe goes to a port", p.Kind)
		}
		if p.Kind == want.ProbeTCPSYN && *p.Size > 0 {
			return fault.Field("size", "a SYN carries nothing")
		}
	default:
		return fault.Field("kind", "%q is none of ping, udp, tcp-syn", p.Kind)
	}
	if !p.Target.IsValid() || p.Target.IsUnspecified() {
		return fault.Field("target", "is no address that something can be sent to")
	}
	for _, a := range []struct {
		name string
		addr netip.Addr
	}{{"source", p.Source}, {"via", p.Via}} {
		switch {
		case !a.addr.IsValid():
		case a.addr.Is4() != p.Target.Is4():
			return fault.Field(a.name, "%s is not of the target's family", a.addr)
		case a.addr.IsUnspecified() || a.addr.IsMulticast() || a.addr == broadcast:
			return fault.Field(a.name, "%s is not the address of one host: answers would go to many", a.addr)
		}
	}
	for _, m := range []struct{ name, text string }{{"source_mac", p.SourceMAC}, {"target_mac", p.TargetMAC}} {
		if m.text == "" {
			continue
		}
		mac, err := ParseMAC(m.text)
		if err != nil {
			return fault.Field(m.name, "%v", err)
		}
		if m.name == "source_mac" && mac[0]&1 != 0 {
			return fault.Field(m.name, "%s is the address of a group: answers would go to many", m.text)
		}
	}
	return group(p)
}

// broadcast is the limited broadcast address, RFC 919.
var broadcast = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// group refuses a target that many may answer, unless that is wanted.
func group(p *want.Probe) error {
	what := ""
	switch mac, _ := ParseMAC(p.TargetMAC); {
	case p.Target == broadcast:
		what = "everybody on the network"
	case p.Target.IsMulticast():
		what = "a group"
	case p.TargetMAC != "" && mac[0]&1 != 0:
		what = "the link-layer address of a group"
	default:
		return nil
	}
	switch {
	case !p.AllowGroup:
		return &fault.Error{Kind: fault.Invalid, Field: "target", Msg: p.Target.String() + " is " + what + ": many may answer one frame", Hint: "allow_group (--allow-group) sends it all the same"}
	case p.Kind == want.ProbeTCPSYN:
		return fault.Field("target", "is %s: nobody answers a TCP segment to many", what)
	case p.Count > MostToGroups:
		return fault.Field("count", "is %d; to a group it can be up to %d", p.Count, MostToGroups)
	}
	return nil
}

func fillNumbers(p *want.Probe) error {
	if p.Count == 0 {
		p.Count = defaultFrames
	}
	if p.Interval == 0 {
		p.Interval = defaultPause
	}
	if p.Wait == 0 {
		p.Wait = defaultWait
	}
	if p.TTL == 0 {
		p.TTL = defaultTTL
	}
	if p.Size == nil {
		n := 0
		if p.Kind == want.ProbePing {
			n = pingPayload
		}
		p.Size = &n
	}
	switch {
	case p.Count < 1 || p.Count > MostFrames:
		return fault.Field("count", "is %d; it can be 1 to %d", p.Count, MostFrames)
	case p.Interval < LeastPause || p.Interval > MostPause:
		return fault.Field("interval", "it can be 1ms to 1m")
	case p.Wait < LeastPause || p.Wait > MostWait:
		return fault.Field("wait", "it can be 1ms to 30s")
	case int64(p.Interval)*int64(p.Count-1)+int64(p.Wait) > MostTime:
		return fault.Field("count", "so many frames, so far apart, take more than 100 seconds")
	case *p.Size < 0 || *p.Size > MostPayload:
		return fault.Field("size", "is %d; it can be 0 to %d", *p.Size, MostPayload)
	case len(p.Pattern) > MostPattern:
		return fault.Field("pattern", "has %d octets; it can have up to %d", len(p.Pattern), MostPattern)
	case p.VLAN > 4094:
		return fault.Field("vlan", "is %d; it can be 1 to 4094", p.VLAN)
	case p.Priority > 7:
		return fault.Field("priority", "is %d; it can be 0 to 7", p.Priority)
	}
	return nil
}

// Payload makes the payload of a probe.
func Payload(size int, pattern []byte) []byte {
	b := make([]byte, size)
	for i := range b {
		if b[i] = byte(i); len(pattern) > 0 {
			b[i] = pattern[i%len(pattern)]
		}
	}
	return b
}

// ParseMAC reads six octets in hexadecimal, with colons or dashes.
func ParseMAC(s string) (m packet.MAC, err error) {
	bad := fault.New(fault.Invalid, "%q is no address such as 02:00:00:00:00:01", s)
	if len(s) != 17 {
		return m, bad
	}
	for i := range 6 {
		hi, lo := digit(s[3*i]), digit(s[3*i+1])
		if hi < 0 || lo < 0 || i < 5 && s[3*i+2] != ':' && s[3*i+2] != '-' {
			return packet.MAC{}, bad
		}
		m[i] = byte(hi<<4 | lo)
	}
	return m, nil
}

func digit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c|0x20 >= 'a' && c|0x20 <= 'f':
		return int(c|0x20-'a') + 10
	}
	return -1
}
