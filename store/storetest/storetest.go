// Package storetest is the one suite every store must pass.
//
// Runs in: tools
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"opentap/store"
)

// patience bounds each wait of the suite; no test sleeps.
const patience = 30 * time.Second

// Run proves that the stores make returns keep the promises of package store. make is called once a subtest, each time
// for an empty store; it registers its own cleanup. A store that is an io.Closer is also closed while it is watched.
func Run(t *testing.T, make func(t *testing.T) store.Store) {
	for _, c := range []struct {
		name string
		test func(*testing.T, store.Store)
	}{
		{"Get", testGet},
		{"List", testList},
		{"Prefixes", testPrefixes},
		{"Txn", testTxn},
		{"TxnAtomic", testTxnAtomic},
		{"Refusals", testRefusals},
		{"ValueCopied", testValueCopied},
		{"ConcurrentCounters", testCounters},
		{"WatchOrder", testWatchOrder},
		{"WatchOld", testWatchOld},
		{"WatchFuture", testWatchFuture},
		{"WatchPrefix", testWatchPrefix},
		{"WatchNoGaps", testWatchNoGaps},
		{"WatchCancel", testWatchCancel},
		{"ListThenWatch", testListThenWatch},
		{"Compaction", testCompaction},
		{"Context", testContext},
		{"CloseWhileWatching", testClose},
		{"Model", testModel},
		{"Linearizable", testLinearizable},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, make(t)) })
	}
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func txn(t *testing.T, s store.Store, cs []store.Compare, ops ...store.Op) int64 {
	t.Helper()
	rev, err := s.Txn(ctxOf(t), cs, ops)
	if err != nil {
		t.Fatalf("txn %v: %v", ops, err)
	}
	return rev
}

func put(t *testing.T, s store.Store, key, value string) int64 {
	t.Helper()
	return txn(t, s, nil, store.Put(key, []byte(value)))
}

func next(t *testing.T, w <-chan store.Batch) store.Batch {
	t.Helper()
	select {
	case b, ok := <-w:
		if !ok {
			t.Fatal("watch ended")
		}
		return b
	case <-time.After(patience):
		t.Fatal("watch is silent")
	}
	panic("unreachable")
}

// text renders a batch for comparison: "5 a=1 -b".
func text(b store.Batch) string {
	if b.Err != nil {
		return "error " + b.Err.Error()
	}
	var s strings.Builder
	s.WriteString(strconv.FormatInt(b.Revision, 10))
	for _, e := range b.Events {
		if e.Deleted {
			fmt.Fprintf(&s, " -%s", e.Key)
		} else {
			fmt.Fprintf(&s, " %s=%s", e.Key, e.Value)
		}
		if e.ModRevision != b.Revision {
			fmt.Fprintf(&s, "@%d", e.ModRevision)
		}
	}
	return s.String()
}

func keysOf(kvs []store.KV) string {
	var s []string
	for _, kv := range kvs {
		s = append(s, kv.Key)
	}
	return strings.Join(s, " ")
}

func testGet(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	if _, err := s.Get(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("absent key: %v", err)
	}
	r1 := put(t, s, "a", "1")
	r2 := put(t, s, "a", "2")
	if r2 <= r1 || r1 < 1 {
		t.Fatalf("revisions %d, %d do not grow", r1, r2)
	}
	kv, err := s.Get(ctx, "a")
	if err != nil || kv.Key != "a" || string(kv.Value) != "2" || kv.ModRevision != r2 || kv.CreateRevision != r1 {
		t.Fatalf("got %+v, %v; want value 2, modified %d, created %d", kv, err, r2, r1)
	}
	txn(t, s, nil, store.Delete("a"))
	if _, err := s.Get(ctx, "a"); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("deleted key: %v", err)
	}
	r4 := put(t, s, "a", "")
	if kv, err = s.Get(ctx, "a"); err != nil || len(kv.Value) != 0 || kv.CreateRevision != r4 {
		t.Fatalf("empty value after deletion: %+v, %v", kv, err)
	}
}

func testList(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	kvs, r0, err := s.List(ctx, "")
	if err != nil || len(kvs) != 0 {
		t.Fatalf("empty store: %v, %v", kvs, err)
	}
	for _, k := range []string{"n/b", "n/a", "m", "n/c", "n"} {
		put(t, s, k, k)
	}
	kvs, r1, err := s.List(ctx, "n/")
	if err != nil || keysOf(kvs) != "n/a n/b n/c" || r1 != r0+5 {
		t.Fatalf("got %q at %d, %v; want n/a n/b n/c at %d", keysOf(kvs), r1, err, r0+5)
	}
	if kvs, _, _ = s.List(ctx, ""); keysOf(kvs) != "m n n/a n/b n/c" {
		t.Fatalf("all: %q", keysOf(kvs))
	}
}

