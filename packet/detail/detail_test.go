package detail

import (
	gohex "encoding/hex"
	"strings"
	"testing"

	"opentap/packet"
)

// walk calls fn for every field of a tree.
func walk(fields []Field, fn func(f *Field)) {
	for i := range fields {
		fn(&fields[i])
		walk(fields[i].Fields, fn)
	}
}

// check holds what every tree must keep.
func check(t *testing.T, frame []byte, tree []Field, s Summary) {
	t.Helper()
	n := 0
	plain := func(what, v string) {
		for _, r := range v {
			if (r < ' ' || r > '~') && !strings.ContainsRune("…→›", r) {
				t.Fatalf("%s holds %q: %q", what, r, v)
			}
		}
		if len(v) > 4*maxText*6 {
			t.Fatalf("%s has %d octets", what, len(v))
		}
	}
	walk(tree, func(f *Field) {
		n++
		if f.Offset < 0 || f.Length < 0 || f.Offset+f.Length > len(frame) {
			t.Fatalf("%s at %d, %d long, of %d", f.Name, f.Offset, f.Length, len(frame))
		}
		plain("a name", f.Name)
		plain("a value", f.Value)
	})
	if n > maxFields {
		t.Fatalf("%d fields", n)
	}
	plain("protocol", s.Protocol)
	plain("info", s.Info)
	plain("src", s.Src)
	plain("dst", s.Dst)
}

