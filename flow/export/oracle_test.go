package export

import (
	"bytes"
	"context"
	"encoding/csv"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"opentap/flow"
	"opentap/packet"
	"opentap/pcap"
	"opentap/wire/netflow"
)

// records are flows of both families and several protocols; the totals of each are told apart by its port.
func records(n int, biflow bool) []flow.Record {
	now := packet.TimestampOf(time.Now().Truncate(time.Millisecond))
	out := make([]flow.Record, n)
	for i := range out {
		r := &out[i]
		*r = flow.Record{
			First: now.Add(-time.Duration(i%5000) * time.Millisecond), Last: now, Src: [16]byte{10: 255, 11: 255, 12: 10, 13: 1, 14: byte(i >> 8), 15: byte(i)},
			Dst: [16]byte{10: 255, 11: 255, 12: 192, 13: 168, 15: 7}, SrcPort: uint16(1024 + i), DstPort: 443, Proto: 6, Version: 4, TOS: 8, TCPFlags: 0x1b,
			EndReason: flow.EndIdle, Packets: uint64(1 + i%9), Octets: uint64(40 + i), VLAN: uint16(i % 3), SrcMAC: packet.MAC{2, 0, 0, 0, 0, 1}, DstMAC: packet.MAC{2, 0, 0, 0, 0, 2},
		}
		switch i % 4 {
		case 1:
			r.Proto, r.TCPFlags, r.DstPort = 17, 0, 53
		case 2:
			r.Version = 6
			r.Src = [16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 14: byte(i >> 8), 15: byte(i)}
			r.Dst = [16]byte{0: 0x20, 1: 1, 2: 0xd, 3: 0xb8, 4: 9, 15: 1}
		case 3:
			r.Proto, r.TCPFlags, r.SrcPort, r.DstPort, r.ICMPType = 1, 0, 0, 8<<8, 8
		}
		if biflow && i%2 == 0 {
			r.RevPackets, r.RevOctets, r.RevTCPFlags, r.RevTOS = uint64(2+i%5), uint64(80+i), 0x12, 8
		}
	}
	return out
}

func keyOf(src, dst string, sport, dport uint16, proto string) string {
	return fmt.Sprint(src, " ", dst, " ", sport, " ", dport, " ", proto)
}

// collected is what a collector says of flows: packets and octets by keyOf.
type collected map[string][2]uint64

// TestCollectorsReadOurTotals exports to nfcapd and to pmacct's nfacctd and demands every record back, packet for packet.
func TestCollectorsReadOurTotals(t *testing.T) {
	for _, collector := range []struct {
		name    string
		needs   []string
		collect func(t *testing.T, flows int, send func(address string)) collected
		both    bool // it can be asked for records of both directions too (and starts fast enough)
	}{
		{"nfcapd", []string{"nfcapd", "nfdump"}, nfdump, true},
		{"nfacctd", []string{"nfacctd"}, nfacctd, false},
	} {
		for _, c := range []struct {
			version netflow.Version
			biflow  bool // in the records
			both    bool // of the protocol
		}{{netflow.V5, false, false}, {netflow.V5, true, false}, {netflow.V9, false, false}, {netflow.V9, true, false}, {netflow.IPFIX, false, false}, {netflow.IPFIX, true, false}, {netflow.IPFIX, true, true}} {
			if c.biflow && !collector.both {
				continue
			}
			t.Run(fmt.Sprintf("%s/%s/biflow=%v,%v", collector.name, c.version, c.biflow, c.both), func(t *testing.T) {
				for _, tool := range collector.needs {
					if _, err := exec.LookPath(tool); err != nil {
						t.Skipf("needs %s", tool)
					}
				}
				want := collected{}
				add := func(f netflow.Flow, packets, octets uint64) {
					if f.IP == 6 && c.version == netflow.V5 || packets == 0 {
						return
					}
					r := flow.Record{Src: f.Src, Dst: f.Dst, Version: f.IP}
					want[keyOf(r.SrcAddr().String(), r.DstAddr().String(), f.SrcPort, f.DstPort, packet.ProtoName(f.Proto))] = [2]uint64{packets, octets}
				}
				for _, r := range records(2000, c.biflow) {
					f := FlowOf(&r)
					add(f, f.Packets, f.Octets)
					add(f.Reversed(), f.RevPackets, f.RevOctets)
				}
				got := collector.collect(t, len(want), func(address string) { exportTo(t, address, c.version, c.biflow, c.both) })
				missing := 0
				for k, w := range want {
					if got[k] != w {
						if missing++; missing < 5 {
							t.Errorf("%s: %s has %v, want %v", k, collector.name, got[k], w)
						}
					}
				}
				if missing > 0 || len(got) != len(want) {
					t.Errorf("%d of %d wrong; %s has %d", missing, len(want), collector.name, len(got))
				}
			})
		}
	}
}

