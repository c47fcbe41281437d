package etcd

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	"opentap/store"
)

// Pauses between attempts to watch again after a lost connection or leader.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Watch implements store.Store. The etcd client buffers for a slow receiver, without bound: receive, and do slow work
// elsewhere.
func (s *Store) Watch(ctx context.Context, prefix string, first int64) <-chan store.Batch {
	if first < 1 {
		return store.Failed(fmt.Errorf("%w: watch from revision %d", store.ErrInvalid, first))
	}
	select {
	case <-s.closing:
		return store.Failed(store.ErrClosed)
	default:
	}
	out := make(chan store.Batch)
	go func() {
		defer close(out)
		if err := s.follow(ctx, prefix, first, out); err != nil {
			select {
			case out <- store.Batch{Err: err}:
			case <-ctx.Done():
			}
		}
	}()
	return out
}

// follow sends batches until ctx ends (nil) or something the receiver must know (an error).
func (s *Store) follow(ctx context.Context, prefix string, next int64, out chan<- store.Batch) error {
	pause := firstPause
	for {
		before := next
		err := s.stream(ctx, prefix, &next, out)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, store.ErrCompacted), errors.Is(err, store.ErrClosed), errors.Is(err, store.ErrDenied),
			errors.Is(err, store.ErrInvalid):
			return err
		}
		if next > before {
			pause = firstPause
		}
		s.log.Debug("store watch interrupted", "prefix", prefix, "next", next, "error", err, "pause", pause)
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-s.closing:
			t.Stop()
			return store.ErrClosed
		}
		pause = min(2*pause, lastPause)
	}
}

// stream watches once, moving *next behind each batch sent, and returns why it ended.
func (s *Store) stream(ctx context.Context, prefix string, next *int64, out chan<- store.Batch) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	opts := []clientv3.OpOption{clientv3.WithPrefix(), clientv3.WithRev(*next)}
	wctx := ctx
	if s.remote {
		wctx = clientv3.WithRequireLeader(ctx) // a member cut off from its cluster must say so, not be silent
		opts = append(opts, clientv3.WithProgressNotify())
	}
	responses := s.watch.Watch(wctx, prefix, opts...)
	for {
		select {
		case r, ok := <-responses:
			if !ok {
				return unavailable(errors.New("watch stream ended"))
			}
			if err := r.Err(); err != nil {
				if r.CompactRevision != 0 || errors.Is(err, rpctypes.ErrCompacted) {
					return fmt.Errorf("%w: %d is older than %d", store.ErrCompacted, *next, r.CompactRevision)
				}
				return classify(ctx, err)
			}
			if r.IsProgressNotify() {
				*next = max(*next, r.Header.Revision+1)
				continue
			}
			if err := s.deliver(ctx, r.Events, next, out); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return store.ErrClosed
		case <-s.Failed():
			return unavailable(s.Err())
		}
	}
}

// deliver sends the events of one response, one batch a revision. etcd never cuts a revision in two: its server splits
// large histories between revisions, and within one only for clients that ask for fragments.
func (s *Store) deliver(ctx context.Context, events []*clientv3.Event, next *int64, out chan<- store.Batch) error {
	for len(events) > 0 {
		rev := events[0].Kv.ModRevision
		n := 1
		for n < len(events) && events[n].Kv.ModRevision == rev {
			n++
		}
		part := events[:n]
		events = events[n:]
		if rev < *next {
			continue // seen before the stream was renewed
		}
		b := store.Batch{Revision: rev, Events: make([]store.Event, n)}
		for i, e := range part {
			b.Events[i] = fromEvent(e)
		}
		select {
		case out <- b:
			*next = rev + 1
		case <-ctx.Done():
			return ctx.Err()
		case <-s.closing:
			return store.ErrClosed
		}
	}
	return nil
}
