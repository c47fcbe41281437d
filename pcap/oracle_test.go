package pcap

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"opentap/packet"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// sample writes one of everything.
func sample(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	w, err := NewNGWriter(&buf, Section{Hardware: "virtual", OS: "Linux", Application: "OpenTap", Comment: "one of everything"})
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range []Interface{
		{Name: "eth0", Description: "uplink", Filter: "port 53", OS: "Linux", Link: packet.LinkEthernet, SnapLen: 128, SpeedBPS: 1e10, MAC: packet.MAC{2, 0, 0, 0, 0, 1}, HasMAC: true},
		{Name: "tun0", Link: packet.LinkRaw},
	} {
		if _, err := w.AddInterface(i); err != nil {
			t.Fatal(err)
		}
	}
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5}, "experimental"...)
	const t0 = packet.Timestamp(1700000000123456789)
	for _, p := range []Packet{
		{Time: t0, OrigLen: 60, Data: frame},
		{Time: t0 + 1, OrigLen: uint32(len(frame)), Data: frame, Direction: DirectionIn},
		{Time: t0 + 2, OrigLen: uint32(len(frame)), Data: frame, Direction: DirectionOut, Comment: "odd"},
		{Interface: 1, Time: t0 + 3, OrigLen: 20, Data: []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, Comment: "alone"},
	} {
		if err := w.WritePacket(&p); err != nil {
			t.Fatal(err)
		}
	}
	at := buf.Len()
	padded := Pad(AppendPacket(buf.Bytes(), 0, t0+4, 60, frame, DirectionUnknown), at, 64)
	buf.Write(padded[at:])
	if err := w.WriteStats(&Stats{
		Time: t0 + 5, Start: t0, End: t0 + 5, Received: 9, Dropped: 3, FilterAccepted: 6, OSDropped: 1, Delivered: 5, Has: 0x7f, Comment: "counted",
		Custom: []CustomOption{{PEN: PEN, Data: []byte{1, 0, 0xca, 0xfe, 0x01}}},
	}); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func classicSample(nanos bool) []byte {
	b := AppendClassicHeader(nil, packet.LinkEthernet, 0, nanos)
	b = AppendClassicPacket(b, 1700000000123456789, 60, []byte("abcdefghijklmnop"), nanos)
	return AppendClassicPacket(b, 1700000001000000001, 16, []byte("ABCDEFGHIJKLMNOP"), nanos)
}

func TestGolden(t *testing.T) {
	for name, b := range map[string][]byte{"golden.hex": sample(t), "classic-micros.hex": classicSample(false), "classic-nanos.hex": classicSample(true)} {
		path := filepath.Join("testdata", name)
		got := hex.Dump(b)
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(want), got); d != "" {
			t.Errorf("%s: the format changed; if that is meant, change docs/format/pcapng.md and run with -update\n%s", name, d)
		}
	}
}

// tool runs an oracle and returns its output; the test is skipped where the oracle is absent.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip("needs " + name)
	}
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), "TZ=UTC", "LC_ALL=C")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, stderr.Bytes())
	}
	return string(out)
}

func write(t *testing.T, name string, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCapinfosAgrees(t *testing.T) {
	out := tool(t, "capinfos", write(t, "sample.pcapng", sample(t)))
	for _, want := range []string{
		"Wireshark/... - pcapng", "Number of packets:   5", "Capture hardware:    virtual", "Capture oper-sys:    Linux", "Capture application: OpenTap", "Capture comment:     one of everything",
		"Number of interfaces in file: 2", "Name = eth0", "Description = uplink", "Filter string = port 53", "Speed = 10000000000", "Time precision = nanoseconds (9)", "Time resolution = 0x09",
		"Capture length = 128", "Number of stat entries = 1", "Number of packets = 4", "Encapsulation = Raw IP", "Name = tun0",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("capinfos does not say %q", want)
		}
	}
	if t.Failed() {
		t.Log(out)
	}
	for nanos, want := range map[bool]string{false: "Wireshark/tcpdump/... - pcap", true: "Wireshark - nanosecond libpcap"} {
		out := tool(t, "capinfos", write(t, "sample.pcap", classicSample(nanos)))
		if !strings.Contains(out, want) && !(nanos && strings.Contains(out, "nanosecond")) || !strings.Contains(out, "Number of packets:   2") {
			t.Errorf("nanos %v: %s", nanos, out)
		}
	}
}

