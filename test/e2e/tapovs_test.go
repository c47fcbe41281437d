//go:build linux

package e2e

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
)

// TestNetnsTapOfOVSPort: a port of Open vSwitch that no kernel device stands for is listed, refused for captures, and tapped with
// a filter; nothing is left in Open vSwitch when the tap is gone.
func TestNetnsTapOfOVSPort(t *testing.T) {
	t.Parallel()
	needRoot(t)
	host, monitor := nettest.NewNS(t), nettest.NewNS(t)
	nettest.Veth(t, host, "monitor", monitor, "eth0")
	o := nettest.NewOVS(t, host)
	o.Ctl("add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
	o.Ctl("add-port", "br0", "vhu0", "--", "set", "interface", "vhu0", "type=dummy")
	d := newDaemon(t, host, "taps:\n  ovsdb: "+o.Socket()+"\n")

	d.portNamed("vhu0")
	if r := d.opentap("capture", "pcap", "--point", "vhu0", "--duration", "1s", "--detach"); r.code == 0 || !strings.Contains(r.stderr, "no kernel device stands for this port of Open vSwitch") {
		t.Errorf("a capture there: %+v", r)
	}
	service := d.ask(201, "POST", "/v2.0/taas/tap_services", m{"tap_service": m{"port_id": d.portNamed("monitor")}}).resource(t, "tap_service", "id")
	d.must("tap", "flow", "create", "--port", "vhu0", "--service", service, "--name", "dns", "--direction", "OUT", "--filter", "udp port 53")
	await.Until(t, "the flow is active", func() bool {
		v := d.tapFlow("dns")
		return v.Status == tap.Up && len(v.Ends) > 0
	})
	e := nettest.NewEar(t, monitor, "eth0")
	dns, other := nettest.Packet{DstPort: 53, Payload: []byte("question")}.Bytes(), nettest.Packet{DstPort: 54}.Bytes()
	var got [][]byte
	await.Until(t, "a copy is there", func() bool {
		for _, f := range [][]byte{other, dns} {
			o.Receive("vhu0", f)
		}
		got = append(got, e.All(200*time.Millisecond)...)
		return has(got, dns)
	})
	for _, f := range got {
		if !bytes.Equal(f, dns) {
			t.Errorf("the tool hears %x", f)
		}
	}
	d.must("tap", "flow", "delete", "dns")
	await.Until(t, "nothing of it is left in Open vSwitch", func() bool {
		return o.Ctl("--bare", "--columns=name", "list", "Mirror") == "" && strings.TrimSpace(o.Ctl("list-ports", "br0")) == "vhu0"
	})
}
