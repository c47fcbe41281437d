//go:build linux

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// TestNetnsTapSoonAmongMany: with 1,000 taps present, another one copies packets soon after it was asked for. The time is from
// the request to the first copy at the tool; the median is told. It takes a minute, and so is run by OPENTAP_TAP_LATENCY=1.
func TestNetnsTapSoonAmongMany(t *testing.T) {
	if os.Getenv("OPENTAP_TAP_LATENCY") == "" {
		t.Skip("needs OPENTAP_TAP_LATENCY=1: it takes a minute")
	}
	const ports, each, rounds = 100, 10, 31
	l := newTapLab(t, "")
	for i := range ports {
		v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprintf("many%d", i)}, PeerName: fmt.Sprintf("peer%d", i)}
		if err := l.ns.Netlink().LinkAdd(v); err != nil {
			t.Fatal(err)
		}
		l.ns.Up(v.Name)
	}
	service := l.ask(201, "POST", "/v2.0/taas/tap_services", map[string]any{"tap_service": map[string]any{"port_id": l.portNamed("monitor")}}).
		resource(t, "tap_service", "id")
	await.Until(t, "the devices are ports", func() bool {
		return strings.Contains(string(l.ask(200, "GET", "/v2.0/ports?fields=name", nil).Body), fmt.Sprintf("%q", fmt.Sprintf("many%d", ports-1)))
	})
	for i := range ports {
		var list []map[string]any
		port := l.portNamed(fmt.Sprintf("many%d", i))
		for range each {
			list = append(list, map[string]any{"source_port": port, "tap_service_id": service, "direction": "BOTH"})
		}
		l.ask(201, "POST", "/v2.0/taas/tap_flows", map[string]any{"tap_flows": list})
	}
	await.Within(t, 2*time.Minute, "1,000 taps are at work", func() bool {
		var v struct {
			Flows []json.RawMessage `json:"tap_flows"`
		}
		a := l.ask(200, "GET", "/v2.0/taas/tap_flows?status=ACTIVE&fields=id", nil)
		return json.Unmarshal(a.Body, &v) == nil && len(v.Flows) == ports*each
	})

	left := l.portNamed("left")
	var copied, answered []time.Duration
	for i := range rounds {
		atMonitor := nettest.NewEar(t, l.monitor, "eth0")
		request, _ := l.ping(i)
		start := time.Now()
		flow := l.ask(201, "POST", "/v2.0/taas/tap_flows", map[string]any{"tap_flow": map[string]any{"source_port": left, "tap_service_id": service, "direction": "OUT"}}).
			resource(t, "tap_flow", "id")
		answered = append(answered, time.Since(start))
		await.Until(t, "a copy is there", func() bool {
			l.fromLeft.Send(request)
			return has(atMonitor.All(time.Millisecond), request)
		})
		copied = append(copied, time.Since(start))
		l.ask(204, "DELETE", "/v2.0/taas/tap_flows/"+flow, nil)
		await.Until(t, "no more copies", func() bool {
			_ = atMonitor.All(5 * time.Millisecond)
			l.fromLeft.Send(request)
			return !has(atMonitor.All(20*time.Millisecond), request)
		})
	}
	slices.Sort(copied)
	slices.Sort(answered)
	t.Logf("from POST to the first copy, %d taps present: median %s, shortest %s, longest %s; the answer to POST: median %s", ports*each,
		copied[rounds/2], copied[0], copied[rounds-1], answered[rounds/2])
	if copied[rounds/2] > time.Second {
		t.Errorf("half of the taps took %s or more to copy", copied[rounds/2])
	}
}