func TestTsharkAgrees(t *testing.T) {
	out := tool(t, "tshark", "-n", "-r", write(t, "sample.pcapng", sample(t)), "-T", "fields", "-E", "separator=|", "-E", "occurrence=f",
		"-e", "frame.time_epoch", "-e", "frame.interface_name", "-e", "frame.len", "-e", "frame.cap_len", "-e", "frame.packet_flags_direction", "-e", "frame.comment")
	want := []string{
		"1700000000.123456789|eth0|60|26||", "1700000000.123456790|eth0|26|26|0x00000001|", "1700000000.123456791|eth0|26|26|0x00000002|odd",
		"1700000000.123456792|tun0|20|20||alone", "1700000000.123456793|eth0|60|26||",
	}
	if d := cmp.Diff(strings.Join(want, "\n"), strings.TrimSpace(out)); d != "" {
		t.Error(d)
	}
}

func TestTcpdumpAgrees(t *testing.T) {
	if out := tool(t, "tcpdump", "-n", "-tt", "--nano", "-r", write(t, "nano.pcap", classicSample(true))); !strings.Contains(out, "1700000000.123456789") || !strings.Contains(out, "1700000001.000000001") {
		t.Error(out)
	}
	if out := tool(t, "tcpdump", "-n", "-tt", "-r", write(t, "micro.pcap", classicSample(false))); !strings.Contains(out, "1700000000.123456") {
		t.Error(out)
	}
}

// Files that other tools wrote read back as the same packets.
func TestReadsWhatToolsWrite(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	var buf bytes.Buffer
	w, err := NewNGWriter(&buf, Section{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddInterface(Interface{Name: "eth0", Link: packet.LinkEthernet}); err != nil {
		t.Fatal(err)
	}
	var want []Packet
	for i := range 300 {
		p := Packet{Time: 1700000000e9 + packet.Timestamp(i)*1000000007, Data: make([]byte, 14+r.IntN(1500))}
		p.OrigLen = uint32(len(p.Data) + r.IntN(2)*100)
		for j := range p.Data {
			p.Data[j] = byte(r.Uint32())
		}
		if err := w.WritePacket(&p); err != nil {
			t.Fatal(err)
		}
		want = append(want, p)
	}
	in := write(t, "in.pcapng", buf.Bytes())
	for _, format := range []string{"pcapng", "nsecpcap", "pcap", "modpcap"} {
		t.Run(format, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "out")
			tool(t, "editcap", "-F", format, in, out)
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			rd, err := NewReader(bytes.NewReader(b))
			if format == "modpcap" {
				if err == nil {
					t.Fatal("a format that is not supported was taken for another")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got, err := readAll(rd)
			if err != nil || len(got) != len(want) {
				t.Fatal(len(got), err)
			}
			for i := range want {
				exp := want[i]
				if format == "pcap" {
					exp.Time -= exp.Time % 1000
				}
				if d := cmp.Diff(exp, got[i]); d != "" {
					t.Fatal(d)
				}
			}
		})
	}
	t.Run("tcpdump", func(t *testing.T) {
		out := filepath.Join(t.TempDir(), "out")
		tool(t, "tcpdump", "--nano", "-r", in, "-w", out)
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		classic := AppendClassicHeader(nil, packet.LinkEthernet, 0, true)
		for i := range want {
			classic = AppendClassicPacket(classic, want[i].Time, want[i].OrigLen, want[i].Data, true)
		}
		if !bytes.Equal(b, classic) {
			t.Fatalf("tcpdump's file differs from ours: %x %x", b[:64], classic[:64])
		}
	})
	t.Run("mergecap", func(t *testing.T) {
		halves := [2]bytes.Buffer{}
		var writers [2]*ClassicWriter
		for i := range halves {
			if writers[i], err = NewClassicWriter(&halves[i], packet.LinkEthernet, 0, true); err != nil {
				t.Fatal(err)
			}
		}
		for i := range want {
			if err := writers[r.IntN(2)].WritePacket(&want[i]); err != nil {
				t.Fatal(err)
			}
		}
		out := filepath.Join(t.TempDir(), "out")
		tool(t, "mergecap", "-F", "nsecpcap", "-w", out, write(t, "a", halves[0].Bytes()), write(t, "b", halves[1].Bytes()))
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		var sources []Source
		for _, b := range [][]byte{halves[0].Bytes(), halves[1].Bytes(), b} {
			rd, err := NewReader(bytes.NewReader(b))
			if err != nil {
				t.Fatal(err)
			}
			sources = append(sources, rd)
		}
		ours, err := readAll(Merge(sources[:2]...))
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := readAll(sources[2])
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(fmt.Sprint(theirs), fmt.Sprint(ours)); d != "" {
			t.Fatal(d)
		}
	})
}
