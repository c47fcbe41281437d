package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"opentap/filter"
	"opentap/filter/filtertest"
	"opentap/packet"
	"opentap/pcap"
)

// frameFile writes generated frames as a capture file.
func frameFile(t *testing.T, n int) string {
	t.Helper()
	var b bytes.Buffer
	w, err := pcap.NewClassicWriter(&b, packet.LinkEthernet, 262144, true)
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range filtertest.Frames(81, n, false) {
		if err := w.WritePacket(&pcap.Packet{Time: packet.Timestamp(i), OrigLen: uint32(len(f)), Data: f}); err != nil {
			t.Fatal(err)
		}
	}
	name := filepath.Join(t.TempDir(), "frames.pcap")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// opentap runs the program and returns what it writes.
func opentap(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(args, strings.NewReader(""), &out, &errs)
	return out.String(), errs.String(), code
}

// TestFilterTestIsTcpdump: the strict count of a file is tcpdump's.
func TestFilterTestIsTcpdump(t *testing.T) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("needs tcpdump")
	}
	name := frameFile(t, 5000)
	compared := 0
	for i, x := range filtertest.Libpcap() {
		if _, err := filter.Parse(x); err != nil || i%12 != 0 {
			continue
		}
		// Its optimizer may change the verdict on packets cut short.
		theirs, err := exec.Command("tcpdump", "-O", "-n", "-r", name, "-w", "-", "--", x).Output()
		if err != nil {
			continue // an expression that libpcap takes on other links only
		}
		r, err := pcap.NewReader(bytes.NewReader(theirs))
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		for p := new(pcap.Packet); r.Next(p) == nil; {
			want++
		}
		got, stderr, code := opentap(t, "filter", "test", "--strict", "--count", x, name)
		if code != 0 || strings.TrimSpace(got) != strconv.Itoa(want) {
			t.Errorf("%q: %s packets (exit %d, %s), tcpdump %d", x, strings.TrimSpace(got), code, stderr, want)
		}
		compared++
	}
	if compared < 30 {
		t.Errorf("only %d expressions", compared)
	}
}

func TestFilterTest(t *testing.T) {
	name := frameFile(t, 300)
	out, stderr, code := opentap(t, "filter", "test", "tcp", name)
	if code != 0 || !strings.Contains(out, "not matched") || !strings.Contains(out, "MALFORMED") {
		t.Errorf("exit %d\n%s%s", code, out, stderr)
	}
	if out, stderr, code = opentap(t, "filter", "test", "--count", "", name); code != 0 || out != "300\n" {
		t.Errorf("everything: exit %d, %q, %s", code, out, stderr)
	}
	for _, args := range [][]string{{"tcp prot 80", name}, {"inbound", name}, {"tcp", name + ".none"}, {"tcp", "filter_test.go"}} {
		if _, stderr, code := opentap(t, "filter", "test", args[0], args[1]); code != 1 || stderr == "" {
			t.Errorf("%q: exit %d, %q", args, code, stderr)
		}
	}
}

func TestFilterExplain(t *testing.T) {
	out, stderr, code := opentap(t, "filter", "explain", "--strict", "ip and not tcp")
	want := `filter        ip and not tcp
means         Packets that are IPv4 and that are not TCP.
instructions  6

and
  ip
  not
    tcp

(000) ldh      [12]
(001) jeq      #0x800           jt 2	jf 5
(002) ldb      [23]
(003) jeq      #0x6             jt 5	jf 4
(004) ret      #262144
(005) ret      #0
`
	if code != 0 || out != want {
		t.Errorf("exit %d, %s\n%s", code, stderr, out)
	}
	if out, _, code := opentap(t, "filter", "explain", "outbound and vlan 5", "--kernel"); code != 0 || !strings.Contains(out, "[pkt_type]") || !strings.Contains(out, "[vlan_tci]") {
		t.Errorf("exit %d\n%s", code, out)
	}
	if out, _, code := opentap(t, "filter", "explain", "-o", "json", "inner(udp port 53)"); code != 0 || !strings.Contains(out, `"tree": "inner\n  udp port 53\n"`) {
		t.Errorf("exit %d\n%s", code, out)
	}
}
