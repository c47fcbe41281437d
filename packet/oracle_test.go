package packet_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"opentap/packet"
	"opentap/pcap"
)

// compareGopacket checks every layer that gopacket found up to the transport.
func compareGopacket(p *packet.Parsed, g gopacket.Packet) error {
	same := func(what string, got, want any) error {
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("%s: %v, gopacket %v", what, got, want)
		}
		return nil
	}
	var errs []error
	check := func(l packet.Layer, what string, got, want any) {
		if p.Layers&l == 0 {
			errs = append(errs, fmt.Errorf("%s: layer %#x not found", what, l))
		}
		if err := same(what, got, want); err != nil {
			errs = append(errs, err)
		}
	}
	tags := 0
	labels := 0
	for _, l := range g.Layers() {
		if len(l.LayerContents()) == 0 {
			break // gopacket gave up within this one
		}
		switch l := l.(type) {
		case *layers.Ethernet:
			check(packet.LayerEthernet, "source MAC", net.HardwareAddr(p.SrcMAC[:]), l.SrcMAC)
			check(packet.LayerEthernet, "destination MAC", net.HardwareAddr(p.DstMAC[:]), l.DstMAC)
		case *layers.Dot1Q:
			if tags < 2 {
				check(packet.LayerVLAN, "VLAN", p.VLANs[tags]&0xfff, l.VLANIdentifier)
				check(packet.LayerVLAN, "priority", p.VLANs[tags]>>13, l.Priority)
			}
			tags++
		case *layers.MPLS:
			if labels == 0 {
				check(packet.LayerMPLS, "label", p.MPLSLabel, l.Label)
			}
			labels++
		case *layers.IPv4:
			check(packet.LayerIPv4, "source", p.SrcAddr(), l.SrcIP)
			check(packet.LayerIPv4, "destination", p.DstAddr(), l.DstIP)
			check(packet.LayerIPv4, "octets", p.IPOctets, l.Length)
			check(packet.LayerIPv4, "protocol", p.Proto, uint8(l.Protocol))
			check(packet.LayerIPv4, "TOS", p.TOS, l.TOS)
			check(packet.LayerIPv4, "TTL", p.TTL, l.TTL)
			check(packet.LayerIPv4, "id", p.FragID, l.Id)
			check(packet.LayerIPv4, "fragment", p.FragOff, l.FragOffset*8)
			check(packet.LayerIPv4, "more", p.MoreFrag, l.Flags&layers.IPv4MoreFragments != 0)
		case *layers.IPv6:
			check(packet.LayerIPv6, "source", p.SrcAddr(), l.SrcIP)
			check(packet.LayerIPv6, "destination", p.DstAddr(), l.DstIP)
			check(packet.LayerIPv6, "octets", p.IPOctets, int(l.Length)+40)
			check(packet.LayerIPv6, "class", p.TOS, l.TrafficClass)
			check(packet.LayerIPv6, "hop limit", p.TTL, l.HopLimit)
		case *layers.IPv6Fragment:
			check(packet.LayerFragment, "fragment", p.FragOff, l.FragmentOffset*8)
			check(packet.LayerFragment, "more", p.MoreFrag, l.MoreFragments)
			check(packet.LayerFragment, "id", p.FragID, l.Identification)
		case *layers.TCP:
			check(packet.LayerTCP|packet.LayerTransport, "ports", fmt.Sprint(p.SrcPort, p.DstPort), fmt.Sprint(uint16(l.SrcPort), uint16(l.DstPort)))
			check(packet.LayerTCP, "flags", p.TCPFlags&0x3f, flagsOf(l))
			return first(errs)
		case *layers.UDP:
			check(packet.LayerTransport, "ports", fmt.Sprint(p.SrcPort, p.DstPort), fmt.Sprint(uint16(l.SrcPort), uint16(l.DstPort)))
			return first(errs)
		case *layers.UDPLite:
			check(packet.LayerTransport, "ports", fmt.Sprint(p.SrcPort, p.DstPort), fmt.Sprint(uint16(l.SrcPort), uint16(l.DstPort)))
			return first(errs)
		case *layers.SCTP:
			check(packet.LayerTransport, "ports", fmt.Sprint(p.SrcPort, p.DstPort), fmt.Sprint(uint16(l.SrcPort), uint16(l.DstPort)))
			return first(errs)
		case *layers.ICMPv4:
			check(packet.LayerICMP, "type", fmt.Sprint(p.ICMPType, p.ICMPCode), fmt.Sprint(l.TypeCode.Type(), l.TypeCode.Code()))
			return first(errs)
		case *layers.ICMPv6:
			check(packet.LayerICMP, "type", fmt.Sprint(p.ICMPType, p.ICMPCode), fmt.Sprint(l.TypeCode.Type(), l.TypeCode.Code()))
			return first(errs)
		case *layers.GRE:
			return first(errs)
		}
	}
	return first(errs)
}

