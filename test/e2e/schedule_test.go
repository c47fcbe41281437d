//go:build linux

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
)

// Ids are the client's: the same request twice is one capture, another one under the same id is refused.
func TestNetnsIdsAndLife(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	q := m{"kind": "pcap", "id": "../../etc/passwd", "points": []string{"tap0"}, "filter": "udp"}
	v := d.create(q)
	var again view
	d.ask(200, "POST", "/v1/captures", q).decode(t, &again)
	if again.UID != v.UID {
		t.Error("the same request made another capture")
	}
	q["filter"] = "tcp"
	a := d.ask(409, "POST", "/v1/captures", q)
	if p := a.problem(t); p.Error.Kind != "conflict" || p.Error.Field != "id" {
		t.Errorf("a taken id: %s", a.Body)
	}
	if exists(filepath.Join(d.dir, "captures", "passwd")) || !exists(d.captureDir(v)) {
		t.Error("the id decides where the data is")
	}
	// Deleted while it runs: gone at once, and the id is free.
	l.Send(plain(0, 10, 1)...)
	d.ask(204, "DELETE", capturePath(v.ID), nil)
	d.ask(404, "GET", capturePath(v.ID), nil)
	d.ask(404, "GET", capturePath(v.ID)+"/data", nil)
	d.ask(404, "DELETE", capturePath(v.ID), nil)
	await.Until(t, "its data is gone", func() bool { return !exists(d.captureDir(v)) })
	v = d.create(q)
	first := d.finish(v.ID)
	second := d.finish(v.ID) // stopping twice is stopping once
	if !first.Status.Ended.Equal(second.Status.Ended) {
		t.Error("stopping again changed the end")
	}
	// A scheduled one can be stopped and deleted before it began.
	d.create(m{"kind": "netflow", "id": "later", "points": []string{"tap0"}, "from": time.Now().Add(time.Hour), "duration": "1m"})
	if v := d.finish("later"); v.Status.Ledger.Seen != 0 {
		t.Errorf("never begun, and has seen %d", v.Status.Ledger.Seen)
	}
	d.ask(204, "DELETE", "/v1/captures/later", nil)
	for name, q := range map[string]m{
		"end before start": {"kind": "pcap", "points": []string{"tap0"}, "from": time.Now().Add(time.Hour), "to": time.Now().Add(time.Minute)},
		"past":             {"kind": "pcap", "points": []string{"tap0"}, "from": time.Now().Add(-time.Hour), "duration": "2h"},
		"past altogether":  {"kind": "pcap", "points": []string{"tap0"}, "from": time.Now().Add(-time.Hour), "to": time.Now().Add(-time.Minute)},
		"no kind":          {"points": []string{"tap0"}},
		"odd kind":         {"kind": "smell", "points": []string{"tap0"}},
		"odd field":        {"kind": "pcap", "points": []string{"tap0"}, "colour": "red"},
		"snap of flows":    {"kind": "netflow", "points": []string{"tap0"}, "snap": 64},
	} {
		if p := d.ask(400, "POST", "/v1/captures", q).problem(t); p.Error.Kind != "invalid" {
			t.Errorf("%s: %+v", name, p)
		}
	}
	d.ask(404, "POST", "/v1/captures", m{"kind": "pcap", "points": []string{"nowhere"}})
	if r := d.opentap("capture", "pcap", "-p", "tap0", "--from", "-1h", "--to", "now", "-w", d.file("x.pcap")); r.code == 0 || !strings.Contains(r.stderr, "past") {
		t.Errorf("the past without a recorder: %d %s", r.code, r.stderr)
	}
}

