package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"opentap/agentapi"
	"opentap/capture"
	"opentap/fault"
	"opentap/filter"
	"opentap/internal/await"
	"opentap/ledger"
	"opentap/want"
)

// board is a Link that keeps the last of everything.
type board struct {
	mu   sync.Mutex
	last map[string]want.Status
}

func (b *board) StatusChanged(s want.Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last[s.UID] = s
}

func (b *board) InventoryChanged() {}

func (b *board) TapsChanged() {}

func (b *board) status(uid string) want.Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[uid]
}

// host is an agent that can be ended and started again.
type host struct {
	t    *testing.T
	dir  string
	cfg  Config
	stop func()
	*Agent
	*board
}

func newHost(t *testing.T, change func(*Config)) *host {
	t.Helper()
	dir := t.TempDir()
	cfg := DefaultConfig()
	cfg.NodeName, cfg.Version = "host1", "test"
	cfg.StateDir, cfg.CaptureDir, cfg.SysfsRoot = filepath.Join(dir, "state"), filepath.Join(dir, "captures"), filepath.Join(dir, "sys")
	cfg.Quota.MinFree = 0
	cfg.Segment.FlushEvery = 20 * time.Millisecond
	cfg.Capture.Ring.Blocks, cfg.Capture.Ring.BlockSize = 8, 256<<10
	if change != nil {
		change(&cfg)
	}
	h := &host{t: t, dir: dir, cfg: cfg}
	h.make()
	t.Cleanup(func() { h.end() })
	return h
}

// make opens the agent without running it.
func (h *host) make() {
	h.t.Helper()
	a, err := New(h.cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		h.t.Fatal(err)
	}
	h.board = &board{last: make(map[string]want.Status)}
	a.SetLink(h.board)
	h.Agent = a
}

func (h *host) start() {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	a := h.Agent
	go func() { done <- a.Run(ctx) }()
	h.stop = func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				h.t.Errorf("Run: %v", err)
			}
		case <-time.After(30 * time.Second):
			h.t.Fatal("the agent does not end")
		}
	}
}

func (h *host) end() {
	if h.stop != nil {
		h.stop()
	} else if h.Agent != nil {
		_ = h.Agent.keep.close()
	}
	h.stop, h.Agent = nil, nil
}

func (h *host) restart() {
	h.t.Helper()
	h.end()
	h.make()
	h.start()
}

func needsRing(t *testing.T) {
	t.Helper()
	if err := capture.Probe(); err != nil {
		t.Skip("needs CAP_NET_RAW:", err)
	}
}

func uidOf(n int) string { return fmt.Sprintf("%032x", n) }

// asked is a capture of UDP to one port of the loopback.
func asked(n int, kind want.Kind, port int) want.Capture {
	c := want.Capture{
		UID: uidOf(n), ID: fmt.Sprint("c", n), Kind: kind, Created: time.Now().UTC(), Retain: want.Duration(time.Hour),
		Query: filter.Query{Points: []string{"lo"}, From: time.Now().UTC()},
	}
	if kind == want.Packets || kind == want.Flows {
		c.Query.Filter = fmt.Sprintf("udp dst port %d", port)
	} else {
		c.Period = want.Duration(20 * time.Millisecond)
	}
	return c
}

// sender sends datagrams to a port of the loopback.
type sender struct {
	t  *testing.T
	pc net.PacketConn
	to net.Addr
}

func newSender(t *testing.T) (*sender, int) {
	t.Helper()
	sink, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close(); pc.Close() })
	return &sender{t, pc, sink.LocalAddr()}, sink.LocalAddr().(*net.UDPAddr).Port
}

func (s *sender) send(n int) {
	s.t.Helper()
	for range n {
		if _, err := s.pc.WriteTo([]byte("datagram of a test"), s.to); err != nil {
			s.t.Fatal(err)
		}
	}
}

func (h *host) obey(revision int64, captures ...want.Capture) {
	h.t.Helper()
	if err := h.Obey(agentapi.Desired{Revision: revision, Captures: captures}); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) state(uid string) want.Status {
	_, all := h.Actual()
	for _, st := range all {
		if st.UID == uid {
			return st
		}
	}
	return want.Status{}
}

func (h *host) awaitState(uid string, s want.State) want.Status {
	h.t.Helper()
	await.Until(h.t, "the capture is "+string(s), func() bool {
		st := h.state(uid)
		if st.State.Final() && st.State != s {
			h.t.Fatalf("ended as %+v, want %s", st, s)
		}
		return st.State == s
	})
	st := h.state(uid)
	if err := st.Ledger.Check(); err != nil {
		h.t.Errorf("%s: %v", s, err)
	}
	return st
}