func first(errs []error) error {
	if len(errs) == 0 {
		return nil
	}
	return errs[0]
}

func flagsOf(l *layers.TCP) (f uint8) {
	for i, set := range []bool{l.FIN, l.SYN, l.RST, l.PSH, l.ACK, l.URG} {
		if set {
			f |= 1 << i
		}
	}
	return f
}

func TestDecodeAgainstGopacket(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	found := map[gopacket.LayerType]int{}
	for i := range 20000 {
		f := build(r)
		b := f.b
		if i%4 == 3 {
			b = b[:r.IntN(len(b)+1)] // cut: what gopacket still finds, Decode finds too
		}
		g := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
		if f.want.Link == packet.LinkRaw {
			typ := layers.LayerTypeIPv4
			if f.want.Layers&packet.LayerIPv6 != 0 {
				typ = layers.LayerTypeIPv6
			}
			g = gopacket.NewPacket(b, typ, gopacket.NoCopy)
		}
		for _, l := range g.Layers() {
			found[l.LayerType()]++
		}
		var p packet.Parsed
		p.Decode(f.want.Link, b, f.want.OrigLen)
		if err := compareGopacket(&p, g); err != nil {
			t.Fatalf("frame %d: %x\n%v\n%+v\n%v", i, b, err, p, g)
		}
	}
	for _, l := range []gopacket.LayerType{
		layers.LayerTypeEthernet, layers.LayerTypeDot1Q, layers.LayerTypeMPLS, layers.LayerTypePPPoE, layers.LayerTypeIPv4,
		layers.LayerTypeIPv6, layers.LayerTypeIPv6Fragment, layers.LayerTypeTCP, layers.LayerTypeUDP, layers.LayerTypeUDPLite, layers.LayerTypeSCTP, layers.LayerTypeICMPv4, layers.LayerTypeICMPv6,
	} {
		if found[l] < 100 {
			t.Errorf("%v compared only %d times", l, found[l])
		}
	}
}

func TestDecodeAgainstTshark(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("needs tshark")
	}
	path := filepath.Join(t.TempDir(), "frames.pcapng")
	r := rand.New(rand.NewPCG(11, 12))
	frames := make([]frame, 3000)
	var buf bytes.Buffer
	w, err := pcap.NewNGWriter(&buf, pcap.Section{})
	if err != nil {
		t.Fatal(err)
	}
	numbers := map[packet.LinkType]int{}
	for _, l := range []packet.LinkType{packet.LinkEthernet, packet.LinkRaw} {
		if numbers[l], err = w.AddInterface(pcap.Interface{Link: l}); err != nil {
			t.Fatal(err)
		}
	}
	for i := range frames {
		frames[i] = build(r)
		if err := w.WritePacket(&pcap.Packet{Interface: numbers[frames[i].want.Link], Time: packet.Timestamp(i), OrigLen: frames[i].want.OrigLen, Data: frames[i].b}); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	fields := []string{
		"eth.src", "eth.dst", "vlan.id", "ieee8021ad.id", "ieee8021ad.svid", "mpls.label", "ip.src", "ip.dst", "ip.len", "ip.ttl", "ip.dsfield", "ip.id", "ip.frag_offset", "ip.flags.mf", "ip.proto",
		"ipv6.src", "ipv6.dst", "ipv6.plen", "ipv6.hlim", "ipv6.tclass", "ipv6.fraghdr.offset", "ipv6.fraghdr.ident",
		"tcp.srcport", "tcp.dstport", "tcp.flags", "udp.srcport", "udp.dstport", "sctp.srcport", "sctp.dstport", "dccp.srcport", "dccp.dstport",
		"icmp.type", "icmp.code", "icmpv6.type", "icmpv6.code", "communityid",
	}
	args := []string{"-n", "-r", path, "-T", "fields", "-E", "occurrence=f", "-E", "separator=|", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE", "--enable-protocol", "communityid"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(tshark, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(frames) {
		t.Fatalf("%d lines for %d frames", len(lines), len(frames))
	}
	ids := 0
	for i, line := range lines {
		f := &frames[i]
		var p packet.Parsed
		p.Decode(f.want.Link, f.b, f.want.OrigLen)
		want := map[string]string{}
		for j, v := range strings.Split(line, "|") {
			want[fields[j]] = v
		}
		for name, got := range describe(&p) {
			if name == "vlan.id" && be.Uint16(f.b[12:]) == packet.EtherTypeQinQ {
				if name = "ieee8021ad.svid"; want[name] == "" {
					name = "ieee8021ad.id" // no other service tag follows
				}
			}
			v := want[name]
			if n, err := strconv.ParseUint(v, 0, 64); err == nil && strings.HasPrefix(v, "0x") {
				v = strconv.FormatUint(n, 10)
			}
			if name == "tcp.flags" {
				n, _ := strconv.Atoi(v)
				v = strconv.Itoa(n & 0xff)
			}
			if name == "communityid" {
				if v == "" {
					continue // tshark gives none when the message's body is wrong
				}
				ids++
			}
			if v != got {
				t.Fatalf("frame %d: %x\n%s: %q, tshark %q\n%+v", i, f.b, name, got, v, p)
			}
		}
	}
	if ids < 1000 {
		t.Fatalf("only %d Community IDs compared", ids)
	}
}

