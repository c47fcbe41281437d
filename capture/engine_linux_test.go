package capture

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"opentap/capture/ring"
	"opentap/filter"
	"opentap/internal/await"
	"opentap/internal/nettest"
	"opentap/ledger"
	"opentap/packet"
)

// taker counts what it is shown.
type taker struct {
	mu     sync.Mutex
	frames int
	octets int
	limit  int           // > 0: so many and no more
	slow   time.Duration // spent on each packet, to force loss
	lose   bool          // every packet is lost to the disk
	clock  packet.Timestamp
	back   atomic.Int32 // how often the clock went back
}

func (c *taker) Begin() {}
func (c *taker) End()   {}

func (c *taker) Frame(f *Frame) Verdict {
	if c.slow > 0 {
		for until := time.Now().Add(c.slow); time.Now().Before(until); {
		}
	}
	if c.lose {
		return LostDisk
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.limit > 0 && c.frames == c.limit {
		return Full
	}
	if p := f.Parsed(); p.Time != f.Time || p.CapLen < uint32(len(f.Data)) {
		panic("the parsed packet is not the frame's")
	}
	c.frames++
	c.octets += len(f.Data)
	return Took
}

func (c *taker) Idle(now packet.Timestamp, _ *ledger.Account) {
	if now < c.clock {
		c.back.Add(1)
	}
	c.clock = now
}

func (c *taker) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.frames
}

// stage is two namespaces joined by a veth, a sender in one and an engine in the other.
type stage struct {
	*Engine
	far    *nettest.NS
	tap    *nettest.NS
	sender *nettest.Sender
	up     atomic.Bool
}

func newStage(t testing.TB, rc ring.Config) *stage {
	t.Helper()
	far := nettest.NewNS(t)
	s := &stage{far: far, tap: nettest.NewNS(t)}
	nettest.Veth(t, far, "out", s.tap, "in")
	s.tap.Quiet()
	far.Quiet()
	s.up.Store(true)
	s.Engine = NewEngine(Config{Ring: rc, IsUp: func(string) bool { return s.up.Load() }}, slog.New(slog.DiscardHandler))
	s.open = func(cfg ring.Config, expr *filter.Expr, k key) (r opened, err error) {
		s.tap.Do(func() { r, err = openPoint(cfg, expr, k) })
		return r, err
	}
	s.sender = nettest.NewSender(t, far, "out")
	t.Cleanup(s.Close)
	return s
}

func (s *stage) attach(t *testing.T, spec Spec, c Consumer) *Attachment {
	t.Helper()
	spec.Point = "in"
	a, err := s.Attach(spec, c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (s *stage) begun(t *testing.T, atts ...*Attachment) {
	t.Helper()
	await.Until(t, "the capture has begun", func() bool {
		for _, a := range atts {
			if a.Progress().Began.IsZero() {
				return false
			}
		}
		return true
	})
}

func udp(port uint16, size int) []byte {
	return nettest.Packet{
		Src: netip.MustParseAddr("10.0.0.1"), Dst: netip.MustParseAddr("10.0.0.2"), Proto: 17, SrcPort: 1000, DstPort: port,
		Payload: make([]byte, size),
	}.Bytes()
}

func (s *stage) send(n int, frame []byte) {
	batch := make([][]byte, 0, 64)
	for n > 0 {
		batch = batch[:0]
		for len(batch) < 64 && n > 0 {
			batch = append(batch, frame)
			n--
		}
		s.sender.Send(batch...)
	}
}

func check(t *testing.T, p Progress) {
	t.Helper()
	if err := p.Account.Check(); err != nil {
		t.Error(err)
	}
}

func TestNetnsEveryPacketIsCaptured(t *testing.T) {
	s := newStage(t, ring.Config{})
	c := &taker{}
	a := s.attach(t, Spec{}, c)
	s.begun(t, a)
	s.send(5000, udp(53, 100))
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := a.Progress()
	if p.Account.Captured != 5000 || p.Account.Seen != 5000 || c.count() != 5000 || p.End != EndDetached {
		t.Errorf("progress = %+v, shown %d", p, c.count())
	}
	if p.Account.Octets != 5000*142 || p.Account.StoredOctets != 5000*142 {
		t.Errorf("octets = %d, stored %d", p.Account.Octets, p.Account.StoredOctets)
	}
	check(t, p)
}

func TestNetnsFilteredPacketsAreCounted(t *testing.T) {
	s := newStage(t, ring.Config{})
	c := &taker{}
	a := s.attach(t, Spec{Filter: "udp port 53", Snap: 60}, c)
	s.begun(t, a)
	s.send(700, udp(53, 100))
	s.send(300, udp(80, 100))
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := a.Progress()
	if p.Account.Captured != 700 || p.Account.Filtered != 300 || p.Account.Seen != 1000 {
		t.Errorf("account = %+v", p.Account)
	}
	if p.Account.StoredOctets != 700*60 || p.Account.Octets != 700*142 {
		t.Errorf("stored %d, on the wire %d", p.Account.StoredOctets, p.Account.Octets)
	}
	check(t, p)
}

func TestNetnsConsumersShareARing(t *testing.T) {
	s := newStage(t, ring.Config{})
	whole, heads := &taker{}, &taker{}
	a := s.attach(t, Spec{}, whole)
	s.begun(t, a)
	s.send(100, udp(53, 100))
	await.Until(t, "the first hundred are read", func() bool { return whole.count() == 100 })
	b := s.attach(t, Spec{Snap: 60, From: packet.TimestampOf(time.Now())}, heads)
	s.begun(t, b)
	if a.src != b.src {
		t.Error("a consumer that wants less of the same packets got a ring of its own")
	}
	s.send(100, udp(53, 100))
	if err := b.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if pa, pb := a.Progress(), b.Progress(); pa.Account.Captured != 200 || pb.Account.Captured != 100 || pb.Account.Seen != 100 || pb.Account.StoredOctets != 6000 {
		t.Errorf("first %+v\nsecond %+v", pa.Account, pb.Account)
	}
	if len(s.sources) != 0 {
		await.Until(t, "the source is gone", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.sources) == 0 })
	}
}

