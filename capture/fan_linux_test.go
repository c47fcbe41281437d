package capture

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"opentap/capture/ring"
	"opentap/internal/await"
	"opentap/internal/nettest"
)

// fan attaches n takers at once.
func (s *stage) fan(t *testing.T, spec Spec, n int) (*Fan, []*taker) {
	t.Helper()
	spec.Point = "in"
	takers, consumers := make([]*taker, n), make([]Consumer, n)
	for i := range n {
		takers[i] = &taker{}
		consumers[i] = takers[i]
	}
	f, err := s.AttachFan(spec, consumers)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-f.Open():
	case <-time.After(20 * time.Second):
		t.Fatal("the fan does not open")
	}
	return f, takers
}

// flows sends n packets of as many flows.
func (s *stage) flows(n int) {
	for i := range n {
		s.sender.Send(nettest.Packet{SrcPort: uint16(1000 + i), DstPort: uint16(53 + i&1)}.Bytes())
	}
}

func TestNetnsFanSharesAndAddsUp(t *testing.T) {
	for _, filter := range []string{"", "port 53"} {
		t.Run("filter "+filter, func(t *testing.T) {
			s := newStage(t, ring.Config{Blocks: 192, BlockSize: 64 << 10, Retire: 50 * time.Millisecond})
			f, takers := s.fan(t, Spec{Filter: filter}, 3)
			other := &taker{} // at a ring of its own, which gets all
			alone := s.attach(t, Spec{}, other)
			s.begun(t, alone)
			const sent = 900
			s.flows(sent)
			want := uint64(sent)
			if filter != "" {
				want /= 2
			}
			await.Until(t, "all packets were seen", func() bool { a := f.Progress().Account; return a.Seen == sent && a.Captured == want })
			if err := f.Detach(t.Context()); err != nil {
				t.Fatal(err)
			}
			<-f.Done()
			p, sum := f.Progress(), 0
			for i, c := range takers {
				if c.count() < int(want)/10 {
					t.Errorf("consumer %d was shown %d of %d packets", i, c.count(), want)
				}
				sum += c.count()
			}
			if err := p.Account.Check(); err != nil || uint64(sum) != want || p.Account.Captured != want || p.Account.Seen != sent || p.End != EndDetached {
				t.Errorf("%d shown, %+v, %v", sum, p, err)
			}
			if err := alone.Detach(t.Context()); err != nil || other.count() != sent {
				t.Errorf("%v: a consumer beside the fan was shown %d of %d", err, other.count(), sent)
			}
		})
	}
}

// A device that goes away and comes back is one gap of the fan, after which all members get their shares again.
func TestNetnsFanOutlivesItsDevice(t *testing.T) {
	s := newStage(t, ring.Config{Blocks: 192, BlockSize: 64 << 10, Retire: 50 * time.Millisecond})
	f, takers := s.fan(t, Spec{}, 2)
	s.flows(100)
	await.Until(t, "the first packets were taken", func() bool { return f.Progress().Account.Captured == 100 })
	s.tap.Delete("in")
	for _, m := range f.members {
		await.Until(t, "each member misses the device", func() bool { g := m.Progress().Gaps; return len(g) == 1 && g[0].To.IsZero() })
	}
	far := nettest.NewNS(t)
	nettest.Veth(t, far, "out", s.tap, "in")
	for _, m := range f.members {
		await.Until(t, "each member is back", func() bool { g := m.Progress().Gaps; return len(g) == 1 && !g[0].To.IsZero() })
	}
	s.sender = nettest.NewSender(t, far, "out")
	before := [2]int{takers[0].count(), takers[1].count()}
	had := f.Progress().Account.Captured
	s.flows(100)
	await.Until(t, "the packets after it were taken", func() bool { return f.Progress().Account.Captured >= had+100 })
	for i, c := range takers {
		if got := c.count() - before[i]; got < 10 {
			t.Errorf("member %d was shown %d packets after the device came back", i, got)
		}
	}
	if err := f.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	p := f.Progress()
	if err := p.Account.Check(); err != nil || len(p.Gaps) != 1 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestFanOfADedicatedPointIsRefused(t *testing.T) {
	e := NewEngine(Config{Dedicated: map[string]int{"eth9": 0}}, slog.New(slog.DiscardHandler))
	defer e.Close()
	if _, err := e.AttachFan(Spec{Point: "eth9"}, []Consumer{&taker{}, &taker{}}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
