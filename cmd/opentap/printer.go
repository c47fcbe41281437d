package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"

	"opentap/packet"
	"opentap/pcap"
)

// printer shows the packets of a live stream, a line each. Its Write takes whole pcapng blocks.
type printer struct {
	w      io.Writer
	many   bool // say the interface
	head   []byte
	parsed packet.Parsed
	line   []byte
}

// Write implements io.Writer.
func (p *printer) Write(b []byte) (int, error) {
	r, err := pcap.NewReader(io.MultiReader(strings.NewReader(string(p.head)), strings.NewReader(string(b))))
	if err != nil {
		return 0, err
	}
	p.line = p.line[:0]
	var k pcap.Packet
	for err = r.Next(&k); err == nil; err = r.Next(&k) {
		p.packet(r.Interfaces()[k.Interface], &k)
	}
	if err != io.EOF {
		return 0, err
	}
	for rest := b; ; { // what later writes need to be understood
		typ, _, n, err := pcap.NextBlock(rest)
		if err != nil || typ != pcap.BlockSection && typ != pcap.BlockInterface {
			break
		}
		p.head = append(p.head, rest[:n]...)
		rest = rest[n:]
	}
	if _, err := p.w.Write(p.line); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *printer) packet(face pcap.Interface, k *pcap.Packet) {
	d := &p.parsed
	d.Decode(face.Link, k.Data, k.OrigLen)
	b := k.Time.Time().Local().AppendFormat(p.line, "15:04:05.000000 ")
	if p.many {
		b = fmt.Appendf(b, "%s ", clean(face.Name))
	}
	for i := range min(int(d.VLANCount), len(d.VLANs)) {
		b = fmt.Appendf(b, "vlan %d ", d.VLANs[i]&0xfff)
	}
	switch {
	case d.IsIP():
		proto := strings.ToUpper(packet.ProtoName(d.Proto))
		if proto == "" {
			proto = fmt.Sprintf("proto %d", d.Proto)
		}
		b = fmt.Appendf(b, "%s > %s %s", endpoint(d.SrcAddr(), d.SrcPort), endpoint(d.DstAddr(), d.DstPort), proto)
		if d.Proto == 6 && d.L4Offset > 0 {
			b = fmt.Appendf(b, " [%s]", tcpFlags(d.TCPFlags))
		}
		if d.Layers&packet.LayerFragment != 0 {
			b = fmt.Appendf(b, " fragment %d", d.FragOff)
		}
	case face.Link == packet.LinkEthernet:
		b = fmt.Appendf(b, "%s > %s ethertype %#04x", net.HardwareAddr(d.SrcMAC[:]), net.HardwareAddr(d.DstMAC[:]), d.EtherType)
	default:
		b = append(b, "packet"...)
	}
	p.line = fmt.Appendf(b, " length %d\n", k.OrigLen)
}

// endpoint writes address and port as tcpdump does.
func endpoint(a netip.Addr, port uint16) string {
	if port == 0 {
		return a.String()
	}
	return fmt.Sprintf("%s.%d", a, port)
}

func tcpFlags(f uint8) string {
	var b strings.Builder
	for _, k := range []struct {
		bit  uint8
		name byte
	}{{1, 'F'}, {2, 'S'}, {4, 'R'}, {8, 'P'}, {32, 'U'}, {64, 'E'}, {128, 'W'}, {16, '.'}} {
		if f&k.bit != 0 {
			b.WriteByte(k.name)
		}
	}
	if b.Len() == 0 {
		return "none"
	}
	return b.String()
}
