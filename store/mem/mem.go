// Package mem is a store in memory: for tests, and for trying things out.
//
// Runs in: controller
package mem

import (
	"bytes"
	"context"
	"fmt"
	"sort"
	"strings"
	"sync"

	"opentap/store"
)

// DefaultHistory is how many revisions a Store remembers for watchers when Config leaves it 0.
const DefaultHistory = 100_000

// Config of a Store.
type Config struct {
	History int // revisions kept for watchers; older ones are compacted. 0 = DefaultHistory
}

// Store keeps its state in memory. Its methods may be called from any goroutine.
type Store struct {
	history int

	mu        sync.Mutex
	keys      map[string]store.KV
	revision  int64         // the newest; 1 = empty, as in etcd
	compacted int64         // revisions below this one are forgotten
	log       []store.Batch // what each revision from compacted on changed, in order
	changed   chan struct{} // closed and replaced at each change, compaction and Close
	closed    bool
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Compacter = (*Store)(nil)
)

// New returns an empty store.
func New(cfg Config) *Store {
	if cfg.History <= 0 {
		cfg.History = DefaultHistory
	}
	return &Store{history: cfg.History, keys: map[string]store.KV{}, revision: 1, compacted: 1, changed: make(chan struct{})}
}

// wake tells the watchers that something happened. Called with mu held.
func (s *Store) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if err := store.CheckKey(key); err != nil {
		return store.KV{}, err
	}
	if err := ctx.Err(); err != nil {
		return store.KV{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.KV{}, store.ErrClosed
	}
	kv, ok := s.keys[key]
	if !ok {
		return store.KV{}, fmt.Errorf("%w: %q", store.ErrNotFound, key)
	}
	return kv, nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]store.KV, int64, error) {
	if err := ctx.Err(); err != nil {
		return nil, 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, 0, store.ErrClosed
	}
	var kvs []store.KV
	for k, kv := range s.keys {
		if strings.HasPrefix(k, prefix) {
			kvs = append(kvs, kv)
		}
	}
	sort.Slice(kvs, func(i, j int) bool { return kvs[i].Key < kvs[j].Key })
	return kvs, s.revision, nil
}

// Txn implements store.Store.
func (s *Store) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	if err := store.Check(compares, ops); err != nil {
		return 0, err
	}
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, store.ErrClosed
	}
	for _, c := range compares {
		if s.keys[c.Key].ModRevision != c.ModRevision {
			return 0, fmt.Errorf("%w: %q", store.ErrConflict, c.Key)
		}
	}
	next := s.revision + 1
	var events []store.Event
	for _, op := range ops {
		old, there := s.keys[op.Key]
		switch {
		case op.Delete && !there:
		case op.Delete:
			delete(s.keys, op.Key)
			events = append(events, store.Event{KV: store.KV{Key: op.Key, ModRevision: next}, Deleted: true})
		default:
			kv := store.KV{Key: op.Key, Value: bytes.Clone(op.Value), ModRevision: next, CreateRevision: next}
			if there {
				kv.CreateRevision = old.CreateRevision
			}
			s.keys[op.Key] = kv
			events = append(events, store.Event{KV: kv})
		}
	}
	if len(events) == 0 {
		return s.revision, nil
	}
	s.revision = next
	s.log = append(s.log, store.Batch{Revision: next, Events: events})
	if len(s.log) > s.history {
		s.forget(s.log[len(s.log)-s.history].Revision)
	}
	s.wake()
	return next, nil
}

// Compact implements store.Compacter.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return store.ErrClosed
	case revision > s.revision:
		return fmt.Errorf("%w: compact at future revision %d", store.ErrInvalid, revision)
	case revision <= s.compacted:
		return fmt.Errorf("%w: %d", store.ErrCompacted, revision)
	}
	s.forget(revision)
	s.wake()
	return nil
}

// forget drops what happened before revision. Called with mu held.
func (s *Store) forget(revision int64) {
	n := sort.Search(len(s.log), func(i int) bool { return s.log[i].Revision >= revision })
	clear(s.log[:n]) // let go of the values
	s.log = s.log[n:]
	s.compacted = revision
}

// Watch implements store.Store. Each watcher reads the shared history at its own pace; nothing is buffered for it.
func (s *Store) Watch(ctx context.Context, prefix string, first int64) <-chan store.Batch {
	if first < 1 {
		return store.Failed(fmt.Errorf("%w: watch from revision %d", store.ErrInvalid, first))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return store.Failed(store.ErrClosed)
	}
	out := make(chan store.Batch)
	go func() {
		defer close(out)
		s.follow(ctx, prefix, first, out)
	}()
	return out
}

func (s *Store) follow(ctx context.Context, prefix string, next int64, out chan<- store.Batch) {
	for {
		b, changed, err := s.after(prefix, &next)
		if err != nil {
			select {
			case out <- store.Batch{Err: err}:
			case <-ctx.Done():
			}
			return
		}
		if b != nil {
			select {
			case out <- *b:
			case <-ctx.Done():
				return
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// after returns the first batch at or after *next that concerns prefix and moves *next behind it; or, when there is
// none yet, the channel that closes at the next change.
func (s *Store) after(prefix string, next *int64) (*store.Batch, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, store.ErrClosed
	}
	if *next < s.compacted {
		return nil, nil, fmt.Errorf("%w: %d is older than %d", store.ErrCompacted, *next, s.compacted)
	}
	for i := sort.Search(len(s.log), func(i int) bool { return s.log[i].Revision >= *next }); i < len(s.log); i++ {
		*next = s.log[i].Revision + 1
		if b := under(s.log[i], prefix); b != nil {
			return b, nil, nil
		}
	}
	*next = max(*next, s.revision+1) // all that was is seen: compaction may pass
	return nil, s.changed, nil
}

// under returns the part of b that concerns prefix; nil = none.
func under(b store.Batch, prefix string) *store.Batch {
	var events []store.Event
	for _, e := range b.Events {
		if strings.HasPrefix(e.Key, prefix) {
			events = append(events, e)
		}
	}
	if events == nil {
		return nil
	}
	return &store.Batch{Revision: b.Revision, Events: events}
}

// Close ends every watch with ErrClosed; later calls get ErrClosed. It does not wait for receivers.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		s.wake()
	}
	return nil
}
