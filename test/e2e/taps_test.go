//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// tapLab is tempest's scenario without Nova: two machines left and right on one bridge, and a monitor on no network. Their
// cables end in the host's namespace, where opentapd runs.
type tapLab struct {
	*daemon
	left, right, monitor *nettest.NS
	fromLeft, fromRight  *nettest.Sender
}

func newTapLab(t *testing.T, yaml string) *tapLab {
	t.Helper()
	needRoot(t)
	host := nettest.NewNS(t)
	l := &tapLab{left: nettest.NewNS(t), right: nettest.NewNS(t), monitor: nettest.NewNS(t)}
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}
	if err := host.Netlink().LinkAdd(bridge); err != nil {
		t.Fatalf("make a bridge: %v", err)
	}
	host.Up("br0")
	for name, ns := range map[string]*nettest.NS{"left": l.left, "right": l.right, "monitor": l.monitor} {
		nettest.Veth(t, host, name, ns, "eth0")
		if name != "monitor" {
			if err := host.Netlink().LinkSetMaster(host.Link(name), host.Link("br0")); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.fromLeft, l.fromRight = nettest.NewSender(t, l.left, "eth0"), nettest.NewSender(t, l.right, "eth0")
	l.daemon = newDaemon(t, host, yaml)
	return l
}

// resource is an attribute of the one resource in an answer of the TaaS door.
func (a *answer) resource(t testing.TB, kind, attribute string) string {
	t.Helper()
	var v map[string]map[string]any
	if err := json.Unmarshal(a.Body, &v); err != nil {
		t.Fatalf("%v: %s", err, a.Body)
	}
	s, _ := v[kind][attribute].(string)
	return s
}

// portNamed is the id of a port, found as the openstack client does.
func (d *daemon) portNamed(name string) string {
	d.t.Helper()
	var list struct{ Ports []struct{ ID string } }
	await.Until(d.t, "there is one port named "+name, func() bool {
		a := d.ask(200, "GET", "/v2.0/ports?name="+name+"&fields=id", nil)
		if err := json.Unmarshal(a.Body, &list); err != nil {
			d.t.Fatalf("ports named %s: %v %s", name, err, a.Body)
		}
		return len(list.Ports) == 1
	})
	return list.Ports[0].ID
}

// ping is an echo request from left to right, and its reply.
func (l *tapLab) ping(number int) (request, reply []byte) {
	leftMAC, rightMAC := [6]byte{2, 0, 0, 0, 0, 0x11}, [6]byte{2, 0, 0, 0, 0, 0x22}
	request = nettest.Packet{SrcMAC: leftMAC, DstMAC: rightMAC, Proto: nettest.ICMP, ICMPType: 8, ID: 7, Seq: uint32(number), Payload: numbered(number, 56)}.Bytes()
	reply = nettest.Packet{SrcMAC: rightMAC, DstMAC: leftMAC, Proto: nettest.ICMP, ICMPType: 0, ID: 7, Seq: uint32(number), Payload: numbered(number, 57)}.Bytes()
	l.fromLeft.Send(request)
	l.fromRight.Send(reply)
	return request, reply
}

func has(frames [][]byte, frame []byte) bool {
	for _, f := range frames {
		if bytes.Equal(f, frame) {
			return true
		}
	}
	return false
}

// TestNetnsTapScenario: with the taps the monitor sees request and reply, without them neither, and left and right hear
// each other all the time.
func TestNetnsTapScenario(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	atMonitor, atRight := nettest.NewEar(t, l.monitor, "eth0"), nettest.NewEar(t, l.right, "eth0")
	const quiet = 100 * time.Millisecond

	before, _ := l.ping(1)
	if !has(atRight.All(quiet), before) {
		t.Fatal("right does not hear left")
	}
	if got := atMonitor.All(quiet); has(got, before) {
		t.Fatal("the monitor hears left without a tap")
	}

	service := l.ask(201, "POST", "/v2.0/taas/tap_services", m{"tap_service": m{"name": "monitor", "port_id": l.portNamed("monitor")}}).resource(t, "tap_service", "id")
	var flows []string
	for _, name := range []string{"left", "right"} {
		wish := m{"name": name, "source_port": l.portNamed(name), "tap_service_id": service, "direction": "BOTH"}
		flows = append(flows, l.ask(201, "POST", "/v2.0/taas/tap_flows", m{"tap_flow": wish}).resource(t, "tap_flow", "id"))
	}
	for _, f := range flows {
		await.Until(t, "the flow is active", func() bool {
			return l.ask(200, "GET", "/v2.0/taas/tap_flows/"+f, nil).resource(t, "tap_flow", "status") == "ACTIVE"
		})
	}
	request, reply := l.ping(2)
	if !has(atRight.All(quiet), request) {
		t.Error("right does not hear left while it is tapped")
	}
	if got := atMonitor.All(quiet); !has(got, request) || !has(got, reply) {
		t.Errorf("the monitor has %d frames, request %v, reply %v", len(got), has(got, request), has(got, reply))
	}
	await.Until(t, "the counters tell of it", func() bool {
		var v tap.FlowView
		if err := json.Unmarshal([]byte(l.must("tap", "flow", "show", "left", "-o", "json")), &v); err != nil {
			t.Fatal(err)
		}
		return v.Counts.Mirrored >= 2 && v.Counts.Seen == v.Counts.Mirrored
	})

	for _, f := range flows {
		l.ask(204, "DELETE", "/v2.0/taas/tap_flows/"+f, nil)
	}
	number := 3
	await.Until(t, "the monitor hears neither", func() bool {
		number++
		request, reply := l.ping(number)
		if !has(atRight.All(quiet), request) {
			t.Fatal("right does not hear left any more")
		}
		got := atMonitor.All(quiet)
		return !has(got, request) && !has(got, reply)
	})
	l.ask(204, "DELETE", "/v2.0/taas/tap_services/"+service, nil)
}

// TestNetnsTapFiltered: a tap flow that POST has answered is at work a moment later, filter and all.
func TestNetnsTapFiltered(t *testing.T) {
	t.Parallel()
	l := newTapLab(t, "")
	atMonitor := nettest.NewEar(t, l.monitor, "eth0")
	if r := l.opentap("tap", "service", "create", "--port", "monitor", "--name", "m"); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	r := l.opentap("tap", "flow", "create", "--port", "left", "--service", "m", "--direction", "out", "--filter", "udp port 53", "--snap", "60", "--name", "dns")
	if r.code != 0 || !strings.Contains(r.stdout, "ACTIVE") {
		t.Fatalf("%+v", r)
	}
	dns := nettest.Packet{SrcPort: 4000, DstPort: 53, Payload: numbered(1, 200)}.Bytes()
	web := nettest.Packet{SrcPort: 4000, DstPort: 80, Payload: numbered(2, 200)}.Bytes()
	l.fromLeft.Send(web, dns)
	var got [][]byte
	await.Until(t, "the copy is there", func() bool {
		got = append(got, atMonitor.All(50*time.Millisecond)...)
		return has(got, dns[:60])
	})
	if has(got, web) || has(got, web[:60]) {
		t.Error("what the filter refuses was copied")
	}
	r = l.opentap("tap", "flow", "create", "--port", "left", "--service", "m", "--dry-run")
	if r.code != 0 || !strings.Contains(r.stdout, "would mirror") {
		t.Errorf("dry run: %+v", r)
	}
	if r := l.opentap("tap", "flow", "update", "dns", "--for", "2s"); r.code != 0 || !strings.Contains(r.stdout, "until") {
		t.Errorf("update: %+v", r)
	}
	await.Until(t, "it is gone when its time is over", func() bool { return l.opentap("tap", "flow", "show", "dns").code == 4 })
}
