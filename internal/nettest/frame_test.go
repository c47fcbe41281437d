package nettest

import (
	"encoding/binary"
	"net/netip"
	"testing"
)

// A correct Internet checksum makes the sum over everything it covers, itself included, all ones (RFC 1071).
func TestChecksumsAreCorrect(t *testing.T) {
	v6 := netip.MustParseAddr("2001:db8::7")
	for _, tt := range []struct {
		name string
		p    Packet
	}{
		{"udp over ipv4, odd payload", Packet{SrcPort: 53, DstPort: 4000, Payload: []byte("abc")}},
		{"tcp over ipv4", Packet{Proto: TCP, TCPFlags: 2, Seq: 1 << 31}},
		{"icmp", Packet{Proto: ICMP, ICMPType: 8, Payload: make([]byte, 57)}},
		{"udp over ipv6", Packet{Dst: v6, Payload: []byte("xyz12")}},
		{"tcp over ipv6", Packet{Dst: v6, Proto: TCP, TCPFlags: 0x10, Ack: 77}},
		{"icmpv6", Packet{Dst: v6, Proto: ICMPv6, ICMPType: 128}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.p.NoEthernet = true
			b := tt.p.Bytes()
			var pseudo uint32
			var l4 []byte
			if b[0]>>4 == 4 {
				if int(binary.BigEndian.Uint16(b[2:])) != len(b) {
					t.Errorf("total length %d of %d octets", binary.BigEndian.Uint16(b[2:]), len(b))
				}
				if fold(sum16(b[:20], 0)) != 0 {
					t.Error("IPv4 header checksum is wrong")
				}
				pseudo, l4 = sum16(b[12:20], uint32(b[9])+uint32(len(b)-20)), b[20:]
				if b[9] == ICMP {
					pseudo = 0
				}
			} else {
				if int(binary.BigEndian.Uint16(b[4:]))+40 != len(b) {
					t.Errorf("payload length %d of %d octets", binary.BigEndian.Uint16(b[4:]), len(b))
				}
				pseudo, l4 = sum16(b[8:40], uint32(b[6])+uint32(len(b)-40)), b[40:]
			}
			if fold(sum16(l4, pseudo)) != 0 {
				t.Error("transport checksum is wrong")
			}
		})
	}
}

func TestFragmentsCoverTheDatagram(t *testing.T) {
	for _, dst := range []string{"192.0.2.9", "2001:db8::9"} {
		p := Packet{Dst: netip.MustParseAddr(dst), Payload: make([]byte, 1000), ID: 7, NoPad: true}
		n := 0
		frames := p.Fragments(404)
		for i, f := range frames {
			off, payload := int(binary.BigEndian.Uint16(f[20:])&0x1fff)*8, len(f)-34
			more := f[20]&0x20 != 0
			if p.Dst.Is6() {
				off, payload, more = int(binary.BigEndian.Uint16(f[56:])&^7), len(f)-62, f[57]&1 != 0
			}
			if off != n || more != (i < len(frames)-1) {
				t.Errorf("%s: fragment %d at %d, more %v; want at %d", dst, i, off, more, n)
			}
			n += payload
		}
		if n != 1008 || len(frames) != 3 {
			t.Errorf("%s: %d octets in %d fragments, want 1008 in 3", dst, n, len(frames))
		}
	}
}
