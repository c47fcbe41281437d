//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/tap"
	"opentap/want"
)

// loom is two switches beside a daemon: at s1 a pair of hosts (1, 2), a tool (4), and two cables to the daemon's own host (5 to its nic0, 6
// from its out0); at s2 a tool (1). s1/3 and s2/3 are connected.
type loom struct {
	*daemon
	ovs   *nettest.OVS
	hosts *nettest.NS
}

const loomYAML = `
switches: {s1: {dpid: 1}, s2: {dpid: 2}}
pairs: [[s1/1, s1/2]]
ports:
  line: {at: s1/1, role: filter}
  near: {at: s1/4, role: delivery}
  far: {at: s2/1, role: delivery}
  down: {at: s1/5, role: delivery, leads_to: hub/nic0}
  up: {at: s1/6, role: filter, leads_to: hub/out0}
`

func newLoom(t *testing.T) *loom {
	t.Helper()
	needRoot(t)
	needTool(t, "ovs-vsctl")
	l := &loom{hosts: nettest.NewNS(t)}
	host := nettest.NewNS(t)
	l.ovs = nettest.NewOVS(t, host)
	l.ovs.Bridge("s1", 1)
	l.ovs.Bridge("s2", 2)
	plug := func(sw string, number int, ns *nettest.NS, name string) {
		port := fmt.Sprintf("%s-%d", sw, number)
		nettest.Veth(t, host, port, ns, name)
		l.ovs.Port(sw, port, number)
	}
	plug("s1", 1, l.hosts, "h1")
	plug("s1", 2, l.hosts, "h2")
	plug("s1", 4, l.hosts, "near")
	plug("s2", 1, l.hosts, "far")
	plug("s1", 5, host, "nic0")
	plug("s1", 6, host, "out0")
	nettest.Veth(t, host, "s1-3", host, "s2-3")
	l.ovs.Port("s1", "s1-3", 3)
	l.ovs.Port("s2", "s2-3", 3)
	nettest.Veth(t, host, "tool0", l.hosts, "tool")
	nettest.Veth(t, host, "vm0", l.hosts, "vm")
	l.daemon = newDaemon(t, host, "node: hub\nfabric: {listen: '127.0.0.1:6653', every: 2s, probe_every: 1s}\n")
	l.ovs.Controller("s1", "tcp:127.0.0.1:6653")
	l.ovs.Controller("s2", "tcp:127.0.0.1:6653")
	if err := os.WriteFile(l.file("loom.yaml"), []byte(loomYAML), 0o600); err != nil {
		t.Fatal(err)
	}
	l.must("fabric", "apply", "-f", l.file("loom.yaml"))
	await.Until(t, "the switches are as they should be", func() bool { return l.opentap("fabric", "verify").code == 0 })
	return l
}

// active waits until a flow is, and the switches do what they were told.
func (l *loom) active(name string) {
	l.t.Helper()
	await.Until(l.t, name+" is active", func() bool { return l.tapFlow(name).Status == tap.Up })
	l.ovs.Settle()
}

// come waits until exactly these frames have come, in whatever order, and none else for a while.
func come(t *testing.T, what string, ear *nettest.Ear, frames ...[]byte) {
	t.Helper()
	var got [][]byte
	for deadline := time.Now().Add(await.Patience); len(got) < len(frames) && time.Now().Before(deadline); {
		if f := ear.Next(100 * time.Millisecond); f != nil && ours(f) {
			got = append(got, f)
		}
	}
	for _, f := range ear.All(150 * time.Millisecond) {
		if ours(f) {
			got = append(got, f)
		}
	}
	if len(got) != len(frames) {
		t.Fatalf("%s: %d frames came, want %d: %x", what, len(got), len(frames), got)
	}
	slices.SortFunc(got, bytes.Compare) // a switch that is a program sends on first what it knows already
	slices.SortFunc(frames, bytes.Compare)
	for i := range got {
		if !bytes.Equal(got[i], frames[i]) {
			t.Errorf("%s: frame %d is %x, want %x", what, i, got[i], frames[i])
		}
	}
}

// ours leaves out what a kernel sends by itself over IPv6. Probes must not come.
func ours(f []byte) bool { return f[12] != 0x86 || f[13] != 0xdd }

func loomFrame(port uint16, octets int) []byte {
	return nettest.Packet{SrcPort: 4000, DstPort: port, Payload: numbered(int(port), octets)}.Bytes()
}