// describe names what p holds as tshark does.
func describe(p *packet.Parsed) map[string]string {
	m := map[string]string{}
	set := func(name string, v any) { m[name] = fmt.Sprint(v) }
	if p.Layers&packet.LayerEthernet != 0 {
		set("eth.src", net.HardwareAddr(p.SrcMAC[:]))
		set("eth.dst", net.HardwareAddr(p.DstMAC[:]))
	}
	if p.Layers&packet.LayerVLAN != 0 {
		set("vlan.id", p.VLANs[0]&0xfff)
	}
	if p.Layers&packet.LayerMPLS != 0 {
		set("mpls.label", p.MPLSLabel)
	}
	fragment := p.Layers&packet.LayerFragment != 0
	if p.Layers&packet.LayerIPv4 != 0 {
		set("ip.src", p.SrcAddr())
		set("ip.dst", p.DstAddr())
		set("ip.len", p.IPOctets)
		set("ip.ttl", p.TTL)
		set("ip.dsfield", p.TOS)
		set("ip.id", p.FragID)
		set("ip.proto", p.Proto)
		set("ip.frag_offset", p.FragOff/8)
	}
	if p.Layers&packet.LayerIPv6 != 0 {
		set("ipv6.src", p.SrcAddr())
		set("ipv6.dst", p.DstAddr())
		set("ipv6.plen", p.IPOctets-40)
		set("ipv6.hlim", p.TTL)
		set("ipv6.tclass", p.TOS)
		if fragment {
			set("ipv6.fraghdr.offset", p.FragOff/8)
			set("ipv6.fraghdr.ident", p.FragID)
		}
	}
	if p.Layers&packet.LayerTransport != 0 {
		name := map[uint8]string{packet.ProtoTCP: "tcp", packet.ProtoUDP: "udp", packet.ProtoUDPLite: "udp", packet.ProtoSCTP: "sctp", packet.ProtoDCCP: "dccp"}[p.Proto]
		set(name+".srcport", p.SrcPort)
		set(name+".dstport", p.DstPort)
	}
	if p.Layers&packet.LayerTCP != 0 {
		set("tcp.flags", p.TCPFlags)
	}
	if p.Layers&packet.LayerICMP != 0 {
		name := "icmp"
		if p.Proto == packet.ProtoICMP6 {
			name = "icmpv6"
		}
		set(name+".type", p.ICMPType)
		set(name+".code", p.ICMPCode)
	}
	tcpudp := p.Proto == packet.ProtoTCP || p.Proto == packet.ProtoUDP || p.Proto == packet.ProtoSCTP
	if !fragment && (p.Layers&packet.LayerTransport != 0 && tcpudp || p.Layers&packet.LayerICMP != 0) {
		set("communityid", p.CommunityID(0))
	}
	return m
}
