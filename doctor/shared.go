package doctor

import (
	"context"
	"sync"

	"opentap/want"
)

// Doctor has a host look at itself.
type Doctor func(ctx context.Context) (want.Examination, error)

// Shared is d for many: those who ask while a look is under way have that one's answer, for a look writes to the disks. It is
// safe for concurrent use. A look ends early when nobody waits for it any more.
func Shared(d Doctor) Doctor {
	s := &looks{doctor: d}
	return s.share
}

// looks are those of one doctor, of which one is under way at a time.
type looks struct {
	doctor Doctor

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

// share has the doctor look, or waits for the answer of the call that is under way.
func (s *looks) share(ctx context.Context) (want.Examination, error) {
	l := s.join(ctx)
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

func (s *looks) join(ctx context.Context) *look {
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
		l.x, l.err = s.doctor(ctx)
		s.mu.Lock()
		if s.now == l {
			s.now = nil
		}
		s.mu.Unlock()
	}()
	return l
}