func frame(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := gohex.DecodeString(strings.ReplaceAll(strings.Join(parts, ""), " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

const (
	macs = "020000000002 020000000001 "
)

// ip makes an IPv4 datagram of a protocol around a payload.
func ip(t testing.TB, proto byte, payload []byte) []byte {
	b := frame(t, "45000000000140004000000000"[:24], "0a0000010a000002")
	b[9] = proto
	n := len(b) + len(payload)
	b[2], b[3] = byte(n>>8), byte(n)
	return append(b, payload...)
}

func udp(sp, dp int, payload []byte) []byte {
	n := 8 + len(payload)
	return append([]byte{byte(sp >> 8), byte(sp), byte(dp >> 8), byte(dp), byte(n >> 8), byte(n), 0, 0}, payload...)
}

func tcp(sp, dp int, flags byte, payload []byte) []byte {
	return append([]byte{byte(sp >> 8), byte(sp), byte(dp >> 8), byte(dp), 0, 0, 0, 7, 0, 0, 0, 9, 0x50, flags, 1, 0, 0, 0, 0, 0}, payload...)
}

func eth(t testing.TB, typ string, payload []byte) []byte {
	return append(frame(t, macs, typ), payload...)
}

func samples(t testing.TB) map[string][]byte {
	query := frame(t, "1234 0100 0001 0000 0000 0000 03777777 07 6578616d706c65 03 636f6d 00 0001 0001")
	answer := append(append([]byte{}, query...), frame(t, "c00c 0001 0001 0000012c 0004 5db8d822")...)
	answer[2], answer[7] = 0x81, 1
	hello := frame(t, "16 0301 003f 01 00003b 0303", strings.Repeat("00", 32), "00 0002 1301 01 00 0010 0000 000c 000a 00 0007 612e74657374 21")
	inner := eth(t, "0800", ip(t, 17, udp(1, 53, query)))
	return map[string][]byte{
		"ARP request":    eth(t, "0806", frame(t, "0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002")),
		"DNS query":      eth(t, "0800", ip(t, 17, udp(40000, 53, query))),
		"DNS answer":     eth(t, "0800", ip(t, 17, udp(53, 40000, answer))),
		"VLAN and TCP":   eth(t, "8100 6064 0800", ip(t, 6, tcp(40000, 443, 2, nil))),
		"TLS hello":      eth(t, "0800", ip(t, 6, tcp(40000, 443, 24, hello))),
		"HTTP":           eth(t, "0800", ip(t, 6, tcp(40000, 80, 24, []byte("GET /<script> HTTP/1.1\r\nHost: a\x1b[2J\r\n\r\nbody")))),
		"VXLAN":          eth(t, "0800", ip(t, 17, udp(1, 4789, append(frame(t, "08000000 00002a00"), inner...)))),
		"Geneve":         eth(t, "0800", ip(t, 17, udp(1, 6081, append(frame(t, "0000 6558 00002a00"), inner...)))),
		"GRE":            eth(t, "0800", ip(t, 47, append(frame(t, "2000 0800 00000007"), ip(t, 1, frame(t, "08000000 0001 0002"))...))),
		"ICMPv6":         eth(t, "86dd", frame(t, "60000000 0018 3a ff", "fe800000000000000000000000000001", "ff0200000000000000000001ff000002", "87000000 00000000 fe800000000000000000000000000002")),
		"DHCP":           eth(t, "0800", ip(t, 17, udp(68, 67, append(append(frame(t, "01010600 deadbeef"), make([]byte, 228)...), frame(t, "63825363 350101 0c0474657374 ff")...)))),
		"padded":         append(eth(t, "0800", ip(t, 6, tcp(1, 2, 16, nil))), make([]byte, 6)...),
		"fragment":       eth(t, "0800", frame(t, "4500001c 0001 0010 40 11 0000 0a000001 0a000002", "0102030405060708")),
		"802.3":          eth(t, "0010", make([]byte, 16)),
		"MPLS":           eth(t, "8847", append(frame(t, "0001 01 40"), ip(t, 6, tcp(1, 2, 16, nil))...)),
		"IPv6 extension": eth(t, "86dd", append(frame(t, "60000000 0010 00 40", strings.Repeat("20", 32)), frame(t, "11 00 0000 0000 0000 0001 0002 0008 0000")...)),
	}
}

func TestSummaries(t *testing.T) {
	want := map[string]Summary{
		"ARP request":  {"02:00:00:00:00:01", "02:00:00:00:00:02", "ARP", "who has 10.0.0.2? tell 10.0.0.1"},
		"DNS query":    {"10.0.0.1", "10.0.0.2", "DNS", "query A www.example.com"},
		"DNS answer":   {"10.0.0.1", "10.0.0.2", "DNS", "response A www.example.com → 93.184.216.34"},
		"VLAN and TCP": {"10.0.0.1", "10.0.0.2", "TCP", "40000 → 443 [SYN] seq 7 win 256 len 0"},
		"TLS hello":    {"10.0.0.1", "10.0.0.2", "TLS", "client hello a.test!"},
		"HTTP":         {"10.0.0.1", "10.0.0.2", "HTTP", `GET /<script> HTTP/1.1 a\x1b[2J`},
		"VXLAN":        {"10.0.0.1", "10.0.0.2", "DNS", "VXLAN › query A www.example.com"},
		"Geneve":       {"10.0.0.1", "10.0.0.2", "DNS", "Geneve › query A www.example.com"},
		"GRE":          {"10.0.0.1", "10.0.0.2", "ICMP", "GRE › echo request, id 1, seq 2"},
		"ICMPv6":       {"fe80::1", "ff02::1:ff00:2", "ICMPv6", "neighbour solicitation fe80::2"},
		"DHCP":         {"10.0.0.1", "10.0.0.2", "DHCP", "discover test"},
		"padded":       {"10.0.0.1", "10.0.0.2", "TCP", "1 → 2 [ACK] seq 7 win 256 len 0"},
		"fragment":     {"10.0.0.1", "10.0.0.2", "IPv4", "fragment of UDP, id 0x0001, offset 128"},
	}
	for name, b := range samples(t) {
		tree, s := Decode(packet.LinkEthernet, b, uint32(len(b)))
		check(t, b, tree, s)
		if w, ok := want[name]; ok && s != w {
			t.Errorf("%s: %+v, want %+v", name, s, w)
		}
		for n := range b { // cut anywhere
			tree, s := Decode(packet.LinkEthernet, b[:n], uint32(len(b)))
			check(t, b[:n], tree, s)
		}
	}
}

func TestFieldsHaveTheirPlaces(t *testing.T) {
	b := samples(t)["TLS hello"]
	tree, _ := Decode(packet.LinkEthernet, b, uint32(len(b)))
	found := false
	walk(tree, func(f *Field) {
		if f.Name == "Server name" {
			found = true
			if got := string(b[f.Offset : f.Offset+f.Length]); got != "a.test!" || f.Value != got {
				t.Errorf("%+v is %q", f, got)
			}
		}
		if f.Name == "Destination port" && (b[f.Offset] != 1 || b[f.Offset+1] != 0xbb) {
			t.Errorf("%+v", f)
		}
	})
	if !found {
		t.Errorf("no server name in %+v", tree)
	}
	padded := samples(t)["padded"]
	tree, _ = Decode(packet.LinkEthernet, padded, uint32(len(padded)))
	if last := tree[len(tree)-1]; last.Name != "Padding" || last.Length != 6 || last.Offset != len(padded)-6 {
		t.Errorf("%+v", last)
	}
	// The layers lie one after the other and cover the frame.
	for name, b := range samples(t) {
		tree, _ := Decode(packet.LinkEthernet, b, uint32(len(b)))
		at := 0
		for _, f := range tree {
			if f.Offset > at {
				t.Errorf("%s: nothing says what is at %d: %+v", name, at, tree)
			}
			at = max(at, f.Offset+f.Length)
		}
		if at != len(b) {
			t.Errorf("%s: ends at %d of %d", name, at, len(b))
		}
	}
}

func TestLoopsEnd(t *testing.T) {
	loop := frame(t, "1234 0100 0001 0000 0000 0000 c00c 0001 0001") // a name that points at itself
	b := eth(t, "0800", ip(t, 17, udp(1, 53, loop)))
	tree, s := Decode(packet.LinkEthernet, b, uint32(len(b)))
	check(t, b, tree, s)
	deep := eth(t, "0800", ip(t, 17, udp(1, 53, loop)))
	for range 50 {
		deep = eth(t, "0800", ip(t, 47, append(frame(t, "0000 6558"), deep...)))
	}
	tree, s = Decode(packet.LinkEthernet, deep, uint32(len(deep)))
	check(t, deep, tree, s)
}

func FuzzDecode(f *testing.F) {
	for _, b := range samples(f) {
		f.Add(uint16(1), b)
		f.Add(uint16(101), b[14:])
	}
	f.Fuzz(func(t *testing.T, link uint16, b []byte) {
		tree, s := Decode(packet.LinkType(link), b, uint32(len(b)))
		check(t, b, tree, s)
	})
}
