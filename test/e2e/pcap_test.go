//go:build linux

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// Everything that was sent is counted, kept and given back octet by octet, through the command line and both formats.
func TestNetnsPcapEveryFrame(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	if id := strings.TrimSpace(d.must("capture", "pcap", "--point", "tap0", "--id", "every frame/é", "--detach")); id != "every frame/é" {
		t.Fatalf("the id is %q", id)
	}
	id := "every frame/é"
	if v := d.show(id); v.Status.State != "running" {
		t.Errorf("the capture was acknowledged as %s", v.Status.State)
	}
	sent := zoo(2000)
	from := time.Now().UnixNano()
	l.Send(sent...) // at once: an acknowledged capture that runs is running
	v := d.awaitCaptured(id, 2000)
	d.must("stop", id)
	v = d.awaitState(id, "stopped")
	to := time.Now().UnixNano()

	a := v.Status.Ledger
	if !a.adds() || a.Seen != 2000 || a.Captured != 2000 || a.DroppedTotal != 0 || a.Filtered != 0 {
		t.Errorf("ledger %+v, 2000 were sent", a)
	}
	var octets uint64
	for _, f := range sent {
		octets += uint64(len(f))
	}
	if a.Octets != octets || a.StoredOctets != octets {
		t.Errorf("ledger has %d octets, %d kept; sent %d", a.Octets, a.StoredOctets, octets)
	}

	ng, classic := d.file("all.pcapng"), d.file("all.pcap")
	for _, file := range []string{ng, classic} {
		r := d.opentap("retrieve", id, "-w", file)
		if r.code != 0 || !strings.Contains(r.stderr, "2000 seen, 2000 captured") || !strings.Contains(r.stderr, "0 dropped") {
			t.Errorf("retrieve: %d %s", r.code, r.stderr)
		}
		if n := capinfosCount(t, file); n != 2000 {
			t.Errorf("capinfos finds %d packets in %s", n, file)
		}
		got := packetsOf(t, file)
		sameFrames(t, got, sent, 0)
		inOrder(t, got, from, to)
	}
	b, err := os.ReadFile(classic)
	if err != nil {
		t.Fatal(err)
	}
	sameFrames(t, classicPackets(t, b), sent, 0) // as it is, not by way of editcap
	needTool(t, "tcpdump")
	if n := strings.Count(output(t, "tcpdump", "-nn", "-e", "-r", ng, "vlan and udp port 53"), "\n"); n == 0 {
		t.Error("tcpdump finds no tagged frame in the file")
	}

	// The account is in the headers, in the API, and in the file.
	h := d.ask(200, "HEAD", capturePath(id)+"/data", nil).Header
	for name, value := range map[string]string{
		"OpenTap-Ledger-Seen": "2000", "OpenTap-Ledger-Captured": "2000", "OpenTap-Ledger-Filtered": "0",
		"OpenTap-Ledger-Dropped": "0", "OpenTap-Final": "true", "OpenTap-Records": "2000", "Content-Type": "application/x-pcapng", "Accept-Ranges": "bytes",
	} {
		if h.Get(name) != value {
			t.Errorf("header %s is %q, want %q", name, h.Get(name), value)
		}
	}
	if n, _ := strconv.Atoi(h.Get("Content-Length")); n != size(t, ng) {
		t.Errorf("HEAD promises %d octets, the file has %d", n, size(t, ng))
	}
	var led struct {
		State  string  `json:"state"`
		Final  bool    `json:"final"`
		Ledger account `json:"ledger"`
	}
	d.ask(200, "GET", capturePath(id)+"/ledger", nil).decode(t, &led)
	if led.State != "stopped" || !led.Final || led.Ledger.Captured != 2000 {
		t.Errorf("/ledger says %+v", led)
	}
	if s := statistics(t, ng); s.interfaces != 1 || s.dropped != 0 {
		t.Errorf("statistics in the file: %+v", s)
	}
	var shown view
	if err := json.Unmarshal([]byte(d.must("show", id, "-o", "json")), &shown); err != nil || shown.Status.Ledger.Captured != 2000 {
		t.Errorf("show -o json: %v %+v", err, shown)
	}
	if out := d.must("captures"); !strings.Contains(out, "every frame/é") || !strings.Contains(out, "2000") {
		t.Errorf("captures does not list it:\n%s", out)
	}
	d.must("delete", id)
	if r := d.opentap("show", id); r.code != 4 {
		t.Errorf("a deleted capture is shown with exit code %d: %s", r.code, r.stdout)
	}
	await.Until(t, "the data directory is gone", func() bool { return !exists(d.captureDir(v)) })
}

func size(t testing.TB, path string) int {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return int(st.Size())
}

// stats is what tshark finds in a pcapng file's interface statistics.
type stats struct{ interfaces, received, dropped, accepted int }

