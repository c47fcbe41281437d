package packet_test

import (
	"net/netip"
	"testing"

	"opentap/packet"
)

// The answers are those the Community ID specification and its implementations publish.
func TestCommunityID(t *testing.T) {
	for _, tt := range []struct {
		proto    uint8
		src, dst string
		a, b     uint16
		want     string
	}{
		{packet.ProtoTCP, "128.232.110.120", "66.35.250.204", 34855, 80, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{packet.ProtoTCP, "66.35.250.204", "128.232.110.120", 80, 34855, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="},
		{packet.ProtoUDP, "192.168.1.52", "8.8.8.8", 54585, 53, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="},
		{packet.ProtoSCTP, "192.168.170.8", "192.168.170.56", 7, 7, "1:MP2EtRCAUIZvTw6MxJHLV7N7JDs="},
		{packet.ProtoICMP, "192.168.0.89", "192.168.0.1", 8, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{packet.ProtoICMP, "192.168.0.1", "192.168.0.89", 0, 0, "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="},
		{packet.ProtoICMP6, "fe80::260:97ff:fe07:69ea", "ff02::1", 134, 0, "1:pkvHqCL88/tg1k4cPigmZXUtL00="},
		{packet.ProtoTCP, "2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a", 63943, 25, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="},
	} {
		p := packet.Parsed{Layers: packet.LayerIPv6, Proto: tt.proto, Src: netip.MustParseAddr(tt.src).As16(), Dst: netip.MustParseAddr(tt.dst).As16()}
		if netip.MustParseAddr(tt.src).Is4() {
			p.Layers = packet.LayerIPv4
		}
		if tt.proto == packet.ProtoICMP || tt.proto == packet.ProtoICMP6 {
			p.Layers |= packet.LayerICMP
			p.ICMPType, p.ICMPCode = uint8(tt.a), uint8(tt.b)
		} else {
			p.Layers |= packet.LayerTransport
			p.SrcPort, p.DstPort = tt.a, tt.b
		}
		if got := p.CommunityID(0); got != tt.want {
			t.Errorf("%+v: %s", tt, got)
		}
		if p.CommunityID(1) == tt.want {
			t.Errorf("%+v: the seed makes no difference", tt)
		}
	}
	if got := new(packet.Parsed).CommunityID(0); got != "" {
		t.Errorf("no IP header: %q", got)
	}
}
