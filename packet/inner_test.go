package packet_test

import (
	"math/rand/v2"
	"testing"

	"opentap/packet"
)

// outer4 puts a payload into an IPv4 datagram in an Ethernet frame.
func outer4(proto uint8, payload []byte) []byte {
	b := []byte{2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 8, 8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2}
	be.PutUint16(b[16:], uint16(20+len(payload)))
	return append(b, payload...)
}

func outerUDP(port uint16, payload []byte) []byte {
	b := []byte{0xc0, 0, 0, 0, 0, 0, 0, 0}
	be.PutUint16(b[2:], port)
	be.PutUint16(b[4:], uint16(8+len(payload)))
	return outer4(17, append(b, payload...))
}

func TestInner(t *testing.T) {
	ether := unhex(t, macs+"0800"+ip4+tcp)
	bare := ether[14:]
	bare6 := unhex(t, ip6+tcp)
	join := func(head []byte, tail []byte) []byte { return append(append([]byte(nil), head...), tail...) }
	for name, frame := range map[string][]byte{
		"vxlan":            outerUDP(4789, join([]byte{8, 0, 0, 0, 0, 0, 42, 0}, ether)),
		"geneve":           outerUDP(6081, join([]byte{0, 0, 0x65, 0x58, 0, 0, 42, 0}, ether)),
		"geneve options":   outerUDP(6081, join([]byte{2, 0, 0x65, 0x58, 0, 0, 42, 0, 1, 2, 3, 4, 5, 6, 7, 8}, ether)),
		"geneve ip":        outerUDP(6081, join([]byte{0, 0, 8, 0, 0, 0, 42, 0}, bare)),
		"gre":              outer4(47, join([]byte{0, 0, 8, 0}, bare)),
		"gre key sequence": outer4(47, join([]byte{0x30, 0, 8, 0, 0, 0, 0, 1, 0, 0, 0, 2}, bare)),
		"gre ipv6":         outer4(47, join([]byte{0, 0, 0x86, 0xdd}, bare6)),
		"gre bridged":      outer4(47, join([]byte{0, 0, 0x65, 0x58}, ether)),
		"ipip":             outer4(4, bare),
		"6in4":             outer4(41, bare6),
		"gtp-u":            outerUDP(2152, join([]byte{0x30, 255, 0, 40, 0, 0, 0, 1}, bare)),
		"gtp-u extension":  outerUDP(2152, join([]byte{0x34, 255, 0, 48, 0, 0, 0, 1, 0, 0, 0, 0x85, 1, 0, 0, 0}, bare)),
	} {
		for _, padding := range []int{0, 7} {
			b := append(append([]byte(nil), frame...), make([]byte, padding)...)
			p := packet.Parsed{Time: 77}
			p.Decode(packet.LinkEthernet, b, uint32(len(b)))
			var in packet.Parsed
			at, ok := p.Inner(&in, b)
			if !ok || in.Time != 77 || in.SrcPort != 80 || in.Layers&packet.LayerTCP == 0 || in.Defect != packet.DefectNone || at+int(in.OrigLen) != len(frame) {
				t.Errorf("%s, padding %d: %v at %d: %+v", name, padding, ok, at, in)
			}
			for n := range b { // cut anywhere: no more than what is there
				var q, cut packet.Parsed
				q.Decode(packet.LinkEthernet, b[:n], uint32(len(b)))
				if _, ok := q.Inner(&cut, b[:n]); ok && cut.Layers&^in.Layers != 0 {
					t.Fatalf("%s cut at %d: %+v", name, n, cut)
				}
			}
		}
	}
	for name, frame := range map[string][]byte{
		"no tunnel":    ether,
		"gre version":  outer4(47, join([]byte{0, 1, 8, 0}, bare)),
		"gre arp":      outer4(47, join([]byte{0, 0, 8, 6}, bare)),
		"vxlan no vni": outerUDP(4789, join([]byte{0, 0, 0, 0, 0, 0, 42, 0}, ether)),
		"gtp-u echo":   outerUDP(2152, join([]byte{0x30, 1, 0, 40, 0, 0, 0, 1}, bare)),
	} {
		var p, in packet.Parsed
		p.Decode(packet.LinkEthernet, frame, uint32(len(frame)))
		if _, ok := p.Inner(&in, frame); ok {
			t.Errorf("%s: %+v", name, in)
		}
	}
}

func FuzzInner(f *testing.F) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, port := range []uint16{2152, 4789, 6081} {
		f.Add(outerUDP(port, append([]byte{8, 0, 8, 0, 0, 0, 0, 0}, build(r).b...)))
	}
	f.Add(outer4(47, append([]byte{0, 0, 8, 0}, build(r).b...)))
	f.Add(outer4(4, build(r).b))
	f.Fuzz(func(t *testing.T, b []byte) {
		var p, in packet.Parsed
		p.Decode(packet.LinkEthernet, b, uint32(len(b)))
		for range 4 {
			at, ok := p.Inner(&in, b)
			if !ok {
				return
			}
			if at <= 0 || at >= len(b) || int(in.CapLen) > len(b)-at {
				t.Fatalf("inner packet of %d octets at %d of %d", in.CapLen, at, len(b))
			}
			b = b[at : at+int(in.CapLen)]
			p = in
		}
	})
}