// statistics adds up the last Interface Statistics Block of each interface (pcapng, section 4.6), which capinfos does not show
// and tshark shows of small files alone.
func statistics(t testing.TB, path string) (s stats) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	last := map[uint32][3]int{}
	le := binary.LittleEndian
	for len(b) >= 12 {
		n := int(le.Uint32(b[4:]))
		if n < 12 || n > len(b) || int(le.Uint32(b[n-4:])) != n {
			t.Fatalf("a block %d octets before the end of %s is broken", len(b), path)
		}
		body := b[8 : n-4]
		switch le.Uint32(b) {
		case 1:
			s.interfaces++
		case 5:
			var v [3]int
			for o := body[12:]; len(o) >= 4 && le.Uint16(o) != 0; {
				size := int(le.Uint16(o[2:]))
				if code := le.Uint16(o); code >= 4 && code <= 6 && size == 8 {
					v[code-4] = int(le.Uint64(o[4:]))
				} else if code == 7 { // isb_osdrop
					v[1] += int(le.Uint64(o[4:]))
				}
				o = o[4+(size+3)&^3:]
			}
			last[le.Uint32(body)] = v
		}
		b = b[n:]
	}
	for _, v := range last {
		s.received, s.dropped, s.accepted = s.received+v[0], s.dropped+v[1], s.accepted+v[2]
	}
	return s
}