// exportTo sends 2000 records to a collector, by UDP.
func exportTo(t *testing.T, address string, version netflow.Version, biflow, both bool) {
	t.Helper()
	x, err := New(Config{Version: version, Transport: "udp", Address: address, Biflow: both, Linger: 10 * time.Millisecond}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // send what waits, and return
	for _, r := range records(2000, biflow) {
		x.Export(&r)
	}
	x.Run(ctx)
	if s := x.Status(); s.Full+s.Refused != 0 || (s.Untakeable == 500) != (version == netflow.V5) || s.LastError != "" {
		t.Fatalf("%+v", s)
	}
}

// whileCollecting runs a collector on a free UDP port while send sends to it, until it took all, and done returns; then it
// is asked to end. args makes its arguments.
func whileCollecting(t *testing.T, send func(address string), args func(port int) []string, done func()) {
	t.Helper()
	probe, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.LocalAddr().(*net.UDPAddr).Port
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	argv := args(port)
	collector := exec.CommandContext(t.Context(), argv[0], argv[1:]...)
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = collector.Process.Kill()
		_ = collector.Wait()
	}()
	waitQueue(t, port, func(queue string) bool { return queue != "" })
	send("127.0.0.1:" + strconv.Itoa(port))
	waitQueue(t, port, func(queue string) bool { return queue == "00000000" })
	done()
	if err := collector.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	_ = collector.Wait()
}

// nfacctd runs pmacct's collector, which counts by what we ask it to and adds to a file every second, until it has counted
// so many flows.
func nfacctd(t *testing.T, flows int, send func(address string)) collected {
	t.Helper()
	dir, err := os.MkdirTemp("", "nfacctd") // not t.TempDir: a name with commas and signs is not read as it is
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	out, log := filepath.Join(dir, "flows.csv"), filepath.Join(dir, "log")
	sum := collected{}
	ready := func(address string) {
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			if text, _ := os.ReadFile(log); bytes.Contains(text, []byte("Purging cache - END")) { // its plugin is at work
				break
			}
		}
		send(address)
	}
	whileCollecting(t, ready, func(port int) []string {
		config := fmt.Sprintf("daemonize: false\nnfacctd_ip: 127.0.0.1\nnfacctd_port: %d\nnfacctd_pipe_size: 4000000\nplugins: print\n"+
			"logfile: %s\naggregate: src_host, dst_host, src_port, dst_port, proto\n"+
			"print_output: csv\nprint_output_file: %s\nprint_output_file_append: true\nprint_refresh_time: 1\n", port, log, out)
		path := filepath.Join(dir, "nfacctd.conf")
		if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"nfacctd", "-f", path}
	}, func() {
		for deadline := time.Now().Add(30 * time.Second); len(sum) < flows && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
			text, err := os.ReadFile(out)
			rows, bad := csv.NewReader(bytes.NewReader(text)).ReadAll()
			if err != nil || bad != nil || len(rows) == 0 {
				continue // not there yet, or not whole
			}
			clear(sum)
			at := columnsOf(rows[0])
			for _, row := range rows[1:] {
				number := func(name string) uint64 { n, _ := strconv.ParseUint(row[at[name]], 10, 64); return n }
				k := keyOf(row[at["SRC_IP"]], row[at["DST_IP"]], uint16(number("SRC_PORT")), uint16(number("DST_PORT")), strings.ToUpper(row[at["PROTOCOL"]]))
				sum[k] = [2]uint64{sum[k][0] + number("PACKETS"), sum[k][1] + number("BYTES")}
			}
		}
	})
	return sum
}

// columnsOf says where the columns of a table are.
func columnsOf(header []string) map[string]int {
	at := map[string]int{}
	for i, name := range header {
		at[name] = i
	}
	return at
}

