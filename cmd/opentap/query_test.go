package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opentap/packet"
	"opentap/pcap"
	"opentap/report"
)

// queryTrace writes a pcap file of n UDP packets, 10 ms apart from time at on, from hosts 10.0.0.0 to 10.0.0.255 in turn.
func queryTrace(t *testing.T, name string, link packet.LinkType, at packet.Timestamp, n int) string {
	t.Helper()
	b := pcap.AppendClassicHeader(nil, link, 65535, true)
	for i := range n {
		f := make([]byte, 200)
		copy(f[12:], []byte{8, 0, 0x45})
		f[23] = 17
		binary.BigEndian.PutUint32(f[26:], 0x0a000000|uint32(i&255))
		binary.BigEndian.PutUint32(f[30:], 0x0a000100)
		binary.BigEndian.PutUint16(f[34:], uint16(i))
		binary.BigEndian.PutUint32(f[100:], uint32(i))
		b = pcap.AppendClassicPacket(b, at+packet.Timestamp(i)*10e6, 200, f, true)
	}
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const traceStart = 1_700_000_000_000_000_000

func packetsOf(t *testing.T, path string) (out []pcap.Packet) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r, err := pcap.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	var p pcap.Packet
	for r.Next(&p) == nil {
		p.Data = bytes.Clone(p.Data)
		out = append(out, p)
	}
	return out
}

