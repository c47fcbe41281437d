//go:build linux

package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
)

// One controller and two agents, each a host of its own: what a user has of a fleet.
func TestNetnsFleetCapturesOnEveryHost(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("ctl", "", "")
	left, right := s.agent("left", c), s.agent("right", c)
	left.join(c)
	right.join(c)

	sent := map[string][][]byte{}
	var ids []string
	for i, h := range []*machine{left, right} {
		id := "of-" + h.name()
		c.create(m{"kind": "pcap", "id": id, "points": []string{h.name() + "/tap0"}, "filter": "udp"})
		c.awaitState(id, "running")
		sent[id] = plain(1000*i, 300, 7000)
		h.Send(sent[id]...)
		ids = append(ids, id)
		v := c.awaitCaptured(id, 300)
		if !exists(h.dirOf(v)) {
			t.Errorf("%s: its data is not on its host", id)
		}
		if exists(c.captureDir(v)) {
			t.Errorf("%s: the controller keeps data", id)
		}
	}
	for _, id := range ids {
		v := c.finish(id)
		if !v.Status.Ledger.adds() || v.Status.Ledger.Captured != 300 {
			t.Errorf("%s: %+v", id, v.Status.Ledger)
		}
		body := c.data(id, "pcapng").Body
		sameFrames(t, packetsIn(t, body), sent[id], 0)
		part := c.ask(206, "GET", capturePath(id)+"/data?format=pcapng", nil, "Range", "bytes=1000-4999")
		if !bytes.Equal(part.Body, body[1000:5000]) {
			t.Errorf("%s: a part is not that of the whole", id)
		}
	}

	live := c.run(nil, clientBin, "live", "left/tap0", "right/tap0", "udp port 7100", "--packets", "0", "-w", "-")
	await.Until(t, "the live stream has begun", func() bool { return len(live.out.Bytes()) > 0 })
	left.Send(plain(0, 50, 7100)...)
	right.Send(plain(50, 50, 7100)...)
	await.Until(t, "the live stream shows both hosts", func() bool { return bytes.Count(live.out.Bytes(), []byte("open")) >= 100 })
	_ = live.cmd.Process.Signal(os.Interrupt)
	_ = live.end(t)

	for _, kind := range []string{"ethernet", "netflow"} {
		r := c.opentap("capture", kind, "--point", "right/tap0", "--duration", "1s", "-w", c.file(kind+".csv"))
		if r.code != 0 || size(t, c.file(kind+".csv")) == 0 {
			t.Errorf("%s of a remote host: exit code %d\n%s", kind, r.code, r.stderr)
		}
	}
	if got := c.must("node", "list", "-o", "csv"); strings.Count(got, "connected") != 2 {
		t.Errorf("nodes:\n%s", got)
	}
	c.ask(204, "DELETE", capturePath(ids[0]), nil)
	await.Until(t, "the host removed the data", func() bool {
		list, _ := os.ReadDir(filepath.Join(left.dir, "captures"))
		for _, e := range list {
			if len(e.Name()) == 32 {
				return false
			}
		}
		return true
	})
	left.stop()
	c.awaitNode("left", "gone")
	if r := c.opentap("capture", "pcap", "--point", "left/tap0", "--detach"); r.code == 0 || !strings.Contains(r.stderr, "not") {
		t.Errorf("a capture on a host that is gone: %d %s", r.code, r.stderr)
	}
}

