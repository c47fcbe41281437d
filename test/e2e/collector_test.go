//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/packet"
	"opentap/pcap"
	"opentap/want"
)

// topOf asks for everything that is kept of a point.
func (d *daemon) topOf(point string) (packets, octets uint64) {
	d.t.Helper()
	var top struct {
		Total struct{ Bytes, Packets uint64 }
	}
	if err := json.Unmarshal([]byte(d.must("flows", "top", "-q", "--point", point, "--by", "proto", "-o", "json")), &top); err != nil {
		d.t.Fatal(err)
	}
	return top.Total.Packets, top.Total.Bytes
}

// What softflowd meters of a file arrives whole in all its protocols, is there after kill -9, and is what a device that is metered
// all the time has as well.
func TestNetnsCollector(t *testing.T) {
	needTool(t, "softflowd", "tcpdump")
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, `
collectors:
  - {address: "127.0.0.1:2055", allow: [127.0.0.1]}
  - {address: "127.0.0.1:4739", transport: tcp}
flows:
  - {point: tap0, filter: "udp or tcp or icmp"}
`)
	d.create(m{"kind": "pcap", "id": "packets", "points": []string{"tap0"}, "filter": "udp or tcp or icmp"})
	frames, octets := talk(4000)
	l.Send(frames...)
	d.awaitCaptured("packets", 4000)
	await.Until(t, "the device's own flows are kept", func() bool {
		p, o := d.topOf("tap0")
		return p == 4000 && o == octets
	})
	path := d.file("packets.pcap")
	d.must("retrieve", "packets", "-w", path)
	want := uint64(0)
	for _, c := range [][]string{{"-v", "5", "-n", "127.0.0.1:2055"}, {"-v", "9", "-n", "127.0.0.1:2055"}, {"-v", "10", "-n", "127.0.0.1:2055"}, {"-v", "10", "-P", "tcp", "-n", "127.0.0.1:4739"}} {
		if r := d.exec("softflowd", append([]string{"-r", path, "-d"}, c...)...); r.code != 0 {
			t.Skipf("softflowd does not read the file: %s", r.stderr)
		}
		want += 4000
		await.Until(t, strings.Join(c, " ")+": all of it is kept", func() bool {
			if r := d.opentap("flows", "top", "-q", "--point", "127.0.0.1"); r.code != 0 {
				return false // nothing came yet: the point is not known
			}
			p, o := d.topOf("127.0.0.1")
			return p == want && o == want/4000*octets
		})
	}
	var nodes struct{ Nodes []m }
	d.ask(200, "GET", "/v1/nodes", nil).decode(t, &nodes)
	b, err := json.Marshal(nodes.Nodes[0]["collectors"])
	if err != nil || strings.Contains(string(b), `"records":0,"restarts"`) {
		t.Errorf("%v: %s", err, b)
	}
	d.kill()
	d.start()
	if p, _ := d.topOf("127.0.0.1"); p != want {
		t.Errorf("%d packets are left of %d after kill -9", p, want)
	}
	csv := d.file("flows.csv")
	d.must("capture", "netflow", "-q", "--point", "127.0.0.1", "--from", "2000-01-01T00:00:00Z", "--to", "now", "-f", "tcp", "-w", csv)
	rows, err := os.ReadFile(csv)
	if err != nil {
		t.Fatal(err)
	}
	sum := uint64(0)
	for _, r := range columns(t, rows) {
		sum += number(t, r["packets"])
		if r["protocol"] != "TCP" {
			t.Errorf("the filter lets through %v", r)
		}
	}
	if sum != want/4 {
		t.Errorf("%d packets of TCP; %d were sent", sum, want/4)
	}
}