func testPrefixes(t *testing.T, s store.Store) {
	keys := []string{"a", "a\x00", "a\xff", "a\xff\xff", "a\xff\xffz", "b", "\xff", "\xff\xff", "\x00", "é", "a/", "a0"}
	for _, k := range keys {
		put(t, s, k, k)
	}
	for _, p := range []string{"", "a", "a\x00", "a\xff", "a\xff\xff", "\xff", "\xff\xff", "\xff\xff\xff", "\x00", "é", "\xc3", "a/", "nothing"} {
		kvs, _, err := s.List(ctxOf(t), p)
		if err != nil {
			t.Fatalf("prefix %q: %v", p, err)
		}
		want := 0
		for _, k := range keys {
			if strings.HasPrefix(k, p) {
				want++
			}
		}
		for i, kv := range kvs {
			if !strings.HasPrefix(kv.Key, p) || i > 0 && kvs[i-1].Key >= kv.Key {
				t.Errorf("prefix %q: %q", p, keysOf(kvs))
			}
		}
		if len(kvs) != want {
			t.Errorf("prefix %q: %d keys, want %d", p, len(kvs), want)
		}
	}
}

func testTxn(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	r1 := txn(t, s, []store.Compare{store.Absent("a")}, store.Put("a", []byte("1")))
	if _, err := s.Txn(ctx, []store.Compare{store.Absent("a")}, []store.Op{store.Put("a", nil)}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("create twice: %v", err)
	}
	kv, _ := s.Get(ctx, "a")
	r2 := txn(t, s, []store.Compare{store.Unchanged(kv)}, store.Put("a", []byte("2")))
	if r2 != r1+1 {
		t.Fatalf("a refused txn took a revision: %d then %d", r1, r2)
	}
	if _, err := s.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Delete("a")}); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("stale revision: %v", err)
	}
	if r := txn(t, s, nil, store.Delete("absent")); r != r2 {
		t.Fatalf("deleting nothing took revision %d after %d", r, r2)
	}
	if r := txn(t, s, []store.Compare{{Key: "a", ModRevision: r2}}); r != r2 {
		t.Fatalf("a reading txn answers revision %d, want %d", r, r2)
	}
	if _, err := s.Txn(ctx, []store.Compare{{Key: "a", ModRevision: r1}}, nil); !errors.Is(err, store.ErrConflict) {
		t.Fatalf("a reading txn: %v", err)
	}
	r3 := txn(t, s, nil, store.Put("a", []byte("2")))
	if r3 != r2+1 {
		t.Fatalf("putting the same value is a change: %d after %d", r3, r2)
	}
	txn(t, s, []store.Compare{{Key: "a", ModRevision: r3}}, store.Delete("a"))
	txn(t, s, []store.Compare{store.Absent("a")}, store.Put("a", nil))
}

func testTxnAtomic(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	put(t, s, "a", "1")
	_, err := s.Txn(ctx, []store.Compare{store.Absent("b"), store.Absent("a")}, []store.Op{store.Put("b", nil), store.Delete("a")})
	if !errors.Is(err, store.ErrConflict) {
		t.Fatalf("one of two compares fails: %v", err)
	}
	if kvs, _, _ := s.List(ctx, ""); keysOf(kvs) != "a" {
		t.Fatalf("a refused txn changed something: %q", keysOf(kvs))
	}
	var ops []store.Op
	for i := range store.MaxTxnOps {
		ops = append(ops, store.Put(fmt.Sprintf("k/%03d", i), nil))
	}
	r := txn(t, s, nil, ops...)
	kvs, _, _ := s.List(ctx, "k/")
	for _, kv := range kvs {
		if kv.ModRevision != r {
			t.Fatalf("%s at %d, txn at %d", kv.Key, kv.ModRevision, r)
		}
	}
	if len(kvs) != store.MaxTxnOps {
		t.Fatalf("%d keys", len(kvs))
	}
}

