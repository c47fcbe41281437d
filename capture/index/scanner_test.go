package index

import (
	"maps"
	"testing"

	"opentap/packet"
)

// udp is a frame from a client to the one server, or back, over IPv4 or IPv6.
func udp(client uint16, back, six bool) []byte {
	f := make([]byte, 66)
	f[12], f[13], f[14], f[23] = 0x08, 0x00, 0x45, 17
	src, dst, ports, size := f[26:30], f[30:34], f[34:], 4
	if six {
		f[12], f[13], f[14], f[20] = 0x86, 0xdd, 0x60, 17
		src, dst, ports, size = f[22:38], f[38:54], f[54:], 16
	}
	if back {
		src, dst = dst, src
	}
	src[0], dst[0] = 10, 20
	be.PutUint16(src[size-2:], client)
	from, to := uint16(1024)+client, uint16(53)
	if back {
		from, to = to, from
	}
	be.PutUint16(ports, from)
	be.PutUint16(ports[2:], to)
	return f
}

// Where flows hardly repeat the scanner stops to look for them, and finds the keys all the same; it begins again.
func TestScannerGivesUpFlowsThatDoNotRepeat(t *testing.T) {
	keysOf := func(k *Keys, from int) map[Key]bool {
		set := make(map[Key]bool)
		for _, key := range k.keys[from:] {
			set[key] = true
		}
		return set
	}
	var got, want Keys
	s, plain := NewScanner(packet.LinkEthernet), NewScanner(packet.LinkEthernet)
	s.Begin(&got)
	blind := 0
	for block := range 40 {
		clients := uint16(64)
		if block > 0 {
			clients = 3 // which repeat
		}
		from := len(got.keys)
		plain.Begin(&want)
		for i := range uint16(64) {
			f := udp(uint16(block)*100+i%clients, i&1 == 1 && clients < 64, i&2 == 2)
			s.Frame(f)
			plain.Frame(f)
		}
		if !maps.Equal(keysOf(&got, from), keysOf(&want, 0)) {
			t.Fatalf("block %d: other keys while flows are not looked for (%d blocks more)", block, s.blind)
		}
		s.Next()
		if s.blind > 0 {
			blind++
		}
	}
	if blind != blindFor {
		t.Errorf("flows were left out in %d blocks, want %d", blind, blindFor)
	}
	s.blind = 1
	if s.Begin(&got); s.blind != 0 {
		t.Error("what a chunk has depends on the one before it")
	}
}
