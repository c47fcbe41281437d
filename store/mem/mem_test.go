package mem

import (
	"context"
	"errors"
	"testing"

	"opentap/store"
	"opentap/store/storetest"
)

func TestSuite(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		s := New(Config{})
		t.Cleanup(func() { s.Close() })
		return s
	})
}

func TestHistoryIsBounded(t *testing.T) {
	s := New(Config{History: 10})
	defer s.Close()
	var rev int64
	for range 100 {
		var err error
		if rev, err = s.Txn(context.Background(), nil, []store.Op{store.Put("a", nil)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.log) > 10 {
		t.Errorf("%d revisions kept, want 10", len(s.log))
	}
	if b := <-s.Watch(t.Context(), "", rev-9); b.Revision != rev-9 {
		t.Errorf("the oldest kept revision: %+v", b)
	}
	if b := <-s.Watch(t.Context(), "", rev-10); !errors.Is(b.Err, store.ErrCompacted) {
		t.Errorf("the newest forgotten revision: %+v", b)
	}
}
