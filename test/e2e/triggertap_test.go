//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
	"opentap/want"
)

// soonTapped bounds the time from a crossing to the first copy at the monitor. A second is promised and some 60 ms are usual, which the
// tests print; what is tested here also holds on a machine that runs many tests at once.
const soonTapped = 10 * time.Second

// apply makes the rules of a file with this text.
func (d *daemon) apply(text string) {
	d.t.Helper()
	rules := d.file("rules.yaml")
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.must("detect", "rules", "apply", "-q", "-f", rules)
}

// refuses checks that rules are refused, for a reason.
func (d *daemon) refuses(text, reason string) {
	d.t.Helper()
	rules := d.file("refused.yaml")
	if err := os.WriteFile(rules, []byte(text), 0o600); err != nil {
		d.t.Fatal(err)
	}
	if r := d.opentap("detect", "rules", "apply", "-q", "-f", rules); r.code == 0 || !strings.Contains(r.stderr, reason) {
		d.t.Errorf("exit %d, %s; not refused because %s:\n%s", r.code, r.stderr, reason, text)
	}
}

// found lists what a rule found, the newest first.
func (d *daemon) found(rule string) []want.Detection {
	d.t.Helper()
	var events struct{ Events []want.Detection }
	d.ask(200, "GET", "/v1/detect/events?rule="+rule, nil).decode(d.t, &events)
	return events.Events
}

func (d *daemon) tapFlows() []tap.FlowView {
	d.t.Helper()
	var list struct {
		Flows []tap.FlowView `json:"flows"`
	}
	if err := json.Unmarshal([]byte(d.must("tap", "flow", "list", "-o", "json")), &list); err != nil {
		d.t.Fatal(err)
	}
	return list.Flows
}

// monitorService makes a service that delivers to the monitor, and returns its id.
func (l *tapLab) monitorService() string {
	l.t.Helper()
	return l.ask(201, "POST", "/v2.0/taas/tap_services", m{"tap_service": m{"name": "monitor", "port_id": l.portNamed("monitor")}}).resource(l.t, "tap_service", "id")
}

// firstCopy sends frames, a little apart, until the monitor has one of them, and returns when that was.
func (l *tapLab) firstCopy(ear *nettest.Ear, frame func(n int) []byte) time.Time {
	l.t.Helper()
	sent := make(map[string]bool)
	var when time.Time
	await.Until(l.t, "a copy is at the monitor", func() bool {
		for range 20 {
			f := frame(len(sent))
			sent[string(f)] = true
			l.fromLeft.Send(f)
		}
		for got := ear.Next(10 * time.Millisecond); got != nil; got = ear.Next(time.Millisecond) {
			if sent[string(got)] {
				when = time.Now()
				return true
			}
		}
		return false
	})
	return when
}

// silent awaits that what left sends is not copied any more; number makes the frames unlike any before.
func (l *tapLab) silent(ear *nettest.Ear, frame func(n int) []byte) {
	l.t.Helper()
	n := 1 << 20
	await.Until(l.t, "nothing is copied any more", func() bool {
		n++
		f := frame(n)
		l.fromLeft.Send(f)
		return !has(ear.All(100*time.Millisecond), f)
	})
}

// Samples of a real switch make a tap: copies of the flow they tell of, and of nothing else, are at the monitor within a second of
// the crossing, each once, and the tap goes when the flow is over.
func TestNetnsTriggerTap(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "collectors:\n  - {address: \"127.0.0.1:6343\"}\n")
	file, err := filepath.Abs("../../wire/sflow/testdata/sflow-ovs.pcap")
	if err != nil {
		t.Fatal(err)
	}
	ear := nettest.NewEar(t, l.monitor, "eth0")
	l.apply(fmt.Sprintf(`
rules:
  - name: burst
    flow: {keys: [src, dst, dport], filter: tcp, window: 1s}
    threshold: {above: 1Mbps, hold: 1s}
    then:
      tap: {service: %s, port: %s, direction: OUT, filter: "tcp and src host {src} and dst host {dst} and dst port {dport}"}
      max_active: 1
      ttl: 5m
`, l.monitorService(), l.portNamed("left")))
	tcp := func(port uint16) func(n int) []byte {
		return func(n int) []byte {
			return nettest.Packet{
				Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: nettest.TCP, SrcPort: 4000, DstPort: port, Seq: uint32(n),
				Payload: numbered(n, 100),
			}.Bytes()
		}
	}
	replayed := make(chan error, 1)
	go func() { replayed <- replaySamples(l.ns, file) }()
	t.Cleanup(func() {
		if err := <-replayed; err != nil {
			t.Error(err)
		}
	})
	at := l.firstCopy(ear, tcp(80))
	e := l.found("burst")[0]
	took := at.Sub(e.Began)
	t.Logf("the first copy came %v after the crossing", took)
	if took > soonTapped {
		t.Errorf("the first copy came %v after the crossing; at most %v is promised", took, soonTapped)
	}
	if e.Keys["src"] != "10.0.0.1" || e.Keys["dst"] != "10.0.0.2" || e.Keys["dport"] != "80" {
		t.Errorf("%+v", e)
	}
	flows := l.tapFlows()
	if len(flows) != 1 || flows[0].Options.Filter != "tcp and src host 10.0.0.1 and dst host 10.0.0.2 and dst port 80" {
		t.Errorf("%+v", flows)
	}
	ear.All(100 * time.Millisecond) // copies of what firstCopy sent
	other, same := tcp(81)(1<<21), tcp(80)(1<<21)
	l.fromLeft.Send(other, same)
	copies := 0
	for _, f := range ear.All(200 * time.Millisecond) {
		if bytes.Equal(f, same) {
			copies++
		}
		if bytes.Equal(f, other) {
			t.Error("what is not of the flow is copied")
		}
	}
	if copies != 1 {
		t.Errorf("%d copies of a packet of the flow", copies)
	}
	await.Until(t, "it is over, and its tap is gone", func() bool {
		list := l.found("burst")
		return list[len(list)-1].Action.State == "done" && !list[len(list)-1].Ended.IsZero() && len(l.tapFlows()) == 0
	})
	l.silent(ear, tcp(80))
}

