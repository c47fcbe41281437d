package packet_test

import (
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opentap/packet"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	macs = "020000000001 020000000002 "
	ip4  = "4500 0028 0001 0000 40 06 0000 0a000001 0a000002 "
	tcp  = "0050 1f90 00000001 00000002 5012 ffff 0000 0000 "
	udp  = "0035 1f90 0008 0000 "
	ip6  = "60000000 0014 06 40 20010db8000000000000000000000001 20010db8000000000000000000000002 "
)

func TestDecodeBuilt(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		f := build(r)
		got := packet.Parsed{Time: 5, TCPFlags: 0xff, Payload: 99} // what an earlier frame left behind
		f.want.Time = 5
		got.Decode(f.want.Link, f.b, f.want.OrigLen)
		if got != f.want {
			t.Fatalf("%x\n%s", f.b, cmp.Diff(f.want, got))
		}
	}
}

// A shorter capture of a frame shows less of it, never anything else, and says that it is cut.
func TestDecodeCut(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for range 500 {
		f := build(r)
		whole := len(f.b)
		if f.want.Payload != 0 {
			whole = int(f.want.Payload)
		}
		for n := range len(f.b) + 1 {
			var got packet.Parsed
			got.Decode(f.want.Link, f.b[:n], f.want.OrigLen)
			if got.Layers&^f.want.Layers != 0 || got.OrigLen != f.want.OrigLen {
				t.Fatalf("%x cut at %d: %+v", f.b, n, got)
			}
			if n < int(f.want.L3Offset)+20 && got.Defect != packet.DefectTruncated || n >= whole && got.Defect != packet.DefectNone || got.Defect == packet.DefectMalformed {
				t.Fatalf("%x cut at %d: defect %d", f.b, n, got.Defect)
			}
			if got.Layers&packet.LayerTransport != 0 && (got.SrcPort != f.want.SrcPort || got.DstPort != f.want.DstPort) {
				t.Fatalf("%x cut at %d: ports", f.b, n)
			}
			if got.Defect == packet.DefectNone {
				f.want.CapLen = uint32(n)
				if got != f.want {
					t.Fatalf("%x cut at %d\n%s", f.b, n, cmp.Diff(f.want, got))
				}
			}
		}
	}
}