type octets []byte

func (o *octets) Write(p []byte) (int, error) { *o = append(*o, p...); return len(p), nil }

// read gets a capture's data whole.
func (h *host) read(uid string, o want.OpenOptions) (*want.Retrieval, []byte) {
	h.t.Helper()
	r, err := h.Open(h.t.Context(), uid, o)
	if err != nil {
		h.t.Fatalf("open %s: %v", o.Format, err)
	}
	defer r.Close()
	var b octets
	if err := r.Write(h.t.Context(), &b, 0, -1); err != nil {
		h.t.Fatal(err)
	}
	if int64(len(b)) != r.Size {
		h.t.Errorf("%s gave %d octets, its size says %d", o.Format, len(b), r.Size)
	}
	return r, b
}

func TestNetnsLifeOfCaptures(t *testing.T) {
	needsRing(t)
	h := newHost(t, nil)
	h.start()
	out, port := newSender(t)
	pk, fl, ct := asked(1, want.Packets, port), asked(2, want.Flows, port), asked(3, want.Counters, 0)
	h.obey(1, pk, fl, ct)
	h.obey(1, pk, fl, ct) // twice is once
	for _, c := range []want.Capture{pk, fl, ct} {
		h.awaitState(c.UID, want.Running)
	}
	out.send(100)
	await.Until(t, "all is counted", func() bool {
		return h.state(pk.UID).Ledger.Captured == 100 && h.state(fl.UID).Ledger.Captured == 100 && h.state(ct.UID).Records > 2
	})
	r, live := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG})
	if r.Records != 100 || r.Final {
		t.Errorf("live: %+v", r)
	}
	if r, _ := h.read(fl.UID, want.OpenOptions{Format: want.CSV}); r.Records != 1 {
		t.Errorf("live flows: %d records, want the one that is open", r.Records)
	}
	if err := h.Obey(agentapi.Desired{}); !errors.Is(err, agentapi.ErrStale) {
		t.Errorf("an older set: %v", err)
	}
	if _, again := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG, ETag: r.ETag}); string(again) != string(live) {
		t.Error("the same ETag gave other octets")
	}

	// Ended with the agent, it goes on with the next.
	h.restart()
	await.Until(t, "it is resumed", func() bool { return len(h.state(pk.UID).Gaps) == 1 })
	st := h.awaitState(pk.UID, want.Running)
	if st.Ledger.Captured != 100 {
		t.Errorf("resumed: %+v", st)
	}
	h.awaitState(fl.UID, want.Running)
	await.Until(t, "the point is seen again", func() bool { out.send(1); return h.state(pk.UID).Ledger.Captured > 100 })
	if _, again := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG, ETag: r.ETag}); string(again) != string(live) {
		t.Error("the same ETag gave other octets after a restart")
	}
	now := time.Now().UTC()
	pk.StopAt, fl.StopAt, ct.StopAt = now, now, now
	h.obey(2, pk, fl, ct)
	for _, c := range []want.Capture{pk, fl, ct} {
		if st := h.awaitState(c.UID, want.Stopped); st.Reason == "" || st.Ended.IsZero() {
			t.Errorf("stopped: %+v", st)
		}
	}
	st = h.state(pk.UID)
	if r, _ := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG}); r.Records != st.Ledger.Captured || !r.Final || r.Ledger.Seen != st.Ledger.Seen {
		t.Errorf("final: %d records, %+v; ledger %+v", r.Records, r.Ledger, st.Ledger)
	}
	h.restart()
	if again := h.state(pk.UID); again.State != want.Stopped || again.Ledger.Seen != st.Ledger.Seen {
		t.Errorf("after a restart: %+v, want %+v", again, st)
	}
	h.obey(3, pk)
	await.Until(t, "the data is gone", func() bool {
		_, err := os.Stat(filepath.Join(h.cfg.CaptureDir, fl.UID))
		return errors.Is(err, os.ErrNotExist)
	})
	if _, err := h.Open(t.Context(), fl.UID, want.OpenOptions{Format: want.CSV}); !fault.Is(err, fault.NotFound) {
		t.Errorf("open of a dropped capture: %v", err)
	}
}