// What breaks, and what goes on.
func TestNetnsFleetSurvivesItsFaults(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("ctl", "", "")
	h := s.agent("left", c)
	h.join(c)
	c.create(m{"kind": "pcap", "id": "long", "points": []string{"left/tap0"}, "filter": "udp"})
	c.awaitState("long", "running")
	frames := plain(0, 500, 7000)
	h.Send(frames[:100]...)
	c.awaitCaptured("long", 100)

	// The controller is killed: the agent goes on.
	c.kill()
	h.Send(frames[100:200]...)
	c.start()
	c.awaitNode("left", "connected")
	c.awaitCaptured("long", 200)

	// The cable is pulled: the controller says so; a capture ends in time without it; afterwards all is known.
	c.create(m{"kind": "pcap", "id": "short", "points": []string{"left/tap0"}, "filter": "udp", "duration": "3s"})
	c.awaitState("short", "running")
	s.cut(h)
	h.Send(frames[200:300]...)
	n := c.awaitNode("left", "gone")
	if since := time.Since(n.Since); since > await.Patience {
		t.Errorf("gone since %s", since)
	}
	if v := c.show("long"); !strings.Contains(v.Status.Reason, "not connected") {
		t.Errorf("a capture on a host that is away: %q", v.Status.Reason)
	}
	c.ask(503, "GET", capturePath("long")+"/data", nil)
	if a := c.try("POST", "/v1/captures", m{"kind": "pcap", "points": []string{"left/tap0"}}); a.Status != 503 {
		t.Errorf("a capture on a host that is away: status %d", a.Status)
	}
	s.mend(h)
	c.awaitNode("left", "connected")
	c.awaitCaptured("long", 300)
	v := c.awaitState("short", "done")
	if d := v.Status.Ended.Sub(v.Status.Started); d > 4*time.Second || v.Status.Ledger.Captured < 100 {
		t.Errorf("the short one took %s, %d packets", d, v.Status.Ledger.Captured)
	}

	// The agent is killed: its captures go on with a gap that is told.
	h.kill()
	c.awaitNode("left", "gone")
	h.Send(frames[300:400]...)
	h.launch()
	c.awaitNode("left", "connected")
	c.awaitState("long", "running", "degraded")
	await.Until(t, "it captures again", func() bool {
		v := c.show("long")
		return len(v.Status.Gaps) == 1 && !v.Status.Gaps[0].To.IsZero()
	})
	h.Send(frames[400:]...)
	c.awaitCaptured("long", 400)
	v = c.finish("long")
	body := c.data("long", "pcapng").Body
	sameFrames(t, packetsIn(t, body), append(append([][]byte(nil), frames[:300]...), frames[400:]...), 0)
	if !v.Status.Ledger.adds() {
		t.Errorf("%+v", v.Status.Ledger)
	}

	// Both are killed, and a deletion is asked for while the agent is away.
	h.kill()
	c.awaitNode("left", "gone")
	c.ask(204, "DELETE", capturePath("long"), nil)
	c.kill()
	c.start()
	h.launch()
	c.awaitNode("left", "connected")
	await.Until(t, "the data is gone", func() bool { return !exists(h.dirOf(v)) })
}

// Certificates that live for seconds are renewed under way, and nobody notices.
func TestNetnsFleetRenewsCertificates(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("ctl", "  certificate_life: 10s\n", "")
	h := s.agent("left", c)
	h.join(c)
	began := c.node("left")
	c.create(m{"kind": "pcap", "id": "all", "points": []string{"left/tap0"}, "filter": "udp"})
	c.awaitState("all", "running")
	live := c.run(nil, clientBin, "live", "left/tap0", "udp", "-w", "-")
	await.Until(t, "the live stream has begun", func() bool { return len(live.out.Bytes()) > 0 })
	var n nodeView
	await.Until(t, "the certificate was renewed four times", func() bool {
		n = c.node("left")
		return n.CertificateEnds.After(began.CertificateEnds.Add(14 * time.Second))
	})
	if !n.Connected || !n.Since.Equal(began.Since) {
		t.Errorf("the session did not last: since %s, and before %s", n.Since, began.Since)
	}
	h.Send(plain(0, 100, 7000)...)
	await.Until(t, "the live stream goes on", func() bool { return bytes.Count(live.out.Bytes(), []byte("open")) >= 100 })
	_ = live.cmd.Process.Signal(os.Interrupt)
	_ = live.end(t)
	c.awaitCaptured("all", 100)

	// A host that is away until its certificate has ended is told what to do, and can join again as what it was.
	s.cut(h)
	await.Until(t, "its certificate has ended", func() bool { return time.Now().After(c.node("left").CertificateEnds.Add(time.Second)) })
	s.mend(h)
	h.says("certificate of this host ended")
	h.stop()
	h.token(c.must("node", "join-token", "-q", "--node", "left"))
	h.launch()
	again := c.awaitNode("left", "connected")
	if again.ID != began.ID {
		t.Errorf("it is another node now: %s, and was %s", again.ID, began.ID)
	}
	if v := c.show("all"); v.Status.Ledger.Captured != 100 {
		t.Errorf("its captures are gone: %+v", v.Status)
	}
}

