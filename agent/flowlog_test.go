package agent

import (
	"bytes"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/flow"
	"opentap/flow/collect"
	"opentap/internal/await"
	"opentap/packet"
	"opentap/point"
	"opentap/want"
	"opentap/wire/netflow"
)

func recordAt(i int, at time.Time) flow.Record {
	return flow.Record{
		First: packet.TimestampOf(at), Last: packet.TimestampOf(at.Add(time.Second)), Version: 4, Proto: 17, Src: netip.MustParseAddr("::ffff:10.0.0.1").As16(),
		Dst: netip.MustParseAddr("::ffff:10.0.0.2").As16(), SrcPort: uint16(i), DstPort: 53, Packets: 1, Octets: uint64(i),
	}
}

func newFlowLog(t *testing.T, dir string, bytes int64) *flowLog {
	t.Helper()
	l := &flowLog{point: "x", dir: dir, bytes: bytes, wake: make(chan struct{}, 1), pins: pins{by: make(map[string]time.Time)}}
	if err := openFlowLog(l); err != nil {
		t.Fatal(err)
	}
	return l
}

// TestFlowLogFindsATime reads what touches a window, before and after a restart, without having to read all.
func TestFlowLogFindsATime(t *testing.T) {
	dir := t.TempDir()
	l := newFlowLog(t, dir, 64<<20)
	t0 := time.Unix(1_700_000_000, 0)
	const n = 5 * markRows
	for i := range n {
		r := recordAt(i, t0.Add(time.Duration(i)*time.Second))
		l.add(&r)
		if i%1000 == 0 {
			l.write()
		}
	}
	look := func(l *flowLog) {
		t.Helper()
		upto, err := l.settle()
		if err != nil || upto != n {
			t.Fatalf("%d rows, %v", upto, err)
		}
		for _, w := range [][2]int{{0, n}, {10, 20}, {markRows - 5, markRows + 5}, {3*markRows + 7, 3*markRows + 8}, {n + 100, n + 200}} {
			var got []int
			err := l.each(t.Context(), upto, packet.TimestampOf(t0.Add(time.Duration(w[0])*time.Second)), packet.TimestampOf(t0.Add(time.Duration(w[1])*time.Second)), func(r *flow.Record) error {
				got = append(got, int(r.Octets))
				return nil
			})
			first, last := max(w[0]-1, 0), min(w[1], n)-1 // a record lasts a second: that of the second before touches
			if w[0] > n {
				first, last = 0, -1
			}
			if err != nil || len(got) != last-first+1 || len(got) > 0 && (got[0] != first || got[len(got)-1] != last) {
				t.Errorf("%v: %d records, %v", w, len(got), err)
			}
		}
	}
	look(l)
	if err := l.close(); err != nil {
		t.Fatal(err)
	}
	look(newFlowLog(t, dir, 64<<20))
}

// TestFlowLogGivesUpTheOldest by octets and by age, but nothing that a capture needs.
func TestFlowLogGivesUpTheOldest(t *testing.T) {
	l := newFlowLog(t, t.TempDir(), 4<<20)
	now := time.Now()
	t0 := now.Add(-10 * time.Hour)
	for i := range 10 {
		for k := range 1000 {
			r := recordAt(k, t0.Add(time.Duration(i)*time.Hour))
			l.add(&r)
		}
		l.cut = time.Time{} // the hour is over
		l.write()
	}
	l.age = 5*time.Hour + 30*time.Minute
	l.pins.by["a capture"] = now.Add(-7*time.Hour - 30*time.Minute)
	if _, err := l.shrink(l.bytes, now); err != nil {
		t.Fatal(err)
	}
	if since := l.since(); since.Before(now.Add(-8*time.Hour)) || since.After(now.Add(-7*time.Hour)) {
		t.Errorf("with a capture in need: since %v", since)
	}
	delete(l.pins.by, "a capture")
	held, err := l.shrink(l.bytes, now)
	if since := l.since(); err != nil || since.Before(now.Add(-6*time.Hour)) {
		t.Errorf("by age: since %v, %v", since, err)
	}
	less, err := l.shrink(held/2, now)
	if err != nil || less > held/2 || less == 0 {
		t.Errorf("by octets: %d of %d, %v", less, held, err)
	}
}