func testRefusals(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	_, before, _ := s.List(ctx, "")
	longKey := strings.Repeat("k", store.MaxKeyBytes+1)
	for _, c := range []struct {
		name string
		cs   []store.Compare
		ops  []store.Op
		want error
	}{
		{"empty key", nil, []store.Op{store.Put("", nil)}, store.ErrInvalid},
		{"empty compared key", []store.Compare{{}}, nil, store.ErrInvalid},
		{"negative revision", []store.Compare{{Key: "a", ModRevision: -1}}, nil, store.ErrInvalid},
		{"one key twice", nil, []store.Op{store.Put("a", nil), store.Delete("a")}, store.ErrInvalid},
		{"deletion with a value", nil, []store.Op{{Key: "a", Delete: true, Value: []byte("x")}}, store.ErrInvalid},
		{"long key", nil, []store.Op{store.Put(longKey, nil)}, store.ErrTooLarge},
		{"large value", nil, []store.Op{store.Put("a", bytes.Repeat([]byte("x"), store.MaxTxnBytes))}, store.ErrTooLarge},
		{"large together", nil, []store.Op{store.Put("a", bytes.Repeat([]byte("x"), store.MaxTxnBytes/2)), store.Put("b", bytes.Repeat([]byte("x"), store.MaxTxnBytes/2))}, store.ErrTooLarge},
		{"many operations", nil, make([]store.Op, store.MaxTxnOps+1), store.ErrTooLarge},
		{"many compares", make([]store.Compare, store.MaxTxnOps+1), nil, store.ErrTooLarge},
	} {
		_, err := s.Txn(ctx, c.cs, c.ops)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
		var limit *store.LimitError
		if c.want == store.ErrTooLarge && (!errors.As(err, &limit) || limit.Got <= limit.Max) {
			t.Errorf("%s: %#v is no LimitError", c.name, err)
		}
	}
	if _, err := s.Get(ctx, ""); !errors.Is(err, store.ErrInvalid) {
		t.Errorf("get of the empty key: %v", err)
	}
	if _, after, _ := s.List(ctx, ""); after != before {
		t.Errorf("a refusal took a revision: %d, then %d", before, after)
	}
	most := bytes.Repeat([]byte("x"), store.MaxTxnBytes-1)
	put(t, s, "a", string(most))
	if kv, err := s.Get(ctx, "a"); err != nil || !bytes.Equal(kv.Value, most) {
		t.Errorf("the largest value does not return: %d octets, %v", len(kv.Value), err)
	}
	for _, first := range []int64{0, -1} {
		if b := next(t, s.Watch(ctx, "", first)); !errors.Is(b.Err, store.ErrInvalid) {
			t.Errorf("watch from %d: %s", first, text(b))
		}
	}
}

func testValueCopied(t *testing.T, s store.Store) {
	v := []byte("first")
	r := txn(t, s, nil, store.Put("a", v))
	copy(v, "WRONG")
	if kv, _ := s.Get(ctxOf(t), "a"); string(kv.Value) != "first" {
		t.Errorf("the store kept the caller's memory: %q", kv.Value)
	}
	if b := next(t, s.Watch(ctxOf(t), "", r)); text(b) != fmt.Sprintf("%d a=first", r) {
		t.Errorf("watch: %s", text(b))
	}
}

// testCounters has writers that increase one counter by compare and swap: none of the increments may be lost.
func testCounters(t *testing.T, s store.Store) {
	const writers, each = 8, 25
	ctx := ctxOf(t)
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for range writers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for done := 0; done < each; {
				kv, err := s.Get(ctx, "n")
				if err != nil && !errors.Is(err, store.ErrNotFound) {
					errs <- err
					return
				}
				kv.Key = "n"
				n, _ := strconv.Atoi(string(kv.Value))
				_, err = s.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Put("n", strconv.AppendInt(nil, int64(n+1), 10))})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, store.ErrConflict):
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	if kv, err := s.Get(ctx, "n"); err != nil || string(kv.Value) != strconv.Itoa(writers*each) {
		t.Fatalf("counted to %s, want %d (%v)", kv.Value, writers*each, err)
	}
}

func testContext(t *testing.T, s store.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Get(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := s.List(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("list: %v", err)
	}
	if _, err := s.Txn(ctx, nil, []store.Op{store.Put("a", nil)}); !errors.Is(err, context.Canceled) {
		t.Errorf("txn: %v", err)
	}
	if _, err := s.Get(ctxOf(t), "a"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a txn whose context had ended took effect: %v", err)
	}
}

func testClose(t *testing.T, s store.Store) {
	c, ok := s.(io.Closer)
	if !ok {
		t.Skip("this store is not an io.Closer")
	}
	ctx := ctxOf(t)
	_, rev, _ := s.List(ctx, "")
	idle := s.Watch(ctx, "", rev+1)
	full := s.Watch(ctx, "", rev+1) // its receiver has not come yet when the store closes
	put(t, s, "a", "1")
	next(t, idle)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if b := next(t, idle); !errors.Is(b.Err, store.ErrClosed) {
		t.Errorf("idle watch: %s", text(b))
	}
	if _, open := <-idle; open {
		t.Error("more after the last word")
	}
	for b := range full {
		if b.Err != nil && !errors.Is(b.Err, store.ErrClosed) {
			t.Errorf("full watch: %s", text(b))
		}
	}
	if _, err := s.Get(ctx, "a"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("get after close: %v", err)
	}
	if _, err := s.Txn(ctx, nil, []store.Op{store.Put("a", nil)}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("txn after close: %v", err)
	}
	if b := next(t, s.Watch(ctx, "", 1)); !errors.Is(b.Err, store.ErrClosed) {
		t.Errorf("watch after close: %s", text(b))
	}
	if err := c.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
}
