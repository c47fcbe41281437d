//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/want"
)

// roles are those that a controller has on the switches, as it shows them.
func (h *machine) roles() string {
	h.t.Helper()
	var v want.FabricView
	r := h.opentap("fabric", "show", "-o", "json")
	if r.code != 0 {
		return r.stderr
	}
	if err := json.Unmarshal([]byte(r.stdout), &v); err != nil {
		h.t.Fatal(err)
	}
	var out []string
	for _, s := range v.Switches {
		out = append(out, s.Role)
	}
	return strings.Join(out, " ")
}

// TestNetnsFabricChangesHands: two controllers over one etcd have the same switches; the one that leads is killed, the other takes over, and
// no copy is lost.
func TestNetnsFabricChangesHands(t *testing.T) {
	t.Parallel()
	needTool(t, "ovs-vsctl")
	s := newSite(t)
	etcd := s.cluster()
	const listen = "fabric: {listen: '@IP:6653', every: 2s}\n"
	a := s.controller("a", "  advertise: '@IP:2021'\n", etcd.endpoints()+"\n"+listen)
	b := s.second("b", a, etcd.endpoints()+"\n"+listen)
	switches, hosts := nettest.NewNS(t), nettest.NewNS(t)
	nettest.Veth(t, s.sw, "switches", switches, "eth0")
	if err := s.sw.Netlink().LinkSetMaster(s.sw.Link("switches"), s.sw.Link("br0")); err != nil {
		t.Fatal(err)
	}
	s.address(switches, "eth0", "10.9.0.200/24")
	ovs := nettest.NewOVS(t, switches)
	plug := func(sw, port, host string, number int) {
		nettest.Veth(t, switches, port, hosts, host)
		ovs.Port(sw, port, number)
	}
	ovs.Bridge("s1", 1)
	ovs.Bridge("s2", 2)
	plug("s1", "s1-1", "h1", 1)
	plug("s1", "s1-2", "h2", 2)
	plug("s2", "s2-1", "tool", 1)
	nettest.Veth(t, switches, "s1-3", switches, "s2-3")
	ovs.Port("s1", "s1-3", 3)
	ovs.Port("s2", "s2-3", 3)
	for _, sw := range []string{"s1", "s2"} {
		ovs.Controller(sw, "tcp:"+a.ip+":6653", "tcp:"+b.ip+":6653")
	}
	apply := func(h *machine, policies string) {
		t.Helper()
		if err := os.WriteFile(h.file("fabric.yaml"), []byte(`
switches: {s1: {dpid: 1}, s2: {dpid: 2}}
pairs: [[s1/1, s1/2]]
ports: {line: {at: s1/1, role: filter}, tool: {at: s2/1, role: delivery}}
policies: [`+policies+"]\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		h.must("fabric", "apply", "--prune", "-f", h.file("fabric.yaml"))
	}
	const policy = "{name: p, from: [line], to: [tool], filter: udp}"
	apply(b, policy) // whoever is asked
	leader, other := a, b
	await.Until(t, "one is the master of both switches, and the other knows that", func() bool {
		leader, other = a, b
		if b.roles() == "master master" {
			leader, other = b, a
		}
		return leader.roles() == "master master" && other.roles() == "slave slave"
	})
	active := func(h *machine) func() bool {
		return func() bool { return h.opentap("fabric", "verify").code == 0 }
	}
	await.Until(t, "the leader is content", active(leader))
	await.Until(t, "so is the other", active(other))

	sender, peer, tool := nettest.NewSender(t, hosts, "h1"), nettest.NewEar(t, hosts, "h2"), nettest.NewEar(t, hosts, "tool")
	ovs.Settle()
	stop, sent := make(chan struct{}), make(chan int)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-stop:
				sent <- n
				return
			case <-tick.C:
				sender.Send(plain(n, 1, 9)...)
			}
		}
	}()
	leader.kill()
	began := time.Now()
	await.Until(t, "the other has taken over", func() bool { return other.roles() == "master master" })
	t.Logf("the other leads %s after the kill", time.Since(began).Round(time.Millisecond))
	apply(other, policy+", {name: q, from: [line], to: [tool], filter: tcp}")
	await.Until(t, "it changes the switches", active(other))
	leader.start()
	await.Until(t, "the first is back, and follows", func() bool { return leader.roles() == "slave slave" })
	await.Until(t, "it sees what the other did", active(leader))
	close(stop)
	n := <-sent
	for what, ear := range map[string]*nettest.Ear{"frames of the pair": peer, "copies": tool} {
		came := 0
		for _, f := range ear.All(500 * time.Millisecond) {
			if f[12] == 8 {
				came++
			}
		}
		if came != n {
			t.Errorf("of %d %s %d came", n, what, came)
		}
	}
	if out := other.must("fabric", "drift"); strings.Contains(out, "repaired") {
		t.Errorf("a change of hands is no drift:\n%s", out)
	}
}
