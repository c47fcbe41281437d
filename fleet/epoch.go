package fleet

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"

	"opentap/auth"
	"opentap/store"
	"opentap/want"
)

// maxReplaced bounds how many epochs a new one names as replaced; agents that were away for so many restorations join anew.
const maxReplaced = 32

func newEpoch() string {
	var b [8]byte
	rand.Read(b[:]) // never fails, crypto/rand
	return hex.EncodeToString(b[:])
}

// openEpoch reads the store's epoch, or makes it.
func (r *Registry) openEpoch(ctx context.Context) error {
	for {
		kv, err := r.store.Get(ctx, epochKey)
		if err == nil {
			return json.Unmarshal(kv.Value, &r.epoch)
		}
		if !errors.Is(err, store.ErrNotFound) {
			return err
		}
		e := want.Epoch{ID: newEpoch(), Since: r.now().UTC()}
		_, err = r.store.Txn(ctx, []store.Compare{store.Absent(epochKey)}, []store.Op{store.Put(epochKey, encode(e))})
		if err == nil {
			r.epoch = e
			return nil
		}
		if !errors.Is(err, store.ErrConflict) {
			return err
		}
	}
}

// Epoch says which store this is.
func (r *Registry) Epoch() want.Epoch {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}

// AcceptStore begins a new epoch that replaces the present one and those before it: agents then take what this store says,
// though they have taken a later revision before it was put back from a copy. others are further epochs that agents have come
// to, which the copy may be too old to know.
func (r *Registry) AcceptStore(ctx context.Context, by auth.Identity, others []string) (want.Epoch, error) {
	for {
		kv, err := r.store.Get(ctx, epochKey)
		if err != nil {
			return want.Epoch{}, unavailable("accept store", err)
		}
		var old want.Epoch
		if err := json.Unmarshal(kv.Value, &old); err != nil {
			return want.Epoch{}, err
		}
		replaces := slices.Concat([]string{old.ID}, others, old.Replaces)
		e := want.Epoch{ID: newEpoch(), Since: r.now().UTC(), By: by.Name, Replaces: slices.Clip(replaces[:min(len(replaces), maxReplaced)])}
		rev, err := r.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Put(epochKey, encode(e))})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return want.Epoch{}, unavailable("accept store", err)
		}
		r.learn(epochKey, encode(e), rev)
		return e, nil
	}
}

// learn takes over what was just stored here, without waiting for the watch to tell.
func (r *Registry) learn(key string, value []byte, rev int64) {
	r.mu.Lock()
	r.apply(store.Event{KV: store.KV{Key: key, Value: value, ModRevision: rev}, Deleted: value == nil})
	r.tell()
	r.mu.Unlock()
	r.conns.check(r)
}
