package capture

import (
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/capture/ring"
	"opentap/capture/xdpring"
	"opentap/internal/await"
	"opentap/packet"
)

// told is what a source said of its ring.
type told struct {
	mu      sync.Mutex
	by      string
	instead error
	n       int
}

func (o *told) tell(_, by string, instead error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.by, o.instead = by, instead
	o.n++
}

func (o *told) get() (by string, times int, instead error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.by, o.n, o.instead
}

// dedicate makes the stage's point a dedicated one.
func dedicate(s *stage, memory int) *told {
	o := &told{}
	s.cfg.Dedicated = map[string]int{"in": memory}
	s.cfg.Told = o.tell
	return o
}

// One ring serves everybody at a dedicated point; each has its own filter, snap length and window, counted exactly.
func TestNetnsDedicatedPointServesAll(t *testing.T) {
	s := newStage(t, ring.Config{})
	o := dedicate(s, 0)
	all, dns, cut := &taker{}, &taker{}, &taker{}
	a := s.attach(t, Spec{}, all)
	b := s.attach(t, Spec{Filter: "udp port 53"}, dns)
	c := s.attach(t, Spec{Filter: "udp port 80", Snap: 20}, cut)
	s.begun(t, a, b, c)
	if n := len(s.sources); n != 1 {
		t.Errorf("%d sources", n)
	}
	if by, _, instead := o.get(); instead != nil || !strings.HasPrefix(by, xdpring.Native.String()) {
		t.Skipf("needs native XDP on veth: read by %q, because %v", by, instead)
	}
	s.send(300, udp(53, 100))
	s.send(200, udp(80, 100))
	s.send(100, udp(99, 100))
	for _, att := range []*Attachment{b, a, c} { // the last one drains the ring
		await.Until(t, "all is seen", func() bool { return att.Progress().Account.Seen == 600 })
		if err := att.Detach(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name     string
		att      *Attachment
		c        *taker
		captured int
	}{{"all", a, all, 600}, {"dns", b, dns, 300}, {"cut", c, cut, 200}} {
		acc := tt.att.Progress().Account
		if err := acc.Check(); err != nil {
			t.Error(err)
		}
		if tt.c.count() != tt.captured || acc.Captured != uint64(tt.captured) || acc.Seen != 600 || acc.Filtered != uint64(600-tt.captured) || acc.FilterUncounted {
			t.Errorf("%s: took %d, account %+v", tt.name, tt.c.count(), acc)
		}
	}
	if cut.octets != 200*20 {
		t.Errorf("%d octets of 200 packets cut to 20", cut.octets)
	}
}

func TestNetnsDedicatedPointLossIsAccounted(t *testing.T) {
	s := newStage(t, ring.Config{})
	dedicate(s, xdpring.MinMemory)
	c := &taker{slow: 50 * time.Microsecond}
	a := s.attach(t, Spec{Filter: "udp port 53"}, c)
	s.begun(t, a)
	const each = 4000
	for range 5 {
		s.send(each/2, udp(53, 100))
		s.send(each/2, udp(80, 100))
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	acc := a.Progress().Account
	if err := acc.Check(); err != nil {
		t.Error(err)
	}
	if acc.Seen != 5*each || acc.DroppedTotal() == 0 || acc.Captured != uint64(c.count()) || acc.Filtered == 0 {
		t.Errorf("took %d, account %+v", c.count(), acc)
	}
}

// A port that has another's XDP program is read in the ordinary way, and that is said.
func TestNetnsDedicatedPointFallsBack(t *testing.T) {
	s := newStage(t, ring.Config{})
	var other *xdpring.Ring
	var err error
	s.tap.Do(func() {
		cfg := xdpring.DefaultConfig()
		cfg.Interface, cfg.Memory = "in", xdpring.MinMemory
		other, err = xdpring.Open(cfg)
	})
	if err != nil {
		t.Skipf("needs AF_XDP: %v", err)
	}
	if err := other.Stop(); err != nil { // it passes everything on now, but it is there
		t.Fatal(err)
	}
	defer other.Close()
	o := dedicate(s, 0)
	c := &taker{}
	a := s.attach(t, Spec{Filter: "udp port 53"}, c)
	s.begun(t, a)
	s.tap.Ready("in")
	if by, _, instead := o.get(); instead == nil || by != "packet socket ring" {
		t.Fatalf("read by %q, because %v", by, instead)
	}
	s.send(50, udp(53, 100))
	s.send(50, udp(80, 100))
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acc := a.Progress().Account; acc.Captured != 50 || acc.Filtered != 50 || acc.Check() != nil {
		t.Errorf("account %+v", acc)
	}
}

func TestNetnsDedicatedDeviceLeavesAndReturns(t *testing.T) {
	s := newStage(t, ring.Config{})
	o := dedicate(s, 0)
	c := &taker{}
	a := s.attach(t, Spec{}, c)
	s.begun(t, a)
	s.send(10, udp(53, 100))
	await.Until(t, "10 are taken", func() bool { return c.count() == 10 })
	s.tap.Down("in")
	await.Until(t, "a gap is open", func() bool { g := a.Progress().Gaps; return len(g) == 1 && g[0].To.IsZero() })
	s.tap.Up("in")
	s.tap.Ready("in")
	await.Until(t, "the gap is closed", func() bool { g := a.Progress().Gaps; return !g[0].To.IsZero() })
	await.Until(t, "more are taken", func() bool { // frames get lost until the far end has its carrier
		s.send(1, udp(53, 100))
		return c.count() > 10
	})
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acc := a.Progress().Account; acc.Seen != acc.Captured || acc.Captured != uint64(c.count()) {
		t.Errorf("account %+v", acc)
	}
	if _, n, _ := o.get(); n != 1 {
		t.Errorf("opened %d times", n)
	}
}

// Every packet of the window is taken when it ends under traffic, with somebody else still there.
func TestNetnsDedicatedWindowEndsUnderTraffic(t *testing.T) {
	s := newStage(t, ring.Config{})
	dedicate(s, 0)
	rest := &taker{}
	r := s.attach(t, Spec{}, rest)
	s.begun(t, r)
	c := &taker{}
	a := s.attach(t, Spec{To: packet.TimestampOf(time.Now().Add(300 * time.Millisecond))}, c)
	for ended := false; !ended; {
		s.send(20, udp(53, 100))
		select {
		case <-a.Done():
			ended = true
		default:
		}
	}
	if err := r.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	acc, all := a.Progress().Account, r.Progress().Account
	if a.Progress().End != EndWindow || acc.Check() != nil || acc.Captured == 0 || all.Captured != s.sender.Count() {
		t.Errorf("window %+v, everything %+v of %d", acc, all, s.sender.Count())
	}
}

// When a dedicated port's MTU is raised beyond what its frames' memory holds, it is read by what takes such frames: after a gap that
// says why.
func TestNetnsDedicatedPointFollowsItsMTU(t *testing.T) {
	s := newStage(t, ring.Config{})
	o := dedicate(s, 0)
	c := &taker{}
	a := s.attach(t, Spec{}, c)
	s.begun(t, a)
	by, _, instead := o.get()
	if instead != nil {
		t.Skipf("needs AF_XDP: %v", instead)
	}
	s.sender.Send(udp(53, 10))
	await.Until(t, "a frame is taken", func() bool { return a.Progress().Account.Captured == 1 })
	if err := s.tap.Netlink().LinkSetMTU(s.tap.Link("in"), 9000); err != nil {
		t.Skipf("its driver holds the MTU where the program fits (%v)", err)
	}
	await.Until(t, "it is read otherwise", func() bool { now, n, _ := o.get(); return n > 1 && now != by })
	await.Until(t, "the gap is over", func() bool { g := a.Progress().Gaps; return len(g) == 1 && !g[0].To.IsZero() })
	if g := a.Progress().Gaps[0]; !strings.Contains(g.Reason, "MTU") {
		t.Errorf("the gap is there because %q", g.Reason)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acc := a.Progress().Account; acc.Check() != nil || acc.Captured == 0 {
		t.Errorf("%+v", acc)
	}
}