// Packets and flows can be had from recordings, while the window is open and after it, and it ends.
func TestNetnsRecordedCapture(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	h := newHost(t, func(c *Config) {
		c.Recorders = []Recorder{{Point: "lo", Filter: fmt.Sprintf("udp port %d", port), Bytes: 64 << 20}}
	})
	h.start()
	await.Until(t, "the recorder runs", func() bool { _, n := h.Inventory(); return len(n.Recorders) == 1 })
	from := time.Now().UTC()
	out.send(50)
	await.Until(t, "it is recorded", func() bool { return h.recorder("lo").packets() == 50 })

	pk, fl := asked(1, want.Packets, port), asked(2, want.Flows, port)
	for _, c := range []*want.Capture{&pk, &fl} {
		c.Recorded, c.Query.From = true, from
	}
	fl.Query.Filter = ""
	h.obey(1, pk, fl)
	h.awaitState(pk.UID, want.Running)
	h.awaitState(fl.UID, want.Running)
	r, live := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG})
	if r.Records != 50 {
		t.Errorf("live: %d records, want 50", r.Records)
	}
	rf, liveFlows := h.read(fl.UID, want.OpenOptions{Format: want.CSV})
	if rf.Records != 1 {
		t.Errorf("live flows: %d records, want 1", rf.Records)
	}
	await.Until(t, "a window without a filter is counted", func() bool { return h.state(fl.UID).Ledger.Captured == 50 })
	out.send(10)
	await.Until(t, "it is recorded", func() bool { return h.recorder("lo").packets() == 60 })
	now := time.Now().UTC()
	pk.StopAt, fl.Query.To = now, now
	h.obey(2, pk, fl)
	st := h.awaitState(pk.UID, want.Stopped)
	if err := st.Ledger.Check(); st.Ledger.Captured != 60 || err != nil { // others may use lo too: their packets are filtered
		t.Errorf("account %+v (%v), want 60 captured", st.Ledger, err)
	}
	if s := st.Search; s == nil || s.Segments == 0 || s.Read == 0 || s.Chunks < s.Read || s.Packets < 60 || s.OctetsRead == 0 {
		t.Errorf("what was looked at: %+v", s)
	}
	if st := h.awaitState(fl.UID, want.Done); st.Ledger.Captured != 60 {
		t.Errorf("account %+v, want 60 captured", st.Ledger)
	}
	if r, _ := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG}); r.Records != 60 {
		t.Errorf("final: %d records, want 60", r.Records)
	}
	h.restart()
	if _, again := h.read(pk.UID, want.OpenOptions{Format: want.PcapNG, ETag: r.ETag}); string(again) != string(live) {
		t.Error("the same ETag gave other octets")
	}
	if _, again := h.read(fl.UID, want.OpenOptions{Format: want.CSV, ETag: rf.ETag}); string(again) != string(liveFlows) {
		t.Error("the same ETag gave other records")
	}
}

// packets is what the recording has taken in this run.
func (r *recording) packets() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.s == nil {
		return 0
	}
	return r.s.att.Progress().Account.Captured
}