// Packets of devices make a tap with a time to live: it goes though the flow goes on. The rule looks at the monitor's device too, and
// what is copied there neither makes an event nor keeps one alive.
func TestNetnsTriggerTapOnOwnPackets(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	ear := nettest.NewEar(t, l.monitor, "eth0")
	const rule = `
rules:
  - name: own
    flow: {input: packets, points: [left, monitor], keys: [dport], filter: udp, value: packets, window: 1s}
    threshold: {above: 200pps, clear: 10pps, hold: 500ms}
    then:
      tap: {service: %s, port: %s, direction: %s, filter: "udp port {dport}"}
      ttl: 4s
`
	service, left := l.monitorService(), l.portNamed("left")
	l.refuses(fmt.Sprintf(rule, service, service, "BOTH"), "no port")
	l.refuses(fmt.Sprintf(rule, left, left, "BOTH"), "service")
	l.refuses(fmt.Sprintf(rule, service, l.portNamed("monitor"), "BOTH"), "the service's own port")
	l.refuses(fmt.Sprintf(rule, service, left, "SIDEWAYS"), "direction")
	l.apply(fmt.Sprintf(rule, service, left, "BOTH"))
	udp := func(n int) []byte {
		return nettest.Packet{SrcPort: 4000, DstPort: 7777, Payload: numbered(n, 200)}.Bytes()
	}
	at := l.firstCopy(ear, udp)
	e := l.found("own")[0]
	took := at.Sub(e.Began)
	t.Logf("the first copy came %v after the crossing", took)
	if took > soonTapped {
		t.Errorf("the first copy came %v after the crossing; at most %v is promised", took, soonTapped)
	}
	if e.Agent != "left" || e.Keys["dport"] != "7777" {
		t.Errorf("%+v", e)
	}
	n := 1 << 20
	await.Until(t, "the tap goes with its time to live, while the flow goes on", func() bool {
		for range 20 {
			n++
			l.fromLeft.Send(udp(n))
		}
		return len(l.tapFlows()) == 0
	})
	if e := l.found("own")[0]; !e.Ended.IsZero() {
		t.Errorf("the flow has ended, so the time to live was not tried: %+v", e)
	} else if past := time.Since(e.Action.Until); past < 0 {
		t.Errorf("the tap went %v before its time", -past)
	}
	await.Until(t, "the event is over when the flow is", func() bool { return !l.found("own")[0].Ended.IsZero() })
	if all := l.found("own"); len(all) != 1 || all[0].Action.State != "done" {
		t.Errorf("one flow makes %d events: %+v", len(all), all)
	}
}

// The kernel's own counters make an event, by device and way, and a capture there.
func TestNetnsTriggerOnCounters(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	d.apply(`
rules:
  - name: busy
    flow: {input: counters, points: [tap0], keys: [device, way], value: packets, window: 1s}
    threshold: {above: 500pps, hold: 500ms}
    then: {capture: {points: ["{device}"]}}
`)
	sent := 0
	await.Until(t, "the counters are over the threshold", func() bool {
		l.Send(plain(sent, 100, 7777)...)
		sent += 100
		return len(d.found("busy")) > 0
	})
	await.Until(t, "it is over", func() bool { return d.found("busy")[0].Action.State == "done" })
	all := d.found("busy")
	if e := all[0]; len(all) != 1 || e.Keys["device"] != "tap0" || e.Keys["way"] != "in" || e.Agent != "tap0" || e.Action.Capture == "" {
		t.Errorf("%+v", all)
	}
}
