//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
)

// Two controllers over an etcd cluster of three: any controller serves any request for any host, and each may go.
func TestNetnsFleetAnyControllerServes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	etcd := s.cluster()
	a := s.controller("a", "  advertise: '@IP:2021'\n", etcd.endpoints())
	b := s.second("b", a, etcd.endpoints())
	left, right := s.agent("left", a), s.agent("right", b)
	left.join(a)
	right.join(b)
	both := []*machine{a, b}
	for _, c := range both {
		c.awaitNode("left", "connected")
		c.awaitNode("right", "connected")
	}

	// Each asks through the controller that does not have the session.
	for _, x := range []struct{ host, asked *machine }{{left, b}, {right, a}} {
		id := "at-" + x.host.name()
		x.asked.create(m{"kind": "pcap", "id": id, "points": []string{x.host.name() + "/tap0"}, "filter": "udp"})
		x.asked.awaitState(id, "running")
		frames := plain(0, 4000, 7000)
		x.host.Send(frames...)
		x.asked.awaitCaptured(id, 4000)
		v := x.asked.finish(id)
		if !v.Status.Ledger.adds() {
			t.Errorf("%s: %+v", id, v.Status.Ledger)
		}
		whole := x.asked.data(id, "pcapng")
		sameFrames(t, packetsIn(t, whole.Body), frames, 0)
		for _, c := range both { // the same octets through the other one
			if again := c.data(id, "pcapng"); !bytes.Equal(again.Body, whole.Body) || again.Header.Get("ETag") != whole.Header.Get("ETag") {
				t.Errorf("%s: other octets through controller %s", id, c.name())
			}
		}
		part := x.asked.ask(206, "GET", capturePath(id)+"/data?format=pcapng", nil, "Range", "bytes=70000-199999")
		if !bytes.Equal(part.Body, whole.Body[70000:200000]) {
			t.Errorf("%s: a part is not that of the whole", id)
		}
		if exists(a.captureDir(v)) || exists(b.captureDir(v)) {
			t.Error("a controller keeps data")
		}
		if exam, _ := x.asked.examination("--node", x.host.name()); exam.Node != x.host.name() || len(exam.Findings) < 5 {
			t.Errorf("what %s finds on its host: %+v", x.host.name(), exam)
		}
	}
	live := a.run(nil, clientBin, "live", "left/tap0", "right/tap0", "udp port 7100", "-w", "-")
	await.Until(t, "the live stream has begun", func() bool { return len(live.out.Bytes()) > 0 })
	left.Send(plain(0, 50, 7100)...)
	right.Send(plain(50, 50, 7100)...)
	await.Until(t, "the live stream shows both hosts", func() bool { return bytes.Count(live.out.Bytes(), []byte("open")) >= 100 })
	_ = live.cmd.Process.Signal(os.Interrupt)
	_ = live.end(t)

	// Revoked at one controller, out at the other.
	third := s.agent("third", b)
	third.join(a)
	b.awaitNode("third", "connected")
	a.must("node", "revoke", "third")
	b.awaitNode("third", "revoked")

	// A controller is killed: its agents come to the other one, which their configuration does not name.
	b.create(m{"kind": "pcap", "id": "over", "points": []string{"left/tap0"}, "filter": "udp"})
	b.awaitState("over", "running")
	before := b.node("left")
	a.kill()
	began := time.Now()
	await.Until(t, "its agent is at the other controller", func() bool {
		n := b.node("left")
		return n.Connected && n.Since.After(before.Since)
	})
	b.awaitNode("left", "connected")
	t.Logf("after %s its agent is at the other controller", time.Since(began).Round(time.Millisecond))
	left.Send(plain(0, 100, 7000)...)
	b.awaitCaptured("over", 100)
	if v := b.finish("over"); len(v.Status.Gaps) != 0 {
		t.Errorf("the capture has gaps: %+v", v.Status.Gaps)
	}
	a.start()
	a.awaitNode("left", "connected")
	sameFrames(t, packetsIn(t, a.data("over", "pcapng").Body), plain(0, 100, 7000), 0)
}

// A member of the etcd cluster is killed while captures are made and deleted: what was acknowledged is so.
func TestNetnsFleetLosesNoAcknowledgedChange(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	etcd := s.cluster()
	a := s.controller("a", "  advertise: '@IP:2021'\n", etcd.endpoints())
	b := s.second("b", a, etcd.endpoints())
	left := s.agent("left", a)
	left.join(a)
	b.awaitNode("left", "connected")

	load := newChurn([]*machine{a, b}, func(c *machine, worker, i int) string {
		id := fmt.Sprintf("w%d-%d", worker, i)
		if c.try("POST", "/v1/captures", m{"kind": "ethernet", "id": id, "points": []string{"left/tap0"}, "from": time.Now().Add(time.Hour)}).Status != 201 {
			return ""
		}
		return id
	}, func(i int) bool { return i%3 != 0 }, func(c *machine, id string) bool { return c.try("DELETE", capturePath(id), nil).Status == 204 })
	load.killEach(t, etcd)
	for _, c := range []*machine{a, b} {
		await.Until(t, "controller "+c.name()+" shows all that was acknowledged", func() bool {
			have := listed(t, c)
			return load.holds(func(id string) bool { return have[id] }, func(id string) bool { return have[id] })
		})
	}
	await.Until(t, "the host has it all", func() bool { n := a.node("left"); return n.Connected && !n.Behind && len(n.Problems) == 0 })
}

// listed are the ids of all captures.
func listed(t testing.TB, c *machine) map[string]bool {
	t.Helper()
	have := make(map[string]bool)
	for line := range strings.Lines(c.must("captures", "-o", "csv")) {
		id, _, _ := strings.Cut(line, ",")
		have[id] = true
	}
	return have
}

// A store that was put back from a copy is not obeyed before somebody says so.
func TestNetnsFleetAsksBeforeObeyingAnOldStore(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("ctl", "", "")
	left := s.agent("left", c)
	left.join(c)
	c.create(m{"kind": "pcap", "id": "old", "points": []string{"left/tap0"}})
	c.stop()
	if err := os.CopyFS(c.file("copy"), os.DirFS(c.dir+"/store")); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.awaitNode("left", "connected")
	for i := range 5 {
		c.create(m{"kind": "pcap", "id": fmt.Sprintf("new-%d", i), "points": []string{"left/tap0"}})
	}
	kept := c.show("new-0")
	c.awaitState("new-0", "running")
	c.stop()
	if err := os.RemoveAll(c.dir + "/store"); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(c.dir+"/store", os.DirFS(c.file("copy"))); err != nil {
		t.Fatal(err)
	}
	c.start()
	c.awaitNode("left", "connected")
	await.Until(t, "the node says that it refuses", func() bool {
		return strings.Contains(strings.Join(c.node("left").Problems, "\n"), "older than the one taken")
	})
	if !exists(left.dirOf(kept)) {
		t.Error("it removed data that an old store does not know")
	}
	c.must("store", "accept")
	await.Until(t, "the node obeys", func() bool { n := c.node("left"); return len(n.Problems) == 0 && !exists(left.dirOf(kept)) })
	c.awaitState("old", "running")
}