func TestDecodeTable(t *testing.T) {
	const (
		eth  = packet.LayerEthernet
		v4   = eth | packet.LayerIPv4
		v6   = eth | packet.LayerIPv6
		port = packet.LayerTransport
	)
	tests := []struct {
		name   string
		hex    string
		orig   uint32 // 0: as captured
		layers packet.Layer
		defect packet.Defect
		check  func(p *packet.Parsed) bool
	}{
		{"empty", "", 0, 0, packet.DefectTruncated, nil},
		{"short ethernet", macs + "08", 0, 0, packet.DefectTruncated, nil},
		{"llc", macs + "0026 424203 0000", 0, eth, packet.DefectNone, func(p *packet.Parsed) bool { return p.EtherType == 0 && p.L3Offset == 14 }},
		{"llc in a tag", macs + "8100 0005 0026 424203", 0, eth | packet.LayerVLAN, packet.DefectNone, func(p *packet.Parsed) bool { return p.EtherType == 0 && p.VLANs[0] == 5 }},
		{"arp", macs + "0806 0001 0800 06 04 0001" + strings.Repeat("00", 20), 0, eth | packet.LayerARP, packet.DefectNone, nil},
		{"arp cut", macs + "0806 0001 0800 06 04 0001" + strings.Repeat("00", 19), 0, eth | packet.LayerARP, packet.DefectTruncated, nil},
		{"unknown ethertype", macs + "88cc 0207", 0, eth, packet.DefectNone, func(p *packet.Parsed) bool { return p.EtherType == 0x88cc }},
		{
			"old qinq and three tags", macs + "9100 2001 8100 0002 8100 0003 0800" + ip4 + tcp, 0, v4 | packet.LayerVLAN | port | packet.LayerTCP, packet.DefectNone,
			func(p *packet.Parsed) bool {
				return p.VLANCount == 2 && p.VLANs == [2]uint16{0x2001, 2} && p.L3Offset == 26 && p.EtherType == 0x0800
			},
		},
		{"tag cut", macs + "8100 00", 0, eth, packet.DefectTruncated, nil},
		{"second tag cut", macs + "8100 0001 8100 00", 0, eth | packet.LayerVLAN, packet.DefectTruncated, func(p *packet.Parsed) bool { return p.VLANCount == 1 }},
		{"eight tags", macs + strings.Repeat("8100 0001", 8) + "0800" + ip4 + tcp, 0, v4 | packet.LayerVLAN | port | packet.LayerTCP, packet.DefectNone, nil},
		{"nine tags", macs + strings.Repeat("8100 0001", 9) + "0800" + ip4 + tcp, 0, eth | packet.LayerVLAN, packet.DefectMalformed, nil},
		{
			"tcp", macs + "0800" + ip4 + tcp, 0, v4 | port | packet.LayerTCP, packet.DefectNone,
			func(p *packet.Parsed) bool {
				return p.SrcPort == 80 && p.DstPort == 8080 && p.TCPFlags == 0x12 && p.Payload == 54 && p.SrcAddr().String() == "10.0.0.1"
			},
		},
		{"tcp ports only", macs + "0800" + ip4 + tcp[:9], 54, v4 | port, packet.DefectTruncated, func(p *packet.Parsed) bool { return p.L4Offset == 34 && p.Payload == 0 && p.DstPort == 8080 }},
		{"tcp data offset 4", macs + "0800" + ip4 + strings.Replace(tcp, "5012", "4012", 1), 0, v4 | port, packet.DefectMalformed, nil},
		{"tcp data offset past the datagram", macs + "0800" + ip4 + strings.Replace(tcp, "5012", "6012", 1) + "00000000", 0, v4 | port | packet.LayerTCP, packet.DefectMalformed, nil},
		{"ipv4 header length 4", macs + "0800" + "44" + ip4[2:] + tcp, 0, eth, packet.DefectMalformed, nil},
		{"ipv4 version 5", macs + "0800" + "55" + ip4[2:] + tcp, 0, eth, packet.DefectMalformed, nil},
		{"ipv4 total length 19", macs + "0800" + strings.Replace(ip4, "0028", "0013", 1) + tcp, 0, eth, packet.DefectMalformed, nil},
		{"ipv4 total length leaves no room for tcp", macs + "0800" + strings.Replace(ip4, "0028", "001c", 1) + tcp, 0, v4 | port, packet.DefectMalformed, nil},
		{"ipv4 total length 0", macs + "0800" + strings.Replace(ip4, "0028", "0000", 1) + tcp, 70014, v4 | port | packet.LayerTCP, packet.DefectNone, func(p *packet.Parsed) bool { return p.IPOctets == 70000 }},
		{"ipv4 options cut", macs + "0800" + "46" + ip4[2:] + "0101", 60, v4, packet.DefectTruncated, nil},
		{"ipv4 first fragment", macs + "0800" + strings.Replace(ip4, "0001 0000", "0001 2000", 1) + tcp, 0, v4 | port | packet.LayerTCP | packet.LayerFragment, packet.DefectNone, func(p *packet.Parsed) bool { return p.MoreFrag && p.FragID == 1 }},
		{"ipv4 tiny first fragment", macs + "0800" + strings.Replace(strings.Replace(ip4, "0001 0000", "0001 2000", 1), "0028", "001c", 1) + tcp[:19], 0, v4 | port | packet.LayerFragment, packet.DefectTruncated, nil},
		{"ipv4 later fragment", macs + "0800" + strings.Replace(ip4, "0001 0000", "0001 0003", 1) + tcp, 0, v4 | packet.LayerFragment, packet.DefectNone, func(p *packet.Parsed) bool {
			return p.FragOff == 24 && p.L4Offset == 0 && p.SrcPort == 0 && p.Proto == 6
		}},
		{"udp length 7", macs + "0800" + strings.Replace(strings.Replace(ip4, " 06 ", " 11 ", 1), "0028", "001c", 1) + strings.Replace(udp, "0008", "0007", 1), 0, v4 | port, packet.DefectMalformed, nil},
		{"icmp", macs + "0800" + strings.Replace(strings.Replace(ip4, " 06 ", " 01 ", 1), "0028", "001c", 1) + "0301 0000 00000000", 0, v4 | packet.LayerICMP, packet.DefectNone, func(p *packet.Parsed) bool { return p.ICMPType == 3 && p.ICMPCode == 1 }},
		{"ospf", macs + "0800" + strings.Replace(ip4, " 06 ", " 59 ", 1) + tcp, 0, v4, packet.DefectNone, func(p *packet.Parsed) bool { return p.Proto == 89 && p.L4Offset == 34 && p.Payload == 0 }},
		{"ipv6", macs + "86dd" + ip6 + tcp, 0, v6 | port | packet.LayerTCP, packet.DefectNone, func(p *packet.Parsed) bool { return p.IPOctets == 60 && p.DstAddr().String() == "2001:db8::2" }},
		{"ipv6 says ipv4", macs + "86dd" + ip4 + tcp, 0, eth, packet.DefectMalformed, nil},
		{"ipv6 payload length 0", macs + "86dd" + strings.Replace(ip6, "0014", "0000", 1) + tcp, 0, v6, packet.DefectMalformed, nil},
		{"ipv6 payload length 0, too big for the field", macs + "86dd" + strings.Replace(ip6, "0014", "0000", 1) + tcp, 70054, v6 | port | packet.LayerTCP, packet.DefectNone, func(p *packet.Parsed) bool { return p.IPOctets == 70040 }},
		{"ipv6 jumbogram", macs + "86dd" + strings.Replace(ip6, "0014 06", "0000 00", 1) + "0600 c204 00011170" + tcp, 70062, v6 | port | packet.LayerTCP, packet.DefectNone, func(p *packet.Parsed) bool { return p.IPOctets == 70040 }},
		{"ipv6 nothing follows", macs + "86dd" + strings.Replace(ip6, "0014 06", "0000 3b", 1) + "000000000000", 0, v6, packet.DefectNone, func(p *packet.Parsed) bool { return p.Proto == 59 && p.IPOctets == 40 }},
		{"ipv6 mobility", macs + "86dd" + strings.Replace(ip6, "0014 06", "0008 87", 1) + "3b00 0500 00000000", 0, v6, packet.DefectNone, func(p *packet.Parsed) bool { return p.Proto == 135 && p.L4Offset == 54 }},
		{"ipv6 atomic fragment", macs + "86dd" + strings.Replace(ip6, "0014 06", "001c 2c", 1) + "0600 0000 00000009" + tcp, 0, v6 | port | packet.LayerTCP, packet.DefectNone, nil},
		{"ipv6 extension cut", macs + "86dd" + strings.Replace(ip6, "0014 06", "001c 3c", 1) + "0600", 100, v6, packet.DefectTruncated, func(p *packet.Parsed) bool { return p.Proto == 60 }},
		{"ipv6 too many extensions", macs + "86dd" + strings.Replace(ip6, "0014 06", "0400 3c", 1) + strings.Repeat("3c00 0104 00000000", 100), 0, v6, packet.DefectMalformed, nil},
		{"mpls to neither ip", macs + "8847 000101ff 00000000", 0, eth | packet.LayerMPLS, packet.DefectNone, func(p *packet.Parsed) bool { return p.MPLSLabel == 16 }},
		{"mpls without a bottom", macs + "8847" + strings.Repeat("000100ff", 17), 0, eth | packet.LayerMPLS, packet.DefectMalformed, nil},
		{"pppoe bad version", macs + "8864 2100 0001 0002 0021" + ip4 + tcp, 0, eth, packet.DefectMalformed, nil},
		{"pppoe lcp", macs + "8864 1100 0001 0002 c021 0101", 0, eth, packet.DefectNone, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := unhex(t, tt.hex)
			orig := tt.orig
			if orig == 0 {
				orig = uint32(len(b))
			}
			var p packet.Parsed
			p.Decode(packet.LinkEthernet, b, orig)
			if p.Layers != tt.layers || p.Defect != tt.defect || tt.check != nil && !tt.check(&p) {
				t.Fatalf("want layers %#x defect %d, got %#x %d: %+v", tt.layers, tt.defect, p.Layers, p.Defect, p)
			}
		})
	}
}