// The filter works in the kernel, and what it leaves out is counted to the packet.
func TestNetnsPcapFilterCounts(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	sent := zoo(3000)
	for _, tt := range []struct {
		id, expr string
		strict   bool
	}{
		{"dns", "udp port 53", false},
		{"tagged", "vlan", true},
		{"big", "greater 1000", false},
		{"none", "host 203.0.113.77", false},
		{"not", "not (tcp or arp)", false},
	} {
		d.create(m{"kind": "pcap", "id": tt.id, "points": []string{"tap0"}, "filter": tt.expr, "strict": tt.strict})
	}
	d.create(m{"kind": "pcap", "id": "all", "points": []string{"tap0"}})
	l.Send(sent...)
	d.awaitCaptured("all", 3000)
	d.finish("all")
	path := d.file("all.pcap")
	if err := os.WriteFile(path, d.data("all", "pcap").Body, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ id, oracle string }{ // libpcap's meaning on the file; a tag is looked behind on purpose
		{"dns", "udp port 53 or (vlan and udp port 53)"},
		{"tagged", "vlan"},
		{"big", "greater 1000"},
		{"none", "host 203.0.113.77"},
		{"not", ""},
	} {
		v := d.finish(tt.id)
		a := v.Status.Ledger
		if !a.adds() || a.Seen != 3000 || a.Captured+a.Filtered != 3000 || a.DroppedTotal != 0 || a.Uncounted {
			t.Errorf("%s: ledger %+v, 3000 were sent", tt.id, a)
		}
		ng := d.file(tt.id + ".pcapng")
		d.must("retrieve", tt.id, "-w", ng)
		if s := statistics(t, ng); s.received != 3000 || uint64(s.accepted) != a.Captured || s.dropped != 0 {
			t.Errorf("%s: statistics in the file %+v, ledger %+v", tt.id, s, a)
		}
		if tt.oracle == "" {
			continue
		}
		needTool(t, "tcpdump")
		want := uint64(strings.Count(output(t, "tcpdump", "-nn", "-t", "-r", path, tt.oracle), "\n"))
		if a.Captured != want {
			t.Errorf("%s: %d captured, tcpdump finds %d", tt.id, a.Captured, want)
		}
		body := d.data(tt.id, "pcap").Body
		if n := len(classicPackets(t, body)); uint64(n) != a.Captured {
			t.Errorf("%s: the file has %d packets, the ledger %d", tt.id, n, a.Captured)
		}
	}
	// A mistake is shown where it is.
	p := d.ask(400, "POST", "/v1/captures", m{"kind": "pcap", "points": []string{"tap0"}, "filter": "udp prot 53"}).problem(t)
	if p.Error.Kind != "invalid" || p.Error.Field != "filter" || p.Error.Position != 5 {
		t.Errorf("a wrong filter is told as %+v", p)
	}
	r := d.opentap("capture", "pcap", "--point", "tap0", "--filter", "udp prot 53", "-w", d.file("x.pcap"))
	if r.code == 0 || !strings.Contains(r.stderr, "udp prot 53\n") || !strings.Contains(r.stderr, "    ^") {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	if exists(d.file("x.pcap")) || exists(d.file("x.pcap.part")) {
		t.Error("a refused capture left a file")
	}
}

func TestNetnsPcapSnapAndLimits(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	pt := []string{"tap0"}
	d.create(m{"kind": "pcap", "id": "snap", "points": pt, "snap": 64})
	d.create(m{"kind": "pcap", "id": "packets", "points": pt, "limits": m{"packets": 100}})
	d.create(m{"kind": "pcap", "id": "octets", "points": pt, "limits": m{"octets": 10000}})
	sent := zoo(1000)
	l.Send(sent...)

	d.awaitCaptured("snap", 1000)
	v := d.finish("snap")
	if a := v.Status.Ledger; !a.adds() || a.Captured != 1000 || a.StoredOctets >= a.Octets {
		t.Errorf("snap: %+v", a)
	}
	for _, f := range []string{"pcap", "pcapng"} {
		sameFrames(t, packetsIn(t, d.data("snap", f).Body), sent, 64)
	}

	v = d.awaitState("packets", "done")
	if a := v.Status.Ledger; !a.adds() || a.Captured != 100 || !strings.Contains(v.Status.Reason, "limit") {
		t.Errorf("packets: %q %+v", v.Status.Reason, a)
	}
	sameFrames(t, packetsIn(t, d.data("packets", "pcapng").Body), sent[:100], 0)

	v = d.awaitState("octets", "done")
	fit, total := 0, 0
	for total+len(sent[fit]) <= 10000 {
		total += len(sent[fit])
		fit++
	}
	if a := v.Status.Ledger; !a.adds() || a.StoredOctets > 10000 || a.Captured != uint64(fit) || !strings.Contains(v.Status.Reason, "limit") {
		t.Errorf("octets: %d packets fit in %d octets; %q %+v", fit, total, v.Status.Reason, a)
	}
	sameFrames(t, packetsIn(t, d.data("octets", "pcap").Body), sent[:fit], 0)

	// From the command line: it ends by itself at the limit, and says so by exit code 0.
	done := make(chan result, 1)
	go func() {
		done <- d.opentap("capture", "pcap", "-p", "tap0", "--packets", "50", "--snap", "96", "--id", "cli", "-w", d.file("cli.pcapng"))
	}()
	await.Until(t, "the capture runs", func() bool { return d.try("GET", "/v1/captures/cli", nil).Status == 200 })
	d.awaitState("cli", "running")
	l.Send(sent[:200]...)
	if r := <-done; r.code != 0 {
		t.Errorf("exit code %d: %s", r.code, r.stderr)
	}
	sameFrames(t, packetsOf(t, d.file("cli.pcapng")), sent[:50], 96)
}

// Several points give one file in the order of time, each packet with its interface.
func TestNetnsPcapManyPoints(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	nettest.Veth(t, l.far, "wire1", l.near, "tap1")
	nettest.Veth(t, l.far, "wire2", l.near, "tap2")
	senders := []*nettest.Sender{l.Sender, nettest.NewSender(t, l.far, "wire1"), nettest.NewSender(t, l.far, "wire2")}
	d := newDaemon(t, l.near, "")
	await.Until(t, "tap2 is up", func() bool { return d.ask(200, "GET", "/v1/points", nil).point(t, "tap2").Up })
	v := d.create(m{"kind": "pcap", "id": "all", "points": []string{"tap0", "tap1", "tap2"}})
	sent := plain(0, 900, 53)
	perPoint := map[string]int{}
	for i, f := range sent {
		n := i * i % 3 // unevenly
		senders[n].Send(f)
		perPoint[fmt.Sprintf("tap%d", n)]++
	}
	d.awaitCaptured("all", 900)
	v = d.finish("all")
	if a := v.Status.Ledger; !a.adds() || a.Seen != 900 || a.Captured != 900 {
		t.Errorf("ledger %+v", a)
	}
	path := d.file("all.pcapng")
	d.must("retrieve", "all", "-w", path)
	got := packetsOf(t, path)
	inOrder(t, got, 0, 1<<62)
	sameFrames(t, got, sent, 0) // one sender sent them one after the other: order of time is order of sending
	needTool(t, "tshark")
	seen := map[string]int{}
	for name := range strings.FieldsSeq(output(t, "tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.interface_name")) {
		seen[name]++
	}
	if fmt.Sprint(seen) != fmt.Sprint(perPoint) {
		t.Errorf("packets per interface %v, sent %v", seen, perPoint)
	}
	sameFrames(t, packetsIn(t, d.data("all", "pcap").Body), sent, 0)
}

func (a *answer) point(t testing.TB, name string) pointView {
	t.Helper()
	var list struct {
		Points []pointView `json:"points"`
	}
	a.decode(t, &list)
	for _, p := range list.Points {
		if p.Name == name {
			return p
		}
	}
	return pointView{}
}

// What a capture has can be had while it runs, and a broken download goes on with the very same octets.
func TestNetnsPcapRetrieveRunningAndResume(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	sent := plain(0, 3000, 53)
	for _, f := range []string{"pcapng", "pcap"} {
		id := "r-" + f
		d.create(m{"kind": "pcap", "id": id, "points": []string{"tap0"}})
		l.Send(sent[:1000]...)
		d.awaitCaptured(id, 1000)
		first := d.data(id, f)
		if first.Header.Get("OpenTap-Final") != "false" {
			t.Error("a running capture's data is called final")
		}
		if n := first.Header.Get("OpenTap-Ledger-Captured"); n != "1000" {
			t.Errorf("%s: the snapshot's ledger says %s captured", f, n)
		}
		sameFrames(t, packetsIn(t, first.Body), sent[:1000], 0)
		tag := first.Header.Get("ETag")
		if len(tag) < 3 || tag[0] != '"' {
			t.Fatalf("no strong ETag: %q", tag)
		}
		l.Send(sent[1000:2000]...)
		d.awaitCaptured(id, 2000)

		half := len(first.Body) / 2
		path := capturePath(id) + "/data?format=" + f
		rest := d.ask(206, "GET", path, nil, "Range", fmt.Sprintf("bytes=%d-", half), "If-Range", tag)
		if !bytes.Equal(rest.Body, first.Body[half:]) {
			t.Errorf("%s: the second half is not what it was", f)
		}
		if cr := rest.Header.Get("Content-Range"); cr != fmt.Sprintf("bytes %d-%d/%d", half, len(first.Body)-1, len(first.Body)) {
			t.Errorf("%s: Content-Range %q", f, cr)
		}
		middle := d.ask(206, "GET", path, nil, "Range", "bytes=100-299", "If-Range", tag)
		if !bytes.Equal(middle.Body, first.Body[100:300]) {
			t.Errorf("%s: octets 100 to 299 are not what they were", f)
		}
		// Another snapshot's tag: everything anew.
		all := d.ask(200, "GET", path, nil, "Range", "bytes=100-", "If-Range", `"nonsense"`)
		sameFrames(t, packetsIn(t, all.Body), sent[:2000], 0)
		d.ask(304, "GET", path, nil, "If-None-Match", all.Header.Get("ETag"))
		d.ask(416, "GET", path, nil, "Range", "bytes=999999999-")

		l.Send(sent[2000:]...)
		d.awaitCaptured(id, 3000)
		d.finish(id)
		last := d.data(id, f)
		sameFrames(t, packetsIn(t, last.Body), sent, 0)
		rest = d.ask(206, "GET", path, nil, "Range", fmt.Sprintf("bytes=%d-", half), "If-Range", tag)
		if !bytes.Equal(rest.Body, first.Body[half:]) {
			t.Errorf("%s: after the end, the second half of the first snapshot is not what it was", f)
		}
		again := d.data(id, f)
		if !bytes.Equal(again.Body, last.Body) || again.Header.Get("ETag") != last.Header.Get("ETag") {
			t.Errorf("%s: the same capture gave other octets or another ETag", f)
		}
		d.ask(204, "DELETE", capturePath(id), nil)
	}
}

// Windows end by themselves: nothing before, nothing after.
func TestNetnsPcapWindow(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	from := time.Now().Add(1500 * time.Millisecond)
	to := from.Add(time.Second)
	v := d.create(m{"kind": "pcap", "id": "later", "points": []string{"tap0"}, "from": from, "to": to})
	if v.Status.State != "scheduled" {
		t.Errorf("a capture of the future is %s", v.Status.State)
	}
	p := d.ask(409, "GET", "/v1/captures/later/data", nil)
	if p.problem(t).Error.Kind != "not_ready" || p.Header.Get("Retry-After") == "" {
		t.Errorf("data of a capture not begun: %s", p.Body)
	}
	var times []time.Time // of sending, before and after each
	var sent [][]byte
	for i := 0; time.Now().Before(to.Add(700 * time.Millisecond)); i++ {
		f := plain(i, 1, 53)
		times = append(times, time.Now())
		l.Send(f...)
		sent = append(sent, f...)
		<-time.After(2 * time.Millisecond)
	}
	v = d.awaitState("later", "done")
	got := packetsIn(t, d.data("later", "pcap").Body)
	inOrder(t, got, from.UnixNano(), to.UnixNano()-1)
	subset(t, got, sent)
	inside := 0
	for i := range times {
		if i+1 < len(times) && times[i].After(from) && times[i+1].Before(to) {
			inside++
		}
	}
	if len(got) < inside || len(got) > inside+2 || v.Status.Ledger.Captured != uint64(len(got)) || !v.Status.Ledger.adds() {
		t.Errorf("%d packets were surely sent inside the window, %d are in the file, ledger %+v", inside, len(got), v.Status.Ledger)
	}
	if late := v.Status.Ended.Sub(to); late < 0 || late > 2*time.Second {
		t.Errorf("it ended %v after its window", late)
	}
}