// TestNetnsFabricSplitsFilters: what switches cannot match of a policy's filter is done by the agent behind the delivery port.
func TestNetnsFabricSplitsFilters(t *testing.T) {
	t.Parallel()
	l := newLoom(t)
	h1, tool := nettest.NewSender(t, l.hosts, "h1"), nettest.NewEar(t, l.hosts, "tool")
	const policies = "policies:\n  - {name: syn, from: [line], to: [down], filter: 'udp dst port 9 and len > 200'}\n  - {name: dns, from: [line], to: [down], filter: 'udp port 53'}\n"
	apply := func(yaml string) result {
		if err := os.WriteFile(l.file("split.yaml"), []byte(yaml+policies), 0o600); err != nil {
			t.Fatal(err)
		}
		return l.opentap("fabric", "apply", "-f", l.file("split.yaml"))
	}
	if r := apply(loomYAML); r.code == 0 || !strings.Contains(r.stderr, "computed conditions") {
		t.Errorf("without an agent: %+v", r)
	}
	with := strings.Replace(loomYAML, "leads_to: hub/nic0", "leads_to: hub/nic0, into: tool0", 1)
	if r := apply(with); r.code != 0 {
		t.Fatalf("%+v", r)
	}
	if out := l.must("fabric", "plan", "-f", l.file("split.yaml")); !strings.Contains(out, "the switches copy: udp dst port 9; hub/tool0 filters exactly") {
		t.Errorf("the plan does not say which part is where:\n%s", out)
	}
	await.Until(t, "both are active", func() bool { return strings.Count(l.must("fabric", "show", "-o", "json"), `"state": "active"`) == 2 })
	l.ovs.Settle()
	nine, long, dns, other := loomFrame(9, 100), loomFrame(9, 300), loomFrame(53, 100), loomFrame(10, 300)
	await.Until(t, "the agent hands on", func() bool { h1.Send(long); return tool.Next(100*time.Millisecond) != nil })
	tool.All(300 * time.Millisecond)
	h1.Send(nine, long, dns, other)
	come(t, "at the tool", tool, long, dns)
	await.Until(t, "probes went through by themselves", func() bool {
		text := string(l.ask(200, "GET", "/metrics", nil).Body)
		return strings.Contains(text, `opentap_fabric_rules{switch="s1"}`) && strings.Contains(text, "opentap_fabric_leads 1") &&
			!strings.Contains(text, `opentap_fabric_probes_total{result="delivered"} 0`) && strings.Contains(text, `opentap_fabric_probes_total{result="lost"} 0`)
	})
	if out := l.must("fabric", "show", "syn"); !strings.Contains(out, "delivered") {
		t.Errorf("the last probe is missing in\n%s", out)
	}
	// The device for the tool goes, and the policies say so.
	l.ns.Delete("tool0")
	await.Until(t, "the policies are degraded", func() bool {
		out := l.must("fabric", "show", "-o", "json")
		return strings.Count(out, `"state": "degraded"`) == 2 && strings.Contains(out, "node hub")
	})
}