// TestFlowLogCountsWhatItCannotKeep when the disk is late, and when there is no room.
func TestFlowLogCountsWhatItCannotKeep(t *testing.T) {
	l := newFlowLog(t, t.TempDir(), 4<<20)
	for i := range maxWaiting + 7 {
		r := recordAt(i, time.Now())
		l.add(&r)
	}
	l.halt("no room")
	r := recordAt(0, time.Now())
	l.add(&r)
	if n, err := l.settle(); err != nil || n != maxWaiting || l.lost != 8 {
		t.Errorf("%d kept, %d lost, %v", n, l.lost, err)
	}
}

// TestCollectorMakesAPoint: what an exporter sends is at a point of its own and in captures of it, after a restart too; and
// its templates are known again.
func TestCollectorMakesAPoint(t *testing.T) {
	h := newHost(t, func(c *Config) {
		c.Collectors = []Collector{{Bytes: 8 << 20, Collect: collect.Config{Name: "udp", Transport: "udp", Address: "127.0.0.1:0"}}}
	})
	enc, err := netflow.NewEncoder(netflow.EncoderConfig{Version: netflow.IPFIX})
	if err != nil {
		t.Fatal(err)
	}
	from, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	at := time.Now().Add(-time.Minute)
	sent := 0
	send := func() {
		t.Helper()
		f := netflow.Flow{
			First: packet.TimestampOf(at), Last: packet.TimestampOf(at), IP: 4, Proto: 17, Src: netip.MustParseAddr("::ffff:10.0.0.1").As16(),
			Dst: netip.MustParseAddr("::ffff:10.0.0.2").As16(), SrcPort: uint16(sent), Packets: 3, Octets: 100,
		}
		msg, _ := enc.Append(nil, packet.TimestampOf(at), []netflow.Flow{f}, sent == 0, nil)
		await.Until(t, "it listens", func() bool { return h.collectors[0].c.Address() != "" })
		to, err := net.ResolveUDPAddr("udp", h.collectors[0].c.Address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := from.WriteTo(msg, to); err != nil {
			t.Fatal(err)
		}
		sent++
		await.Until(t, "the record is kept", func() bool {
			_, n := h.Inventory()
			return len(n.FlowStores) == 1 && n.FlowStores[0].Records == uint64(sent)
		})
	}
	h.start()
	send()
	points, node := h.Inventory()
	if k := slices.IndexFunc(points, func(p point.Point) bool { return p.Name == "127.0.0.1" }); k < 0 || points[k].Kind != point.Exporter || !points[k].Up {
		t.Errorf("no point of the exporter in %+v", points)
	}
	if e := node.Collectors[0].Exporters; len(e) != 1 || e[0].Records != 1 || e[0].Lost["records"] != 0 {
		t.Errorf("%+v", e)
	}
	await.Until(t, "the templates are kept", func() bool {
		_, err := os.Stat(filepath.Join(h.cfg.StateDir, templatesFile))
		return err == nil
	})
	c := want.Capture{UID: uidOf(1), ID: "c", Kind: want.Flows, Stored: true, Created: at}
	c.Query.Points, c.Query.From, c.Query.Filter = []string{"127.0.0.1"}, at.Add(-time.Second), "udp"
	if err := h.Obey(agentapi.Desired{Revision: 1, Captures: []want.Capture{c}}); err != nil {
		t.Fatal(err)
	}
	h.restart()
	send() // the exporter does not declare its templates again
	c.StopAt = time.Now()
	if err := h.Obey(agentapi.Desired{Revision: 2, Captures: []want.Capture{c}}); err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the capture ends", func() bool {
		_, st := h.Actual()
		return len(st) == 1 && st[0].State.Final()
	})
	_, st := h.Actual()
	if st[0].State != want.Stopped || st[0].Records != 2 || st[0].Ledger.Captured != 6 {
		t.Errorf("%+v", st[0])
	}
	r, err := h.Open(t.Context(), c.UID, want.OpenOptions{Format: want.CSV})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var b bytes.Buffer
	if err := r.Write(t.Context(), &b, 0, -1); err != nil || bytes.Count(b.Bytes(), []byte("\n")) != 3 || int64(b.Len()) != r.Size {
		t.Errorf("%v: %s", err, b.String())
	}
	again, err := h.Open(t.Context(), c.UID, want.OpenOptions{Format: want.CSV, ETag: r.ETag})
	if err != nil || again.ETag != r.ETag || again.Size != r.Size {
		t.Errorf("the same is not to be had again: %v, %+v", err, again)
	}
}
