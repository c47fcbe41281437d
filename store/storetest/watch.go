package storetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"

	"opentap/store"
)

func testWatchOrder(t *testing.T, s store.Store) {
	_, rev, err := s.List(ctxOf(t), "")
	if err != nil {
		t.Fatal(err)
	}
	w := s.Watch(ctxOf(t), "", rev+1)
	put(t, s, "a", "1")
	txn(t, s, nil, store.Put("c", []byte("3")), store.Delete("a"), store.Put("b", []byte("2")))
	txn(t, s, nil, store.Delete("never"))
	txn(t, s, nil, store.Delete("never"), store.Delete("b"))
	for i, want := range []string{"a=1", "c=3 -a b=2", "-b"} {
		want = fmt.Sprintf("%d %s", rev+1+int64(i), want)
		if got := text(next(t, w)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func testWatchOld(t *testing.T, s store.Store) {
	r := put(t, s, "a", "1")
	put(t, s, "a", "2")
	txn(t, s, nil, store.Delete("a"))
	for skip := range int64(3) {
		w := s.Watch(ctxOf(t), "a", r+skip)
		for i, want := range []string{"a=1", "a=2", "-a"}[skip:] {
			want = fmt.Sprintf("%d %s", r+skip+int64(i), want)
			if got := text(next(t, w)); got != want {
				t.Errorf("from %d: got %q, want %q", r+skip, got, want)
			}
		}
	}
}

func testWatchFuture(t *testing.T, s store.Store) {
	r := put(t, s, "a", "1")
	w := s.Watch(ctxOf(t), "", r+3)
	for i := range 4 {
		put(t, s, "a", fmt.Sprint(i))
	}
	if got, want := text(next(t, w)), fmt.Sprintf("%d a=2", r+3); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func testWatchPrefix(t *testing.T, s store.Store) {
	_, rev, _ := s.List(ctxOf(t), "")
	w := s.Watch(ctxOf(t), "p/\xff", rev+1)
	txn(t, s, nil, store.Put("p/", nil), store.Put("p/\xff\xff", []byte("1")), store.Put("p0", nil), store.Put("p/\xff", []byte("2")))
	put(t, s, "q", "")
	r := put(t, s, "p/\xffz", "3")
	for _, want := range []string{fmt.Sprintf("%d p/\xff\xff=1 p/\xff=2", rev+1), fmt.Sprintf("%d p/\xffz=3", r)} {
		if got := text(next(t, w)); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// testWatchNoGaps has many writers and watchers that start at different revisions: each watcher must see each revision
// from its first on exactly once, in order, whole.
func testWatchNoGaps(t *testing.T, s store.Store) {
	const writers, each, watchers = 6, 60, 5
	ctx := ctxOf(t)
	_, start, err := s.List(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, writers+watchers)
	var wg sync.WaitGroup
	last := start + writers*each
	for i := range watchers {
		first := start + 1 + int64(i*writers*each/watchers)
		wg.Add(1)
		go func() {
			defer wg.Done()
			wctx, cancel := context.WithCancel(ctx)
			defer cancel()
			want := first
			for b := range s.Watch(wctx, "w/", first) {
				switch {
				case b.Err != nil:
					errs <- b.Err
					return
				case b.Revision != want:
					errs <- fmt.Errorf("watch from %d: revision %d, want %d", first, b.Revision, want)
					return
				case len(b.Events) != 2 || string(b.Events[0].Value) != string(b.Events[1].Value):
					errs <- fmt.Errorf("a cut transaction: %s", text(b))
					return
				}
				if want++; want > last {
					return
				}
			}
			errs <- fmt.Errorf("watch from %d ended at %d of %d", first, want, last)
		}()
	}
	for i := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range each {
				v := fmt.Appendf(nil, "%d", n)
				_, err := s.Txn(ctx, nil, []store.Op{store.Put(fmt.Sprintf("w/%d/a", i), v), store.Put(fmt.Sprintf("w/%d/b", i), v)})
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
}

func testWatchCancel(t *testing.T, s store.Store) {
	r := put(t, s, "a", "1")
	for _, received := range []bool{true, false} {
		ctx, cancel := context.WithCancel(t.Context())
		w := s.Watch(ctx, "", r)
		if received {
			next(t, w)
		}
		cancel()
		for b := range w { // ends, or the test times out
			if b.Err != nil {
				t.Errorf("a cancelled watch has a last word: %v", b.Err)
			}
		}
	}
}

// testListThenWatch keeps a copy by List and Watch beside writers; at the end it must equal the store.
func testListThenWatch(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	const writers, each = 4, 50
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for i := range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range each {
				op := store.Put(fmt.Sprintf("k%d", (i*7+n*3)%11), fmt.Appendf(nil, "%d.%d", i, n))
				if n%5 == 4 {
					op = store.Delete(op.Key)
				}
				if _, err := s.Txn(ctx, nil, []store.Op{op}); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	kvs, rev, err := s.List(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	ours := map[string]string{}
	for _, kv := range kvs {
		ours[kv.Key] = string(kv.Value)
	}
	w := s.Watch(ctx, "k", rev+1)
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	end := put(t, s, "k-end", "")
	for b := range w {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for _, e := range b.Events {
			if e.Deleted {
				delete(ours, e.Key)
			} else {
				ours[e.Key] = string(e.Value)
			}
		}
		if b.Revision == end {
			break
		}
	}
	kvs, _, err = s.List(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	theirs := map[string]string{}
	for _, kv := range kvs {
		theirs[kv.Key] = string(kv.Value)
	}
	if !maps.Equal(ours, theirs) {
		t.Errorf("copy %v\nstore %v", ours, theirs)
	}
}

func testCompaction(t *testing.T, s store.Store) {
	c, ok := s.(store.Compacter)
	if !ok {
		t.Skip("this store is not a store.Compacter")
	}
	ctx := ctxOf(t)
	put(t, s, "kept", "v")
	var revs []int64
	for i := range 10 {
		revs = append(revs, put(t, s, "a", fmt.Sprint(i)))
	}
	gone := txn(t, s, nil, store.Delete("a"))
	synced := s.Watch(ctx, "", gone)
	if got := text(next(t, synced)); got != fmt.Sprintf("%d -a", gone) {
		t.Fatalf("before: %s", got)
	}
	if err := c.Compact(ctx, gone); err != nil {
		t.Fatal(err)
	}
	for _, first := range []int64{1, revs[0], revs[9]} {
		w := s.Watch(ctx, "", first)
		if b := next(t, w); !errors.Is(b.Err, store.ErrCompacted) {
			t.Errorf("watch from forgotten %d: %s", first, text(b))
		}
		if _, open := <-w; open {
			t.Errorf("watch from %d goes on after its last word", first)
		}
	}
	if kv, err := s.Get(ctx, "kept"); err != nil || string(kv.Value) != "v" {
		t.Errorf("an old value was lost: %+v, %v", kv, err)
	}
	r := put(t, s, "b", "1")
	if got := text(next(t, synced)); got != fmt.Sprintf("%d b=1", r) {
		t.Errorf("a watch that was up to date: %s", got)
	}
	if got := text(next(t, s.Watch(ctx, "", gone))); got != fmt.Sprintf("%d -a", gone) {
		t.Errorf("watch from the compacted revision itself: %s", got)
	}
	if err := c.Compact(ctx, gone); !errors.Is(err, store.ErrCompacted) {
		t.Errorf("compact again: %v", err)
	}
	if err := c.Compact(ctx, r+1000); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("compact the future: %v", err)
	}
}