// Who is not let in, and what that one hears.
func TestNetnsFleetRefusesStrangers(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	c := s.controller("ctl", "", "")
	other := s.controller("other", "", "")
	left, thief := s.agent("left", c), s.agent("thief", c)
	token := c.must("node", "join-token", "-q")
	left.token(token)
	left.launch()
	c.awaitNode("left", "connected")

	fails := func(h *machine, why string) {
		t.Helper()
		h.launch()
		select {
		case err := <-h.ended:
			h.ended <- err
			if err == nil {
				t.Errorf("%s: it ended as if all were well", why)
			}
		case <-time.After(await.Patience):
			t.Errorf("%s: it still runs", why)
		}
		if !strings.Contains(h.tail(), why) {
			t.Errorf("it did not say %q:\n%s", why, h.tail())
		}
		h.kill()
		if err := os.Truncate(h.log, 0); err != nil {
			t.Fatal(err)
		}
	}
	fails(s.agent("poor", c), "no such file") // no token at all
	thief.token(token)
	fails(thief, "was used on")
	thief.token(token[:25] + "aaaa" + token[29:])
	fails(thief, "not valid")
	thief.token("nonsense")
	fails(thief, "not a join token")
	short := c.must("node", "join-token", "-q", "--ttl", "1s")
	time.Sleep(1100 * time.Millisecond)
	thief.token(short)
	fails(thief, "expired")
	thief.token(c.must("node", "join-token", "-q", "--node", "left"))
	fails(thief, "is for the node left")

	// A token of another fleet: the controller is not trusted with its secret.
	thief.token(other.must("node", "join-token", "-q"))
	thief.launch()
	thief.says("not of the fleet with the authority")
	thief.kill()

	// A host that takes the name, and then the id, of another.
	twin := s.agent("left", c)
	twin.token(c.must("node", "join-token", "-q"))
	fails(twin, "there is a node left already")
	id := c.node("left").ID
	if err := os.CopyFS(thief.file("stolen"), os.DirFS(left.dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(thief.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(thief.file("stolen"), thief.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(thief.dir, "fleet")); err != nil {
		t.Fatal(err)
	}
	thief.token(c.must("node", "join-token", "-q"))
	fails(thief, "this host is the node left already")
	if n := c.node("left"); !n.Connected || n.ID != id {
		t.Errorf("left is %+v", n)
	}

	// Plain TLS, and a certificate of another fleet.
	needTool(t, "openssl")
	probe := thief.exec("openssl", "s_client", "-connect", c.ip+":2021", "-alpn", "h2", "-tls1_2")
	if probe.code == 0 {
		t.Error("TLS 1.2 is spoken")
	}

	// Revoked: the session ends, and the reason is told; the token made for it lets it in again.
	c.must("node", "revoke", "left")
	c.awaitNode("left", "revoked")
	left.says("was revoked on")
	if r := c.opentap("capture", "pcap", "--point", "left/tap0", "--detach"); r.code == 0 {
		t.Error("a capture on a revoked host is taken")
	}
	left.stop()
	left.token(c.must("node", "join-token", "-q", "--node", "left"))
	left.launch()
	c.awaitNode("left", "connected")
	c.create(m{"kind": "pcap", "id": "kept", "points": []string{"left/tap0"}})
	c.must("node", "forget", "left")
	c.ask(404, "GET", "/v1/nodes/left", nil)
	c.ask(404, "GET", capturePath("kept"), nil)
	left.says("no member of this fleet")
	audit := audits(t, c.daemon)
	for _, action := range []string{"node.join", "node.revoke", "node.forget", "join_token.create"} {
		if !strings.Contains(audit, fmt.Sprintf("%q", action)) {
			t.Errorf("the audit log has no %s", action)
		}
	}
	if strings.Contains(audit, strings.Split(strings.TrimSpace(token), "_")[2]) {
		t.Error("the audit log has a token's secret")
	}
}
