//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"opentap/internal/await"
)

// nodeExporters is what /v1/nodes says of the exporters.
type nodeExporters struct {
	Nodes []struct {
		Exporters []struct {
			Name      string            `json:"name"`
			Connected bool              `json:"connected"`
			Packets   uint64            `json:"packets"`
			Dropped   map[string]uint64 `json:"dropped"`
			LastError string            `json:"last_error"`
		} `json:"exporters"`
		Problems []string `json:"problems"`
	} `json:"nodes"`
}

// An exporter sends what a point carries to a real collector, to the last packet, also those of flows that are open when
// opentapd is stopped; one that cannot send says so.
func TestNetnsExporter(t *testing.T) {
	needTool(t, "nfcapd", "nfdump")
	t.Parallel()
	l := newLab(t)
	store := t.TempDir()
	collector := exec.CommandContext(t.Context(), "nfcapd", "-b", "127.0.0.1", "-p", "9995", "-w", store, "-t", "3600")
	var err error
	l.near.Do(func() { err = collector.Start() })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = collector.Process.Kill(); _ = collector.Wait() }()
	queue := func() string { // of the collector's socket; "" before it is there
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", collector.Process.Pid))
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 4 && strings.HasSuffix(f[1], ":270B") {
				return f[4][strings.Index(f[4], ":")+1:]
			}
		}
		return ""
	}
	await.Until(t, "nfcapd listens", func() bool { return queue() != "" })
	d := newDaemon(t, l.near, `
exporters:
  - {name: noc, protocol: ipfix, address: "127.0.0.1:9995", points: [tap0], filter: "udp or tcp or icmp"}
  - {name: away, protocol: ipfix, transport: tcp, address: "127.0.0.1:9996", points: [tap0]}
`)
	d.create(m{"kind": "netflow", "id": "flows", "points": []string{"tap0"}, "filter": "udp or tcp or icmp"})
	frames, octets := talk(4000)
	l.Send(frames...)
	d.awaitCaptured("flows", 4000)
	// Who asks for the largest gets what was sent, flows that are still open included.
	var top struct {
		Total struct{ Bytes, Packets uint64 }
	}
	if err := json.Unmarshal([]byte(d.must("flows", "top", "-q", "--by", "proto", "-o", "json", "flows")), &top); err != nil || top.Total.Bytes != octets || top.Total.Packets != 4000 {
		t.Errorf("flows top: %v, %+v; %d octets were sent", err, top, octets)
	}
	if out := d.must("flows", "top", "-q", "--by", "proto", "--metric", "packets", "--filter", "tcp", "-o", "csv", "flows"); !strings.Contains(out, "TCP,") || !strings.Contains(out, ",1000,") {
		t.Errorf("flows top --filter tcp:\n%s", out)
	}
	var nodes nodeExporters
	await.Until(t, "the node says how its exporters fare", func() bool {
		d.ask(200, "GET", "/v1/nodes", nil).decode(t, &nodes)
		x := nodes.Nodes[0].Exporters
		return len(x) == 2 && x[1].LastError != "" && len(nodes.Nodes[0].Problems) > 0
	})
	if !strings.Contains(strings.Join(nodes.Nodes[0].Problems, "\n"), "exporter away cannot send") {
		t.Errorf("problems %q", nodes.Nodes[0].Problems)
	}
	d.stop()
	await.Until(t, "nfcapd has read all", func() bool { return queue() == "00000000" })
	if err := collector.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	_ = collector.Wait()
	files, _ := filepath.Glob(filepath.Join(store, "nfcapd.2*"))
	if len(files) == 0 {
		t.Fatal("nfcapd wrote nothing")
	}
	out := output(t, "nfdump", "-R", store, "-I") // all files: nfcapd begins another at the full hour
	for name, want := range map[string]uint64{"Packets": 4000, "Bytes": octets} {
		m := regexp.MustCompile(`(?m)^` + name + `: (\d+)`).FindStringSubmatch(out)
		if m == nil || number(t, m[1]) != want {
			t.Errorf("nfdump: %s %v, want %d\n%s", name, m, want, out)
		}
	}
}
