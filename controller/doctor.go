package controller

import (
	"context"
	"sync"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Doctor has the host that this controller runs on look at itself.
type Doctor func(ctx context.Context) (want.Examination, error)

// SetDoctor gives the way to the doctor; it must be called before a door is opened.
func (c *Controller) SetDoctor(d Doctor) { c.doctor = d }

// looks lets those who ask for a look while one is under way have that one's answer: a look writes to the disks.
type looks struct {
	mu  sync.Mutex
	now *look // nil = none is under way
}

// look is one look of the doctor.
type look struct {
	done   chan struct{} // closed once x and err are there
	x      want.Examination
	err    error
	asking int // who waits for it; looks.mu guards it
	cancel context.CancelFunc
}

// share has the doctor look, or waits for the answer of the call that is under way. That ends early when nobody waits any more.
func (s *looks) share(ctx context.Context, doctor Doctor) (want.Examination, error) {
	l := s.join(ctx, doctor)
	select {
	case <-l.done:
		return l.x, l.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	l.asking--
	last := l.asking == 0
	if last && s.now == l {
		s.now = nil // it is of no use to who comes now
	}
	s.mu.Unlock()
	if last {
		l.cancel()
		<-l.done
	}
	return want.Examination{}, ctx.Err()
}

func (s *looks) join(ctx context.Context, doctor Doctor) *look {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.now != nil {
		s.now.asking++
		return s.now
	}
	l := &look{done: make(chan struct{}), asking: 1}
	ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.now = l
	go func() { // ends before the last who waits for it does
		defer l.cancel()
		defer close(l.done)
		l.x, l.err = doctor(ctx)
		s.mu.Lock()
		if s.now == l {
			s.now = nil
		}
		s.mu.Unlock()
	}()
	return l
}

// Doctor tells what the host finds when it looks at itself. Those who ask at the same time share an answer.
func (c *Controller) Doctor(ctx context.Context, id auth.Identity) (want.Examination, error) {
	if !id.May(auth.Administer) {
		return want.Examination{}, c.refuse(ctx, id, "node.examine", "", auth.Administer)
	}
	if c.doctor == nil {
		return want.Examination{}, fault.New(fault.Unavailable, "this controller has no doctor")
	}
	return c.looks.share(ctx, c.doctor)
}
