package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"

	"opentap/store"
)

// testModel runs random transactions against the store and a map, and compares every answer; a watch from the start
// must replay to the same map.
func testModel(t *testing.T, s store.Store) {
	type entry struct {
		value    string
		mod, cre int64
	}
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		ctx := context.Background()
		run++
		root := fmt.Sprintf("run%d/", run)
		_, rev, err := s.List(ctx, root)
		if err != nil {
			rt.Fatal(err)
		}
		start := rev
		model := map[string]entry{}
		key := rapid.Custom(func(rt *rapid.T) string {
			return root + rapid.StringOfN(rapid.SampledFrom([]rune("ab/")), 1, 2, -1).Draw(rt, "key")
		})
		var told []string // what the watch must say
		wctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		var w <-chan store.Batch
		late := rapid.IntRange(0, 9).Draw(rt, "late") == 0 // watch what is past, or what comes
		if !late {
			w = s.Watch(wctx, root, start+1)
		}
		steps := rapid.IntRange(1, 25).Draw(rt, "steps")
		for range steps {
			var cs []store.Compare
			for _, k := range rapid.SliceOfN(key, 0, 2).Draw(rt, "compare") {
				c := store.Compare{Key: k, ModRevision: model[k].mod}
				if rapid.IntRange(0, 3).Draw(rt, "stale") == 0 {
					c.ModRevision = max(0, c.ModRevision-1)
				}
				cs = append(cs, c)
			}
			var ops []store.Op
			for _, k := range rapid.SliceOfNDistinct(key, 0, 3, rapid.ID[string]).Draw(rt, "ops") {
				if rapid.Bool().Draw(rt, "delete") {
					ops = append(ops, store.Delete(k))
				} else {
					ops = append(ops, store.Put(k, []byte(rapid.StringN(0, 4, -1).Draw(rt, "value"))))
				}
			}
			holds := !slices.ContainsFunc(cs, func(c store.Compare) bool { return model[c.Key].mod != c.ModRevision })
			got, err := s.Txn(ctx, cs, ops)
			if !holds {
				if !errors.Is(err, store.ErrConflict) {
					rt.Fatalf("compares %v do not hold, but: %d, %v", cs, got, err)
				}
				continue
			}
			if err != nil {
				rt.Fatal(err)
			}
			var line strings.Builder
			for _, op := range ops {
				old, there := model[op.Key]
				switch {
				case op.Delete && there:
					delete(model, op.Key)
					fmt.Fprintf(&line, " -%s", op.Key)
				case !op.Delete:
					e := entry{string(op.Value), rev + 1, rev + 1}
					if there {
						e.cre = old.cre
					}
					model[op.Key] = e
					fmt.Fprintf(&line, " %s=%s", op.Key, op.Value)
				}
			}
			if line.Len() > 0 {
				rev++
				told = append(told, strconv.FormatInt(rev, 10)+line.String())
			}
			if got != rev {
				rt.Fatalf("revision %d, want %d", got, rev)
			}
		}
		kvs, at, err := s.List(ctx, root)
		if err != nil || at != rev || len(kvs) != len(model) {
			rt.Fatalf("list: %d keys at %d (%v), want %d at %d", len(kvs), at, err, len(model), rev)
		}
		for _, kv := range kvs {
			if m := model[kv.Key]; m != (entry{string(kv.Value), kv.ModRevision, kv.CreateRevision}) {
				rt.Fatalf("%+v, want %+v", kv, m)
			}
			if one, err := s.Get(ctx, kv.Key); err != nil || one.ModRevision != kv.ModRevision || string(one.Value) != string(kv.Value) {
				rt.Fatalf("get %+v, %v", one, err)
			}
		}
		if late {
			w = s.Watch(wctx, root, start+1)
		}
		for _, want := range told {
			if got := text(<-w); got != want {
				rt.Fatalf("watch: %q, want %q", got, want)
			}
		}
	})
}

// act is one completed operation of testLinearizable on a register: it took effect between its two instants.
type act struct {
	call, ret int64 // on one atomic clock
	mod       int64 // the register's revision that the operation saw or made
	write     bool
}

// testLinearizable checks reads and writes of one register from many goroutines against real time. Revisions give the
// order the store claims; it is linearizable if that order never contradicts what the callers saw: an operation that
// began after another had returned must not be ordered before it.
func testLinearizable(t *testing.T, s store.Store) {
	const workers, each = 8, 80
	ctx := ctxOf(t)
	first := put(t, s, "r", "")
	var clock atomic.Int64
	var mu sync.Mutex
	var acts []act
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for i := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := range each {
				a := act{call: clock.Add(1)}
				var err error
				switch (i + n) % 4 {
				case 0:
					a.write = true
					a.mod, err = s.Txn(ctx, nil, []store.Op{store.Put("r", nil)})
				case 1:
					var kvs []store.KV
					if kvs, _, err = s.List(ctx, "r"); err == nil && len(kvs) == 1 {
						a.mod = kvs[0].ModRevision
					}
				default:
					var kv store.KV
					kv, err = s.Get(ctx, "r")
					a.mod = kv.ModRevision
				}
				a.ret = clock.Add(1)
				if err != nil {
					errs <- err
					return
				}
				mu.Lock()
				acts = append(acts, a)
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	close(errs)
	for err := range errs {
		t.Fatal(err)
	}
	written := map[int64]bool{first: true}
	for _, a := range acts {
		if a.write && written[a.mod] {
			t.Fatalf("two writes at revision %d", a.mod)
		}
		if a.write {
			written[a.mod] = true
		}
	}
	for _, a := range acts {
		if !written[a.mod] {
			t.Fatalf("a read saw revision %d, which nobody wrote", a.mod)
		}
		for _, b := range acts {
			if a.ret < b.call && (b.mod < a.mod || b.write && b.mod == a.mod) {
				t.Fatalf("%+v returned before %+v began, and is ordered after it", a, b)
			}
		}
	}
}
