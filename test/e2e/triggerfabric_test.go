//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/want"
)

// Samples of a real Open vSwitch set a policy of the fabric at the port where they were taken: copies are at the tool within a second of the
// crossing. The server is killed meanwhile: the next one knows the event, begins nothing twice, and ends what was begun when the flow is over.
func TestNetnsTriggerFabric(t *testing.T) {
	t.Parallel()
	needRoot(t)
	ns, left, right, tool := nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t), nettest.NewNS(t)
	for name, far := range map[string]*nettest.NS{"p1": left, "p2": right, "p3": tool} {
		nettest.Veth(t, ns, name, far, "eth0")
	}
	ovs := nettest.NewOVS(t, ns)
	d := newDaemon(t, ns, "fabric: {listen: \"127.0.0.1:6653\"}\ncollectors:\n  - {address: \"127.0.0.1:6343\"}\n")
	ovs.Bridge("s1", 1)
	for i, p := range []string{"p1", "p2", "p3"} {
		ovs.Port("s1", p, i+1)
	}
	ovs.Controller("s1", "tcp:127.0.0.1:6653")
	ovs.Ctl("--", "--id=@s", "create", "sflow", "agent=lo", `target="127.0.0.1:6343"`, "sampling=2", "polling=1", "header=128", "--", "set", "bridge", "s1", "sflow=@s")
	fabric := d.file("fabric.yaml")
	if err := os.WriteFile(fabric, []byte(`
switches: {s1: {dpid: 1}}
pairs: [[s1/1, s1/2]]
ports:
  a: {at: s1/1, role: filter}
  ids: {at: s1/3, role: delivery}
policies: []
`), 0o600); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the fabric is as described", func() bool {
		return d.opentap("fabric", "apply", "-f", fabric).code == 0 && d.opentap("fabric", "verify").code == 0
	})
	d.apply(`
rules:
  - name: burst
    flow: {keys: [src, dst, dpid, port], filter: udp, window: 1s}
    threshold: {above: 200kbps, hold: 2s, min_samples: 5}
    then:
      policy: {from: ["{dpid}/{port}"], to: [ids], filter: "host {src} and host {dst}"}
      ttl: 5m
  - name: ports
    flow: {input: interfaces, keys: [dpid, port, way]}
    threshold: {above: 200kbps, hold: 2s}
`)
	ear := nettest.NewEar(t, tool, "eth0")
	send := nettest.NewSender(t, left, "eth0")
	var quiet atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for n := 0; !quiet.Load(); n++ {
			send.Send(nettest.Packet{SrcPort: 4000, DstPort: 7777, Payload: numbered(n, 1000)}.Bytes())
			time.Sleep(4 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { quiet.Store(true); <-done })
	var first time.Time
	await.Until(t, "a copy is at the tool", func() bool {
		for f := ear.Next(50 * time.Millisecond); f != nil; f = ear.Next(time.Millisecond) {
			if bytes.Contains(f, []byte("open\x00")) { // numbered
				first = time.Now()
				return true
			}
		}
		return false
	})
	e := d.found("burst")[0]
	took := first.Sub(e.Began)
	t.Logf("the first copy came %v after the crossing", took)
	if took > soonTapped {
		t.Errorf("the first copy came %v after the crossing; at most %v is promised", took, soonTapped)
	}
	if e.Keys["dpid"] != "0000000000000001" || e.Keys["port"] != "1" || e.Keys["src"] != "192.0.2.1" || e.Keys["dst"] != "192.0.2.2" {
		t.Errorf("%+v", e)
	}
	await.Until(t, "the switch's own counters are over their threshold at both ports", func() bool {
		ways := make(map[string]bool)
		for _, p := range d.found("ports") {
			ways[p.Keys["port"]+p.Keys["way"]] = true
		}
		return ways["1in"] && ways["2out"]
	})
	await.Until(t, "what was begun is written down", func() bool { return d.found("burst")[0].Action.Policy != "" })
	d.kill()
	d.start()
	await.Until(t, "the next server knows it, and looks on", func() bool {
		again := d.found("burst")
		var top want.DetectTop
		d.ask(200, "GET", "/v1/detect/rules/burst/top", nil).decode(t, &top)
		return len(again) == 1 && again[0].ID == e.ID && again[0].Ended.IsZero() && again[0].Action.State == "running" && len(top.Flows) > 0 && top.Flows[0].Active
	})
	policies := func() (n int) {
		var v struct {
			Policies []struct{ Name string }
		}
		if err := json.Unmarshal([]byte(d.must("fabric", "show", "-o", "json")), &v); err != nil {
			t.Fatal(err)
		}
		return len(v.Policies)
	}
	await.Until(t, "there is one policy", func() bool { return policies() == 1 })
	quiet.Store(true)
	await.Until(t, "it is over, and its policy is gone", func() bool {
		all := d.found("burst")
		return len(all) == 1 && all[0].Action.State == "done" && policies() == 0
	})
}
