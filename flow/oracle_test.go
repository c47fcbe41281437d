package flow

import (
	"context"
	"encoding/csv"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"opentap/packet"
)

// TestSameAsSoftflowd writes a capture, has softflowd meter it, nfcapd collect and nfdump print, and demands the same
// records, packets and octets for every 5-tuple as ours.
func TestSameAsSoftflowd(t *testing.T) {
	for _, tool := range []string{"softflowd", "nfcapd", "nfdump"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("needs %s", tool)
		}
	}
	// NetFlow v9 carries milliseconds since the exporter's boot in 32 bits, so the capture must be of these days.
	file := mixed(400, 20000, time.Now().Add(-time.Minute), 10*time.Second, 2000)
	end := time.Now().UnixNano()
	for i := range 50 { // pings, and later fragments
		ping := frameOf(nil, host4(7), host4(uint32(8+i%5)), 1, []byte{8, 0, 0, 0, 0, 1, 0, byte(i)}, 84, 2000)
		file = pcapPacket(file, end+int64(i), ping, len(ping))
		rest := frameOf(nil, host4(9), host4(uint32(20+i%5)), 17, make([]byte, 1480), 1500, 2000)
		rest[20] = 0x20 // more to come
		rest[21] = 185
		file = pcapPacket(file, end+int64(i), rest, len(rest))
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "in.pcap")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}

	want := sumByNfdump(t, dir, path)
	cfg := DefaultConfig()
	cfg.IdleTimeout, cfg.ActiveTimeout = time.Hour, time.Hour // softflowd's are long, too
	got := map[string][3]uint64{}
	m, err := NewMeter(cfg, func(r *Record) {
		k := fmt.Sprint(r.SrcAddr(), " ", r.DstAddr(), " ", r.SrcPort, " ", r.DstPort, " ", packet.ProtoName(r.Proto))
		s := got[k]
		got[k] = [3]uint64{s[0] + 1, s[1] + r.Packets, s[2] + r.Octets}
	})
	if err != nil {
		t.Fatal(err)
	}
	eachPacket(file, func(ts int64, frame []byte, origLen uint32) {
		m.AddFrame(packet.Timestamp(ts), packet.LinkEthernet, frame, origLen)
	})
	m.Flush(EndForced)

	var ours, theirs [3]uint64
	for k, s := range got {
		if want[k] != s {
			t.Errorf("%s: records, packets, octets %v; nfdump says %v", k, s, want[k])
		}
		for i := range s {
			ours[i] += s[i]
			theirs[i] += want[k][i]
		}
	}
	for k, s := range want {
		if _, ok := got[k]; !ok {
			t.Errorf("%s: only nfdump has it: %v", k, s)
		}
	}
	t.Logf("records, packets, octets: ours %v, theirs %v", ours, theirs)
}

// sumByNfdump returns records, packets and octets by "source destination sport dport protocol".
func sumByNfdump(t *testing.T, dir, path string) map[string][3]uint64 {
	t.Helper()
	probe, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := probe.LocalAddr().(*net.UDPAddr).Port
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	store := filepath.Join(dir, "nf")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	collector := exec.CommandContext(ctx, "nfcapd", "-w", store, "-p", strconv.Itoa(port), "-b", "127.0.0.1", "-t", "3600")
	if err := collector.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = collector.Process.Kill()
		_ = collector.Wait()
	}()
	waitQueue(t, port, func(queue string) bool { return queue != "" })
	if out, err := exec.CommandContext(ctx, "softflowd", "-d", "-r", path, "-n", "127.0.0.1:"+strconv.Itoa(port), "-v", "9").CombinedOutput(); err != nil {
		t.Fatalf("softflowd: %v\n%s", err, out)
	}
	waitQueue(t, port, func(queue string) bool { return queue == "00000000" })
	if err := collector.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = collector.Wait()

	sum := map[string][3]uint64{}
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
		at := map[string]int{}
		for i, name := range rows[0] {
			at[name] = i
		}
		for _, row := range rows[1:] {
			k := strings.Join([]string{row[at["sa"]], row[at["da"]], row[at["sp"]], row[at["dp"]], strings.TrimSpace(row[at["pr"]])}, " ")
			packets, _ := strconv.ParseUint(row[at["ipkt"]], 10, 64)
			octets, _ := strconv.ParseUint(row[at["ibyt"]], 10, 64)
			s := sum[k]
			sum[k] = [3]uint64{s[0] + 1, s[1] + packets, s[2] + octets}
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
