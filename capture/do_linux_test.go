package capture

import (
	"context"
	"testing"
	"time"

	"opentap/capture/ring"
	"opentap/internal/await"
)

// A Do that was given up never runs its function: the caller may have moved on with what it touches.
func TestNetnsDoGivenUpDoesNotRun(t *testing.T) {
	s := newStage(t, ring.Config{})
	a := s.attach(t, Spec{}, &taker{})
	s.begun(t, a)
	busy, free := make(chan struct{}), make(chan struct{})
	go a.Do(t.Context(), func() { close(busy); <-free })
	<-busy
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a.Do(ctx, func() { t.Error("ran after it was given up") }) {
		t.Error("Do says that it ran")
	}
	close(free)
	if !a.Do(t.Context(), func() {}) {
		t.Error("the next one does not run")
	}
	if err := a.Detach(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a.Do(t.Context(), func() {}) {
		t.Error("ran on an ended attachment")
	}
}

// orderly panics when it is called after its attachment is done.
type orderly struct {
	taker
	att  chan *Attachment
	mine *Attachment
}

func (o *orderly) End() {
	if o.mine == nil {
		o.mine = <-o.att
	}
	select {
	case <-o.mine.Done():
		panic("called after Done")
	default:
	}
}

func (o *orderly) Frame(f *Frame) Verdict { o.taker.Frame(f); return TookLast }

func TestNetnsConsumerRestsOnceDone(t *testing.T) {
	s := newStage(t, ring.Config{})
	c := &orderly{att: make(chan *Attachment, 1)}
	a := s.attach(t, Spec{}, c)
	c.att <- a
	s.begun(t, a)
	s.send(100, udp(53, 100))
	select {
	case <-a.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the limit does not end it")
	}
	if c.count() != 1 {
		t.Errorf("%d frames after the last", c.count()-1)
	}
}

// What was in the ring when its device went away is read or counted.
func TestNetnsNothingGoesWithTheRing(t *testing.T) {
	s := newStage(t, ring.Config{Retire: 200 * time.Millisecond})
	c := &taker{}
	a := s.attach(t, Spec{}, c)
	s.begun(t, a)
	s.send(500, udp(53, 100))
	s.tap.Delete("in")
	await.Until(t, "the loss of the device is noticed", func() bool { return len(a.Progress().Gaps) > 0 })
	await.Until(t, "every packet is in the account", func() bool { return a.Progress().Account.Seen == 500 })
	check(t, a.Progress())
	if c.count() != 500 {
		t.Errorf("%d packets taken of 500", c.count())
	}
}
