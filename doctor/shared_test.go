package doctor

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"opentap/want"
)

// Those who ask at the same time share a look, who goes takes it from nobody, and it ends when nobody waits for it.
func TestLooksAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var begun, under atomic.Int32
		end := make(chan struct{})
		doctor := func(ctx context.Context) (want.Examination, error) {
			n := begun.Add(1)
			if under.Add(1) > 1 {
				t.Error("two looks at one time")
			}
			defer under.Add(-1)
			select {
			case <-end:
				return want.Examination{Node: string('a' + rune(n-1))}, nil
			case <-ctx.Done():
				return want.Examination{}, ctx.Err()
			}
		}
		s := looks{doctor: doctor}
		ask := func(ctx context.Context, answers *sync.Map, i int) func() {
			return func() {
				x, err := s.share(ctx)
				if err != nil {
					x.Node = err.Error()
				}
				answers.Store(i, x.Node)
			}
		}
		var all sync.WaitGroup
		var answers sync.Map
		hasty, hurry := context.WithCancel(t.Context())
		all.Go(ask(hasty, &answers, 0)) // who began it goes
		synctest.Wait()
		for i := 1; i < 10; i++ {
			all.Go(ask(t.Context(), &answers, i))
		}
		synctest.Wait()
		hurry()
		synctest.Wait()
		close(end)
		all.Wait()
		for i := range 10 {
			want := "a"
			if i == 0 {
				want = context.Canceled.Error()
			}
			if got, _ := answers.Load(i); got != want {
				t.Errorf("%d: %v, want %s", i, got, want)
			}
		}
		if x, err := s.share(t.Context()); err != nil || x.Node != "b" || begun.Load() != 2 {
			t.Errorf("the next look: %v, %v, the %dth", x.Node, err, begun.Load())
		}
		end = make(chan struct{})
		gone, leave := context.WithCancel(t.Context())
		all.Go(ask(gone, &answers, 0))
		synctest.Wait()
		leave()
		all.Wait()
		if got, _ := answers.Load(0); got != context.Canceled.Error() || under.Load() != 0 || s.now != nil {
			t.Errorf("nobody waits: %v, %d under way", got, under.Load())
		}
	})
}

func TestALookThatFailsIsNotKept(t *testing.T) {
	var wrong error
	ask := Shared(func(context.Context) (want.Examination, error) { return want.Examination{}, wrong })
	wrong = errors.New("wrong")
	if _, err := ask(t.Context()); err != wrong {
		t.Error(err)
	}
	wrong = nil
	if _, err := ask(t.Context()); err != nil {
		t.Error(err)
	}
}