// A kill between the first packet and the state being kept must not make a capture fail.
func TestNetnsKilledWhileBeginning(t *testing.T) {
	needsRing(t)
	h := newHost(t, nil)
	out, port := newSender(t)
	pk, fl := asked(1, want.Packets, port), asked(2, want.Flows, port)
	pk.Query.Points = []string{"lo", "gone0"} // of the second nothing had been made
	h.obey(1, pk, fl)
	p := h.jobs[pk.UID].taker.(*packets)
	if err := os.MkdirAll(p.j.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := p.streams[0].open(h.Agent, h.cfg.Segment, pk.Query, false); err != nil {
		t.Fatal(err)
	}
	p.streams[0].w.Append(1, 100, make([]byte, 100), 0)
	if err := p.streams[0].w.Flush(); err != nil {
		t.Fatal(err)
	}
	copyDir(t, h.cfg.CaptureDir, h.cfg.CaptureDir+"2") // as the disk is now: without a seal
	if err := p.streams[0].w.Close(ledger.Account{}); err != nil {
		t.Fatal(err)
	}
	h.cfg.CaptureDir += "2"
	h.restart()
	h.awaitState(fl.UID, want.Running)
	await.Until(t, "the capture takes packets", func() bool {
		out.send(1)
		st := h.state(pk.UID)
		if st.State.Final() {
			t.Fatalf("ended: %+v", st)
		}
		return st.Ledger.Captured > 1
	})
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

func TestNetnsLimitIsExact(t *testing.T) {
	needsRing(t)
	h := newHost(t, nil)
	h.start()
	out, port := newSender(t)
	pk := asked(1, want.Packets, port)
	pk.Query.Limits.Packets = 7
	h.obey(1, pk)
	h.awaitState(pk.UID, want.Running)
	out.send(20)
	if st := h.awaitState(pk.UID, want.Done); st.Ledger.Captured != 7 || st.Reason == "" {
		t.Errorf("%+v", st)
	}
	if r, _ := h.read(pk.UID, want.OpenOptions{Format: want.Pcap}); r.Records != 7 {
		t.Errorf("%d records", r.Records)
	}
}

// A capture that was stopped while opentapd was down takes nothing any more.
func TestNetnsStopWhileDown(t *testing.T) {
	needsRing(t)
	h := newHost(t, nil)
	h.start()
	out, port := newSender(t)
	pk := asked(1, want.Packets, port)
	h.obey(1, pk)
	h.awaitState(pk.UID, want.Running)
	out.send(5)
	await.Until(t, "they are counted", func() bool { return h.state(pk.UID).Ledger.Captured == 5 })
	h.end()
	h.make()
	pk.StopAt = time.Now().UTC()
	h.obey(2, pk)
	out.send(5)
	h.start()
	if st := h.awaitState(pk.UID, want.Stopped); st.Ledger.Captured != 5 {
		t.Errorf("%+v", st)
	}
}

func TestExpiryAndQuota(t *testing.T) {
	h := newHost(t, nil)
	c := asked(1, want.Packets, 9)
	h.obey(1, c)
	j := h.jobs[c.UID]
	if err := os.MkdirAll(j.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	h.expire(time.Now().Add(1000 * time.Hour))
	if _, err := os.Stat(j.dir); err != nil {
		t.Fatal("the data of a capture that has not ended was removed")
	}
	close(j.done)
	j.set(true, func(m *memo) { m.Status.Started, m.Status.Bytes = time.Now(), 100 })
	j.finish(want.Done, "")
	h.expire(time.Now().Add(59 * time.Minute))
	if _, err := os.Stat(j.dir); err != nil {
		t.Fatal("expired too early")
	}
	h.expire(time.Now().Add(2 * time.Hour))
	if _, err := os.Stat(j.dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("the data is still there:", err)
	}
	if _, err := h.Open(t.Context(), c.UID, want.OpenOptions{Format: want.PcapNG}); !fault.Is(err, fault.NotFound) {
		t.Errorf("open: %v", err)
	}
	if st := h.state(c.UID); st.State != want.Done || st.Bytes != 0 {
		t.Errorf("%+v", st)
	}
}

func TestQuotaExceeded(t *testing.T) {
	for name, tt := range map[string]struct {
		q          Quota
		used, free int64
		full       bool
	}{
		"no bounds":    {Quota{}, 1 << 40, 0, false},
		"within":       {Quota{Bytes: 10, MinFree: 5}, 10, 5, false},
		"quota":        {Quota{Bytes: 10, MinFree: 5}, 11, 5, true},
		"disk":         {Quota{Bytes: 10, MinFree: 5}, 10, 4, true},
		"disk, no cap": {Quota{MinFree: 5}, 1 << 40, 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			if reason := tt.q.exceeded(tt.used, tt.free, "/x"); (reason != "") != tt.full {
				t.Errorf("reason %q, want full %v", reason, tt.full)
			}
		})
	}
}

// When only promised data is left, what grows is ended, recordings too.
func TestNetnsQuotaEndsWhatGrows(t *testing.T) {
	needsRing(t)
	out, port := newSender(t)
	h := newHost(t, func(c *Config) {
		c.Quota.Bytes = 100 << 10
		c.Recorders = []Recorder{{Point: "lo", Filter: fmt.Sprintf("udp port %d", port), Bytes: 64 << 20}}
	})
	h.start()
	await.Until(t, "the recorder runs", func() bool { _, n := h.Inventory(); return len(n.Recorders) == 1 })
	pk := asked(1, want.Packets, port)
	h.obey(1, pk)
	h.awaitState(pk.UID, want.Running)
	await.Until(t, "the capture is ended", func() bool { out.send(50); return h.state(pk.UID).State.Final() })
	if st := h.state(pk.UID); st.State != want.Failed || st.Reason == "" {
		t.Errorf("%+v", st)
	}
	await.Until(t, "the recorder pauses", func() bool { _, n := h.Inventory(); return len(n.Recorders) == 0 && len(n.Problems) > 0 })
}