func TestNetnsWindowAndLimit(t *testing.T) {
	s := newStage(t, ring.Config{})
	few := &taker{limit: 10}
	b := s.attach(t, Spec{Filter: "udp"}, few)
	s.begun(t, b)
	s.send(20, udp(53, 10))
	<-b.Done()
	if p := b.Progress(); p.End != EndLimit || p.Account.Captured != 10 {
		t.Errorf("limited: %+v", p)
	}
	// On a busy machine a window may have passed before anything was sent in it: then a longer one.
	for length := 300 * time.Millisecond; ; length *= 2 {
		from := time.Now().Add(length)
		to := from.Add(length)
		a := s.attach(t, Spec{From: packet.TimestampOf(from), To: packet.TimestampOf(to)}, &taker{})
		<-a.Open()
		s.send(20, udp(53, 10)) // before the window
		early := time.Now().Before(from)
		await.Until(t, "the window has begun", func() bool { return !a.Progress().Began.IsZero() || time.Now().After(to) })
		s.send(7, udp(53, 10))
		intime := time.Now().Before(to)
		<-a.Done()
		p := a.Progress()
		if !early || !intime {
			if length > 5*time.Second {
				t.Fatal("this machine is too busy for a window of 10 s")
			}
			continue
		}
		if p.End != EndWindow || p.Account.Captured != 7 || p.Account.Seen != 7 || p.Began.Before(from) {
			t.Errorf("window: %+v", p)
		}
		return
	}
}

func TestNetnsLossIsAccounted(t *testing.T) {
	s := newStage(t, ring.Config{Blocks: 2, BlockSize: 64 << 10, Retire: 5 * time.Millisecond})
	c := &taker{slow: 20 * time.Microsecond}
	a := s.attach(t, Spec{Filter: "udp port 53"}, c)
	s.begun(t, a)
	s.send(30000, udp(53, 1000))
	s.send(100, udp(80, 10))
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	acc := a.Progress().Account
	if acc.Dropped[ledger.Ring] == 0 {
		t.Error("nothing was lost: the test proves nothing")
	}
	if acc.Seen != 30100 || acc.Filtered != 100 || acc.Captured != uint64(c.count()) || acc.Captured+acc.Dropped[ledger.Ring] != 30000 {
		t.Errorf("account = %+v, shown %d", acc, c.count())
	}
	check(t, a.Progress())
}

func TestNetnsDiskLossIsAccounted(t *testing.T) {
	s := newStage(t, ring.Config{})
	a := s.attach(t, Spec{}, &taker{lose: true})
	s.begun(t, a)
	s.send(50, udp(53, 10))
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acc := a.Progress().Account; acc.Dropped[ledger.Disk] != 50 || acc.Captured != 0 || acc.Seen != 50 {
		t.Errorf("account = %+v", acc)
	}
}

// diskTaker is a taker that is not ready at first.
type diskTaker struct {
	taker
	ready atomic.Bool
	asked atomic.Int32
}

func (c *diskTaker) Ready(octets int) bool {
	c.asked.Add(1)
	return c.ready.Load()
}

