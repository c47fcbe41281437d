package flow

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"opentap/packet"
)

// inTunnel puts a frame into a tunnel of a kind between two hosts. Kind 0 leaves it as it is.
func inTunnel(kind int, n uint32, frame []byte) []byte {
	src, dst, head := host4(2<<20|n), host4(3<<20|n), 20
	if kind%2 == 1 {
		src, dst, head = host6(2<<20|n), host6(3<<20|n), 40
	}
	overUDP := func(port uint16, header []byte, inner []byte) []byte {
		return append(append(udp(50000, port, 8+len(header)+len(inner)), header...), inner...)
	}
	var l4 []byte
	proto := uint8(17)
	switch kind {
	case 0:
		return frame
	case 1:
		l4 = overUDP(4789, []byte{8, 0, 0, 0, 0, 0, 42, 0}, frame)
	case 2:
		l4 = overUDP(6081, []byte{1, 0, 0x65, 0x58, 0, 0, 42, 0, 1, 2, 3, 0}, frame) // one option without data
	case 3:
		proto, l4 = 47, append([]byte{0, 0, 0x65, 0x58}, frame...)
	case 4:
		proto, l4 = 47, append([]byte{0x20, 0, 8, 0, 0, 0, 0, 7}, frame[14:]...) // with a key
	case 5:
		proto, l4 = 4, frame[14:]
	case 6:
		inner := frame[14:]
		l4 = overUDP(2152, []byte{0x30, 255, byte(len(inner) >> 8), byte(len(inner)), 0, 0, 0, 9}, inner)
	}
	return frameOf(nil, src, dst, proto, l4, head+len(l4), math.MaxInt)
}

// TestInnerSameAsTshark puts packets into tunnels of all kinds, over IPv4 and IPv6, some into two, and demands that what is metered
// inside is what tshark sees as the innermost datagrams.
func TestInnerSameAsTshark(t *testing.T) {
	if _, err := exec.LookPath("tshark"); err != nil {
		t.Skip("needs tshark")
	}
	r := rand.New(rand.NewPCG(5, 6))
	file := pcapHeader()
	for i := range 3000 {
		n := uint32(r.IntN(100))
		octets := 60 + int(n*7919%600)
		proto, l4 := uint8(6), tcp(uint16(20000+n), 30000, 0x10)
		if n%3 == 0 {
			proto, l4 = 17, udp(uint16(20000+n), 30001, octets-20)
		}
		frame := inTunnel(r.IntN(7), n, frameOf(nil, host4(n), host4(1<<20|n), proto, l4, octets, math.MaxInt))
		if i%10 == 0 {
			frame = inTunnel(1+r.IntN(6), n, frame)
		}
		file = pcapPacket(file, 1e18+int64(i)*1e6, frame, len(frame))
	}
	path := filepath.Join(t.TempDir(), "tunnels.pcap")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	// The innermost: of each field the last that there is.
	args := []string{"-n", "-r", path, "-T", "fields", "-E", "occurrence=l", "-E", "separator= "}
	for _, f := range []string{"ip.proto", "ip.src", "ip.dst", "ip.len", "tcp.srcport", "tcp.dstport", "udp.srcport", "udp.dstport"} {
		args = append(args, "-e", f)
	}
	out, err := exec.Command("tshark", args...).Output()
	if err != nil {
		t.Fatalf("tshark: %v", err)
	}
	type sum struct{ packets, octets uint64 }
	want := make(map[string]sum)
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), " ")
		if len(f) != 8 {
			t.Fatalf("tshark says %q", line)
		}
		ports := f[4:6]
		if f[0] == "17" {
			ports = f[6:8]
		}
		k := strings.Join([]string{f[0], f[1], ports[0], f[2], ports[1]}, " ")
		var octets uint64
		if _, err := fmt.Sscan(f[3], &octets); err != nil {
			t.Fatalf("tshark says %q: %v", line, err)
		}
		want[k] = sum{want[k].packets + 1, want[k].octets + octets}
	}
	cfg := DefaultConfig()
	cfg.Inner = true
	got := make(map[string]sum)
	m, err := NewMeter(cfg, func(r *Record) {
		k := fmt.Sprintf("%d %v %d %v %d", r.Proto, r.SrcAddr(), r.SrcPort, r.DstAddr(), r.DstPort)
		got[k] = sum{got[k].packets + r.Packets, got[k].octets + r.Octets}
	})
	if err != nil {
		t.Fatal(err)
	}
	eachPacket(file, func(ts int64, frame []byte, origLen uint32) {
		m.AddFrame(packet.Timestamp(ts), packet.LinkEthernet, frame, origLen)
	})
	m.Flush(EndForced)
	for k, s := range want {
		if got[k] != s {
			t.Errorf("%s: %+v; tshark says %+v", k, got[k], s)
		}
	}
	if len(got) != len(want) || len(want) < 90 {
		t.Errorf("%d flows, tshark sees %d", len(got), len(want))
	}
}
