package cbpf

import (
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/bpf"

	"opentap/packet"
)

// emptyCapture writes a capture file without packets: tcpdump then compiles for files, where no tag is in metadata.
func emptyCapture(t testing.TB, link packet.LinkType) string {
	t.Helper()
	b := binary.LittleEndian.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = binary.LittleEndian.AppendUint32(b, DefaultSnapLen)
	b = binary.LittleEndian.AppendUint32(b, uint32(link))
	f := filepath.Join(t.TempDir(), "empty.pcap")
	if err := os.WriteFile(f, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

// libpcap asks the installed tcpdump for its program. msg is what it complained about.
func libpcap(file, expr string, optimize bool) (p []bpf.RawInstruction, msg string) {
	args := []string{"-r", file, "-ddd"}
	if !optimize {
		args = append(args, "-O")
	}
	var stderr strings.Builder
	cmd := exec.Command("tcpdump", append(args, "--", expr)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, strings.TrimSpace(stderr.String()) + " "
	}
	return parseProgram(string(out)), ""
}

// parseProgram reads the decimal form of tcpdump -ddd.
func parseProgram(s string) []bpf.RawInstruction {
	f := strings.Fields(s)
	if len(f) == 0 {
		return nil
	}
	n, _ := strconv.Atoi(f[0])
	if len(f) != 1+4*n {
		return nil
	}
	p := make([]bpf.RawInstruction, n)
	num := func(i int) uint64 { v, _ := strconv.ParseUint(f[i], 10, 32); return v }
	for i := range p {
		p[i] = bpf.RawInstruction{Op: uint16(num(1 + 4*i)), Jt: uint8(num(2 + 4*i)), Jf: uint8(num(3 + 4*i)), K: uint32(num(4 + 4*i))}
	}
	return p
}

// formatProgram writes it.
func formatProgram(p []bpf.RawInstruction) string {
	var b strings.Builder
	b.WriteString(strconv.Itoa(len(p)))
	for _, r := range p {
		b.WriteString(" " + strconv.Itoa(int(r.Op)) + " " + strconv.Itoa(int(r.Jt)) + " " + strconv.Itoa(int(r.Jf)) + " " + strconv.FormatUint(uint64(r.K), 10))
	}
	return b.String()
}

func needTcpdump(t testing.TB) {
	if _, err := exec.LookPath("tcpdump"); err != nil {
		t.Skip("needs tcpdump (libpcap's compiler as oracle)")
	}
}

// TestListing: a program is written as tcpdump -d writes it.
func TestListing(t *testing.T) {
	needTcpdump(t)
	file := emptyCapture(t, packet.LinkEthernet)
	n := 0
	for i, x := range expressions(t) {
		if i%6 != 0 {
			continue
		}
		p, msg := libpcap(file, x, true)
		out, err := exec.Command("tcpdump", "-r", file, "-d", "--", x).Output()
		if msg != "" || err != nil {
			continue
		}
		clean := func(s string) string {
			lines := strings.Split(strings.TrimSpace(s), "\n")
			for i := range lines {
				lines[i] = strings.TrimRight(lines[i], " ")
			}
			return strings.Join(lines, "\n")
		}
		if got, want := clean(Listing(p)), clean(string(out)); got != want {
			t.Fatalf("%q:\n%s\ntcpdump:\n%s", x, got, want)
		}
		n++
	}
	if n < 50 {
		t.Errorf("only %d programs", n)
	}
}
