package packet_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"opentap/packet"
	"opentap/pcap"
)

func TestProtoName(t *testing.T) {
	for proto, want := range map[uint8]string{
		0: "0", 1: "ICMP", 6: "TCP", 17: "UDP", 33: "DCCP", 47: "GRE", 50: "ESP", 58: "ICMP6", 60: "OPTS6", 89: "OSPF",
		99: "99", 103: "PIM", 112: "VRRP", 128: "128", 132: "SCTP", 134: "134", 136: "UDP-L", 137: "MPLS", 138: "138", 255: "255",
	} {
		if got := packet.ProtoName(proto); got != want {
			t.Errorf("%d: %q, want %q", proto, got, want)
		}
	}
}

func TestProtoNameAgainstNfdump(t *testing.T) {
	for _, tool := range []string{"nfpcapd", "nfdump"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	dir := t.TempDir()
	file := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 0, false)
	eth := unhex(t, macs+"0800")
	for proto := range 256 {
		ip := []byte{0x45, 0, 0, 60, 0, 0, 0, 0, 64, byte(proto), 0, 0, 10, 0, 0, 1, 10, 1, 0, byte(proto)}
		b := append(append(append([]byte{}, eth...), ip...), make([]byte, 40)...)
		file = pcap.AppendClassicPacket(file, packet.Timestamp(1700000000e9), uint32(len(b)), b, false)
	}
	in, out := filepath.Join(dir, "in.pcap"), filepath.Join(dir, "out")
	if err := os.WriteFile(in, file, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	if msg, err := exec.Command("nfpcapd", "-r", in, "-w", out, "-l", out).CombinedOutput(); err != nil {
		t.Skipf("nfpcapd does not read the file: %v: %s", err, msg)
	}
	text, err := exec.Command("nfdump", "-R", out, "-q", "-o", "fmt:%da|%pr").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, line := range strings.Split(string(text), "\n") {
		addr, name, ok := strings.Cut(strings.TrimSpace(line), "|")
		last, found := strings.CutPrefix(strings.TrimSpace(addr), "10.1.0.")
		proto, err := strconv.Atoi(last)
		if !ok || !found || err != nil {
			continue
		}
		seen++
		if got := packet.ProtoName(uint8(proto)); got != strings.TrimSpace(name) {
			t.Errorf("%d: %q, nfdump %q", proto, got, name)
		}
	}
	t.Logf("%d protocols compared", seen)
	if seen == 0 {
		t.Fatalf("nothing to compare in\n%s", text)
	}
}