// nfdump runs nfcapd, and asks nfdump for packets and octets of each flow and direction.
func nfdump(t *testing.T, _ int, send func(address string)) collected {
	t.Helper()
	store := t.TempDir()
	whileCollecting(t, send, func(port int) []string {
		return []string{"nfcapd", "-w", store, "-p", strconv.Itoa(port), "-b", "127.0.0.1", "-t", "3600", "-B", "4000000"}
	}, func() {})
	sum := collected{}
	files, _ := filepath.Glob(filepath.Join(store, "nfcapd.2*"))
	for _, f := range files {
		out, err := exec.Command("nfdump", "-r", f, "-o", "csv").Output()
		if err != nil {
			t.Fatalf("nfdump: %v", err)
		}
		text, _, _ := strings.Cut(string(out), "\nSummary\n")
		rows, err := csv.NewReader(strings.NewReader(text)).ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		at := columnsOf(rows[0])
		number := func(row []string, name string) uint64 { n, _ := strconv.ParseUint(row[at[name]], 10, 64); return n }
		port := func(s string) uint16 { // of ICMP, type.code
			typ, code, ok := strings.Cut(s, ".")
			a, _ := strconv.Atoi(typ)
			b, _ := strconv.Atoi(code)
			if ok {
				return uint16(a<<8 | b)
			}
			return uint16(a)
		}
		for _, row := range rows[1:] {
			f := netflow.Flow{SrcPort: port(row[at["sp"]]), DstPort: port(row[at["dp"]])}
			proto := strings.TrimSpace(row[at["pr"]])
			if proto == "ICMP" {
				f.Proto = 1
			}
			k := keyOf(row[at["sa"]], row[at["da"]], f.SrcPort, f.DstPort, proto)
			s := sum[k]
			sum[k] = [2]uint64{s[0] + number(row, "ipkt"), s[1] + number(row, "ibyt")}
			if n := number(row, "opkt"); n > 0 {
				r := f.Reversed()
				k := keyOf(row[at["da"]], row[at["sa"]], r.SrcPort, r.DstPort, proto)
				sum[k] = [2]uint64{n, number(row, "obyt")}
			}
		}
	}
	return sum
}

// waitQueue waits until the receive queue of a local UDP port, as /proc/net/udp shows it, is as wanted; "" = no such port.
func waitQueue(t *testing.T, port int, ok func(queue string) bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for tick := time.Tick(5 * time.Millisecond); ; {
		b, err := os.ReadFile("/proc/net/udp")
		if err != nil {
			t.Skipf("needs /proc/net/udp: %v", err)
		}
		queue := ""
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], fmt.Sprintf(":%04X", port)) {
				_, queue, _ = strings.Cut(f[4], ":")
			}
		}
		if ok(queue) {
			return
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("UDP port %d: receive queue is %q", port, queue)
		}
	}
}

// TestTsharkDecodesOurMessages has tshark dissect messages of all versions, and find nothing malformed and every record.
func TestTsharkDecodesOurMessages(t *testing.T) {
	tshark, err := exec.LookPath("tshark")
	if err != nil {
		t.Skip("needs tshark")
	}
	file := pcap.AppendClassicHeader(nil, packet.LinkEthernet, 65535, true)
	want := 0
	for _, c := range []netflow.EncoderConfig{{Version: netflow.V5}, {Version: netflow.V9, Domain: 7}, {Version: netflow.V9, Domain: 8, Sampling: 100}, {Version: netflow.IPFIX, Domain: 9}, {Version: netflow.IPFIX, Domain: 10, Biflow: true, Sampling: 100}} {
		c.Boot = packet.TimestampOf(time.Now().Add(-time.Hour))
		e, err := netflow.NewEncoder(c)
		if err != nil {
			t.Fatal(err)
		}
		var flows []netflow.Flow
		for _, r := range records(200, c.Biflow) {
			if f := FlowOf(&r); e.Takes(&f) {
				flows = append(flows, f)
			}
		}
		want += len(flows)
		for first := true; len(flows) > 0; first = false {
			msg, n := e.Append(nil, packet.TimestampOf(time.Now()), flows, first, &netflow.ExportStats{Messages: 5})
			flows = flows[n:]
			if len(msg) > 1400 {
				t.Fatalf("message of %d octets", len(msg))
			}
			frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0, 0, 0, 0, 1, 0, 0, 64, 17, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1, 8, 7, 8, 7, 0, 0, 0, 0}
			frame[17], frame[16] = byte(28+len(msg)), byte((28+len(msg))>>8)
			frame[39], frame[38] = byte(8+len(msg)), byte((8+len(msg))>>8)
			frame = append(frame, msg...)
			file = pcap.AppendClassicPacket(file, packet.TimestampOf(time.Now()), uint32(len(frame)), frame, true)
		}
	}
	path := filepath.Join(t.TempDir(), "x.pcap")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(tshark, "-r", path, "-d", "udp.port==2055,cflow", "-T", "fields", "-E", "occurrence=a", "-e", "cflow.packets", "-e", "_ws.malformed", "-e", "_ws.expert.message").Output()
	if err != nil {
		t.Fatal(err)
	}
	got := 0
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimRight(line, "\n"), "\t")
		if f[0] != "" {
			got += strings.Count(f[0], ",") + 1
		}
		if f[1] != "" || strings.Contains(strings.ToLower(f[2]), "malformed") || strings.Contains(f[2], "No template") || strings.Contains(f[2], "sequence") {
			t.Errorf("tshark says %q", f[1:])
		}
	}
	if got < want {
		t.Errorf("tshark finds %d records, want %d", got, want)
	}
}