func TestImportQueryVerifyRepair(t *testing.T) {
	trace := queryTrace(t, "a.pcap", packet.LinkEthernet, traceStart, 5000)
	dir := filepath.Join(t.TempDir(), "rec")
	_, says := command(t, report.ExitOK, "import", trace, "-d", dir)
	if !strings.Contains(says, "5000 packets") {
		t.Errorf("import: %s", says)
	}
	command(t, report.ExitError, "import", trace, "-d", dir) // it is there already
	if out, _ := command(t, report.ExitOK, "verify", dir); !strings.Contains(out, "5000 packets") || !strings.Contains(out, "1 indexes agree") {
		t.Errorf("verify: %s", out)
	}
	file := filepath.Join(t.TempDir(), "out.pcapng")
	_, says = command(t, report.ExitOK, "query", dir, "host 10.0.0.9", "--from", "1700000010", "--explain", "-w", file)
	got := packetsOf(t, file)
	if len(got) != 16 || !strings.Contains(says, "16 packets") || !strings.Contains(says, "chunks:  1;") ||
		!strings.Contains(says, "segments: 1; 0 known from the catalogue, 1 looked at") {
		t.Errorf("query: %d packets, %s", len(got), says)
	}
	for _, p := range got {
		if p.Data[29] != 9 || p.Time < traceStart+10e9 {
			t.Fatalf("wrong packet: %+v", p)
		}
	}
	// The file itself gives the same packets.
	again := filepath.Join(t.TempDir(), "again.pcap")
	command(t, report.ExitOK, "query", trace, "host 10.0.0.9", "--from", "1700000010", "-w", again)
	for i, p := range packetsOf(t, again) {
		if i >= len(got) || !bytes.Equal(p.Data, got[i].Data) || p.Time != got[i].Time {
			t.Fatalf("packet %d of the file differs", i)
		}
	}
	if out, _ := command(t, report.ExitOK, "query", dir, "udp"); out != "5000\n" {
		t.Errorf("counted %q", out)
	}
	command(t, report.ExitOK, "query", filepath.Dir(dir), "udp") // a directory of recordings

	// A changed octet is found, and the rest still comes.
	segment := filepath.Join(dir, "00000001.pcapng")
	b, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	whole := bytes.Clone(b)
	b[len(b)/2] ^= 1
	if err := os.WriteFile(segment, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, says := command(t, report.ExitError, "verify", dir); !strings.Contains(says, "chunk 0 at offset") {
		t.Errorf("verify: %s", says)
	}
	command(t, report.ExitError, "repair", dir)

	// A crash: no seal, no table, no index.
	os.Remove(filepath.Join(dir, "00000001.chunks"))
	os.Remove(filepath.Join(dir, "00000001.index"))
	if err := os.WriteFile(segment, whole[:len(whole)-4096], 0o600); err != nil {
		t.Fatal(err)
	}
	if out, _ := command(t, report.ExitOK, "repair", dir); !strings.Contains(out, "1 segments sealed") {
		t.Errorf("repair: %s", out)
	}
	if out, _ := command(t, report.ExitOK, "verify", dir); !strings.Contains(out, "1 indexes agree, 0 missing; 0 problems") {
		t.Errorf("verify: %s", out)
	}
	// A wrong index is built anew.
	path := filepath.Join(dir, "00000001.index")
	x, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	x[len(x)-20] ^= 1
	if err := os.WriteFile(path, x, 0o600); err != nil {
		t.Fatal(err)
	}
	command(t, report.ExitError, "verify", dir)
	command(t, report.ExitOK, "repair", dir)
	command(t, report.ExitOK, "verify", dir)
}

func TestQueryMerge(t *testing.T) {
	left := queryTrace(t, "left.pcap", packet.LinkEthernet, traceStart, 1000)
	right := queryTrace(t, "right.pcap", packet.LinkEthernet, traceStart+1e6, 1500)
	dir := filepath.Join(t.TempDir(), "rec")
	command(t, report.ExitOK, "import", right, "-d", dir)
	out := filepath.Join(t.TempDir(), "out.pcapng")
	for _, other := range []string{right, dir} {
		command(t, report.ExitOK, "query", left, other, "-w", out)
		got := packetsOf(t, out)
		if len(got) != 2500 {
			t.Fatalf("merged %d packets", len(got))
		}
		for i := 1; i < len(got); i++ {
			if got[i].Time < got[i-1].Time {
				t.Fatalf("packet %d is out of order", i)
			}
		}
		_, says := command(t, report.ExitOK, "query", left, other, "--dedup", "drop", "-w", out)
		if got := packetsOf(t, out); len(got) != 1500 || !strings.Contains(says, "1000 copies") {
			t.Errorf("dropped to %d packets: %s", len(got), says)
		}
		if n := copiesTold(t, out); n != 1000 {
			t.Errorf("the file tells of %d copies", n)
		}
		// A file that has both points, as a download of a capture of several has.
		both := filepath.Join(t.TempDir(), "both.pcapng")
		command(t, report.ExitOK, "query", left, other, "-w", both)
		command(t, report.ExitOK, "query", both, "--dedup", "drop", "-w", out)
		if got, n := packetsOf(t, out), copiesTold(t, out); len(got) != 1500 || n != 1000 {
			t.Errorf("of one file with both points %d packets are left, %d copies told", len(got), n)
		}
		command(t, report.ExitOK, "query", left, other, "--dedup", "mark", "-w", out)
		marked := 0
		for _, p := range packetsOf(t, out) {
			if strings.Contains(p.Comment, "left.pcap 1ms before") {
				marked++
			}
		}
		if marked != 1000 {
			t.Errorf("%d packets are marked", marked)
		}
		if _, says := command(t, report.ExitOK, "query", left, other, "--dedup", "drop", "--within", "100us", "-w", out); strings.Contains(says, "copies") {
			t.Errorf("copies 1 ms apart within 100 µs: %s", says)
		}
	}
}

// copiesTold adds up what the statistics of a file say of copies.
func copiesTold(t *testing.T, path string) (n int) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := pcap.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var k pcap.Packet
	for err == nil {
		err = r.Next(&k)
	}
	if !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	for _, s := range r.Stats() {
		var copies int
		if _, err := fmt.Sscanf(s.Comment, "%d copies of packets", &copies); err != nil {
			t.Errorf("%q: %v", s.Comment, err)
		}
		n += copies
	}
	return n
}

func TestImportRefuses(t *testing.T) {
	usb := queryTrace(t, "usb.pcap", 220, traceStart, 3)
	dir := filepath.Join(t.TempDir(), "rec")
	if _, says := command(t, report.ExitError, "import", usb, "-d", dir); !strings.Contains(says, "link type 220") {
		t.Errorf("%s", says)
	}
	left, _ := filepath.Glob(dir + "*")
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	command(t, report.ExitUsage, "import", usb)
	command(t, report.ExitUsage, "query", usb, "host 10.0.0.1", "--dedup", "sometimes")
}
