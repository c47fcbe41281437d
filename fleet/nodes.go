package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"opentap/fault"
	"opentap/store"
	"opentap/want"
)

// byName finds a node by its name or id.
func (r *Registry) byName(ctx context.Context, name string) (want.Member, store.KV, error) {
	var n want.Member
	none := fault.New(fault.NotFound, "no node %q has joined", name)
	if checkNodeName(name) != nil {
		return n, store.KV{}, none
	}
	id := name
	kv, err := r.store.Get(ctx, nameKeys+name)
	if err == nil {
		id = string(kv.Value)
	} else if !errors.Is(err, store.ErrNotFound) {
		return n, kv, unavailable("find node", err)
	}
	kv, err = r.store.Get(ctx, nodeKeys+id)
	if errors.Is(err, store.ErrNotFound) {
		return n, kv, none
	}
	if err != nil {
		return n, kv, unavailable("find node", err)
	}
	return n, kv, json.Unmarshal(kv.Value, &n)
}

// Revoke shuts a node out: its certificate is good no more, at any controller, and its sessions end. Its name stays taken.
func (r *Registry) Revoke(ctx context.Context, name string) (want.Member, error) {
	for {
		n, kv, err := r.byName(ctx, name)
		if err != nil || !n.Revoked.IsZero() {
			return n, err
		}
		n.Revoked = r.now().UTC().Truncate(time.Second)
		value := encode(n)
		rev, err := r.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Put(kv.Key, value)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return n, unavailable("revoke node", err)
		}
		r.learn(kv.Key, value, rev)
		return n, nil
	}
}

// Forget removes a node from the fleet: it is shut out like a revoked one, and its name is free.
func (r *Registry) Forget(ctx context.Context, name string) (want.Member, error) {
	for {
		n, kv, err := r.byName(ctx, name)
		if err != nil {
			return n, err
		}
		rev, err := r.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Delete(kv.Key), store.Delete(nameKeys + n.Name)})
		if errors.Is(err, store.ErrConflict) {
			continue
		}
		if err != nil {
			return n, unavailable("forget node", err)
		}
		r.learn(kv.Key, nil, rev)
		return n, nil
	}
}