// A real switch's samples make an event and a capture, in the time in which they come, and detect test says the same of the file.
func TestNetnsTrigger(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "collectors:\n  - {address: \"127.0.0.1:6343\"}\n")
	rules := d.file("rules.yaml")
	if err := os.WriteFile(rules, []byte(`
rules:
  - name: big
    flow: {keys: [src, dst, dport], filter: tcp, window: 1s}
    threshold: {above: 1Mbps, hold: 1s}
    then: {capture: {points: [tap0], filter: "host {src} and port {dport}"}, max_active: 1}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := filepath.Abs("../../wire/sflow/testdata/sflow-ovs.pcap")
	if err != nil {
		t.Fatal(err)
	}
	if out := d.must("detect", "test", "-q", "-o", "csv", "--rules", rules, file); !strings.Contains(out, "big,begins,src=10.0.0.1 dst=10.0.0.2 dport=80,") || !strings.Contains(out, "big,ends,") {
		t.Errorf("detect test:\n%s", out)
	}
	d.must("detect", "rules", "apply", "-f", rules)
	if err := replaySamples(l.near, file); err != nil {
		t.Fatal(err)
	}
	var events struct{ Events []want.Detection }
	await.Until(t, "it is found, captured, and over", func() bool {
		d.ask(200, "GET", "/v1/detect/events", nil).decode(t, &events)
		return len(events.Events) > 0 && events.Events[0].Action.State == "done"
	})
	e := events.Events[0]
	if e.Keys["src"] != "10.0.0.1" || e.Keys["dport"] != "80" || e.Ended.IsZero() {
		t.Errorf("%+v", e)
	}
	var v want.View
	d.ask(200, "GET", "/v1/captures/"+e.Action.Capture, nil).decode(t, &v)
	if v.Query.Filter != "host 10.0.0.1 and port 80" || v.Status.State != want.Stopped {
		t.Errorf("%+v", v)
	}
}

// Packets of a device, and flow records of one that is metered, make events without any exporter; the capture has what a recorder
// kept of the time before.
func TestNetnsTriggerOnOwnPackets(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "recorders:\n  - {point: tap0, bytes: 64MiB}\nflows:\n  - {point: tap0}\nflow:\n  idle_timeout: 1s\n")
	rules := d.file("rules.yaml")
	if err := os.WriteFile(rules, []byte(`
rules:
  - name: own
    flow: {input: packets, points: [tap0], keys: [dport], filter: udp, value: packets, window: 1s}
    threshold: {above: 500pps, hold: 500ms}
    then: {capture: {points: [tap0], filter: "udp port {dport}", past: 1m}}
  - name: records
    flow: {input: records, keys: [dport, proto], value: packets, window: 5s}
    threshold: {above: 100pps, hold: 500ms}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "it is recorded", func() bool {
		var r struct{ Recorders []m }
		d.ask(200, "GET", "/v1/recorders", nil).decode(t, &r)
		return len(r.Recorders) == 1 && r.Recorders[0]["status"].(m)["state"] == "running"
	})
	l.Send(plain(0, 100, 7777)...) // before anybody detects anything
	d.must("detect", "rules", "apply", "-q", "-f", rules)
	var events struct{ Events []want.Detection }
	found := func(rule string) *want.Detection {
		d.ask(200, "GET", "/v1/detect/events?rule="+rule, nil).decode(t, &events)
		if len(events.Events) == 0 {
			return nil
		}
		return &events.Events[0]
	}
	sent := 0
	await.Until(t, "the packets are found", func() bool {
		l.Send(plain(100+sent, 1000, 7777)...)
		sent += 1000
		return found("own") != nil
	})
	await.Until(t, "it is over", func() bool { return found("own").Action.State == "done" })
	e := found("own")
	if e.Keys["dport"] != "7777" || e.Agent != "tap0" {
		t.Errorf("%+v", e)
	}
	path := d.file("found.pcap")
	d.must("retrieve", "-q", e.Action.Capture, "-w", path)
	if n := len(packetsOf(t, path)); n != 100+sent {
		t.Errorf("%d packets are in the capture; 100 came before the rule and %d after", n, sent)
	}
	await.Until(t, "the flow record is found", func() bool {
		e := found("records")
		return e != nil && e.Keys["dport"] == "7777" && e.Keys["proto"] == "udp"
	})
}

// replaySamples sends the datagrams of a file to the collector in ns, in the time in which they were.
func replaySamples(ns *nettest.NS, file string) error {
	var conn net.Conn
	var err error
	ns.Do(func() { conn, err = net.Dial("udp", "127.0.0.1:6343") })
	if err != nil {
		return err
	}
	defer conn.Close()
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	r, err := pcap.NewReader(bytes.NewReader(b))
	if err != nil {
		return err
	}
	var pk pcap.Packet
	var first packet.Timestamp
	began := time.Now()
	for {
		if err := r.Next(&pk); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if first == 0 {
			first = pk.Time
		}
		if wait := time.Until(began.Add(pk.Time.Sub(first))); wait > 0 {
			time.Sleep(wait) // the samples' own time is what is tried
		}
		var p packet.Parsed
		p.Decode(packet.LinkEthernet, pk.Data, pk.OrigLen)
		if _, err := conn.Write(pk.Data[p.Payload:]); err != nil {
			return err
		}
	}
}
