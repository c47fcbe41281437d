package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"opentap/want"
)

// Rules that a file can judge are, with the samples and the counters of a real switch; of each that it cannot it is said why.
func TestDetectTest(t *testing.T) {
	rules := filepath.Join(t.TempDir(), "rules.yaml")
	if err := os.WriteFile(rules, []byte(`
rules:
  - name: tcp
    flow: {keys: [src, dport], filter: tcp, window: 1s}
    threshold: {above: 1Mbps}
  - name: ports
    flow: {input: interfaces, keys: [dpid, port, way]}
    threshold: {above: 1Mbps}
  - name: kernel
    flow: {input: counters, points: [eth0], keys: [device, way]}
    threshold: {above: 1Mbps}
  - name: records
    flow: {input: records, keys: [src]}
    threshold: {above: 1Mbps}
  - name: device
    flow: {input: packets, points: [eth0], keys: [device], value: packets, window: 1s}
    threshold: {above: 10pps}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	const file = "../../wire/sflow/testdata/sflow-ovs.pcap"
	for name, x := range map[string]struct {
		args   []string
		judged []string // rules that find something
		why    map[string]string
	}{
		"datagrams": {nil, []string{"tcp", "ports"}, map[string]string{"kernel": "no capture file holds", "records": "not read", "device": "--packets"}},
		"packets": {
			[]string{"--packets", "--point", "eth0"},
			[]string{"device"},
			map[string]string{"kernel": "no capture file holds", "records": "not read", "ports": "holds none"},
		},
		"another device": {[]string{"--packets"}, nil, map[string]string{"kernel": "no capture", "records": "not read", "ports": "holds none", "device": "--point"}},
		"another port":   {[]string{"--port", "1"}, nil, map[string]string{"kernel": "no capture", "records": "not read", "ports": "holds none", "device": "--packets", "tcp": "--port"}},
	} {
		var out, errs bytes.Buffer
		args := append([]string{"detect", "test", "--rules", rules, "-o", "json", file}, x.args...)
		if code := run(args, nil, &out, &errs); code != 0 {
			t.Errorf("%s: exit code %d: %s", name, code, errs.String())
			continue
		}
		var said struct {
			Crossings []want.Crossing
			NotJudged map[string]string `json:"not_judged"`
		}
		if err := json.Unmarshal(out.Bytes(), &said); err != nil {
			t.Fatal(err)
		}
		found := make(map[string]bool)
		for _, c := range said.Crossings {
			found[c.Rule] = true
		}
		for _, rule := range x.judged {
			if !found[rule] {
				t.Errorf("%s: %s finds nothing", name, rule)
			}
		}
		if len(found) != len(x.judged) || len(said.NotJudged) != len(x.why) {
			t.Errorf("%s: %v found something, not judged: %v", name, found, said.NotJudged)
		}
		for rule, why := range x.why {
			if !strings.Contains(said.NotJudged[rule], why) || !strings.Contains(errs.String(), rule+" was not judged") {
				t.Errorf("%s: %s: %q; %s", name, rule, said.NotJudged[rule], errs.String())
			}
		}
	}
}