func TestNetnsAPatientConsumerIsWaitedFor(t *testing.T) {
	s := newStage(t, ring.Config{Blocks: 8, BlockSize: 64 << 10, Retire: 5 * time.Millisecond})
	c := &diskTaker{}
	a := s.attach(t, Spec{}, c)
	s.begun(t, a)
	s.send(20, udp(53, 100))
	await.Until(t, "it was asked again and again", func() bool { return c.asked.Load() > 10 })
	if n := c.count(); n != 0 {
		t.Errorf("shown %d packets before it was ready", n)
	}
	c.ready.Store(true)
	await.Until(t, "it got what was held back", func() bool { return c.count() == 20 })

	// It never is again: it is waited for once, not for every block.
	c.ready.Store(false)
	s.send(20, udp(53, 100))
	await.Until(t, "it got the rest", func() bool { return c.count() == 40 })
	asked := c.asked.Load()
	for range 5 {
		n := c.count()
		s.send(1, udp(53, 100))
		await.Until(t, "it got one more", func() bool { return c.count() == n+1 })
	}
	if more := c.asked.Load() - asked; more > 5 {
		t.Errorf("asked %d times for 5 blocks", more)
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acc := a.Progress().Account; acc.Captured != 45 || acc.Seen != 45 {
		t.Errorf("account = %+v", acc)
	}
}

func TestNetnsADeviceThatLeavesAndReturns(t *testing.T) {
	s := newStage(t, ring.Config{})
	c := &taker{}
	a := s.attach(t, Spec{Filter: "udp"}, c)
	s.begun(t, a)
	s.send(10, udp(53, 10))
	await.Until(t, "ten are there", func() bool { return c.count() == 10 })
	s.tap.Delete("in")
	await.Until(t, "the gap is open", func() bool { p := a.Progress(); return len(p.Gaps) == 1 && p.Gaps[0].To.IsZero() })
	far := nettest.NewNS(t)
	nettest.Veth(t, far, "out", s.tap, "in")
	s.tap.Quiet()
	far.Quiet()
	sender := nettest.NewSender(t, far, "out")
	await.Until(t, "the gap is closed", func() bool { p := a.Progress(); return len(p.Gaps) == 1 && !p.Gaps[0].To.IsZero() })
	sender.Send(udp(53, 10), udp(53, 10))
	await.Until(t, "twelve are there", func() bool { return c.count() == 12 })
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if acc := a.Progress().Account; acc.Captured != 12 || acc.Check() != nil {
		t.Errorf("account = %+v", acc)
	}
}

func TestNetnsADeviceThatGoesDown(t *testing.T) {
	s := newStage(t, ring.Config{})
	a := s.attach(t, Spec{}, &taker{})
	s.begun(t, a)
	s.up.Store(false)
	s.tap.Down("in")
	await.Until(t, "the gap is open", func() bool { p := a.Progress(); return len(p.Gaps) == 1 && p.Gaps[0].To.IsZero() })
	s.tap.Up("in")
	s.up.Store(true)
	await.Until(t, "the gap is closed", func() bool { p := a.Progress(); return !p.Gaps[0].To.IsZero() })
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestNetnsDoRunsBesideTheConsumer(t *testing.T) {
	s := newStage(t, ring.Config{})
	c := &taker{}
	a := s.attach(t, Spec{}, c)
	s.begun(t, a)
	ran := false
	if !a.Do(t.Context(), func() { ran = true }) || !ran {
		t.Error("Do did not run on a live attachment")
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Do(t.Context(), func() { t.Error("Do ran after the end") }) {
		t.Error("Do said that it ran")
	}
	if c.back.Load() != 0 {
		t.Error("packet time went back")
	}
}

func TestNetnsCloseEndsEverybody(t *testing.T) {
	s := newStage(t, ring.Config{})
	var atts []*Attachment
	for _, f := range []string{"", "udp", "tcp"} {
		atts = append(atts, s.attach(t, Spec{Filter: f}, &taker{}))
	}
	s.begun(t, atts...)
	s.Close()
	for _, a := range atts {
		if a.Progress().End != EndDetached {
			t.Errorf("end = %v", a.Progress().End)
		}
	}
	if _, err := s.Attach(Spec{Point: "in"}, &taker{}); err == nil {
		t.Error("attached to a closed engine")
	}
}

func TestAttachRefusesAFilterItCannotUnderstand(t *testing.T) {
	e := NewEngine(Config{}, slog.New(slog.DiscardHandler))
	defer e.Close()
	if _, err := e.Attach(Spec{Point: "lo", Filter: "prot 80"}, &taker{}); err == nil {
		t.Error("no error")
	}
}

func TestNetnsAPointThatIsNotThereIsWaitedFor(t *testing.T) {
	s := newStage(t, ring.Config{})
	a, err := s.Attach(Spec{Point: "later"}, &taker{})
	if err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the gap is open", func() bool { return len(a.Progress().Gaps) == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := a.Detach(ctx); err != nil {
		t.Fatal(err)
	}
}
