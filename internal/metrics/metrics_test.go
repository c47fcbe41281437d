package metrics

import (
	"bytes"
	"flag"
	"fmt"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"opentap/ledger"
	"opentap/want"
)

var update = flag.Bool("update", false, "write docs/reference/metrics.md")

const reference = "../../docs/reference/metrics.md"

// full has a value for every metric.
func full() *Metrics {
	s := Snapshot{
		Captures: map[want.Kind]map[want.State]int{want.Packets: {want.Running: 2}},
		Packets:  ledger.Account{Seen: 100, Captured: 60, Filtered: 30, Dropped: [ledger.NumReasons]uint64{ledger.Disk: 10}, Octets: 6000, StoredOctets: 5000},
		Records:  map[want.Kind]uint64{want.Flows: 7}, Revision: 12, Audit: 34, Expires: time.Unix(1800000000, 0),
		Nodes: []want.Node{
			{
				Name: "a", ID: "1", Connected: true, Revision: 11, Behind: true, DiskFree: 5, Problems: []string{"x"}, GovernorStage: 2,
				Recordings: []want.RecorderView{{
					Recorder: want.Recorder{Point: "eth0"},
					Status:   want.RecorderStatus{State: want.Degraded, Bytes: 77, Ledger: ledger.Account{Seen: 30, Captured: 20, SampledOut: 6, Dropped: [ledger.NumReasons]uint64{ledger.Ring: 4}}},
				}},
				Exporters:  []want.Exporter{{Name: "x", Records: 3, Dropped: map[string]uint64{"queue_full": 2}}},
				Collectors: []want.Collector{{Name: "c", Messages: 4, Exporters: []want.Collected{{Point: "192.0.2.1", Records: 9, Lost: map[string]uint64{"records": 2}}}}},
				FlowStores: []want.FlowStore{{Point: "192.0.2.1", Held: 5, Records: 6, Lost: 7}},
			},
			{Name: "a", ID: "2"},
		},
	}
	s.Fabric = &want.FabricTally{
		Leads: true, Drift: 3, Turns: 9, Reconcile: 250 * time.Millisecond, Probes: map[string]uint64{want.ProbeLost: 2}, Policies: map[want.PolicyState]int{want.PolicyActive: 4},
		Switches: []want.FabricSwitchTally{{Name: "s1", Connected: true, Intended: 20, Ours: 19, Others: 1, Echo: time.Millisecond, PacketIns: 8, Dropped: 5}},
	}
	m := New("1.2.3", func() Snapshot { return s })
	m.Observed("GET", "/v1/points", 200, 512, 20*time.Millisecond)
	m.Observed("GET", "none", 404, 10, time.Millisecond)
	return m
}

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("%d %s: %s", w.Code, w.Header().Get("Content-Type"), w.Body)
	}
	return w.Body.String()
}

func TestNamesAreAsPrometheusLikesThem(t *testing.T) {
	problems, err := promlint.New(strings.NewReader(scrape(t, full()))).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

func TestValues(t *testing.T) {
	text := scrape(t, full())
	for _, line := range []string{
		`opentap_build_info{goversion="go`, `opentap_captures{kind="pcap",state="running"} 2`, "opentap_packets_seen_total 100",
		`opentap_packets_dropped_total{reason="disk"} 10`, `opentap_packets_dropped_total{reason="kernel_ring"} 0`, `opentap_records_total{kind="netflow"} 7`,
		`opentap_node_connected{node="a"} 1`, `opentap_node_connected{node="a/2"} 0`, `opentap_node_behind{node="a"} 1`, "opentap_audit_entries_total 34",
		`opentap_node_governor_stage{node="a"} 2`, `opentap_recorder_running{node="a",point="eth0"} 1`, `opentap_recorder_held_bytes{node="a",point="eth0"} 77`,
		`opentap_recorder_packets_seen_total{node="a",point="eth0"} 30`, `opentap_recorder_packets_captured_total{node="a",point="eth0"} 20`,
		`opentap_recorder_packets_sampled_out_total{node="a",point="eth0"} 6`, `opentap_recorder_packets_dropped_total{node="a",point="eth0",reason="kernel_ring"} 4`,
		`opentap_exporter_dropped_records_total{exporter="x",node="a",reason="queue_full"} 2`, "opentap_certificate_expiry_timestamp_seconds 1.8e+09",
		`opentap_http_requests_total{code="200",method="GET",route="/v1/points"} 1`, `opentap_http_response_bytes_total{route="none"} 10`, "go_goroutines ",
		`opentap_fabric_rules_intended{switch="s1"} 20`, `opentap_fabric_rules{switch="s1"} 19`, `opentap_fabric_echo_seconds{switch="s1"} 0.001`, "opentap_fabric_drift_total 3",
		`opentap_fabric_packet_ins_dropped_total{switch="s1"} 5`, `opentap_fabric_policies{state="active"} 4`, `opentap_fabric_probes_total{result="lost"} 2`, "opentap_fabric_reconcile_seconds 0.25",
		"process_resident_memory_bytes ",
	} {
		if !strings.Contains(text, line) {
			t.Errorf("no %s", line)
		}
	}
	w := httptest.NewRecorder()
	New("", func() Snapshot { return Snapshot{Nodes: []want.Node{{Name: "\xff"}}} }).Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 500 {
		t.Errorf("a node whose name is no text: %d", w.Code)
	}
	if empty := scrape(t, New("", func() Snapshot { return Snapshot{} })); strings.Contains(empty, "certificate_expiry") {
		t.Error("without a certificate it has an end")
	}
}

// TestReferenceIsCurrent compares docs/reference/metrics.md with the table. go test ./internal/metrics -run Reference -update
// writes it.
func TestReferenceIsCurrent(t *testing.T) {
	families, err := full().Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	b.WriteString(preface)
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "opentap_") {
			continue
		}
		var labels []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			labels = append(labels, "`"+l.GetName()+"`")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.GetName(), strings.ToLower(f.GetType().String()), strings.Join(labels, ", "), f.GetHelp())
	}
	if *update {
		if err := os.WriteFile(reference, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if have, err := os.ReadFile(reference); err != nil || !bytes.Equal(have, b.Bytes()) {
		t.Errorf("%s is not current (%v); run go test ./internal/metrics -run Reference -update", reference, err)
	}
}

const preface = `# Metrics

Generated from the program: ` + "`go test ./internal/metrics -run Reference -update`" + `.

` + "`GET /metrics`" + ` answers in the text format of Prometheus. It takes a token with the right to see metadata (role ` + "`viewer`" + `), or an
address that ` + "`metrics.anonymous_ranges`" + ` lists:

` + "```yaml" + `
scrape_configs:
  - job_name: opentap
    scheme: https
    tls_config: {ca_file: /etc/prometheus/opentap-ca.pem}    # the server's data_dir/tls/ca.pem
    authorization: {credentials_file: /etc/prometheus/opentap.token}
    static_configs: [{targets: ["tap.example:2020"]}]
` + "```" + `

Sums count from the start of the program. A packet that two captures saw counts twice. No label has a capture, an address or a
user. Beside these there are the usual ` + "`go_…` and `process_…`" + `.

| name | type | labels | meaning |
|---|---|---|---|
`
