package detect

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"opentap/packet"
)

// key is one property of a packet that tells flows apart.
type key struct {
	name   string
	length int
	append func(b []byte, e *Engine, s *Sample) ([]byte, bool)
	text   func(b string) string
}

// keys are all there are.
var keys = []key{
	{"src", 16, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return append(b, s.Packet.Src[:]...), s.Packet.IsIP()
	}, addrText},
	{"dst", 16, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return append(b, s.Packet.Dst[:]...), s.Packet.IsIP()
	}, addrText},
	{"sport", 2, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return binary.BigEndian.AppendUint16(b, s.Packet.SrcPort), s.Packet.Layers&packet.LayerTransport != 0
	}, numberText},
	{"dport", 2, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return binary.BigEndian.AppendUint16(b, s.Packet.DstPort), s.Packet.Layers&packet.LayerTransport != 0
	}, numberText},
	{"proto", 1, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) { return append(b, s.Packet.Proto), s.Packet.IsIP() }, protoText},
	{"vlan", 2, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		id := uint16(0)
		if s.Packet.Layers&packet.LayerVLAN != 0 && s.Packet.VLANCount > 0 {
			id = s.Packet.VLANs[0] & 0xfff
		}
		return binary.BigEndian.AppendUint16(b, id), true
	}, numberText},
	{"tos", 1, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) { return append(b, s.Packet.TOS), s.Packet.IsIP() }, numberText},
	{"smac", 6, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return append(b, s.Packet.SrcMAC[:]...), s.Packet.Layers&packet.LayerEthernet != 0
	}, macText},
	{"dmac", 6, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return append(b, s.Packet.DstMAC[:]...), s.Packet.Layers&packet.LayerEthernet != 0
	}, macText},
	{"agent", 16, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		a := s.Agent.As16()
		return append(b, a[:]...), s.Agent.IsValid()
	}, addrText},
	{"in", 4, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return binary.BigEndian.AppendUint32(b, s.In), s.In != 0
	}, numberText},
	{"out", 4, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return binary.BigEndian.AppendUint32(b, s.Out), s.Out != 0
	}, numberText},
	{"dpid", 8, func(b []byte, e *Engine, s *Sample) ([]byte, bool) {
		p, ok := e.ports[portKey{s.Agent, s.Sub, s.In}]
		return binary.BigEndian.AppendUint64(b, p.Datapath), ok
	}, func(b string) string { return fmt.Sprintf("%016x", b) }},
	{"port", 4, func(b []byte, e *Engine, s *Sample) ([]byte, bool) {
		p, ok := e.ports[portKey{s.Agent, s.Sub, s.In}]
		return binary.BigEndian.AppendUint32(b, p.Port), ok
	}, numberText},
	{"device", deviceLen, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) { return appendDevice(b, s.Point) }, deviceText},
	{"name", deviceLen, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) { return appendDevice(b, s.Name) }, deviceText},
	{"index", 4, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) {
		return binary.BigEndian.AppendUint32(b, s.In), true
	}, numberText},
	{"way", 1, func(b []byte, _ *Engine, s *Sample) ([]byte, bool) { return append(b, byte(s.Way)), s.Way != 0 }, wayText},
}

// deviceLen is IFNAMSIZ of include/uapi/linux/if.h: no name of a device is as long.
const deviceLen = 16

// deviceName reports whether a name can stand in a template: the kernel takes others, which could mean something in a filter.
func deviceName(name string) bool {
	for _, c := range []byte(name) {
		if c != '.' && c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return name != "" && len(name) < deviceLen
}

// appendDevice appends a device's name, if it is one that can stand in a template.
func appendDevice(b []byte, name string) ([]byte, bool) {
	if !deviceName(name) {
		return b, false
	}
	var octets [deviceLen]byte
	copy(octets[:], name)
	return append(b, octets[:]...), true
}

func deviceText(b string) string { return strings.TrimRight(b, "\x00") }

func wayText(b string) string {
	if Way(b[0]) == Sent {
		return "out"
	}
	return "in"
}

// KeyNames lists the keys of rules.
func KeyNames() []string {
	out := make([]string, len(keys))
	for i, k := range keys {
		out[i] = k.name
	}
	return out
}

func keyNamed(name string) (key, bool) {
	for _, k := range keys {
		if k.name == name {
			return k, true
		}
	}
	return key{}, false
}

// Text spells the values of a flow's keys: addresses, numbers, names of protocols and devices, and nothing else, so that they can stand in
// a filter.
func (c *Compiled) Text(flow string) []string {
	out := make([]string, 0, len(c.keys))
	for _, k := range c.keys {
		if len(flow) < k.length {
			break
		}
		out = append(out, k.text(flow[:k.length]))
		flow = flow[k.length:]
	}
	return out
}

func addrText(b string) string { return netip.AddrFrom16([16]byte([]byte(b))).Unmap().String() }

func numberText(b string) string {
	n := uint64(0)
	for i := range len(b) {
		n = n<<8 | uint64(b[i])
	}
	return strconv.FormatUint(n, 10)
}

func macText(b string) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5])
}

func protoText(b string) string {
	switch b[0] {
	case packet.ProtoTCP:
		return "tcp"
	case packet.ProtoUDP:
		return "udp"
	case packet.ProtoICMP:
		return "icmp"
	case packet.ProtoICMP6:
		return "icmp6"
	}
	return strconv.Itoa(int(b[0]))
}

// appendFrame makes up a frame that a filter finds the same in as in the packet: headers alone.
func appendFrame(b []byte, p *packet.Parsed) []byte {
	b = append(b, p.DstMAC[:]...)
	b = append(b, p.SrcMAC[:]...)
	for _, tci := range p.VLANs[:min(int(p.VLANCount), len(p.VLANs))] {
		b = append(b, 0x81, 0)
		b = binary.BigEndian.AppendUint16(b, tci)
	}
	switch {
	case p.Layers&packet.LayerIPv4 != 0:
		b = append(b, 8, 0, 0x45, p.TOS)
		b = binary.BigEndian.AppendUint16(b, uint16(p.IPOctets))
		b = append(b, 0, 0, 0, 0, max(p.TTL, 1), p.Proto, 0, 0)
		b = append(b, p.Src[12:]...)
		b = append(b, p.Dst[12:]...)
	case p.Layers&packet.LayerIPv6 != 0:
		b = append(b, 0x86, 0xdd, 0x60|p.TOS>>4, p.TOS<<4, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(max(p.IPOctets, 40)-40))
		b = append(b, p.Proto, max(p.TTL, 1))
		b = append(b, p.Src[:]...)
		b = append(b, p.Dst[:]...)
	default:
		return binary.BigEndian.AppendUint16(b, p.EtherType)
	}
	switch {
	case p.Layers&packet.LayerTransport != 0:
		b = binary.BigEndian.AppendUint16(b, p.SrcPort)
		b = binary.BigEndian.AppendUint16(b, p.DstPort)
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, p.TCPFlags, 0, 0, 0, 0, 0, 0)
	case p.Layers&packet.LayerICMP != 0:
		b = append(b, p.ICMPType, p.ICMPCode, 0, 0, 0, 0, 0, 0)
	}
	return b
}