// With a recorder the past can be had: what was sent before anybody asked.
func TestNetnsRecorderGivesThePast(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "recorders:\n  - point: tap0\n    bytes: 64MiB\n")
	recording := func() bool {
		return strings.Contains(string(d.ask(200, "GET", "/v1/nodes", nil).Body), `"recorders":{"tap0"`)
	}
	await.Until(t, "the recorder runs", recording)
	begin := time.Now()
	old := plain(0, 500, 53)
	l.Send(old...)
	middle := time.Now()
	more := plain(500, 300, 80)
	l.Send(more...)
	sleepUntil(middle.Add(300 * time.Millisecond)) // so that "in the past" holds for the window below

	v := d.create(m{"kind": "pcap", "id": "past", "points": []string{"tap0"}, "from": begin, "to": middle})
	v = d.awaitState("past", "done")
	if !v.Recorded || v.Note == "" {
		t.Errorf("not said to be from a recording: %+v", v)
	}
	path := d.file("past.pcapng")
	d.must("retrieve", "past", "-w", path)
	sameFrames(t, packetsOf(t, path), old, 0)
	if a := d.show("past").Status.Ledger; !a.adds() || a.Captured != 500 {
		t.Errorf("past: ledger %+v, 500 were sent", a)
	}

	// Past, present and future in one, through another filter, cut short.
	to := time.Now().Add(2 * time.Second)
	d.create(m{"kind": "pcap", "id": "both", "points": []string{"tap0"}, "from": begin, "to": to, "filter": "port 80", "snap": 60})
	late := plain(800, 200, 80)
	l.Send(late...)
	d.awaitState("both", "done")
	got := packetsIn(t, d.data("both", "pcap").Body)
	sameFrames(t, got, append(append([][]byte{}, more...), late...), 60)

	// Flow records of the past.
	d.create(m{"kind": "netflow", "id": "flows", "points": []string{"tap0"}, "from": begin, "to": middle})
	d.awaitState("flows", "done")
	var n uint64
	a := d.try("GET", "/v1/captures/flows/data?format=csv", nil)
	if a.Status != 200 {
		t.Fatalf("flow records of the past: %d %s %v", a.Status, a.Body, a.err)
	}
	for _, r := range columns(t, a.Body) {
		n += number(t, r["packets"])
	}
	if n != 500 {
		t.Errorf("flow records of the past hold %d packets, 500 were sent", n)
	}

	// A broken download of the past goes on, too.
	first := d.data("past", "pcapng")
	rest := d.ask(206, "GET", "/v1/captures/past/data?format=pcapng", nil, "Range", "bytes=1000-", "If-Range", first.Header.Get("ETag"))
	if string(rest.Body) != string(first.Body[1000:]) {
		t.Error("the rest of the past is not what it was")
	}

	// The recording outlives a crash.
	d.kill()
	d.start()
	await.Until(t, "the recorder runs again", recording)
	if a := d.data("past", "pcapng"); len(packetsIn(t, a.Body)) != 500 {
		t.Errorf("after a crash the past has %d packets, 500 were sent", len(packetsIn(t, a.Body)))
	}
}

func sleepUntil(at time.Time) { time.Sleep(time.Until(at)) }

// Points come and go, and are called what the administrator calls them.
func TestNetnsPointsComeAndGo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "points:\n  default: tap0\n  aliases:\n    - {point: tap0, name: inside}\n    - {point: later0, name: outside}\n")
	pt := d.ask(200, "GET", "/v1/points", nil).point(t, "tap0")
	if !pt.Default || !pt.Present || !pt.Up || len(pt.Aliases) != 1 || pt.Aliases[0] != "inside" {
		t.Errorf("tap0 is shown as %+v", pt)
	}
	ip := func(args ...string) {
		t.Helper()
		if r := d.exec("ip", args...); r.code != 0 {
			t.Fatalf("ip %q: %s", args, r.stderr)
		}
	}
	needTool(t, "ip")
	seen := func(name string, want bool) {
		t.Helper()
		await.Until(t, name+" has come or gone", func() bool {
			return d.ask(200, "GET", "/v1/points", nil).point(t, name).Present == want
		})
	}
	ip("link", "add", "dum0", "type", "veth", "peer", "name", "dum1")
	seen("dum0", true)
	ip("link", "set", "dum0", "name", "later0")
	seen("dum0", false)
	seen("later0", true)
	for _, name := range []string{"inside", "0", ""} {
		q := m{"kind": "pcap", "limits": m{"packets": 1}}
		if name != "" {
			q["points"] = []string{name}
		}
		if v := d.create(q); len(v.Query.Points) != 1 || v.Query.Points[0] != "tap0" {
			t.Errorf("%q is %v", name, v.Query.Points)
		}
	}
	if v := d.create(m{"kind": "pcap", "points": []string{"outside"}}); v.Query.Points[0] != "later0" {
		t.Errorf("outside is %v", v.Query.Points)
	}
	ip("link", "del", "later0")
	seen("later0", false)
	if out := d.must("points"); !strings.Contains(out, "inside") || !strings.Contains(out, "default") {
		t.Errorf("points says\n%s", out)
	}
}