func TestDecodeRaw(t *testing.T) {
	for _, tt := range []struct {
		hex    string
		layers packet.Layer
		defect packet.Defect
	}{
		{ip4 + tcp, packet.LayerIPv4 | packet.LayerTransport | packet.LayerTCP, 0},
		{ip6 + tcp, packet.LayerIPv6 | packet.LayerTransport | packet.LayerTCP, 0},
		{"", 0, packet.DefectTruncated},
		{"70", 0, packet.DefectMalformed},
	} {
		var p packet.Parsed
		b := unhex(t, tt.hex)
		p.Decode(packet.LinkRaw, b, uint32(len(b)))
		if p.Layers != tt.layers || p.Defect != tt.defect {
			t.Fatalf("%s: %+v", tt.hex, p)
		}
		p.Decode(147, b, uint32(len(b)))
		if p.Layers != 0 || p.Defect != 0 {
			t.Fatalf("other link type: %+v", p)
		}
	}
}

func TestDecodeAllocs(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var frames []frame
	for range 64 {
		frames = append(frames, build(r))
	}
	var p packet.Parsed
	if n := testing.AllocsPerRun(100, func() {
		for i := range frames {
			p.Decode(frames[i].want.Link, frames[i].b, frames[i].want.OrigLen)
		}
	}); n != 0 {
		t.Fatalf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	r := rand.New(rand.NewPCG(7, 8))
	for range 50 {
		fr := build(r)
		f.Add(uint16(fr.want.Link), fr.b, fr.want.OrigLen)
	}
	f.Fuzz(func(t *testing.T, link uint16, b []byte, orig uint32) {
		var p packet.Parsed
		p.Decode(packet.LinkType(link), b, orig)
		if p.CapLen != uint32(len(b)) || p.OrigLen < p.CapLen {
			t.Fatal("lengths")
		}
		for _, off := range []uint16{p.L3Offset, p.L4Offset, p.Payload} {
			if uint32(off) > p.CapLen {
				t.Fatalf("offset %d past %d: %+v", off, p.CapLen, p)
			}
		}
		if p.L4Offset != 0 && p.L4Offset < p.L3Offset+20 || p.Payload != 0 && (p.L4Offset == 0 || p.Payload < p.L4Offset+4) {
			t.Fatalf("offsets out of order: %+v", p)
		}
		if p.VLANCount > 2 || p.Layers&packet.LayerTCP != 0 && p.Layers&packet.LayerTransport == 0 ||
			p.Layers&(packet.LayerTransport|packet.LayerICMP|packet.LayerFragment) != 0 && !p.IsIP() {
			t.Fatalf("layers: %+v", p)
		}
		_ = p.CommunityID(0)
	})
}

func BenchmarkDecode(b *testing.B) {
	for _, bb := range []struct{ name, hex string }{
		{"tcp4", macs + "0800" + ip4 + tcp},
		{"tcp4vlan", macs + "8100 0001 0800" + ip4 + tcp},
		{"tcp6", macs + "86dd" + ip6 + tcp},
		{"udp4", macs + "0800" + strings.Replace(ip4, " 06 ", " 11 ", 1) + strings.Replace(udp, "0008", "0014", 1) + strings.Repeat("00", 12)},
	} {
		b.Run(bb.name, func(b *testing.B) {
			frame := unhex(b, bb.hex)
			var p packet.Parsed
			b.ReportAllocs()
			for b.Loop() {
				p.Decode(packet.LinkEthernet, frame, uint32(len(frame)))
			}
			if p.Payload == 0 {
				b.Fatal("not decoded whole")
			}
		})
	}
}