// TestNetnsFabricCarriesTaps: taps that begin or end at ports of switches.
func TestNetnsFabricCarriesTaps(t *testing.T) {
	t.Parallel()
	l := newLoom(t)
	h1, h2, vm := nettest.NewSender(t, l.hosts, "h1"), nettest.NewSender(t, l.hosts, "h2"), nettest.NewSender(t, l.hosts, "vm")
	far, near, tool := nettest.NewEar(t, l.hosts, "far"), nettest.NewEar(t, l.hosts, "near"), nettest.NewEar(t, l.hosts, "tool")
	nine, ten, long := loomFrame(9, 100), loomFrame(10, 100), loomFrame(9, 300)

	// Between ports of switches.
	l.must("tap", "service", "create", "--port", "s2/1", "--name", "ids")
	l.must("tap", "flow", "create", "--port", "s1/1", "--service", "ids", "--name", "f", "--direction", "BOTH", "--filter", "udp dst port 9")
	l.active("f")
	h1.Send(nine, ten)
	h2.Send(nine, ten)
	come(t, "what passes the pair both ways", far, nine, nine)
	await.Until(t, "it is counted", func() bool {
		c := l.tapFlow("f").Counts
		return c.Mirrored == 2 && c.Seen == 4 && c.NotMatched == 2 && c.Octets == uint64(2*len(nine))
	})
	v := l.tapFlow("f")
	if len(v.Ends) != 2 || v.Ends[0].Node != "fabric" || v.Ends[0].Driver != "fabric" || v.Ends[1].Node != "fabric" {
		t.Errorf("ends %+v", v.Ends)
	}
	policy := "tap-" + v.ID
	if out := l.must("fabric", "show"); !strings.Contains(out, policy) {
		t.Errorf("%s is missing in\n%s", policy, out)
	}
	if r := l.opentap("fabric", "delete", policy); r.code == 0 || !strings.Contains(r.stderr, "belongs to a tap flow") {
		t.Errorf("deleted by hand: %+v", r)
	}
	// The description does not have it, and applying that again does not end it.
	l.must("fabric", "apply", "-f", l.file("loom.yaml"), "--prune")
	var shown want.FabricView
	if err := json.Unmarshal([]byte(l.must("fabric", "show", "-o", "json")), &shown); err != nil || len(shown.Fabric.Policies) != 0 || len(shown.Policies) != 1 {
		t.Errorf("%v %+v", err, shown.Policies)
	}
	// A filter can be changed, and what a switch cannot do is refused with the reason.
	l.must("tap", "flow", "update", "f", "--filter", "udp dst port 10")
	l.active("f")
	h1.Send(nine, ten)
	come(t, "after the filter was changed", far, ten)
	if r := l.opentap("tap", "flow", "update", "f", "--filter", "len > 100"); r.code == 0 || !strings.Contains(r.stderr, "computed conditions") {
		t.Errorf("%+v", r)
	}
	if r := l.opentap("tap", "flow", "create", "--port", "s1/1", "--service", "ids", "--sample", "10"); r.code == 0 || !strings.Contains(r.stderr, "switches do not sample") {
		t.Errorf("%+v", r)
	}
	// A crash ends nothing, and neither does the restart.
	l.kill()
	h1.Send(nine, ten)
	come(t, "while nobody is there", far, ten)
	l.start()
	h1.Send(nine, ten)
	come(t, "when it is back", far, ten)
	await.Until(t, "it is active again", func() bool { return l.tapFlow("f").Status == tap.Up })
	h1.Send(nine, ten)
	come(t, "when it has looked", far, ten)
	await.Until(t, "nothing was changed", func() bool { return l.opentap("fabric", "verify").code == 0 })
	if out := l.must("fabric", "drift"); strings.Contains(out, "repaired") {
		t.Errorf("a restart is no drift: %s", out)
	}
	// The same through Neutron's door.
	taas := l.ask(201, "POST", "/v2.0/taas/tap_flows", m{"tap_flow": m{"name": "n", "direction": "OUT", "source_port": l.portNamed("s1/1"), "tap_service_id": v.ServiceID}}).resource(t, "tap_flow", "id")
	await.Until(t, "it is active there", func() bool {
		return l.ask(200, "GET", "/v2.0/taas/tap_flows/"+taas, nil).resource(t, "tap_flow", "status") == "ACTIVE"
	})
	l.ovs.Settle()
	h1.Send(nine, ten)
	come(t, "each packet once for both flows", far, nine, ten)
	l.ask(204, "DELETE", "/v2.0/taas/tap_flows/"+taas, nil)
	// One that has its time.
	l.must("tap", "flow", "create", "--port", "s1/1", "--service", "ids", "--name", "brief", "--for", "3s")
	if out := l.must("fabric", "show"); strings.Count(out, "tap-") != 2 {
		t.Errorf("the one for a while is missing in\n%s", out)
	}
	await.Until(t, "its time is over", func() bool { return strings.Count(l.must("fabric", "show"), "tap-") == 1 })
	l.must("tap", "flow", "delete", "f")
	await.Until(t, "the policy is away", func() bool { return !strings.Contains(l.must("fabric", "show"), policy) })
	l.ovs.Settle()
	h1.Send(ten)
	come(t, "after it was deleted", far)

	// To a tool at the host that a delivery port leads to: the agent there filters exactly.
	l.must("tap", "service", "create", "--port", "hub/tool0", "--name", "host")
	l.must("tap", "flow", "create", "--port", "s1/1", "--service", "host", "--name", "g", "--direction", "OUT", "--filter", "udp dst port 9 and len > 200")
	l.active("g")
	h1.Send(nine, ten, long)
	come(t, "at the host", tool, long)
	await.Until(t, "both parts are counted", func() bool {
		v := l.tapFlow("g")
		if len(v.Ends) != 3 {
			return false
		}
		relay, sw := v.Ends[0], v.Ends[1]
		return v.Counts.Mirrored == 1 && relay.Node == "hub" && relay.Counts.NotMatched == 1 && sw.Role == "switch" && sw.Counts.Mirrored == 2 &&
			strings.Contains(sw.Note, "the switches copy: udp dst port 9; hub/tool0 filters exactly")
	})
	// A second service cannot be told from the first behind the same cable.
	l.must("tap", "service", "create", "--port", "hub/vm0", "--name", "other")
	if r := l.opentap("tap", "flow", "create", "--port", "s1/1", "--service", "other"); r.code == 0 || !strings.Contains(r.stderr, "serves nothing else") {
		t.Errorf("%+v", r)
	}
	l.must("tap", "service", "delete", "other")
	l.must("tap", "service", "delete", "host")

	// From a host to a tool at a switch.
	l.must("tap", "service", "create", "--port", "s1/4", "--name", "near")
	l.must("tap", "flow", "create", "--port", "hub/vm0", "--service", "near", "--name", "h", "--direction", "OUT", "--filter", "udp dst port 9")
	l.active("h")
	vm.Send(nine, ten)
	come(t, "at the switch", near, nine)
	if v := l.tapFlow("h"); len(v.Ends) != 3 {
		t.Errorf("ends %+v", v.Ends)
	}
	l.must("tap", "flow", "delete", "h")
	await.Until(t, "the switches are as they should be", func() bool { return l.opentap("fabric", "verify").code == 0 })
}