// A device that vanishes leaves a gap that is stated, and the capture goes on when it is back.
func TestNetnsDeviceVanishes(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	for _, kind := range []string{"pcap", "netflow", "ethernet"} {
		q := m{"kind": kind, "id": kind, "points": []string{"tap0"}}
		if kind == "ethernet" {
			q["period"] = "50ms"
		}
		d.create(q)
	}
	l.Send(plain(0, 100, 53)...)
	d.awaitCaptured("pcap", 100)
	await.Until(t, "counters are read", func() bool { return d.show("ethernet").Status.Records > 2 })
	l.near.Delete("tap0")
	for _, kind := range []string{"pcap", "netflow", "ethernet"} {
		v := d.awaitState(kind, "degraded")
		if v.Status.Reason == "" || len(v.Status.Gaps) != 1 || v.Status.Gaps[0].Reason == "" || !v.Status.Gaps[0].To.IsZero() {
			t.Errorf("%s without its device: %q, gaps %+v", kind, v.Status.Reason, v.Status.Gaps)
		}
	}
	before := d.show("ethernet").Status.Records
	await.Until(t, "some periods pass", func() bool { return d.show("ethernet").Status.Records >= before+3 })
	l.again(t)
	for _, kind := range []string{"pcap", "netflow", "ethernet"} {
		await.Until(t, kind+" goes on", func() bool { return d.show(kind).Status.State == "running" })
	}
	l.Send(plain(100, 100, 53)...)
	d.awaitCaptured("pcap", 200)
	d.awaitCaptured("netflow", 200)
	for _, kind := range []string{"pcap", "netflow", "ethernet"} {
		v := d.finish(kind)
		if !v.Status.Ledger.adds() || len(v.Status.Gaps) == 0 || v.Status.Gaps[0].To.IsZero() {
			t.Errorf("%s: gaps %+v, ledger %+v", kind, v.Status.Gaps, v.Status.Ledger)
		}
	}
	if got := packetsIn(t, d.data("pcap", "pcapng").Body); len(got) != 200 {
		t.Errorf("%d packets in the file, 200 were sent", len(got))
	}
	missing := 0
	for _, r := range columns(t, d.data("ethernet", "csv").Body) {
		if r["missing"] != "" {
			missing++
			if r["rx_packets"] != "" {
				t.Errorf("a row without a device has the value %q", r["rx_packets"])
			}
		}
	}
	if missing < 3 {
		t.Errorf("%d rows say that the device was missing", missing)
	}
}

// The daemon may be asked to stop at any time; a running capture goes on after the next start.
func TestNetnsStopAndStart(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	d.create(m{"kind": "pcap", "id": "long", "points": []string{"tap0"}})
	d.create(m{"kind": "netflow", "id": "flows", "points": []string{"tap0"}})
	l.Send(plain(0, 300, 53)...)
	d.stop() // at once: what is in the ring is still taken
	if _, err := os.Stat(filepath.Join(d.dir, "admin.token")); err != nil {
		t.Error(err)
	}
	d.start()
	await.Until(t, "it goes on", func() bool { return d.show("long").Status.State == "running" && len(d.show("long").Status.Gaps) == 1 })
	await.Until(t, "flows go on", func() bool { return d.show("flows").Status.State == "running" && len(d.show("flows").Status.Gaps) == 1 })
	l.Send(plain(300, 200, 53)...)
	d.awaitCaptured("long", 500)
	d.awaitCaptured("flows", 500)
	v := d.finish("long")
	if a := v.Status.Ledger; !a.adds() || a.Seen != 500 || a.Captured != 500 {
		t.Errorf("ledger %+v, 500 were sent, none of them while it was down", a)
	}
	if got := packetsIn(t, d.data("long", "pcapng").Body); len(got) != 500 {
		t.Errorf("%d packets in the file, 500 were sent", len(got))
	}
	var n uint64
	d.finish("flows")
	for _, r := range columns(t, d.data("flows", "csv").Body) {
		n += number(t, r["packets"])
	}
	if n != 500 {
		t.Errorf("%d packets in flow records, 500 were sent", n)
	}
}
