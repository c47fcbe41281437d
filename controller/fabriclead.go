package controller

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"opentap/store"
)

// fabricLeader is where it is written who leads the fabric.
const fabricLeader = "fabric/leader"

// Times of the election. Clocks of several hosts are never compared: a record that has not changed for so long, by one's own
// clock, is that of a controller that is gone.
const (
	leadRenew = 2 * time.Second
	leadLost  = 7 * time.Second
)

// leadership is the record of who changes the switches. Its term grows with each election; the switches refuse an older one, so that
// whoever was elected before can do nothing, whatever it believes.
type leadership struct {
	ID   string `json:"id"`
	Term uint64 `json:"term"`
	Beat uint64 `json:"beat"` // grows while it lives
}

// elector keeps one controller leading the fabric.
type elector struct {
	store  store.Store
	id     string
	engine interface{ Lead(term uint64) }
	seen   chan uint64 // generations that switches know and this controller has not
}

// run takes part in the election until ctx ends, and then steps down at once.
func (l *elector) run(ctx context.Context) {
	var rev int64         // of the record as last seen
	var mine leadership   // valid while leading
	changed := time.Now() // when the record was last seen to change
	leading := false
	least := uint64(0) // terms must be above what switches know
	tick := time.NewTicker(leadRenew)
	defer tick.Stop()
	for {
		now, kv, err := l.read(ctx)
		switch {
		case err != nil:
			// Nobody may know whether this controller still leads; the others take over when it has been silent for longer.
			if leading && time.Since(changed) > leadLost-leadRenew {
				leading = false
				l.engine.Lead(0)
			}
		case leading && kv.ModRevision != rev:
			leading = false // somebody else was elected
			l.engine.Lead(0)
			rev, changed = kv.ModRevision, time.Now()
		case leading, now.ID == "", now.ID == l.id, kv.ModRevision == rev && time.Since(changed) > leadLost:
			next := leadership{ID: l.id, Term: mine.Term, Beat: mine.Beat + 1}
			if !leading || least > mine.Term {
				next.Term = max(now.Term, least) + 1
			}
			if at, ok := l.write(ctx, kv.ModRevision, next); ok {
				mine, rev, changed, leading = next, at, time.Now(), true
				l.engine.Lead(next.Term)
			}
		case kv.ModRevision != rev:
			rev, changed = kv.ModRevision, time.Now()
		}
		select {
		case <-ctx.Done():
			l.engine.Lead(0)
			if leading { // the next one need not wait
				end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
				defer cancel()
				_, _ = l.write(end, rev, leadership{Term: mine.Term})
			}
			return
		case g := <-l.seen:
			least = max(least, g)
		case <-tick.C:
		}
	}
}

// read returns the record; a KV without revision when there is none.
func (l *elector) read(ctx context.Context) (now leadership, kv store.KV, err error) {
	ctx, cancel := context.WithTimeout(ctx, leadRenew)
	defer cancel()
	kv, err = l.store.Get(ctx, fabricLeader)
	if errors.Is(err, store.ErrNotFound) {
		return now, store.KV{}, nil
	}
	if err == nil {
		err = json.Unmarshal(kv.Value, &now)
	}
	return now, kv, err
}

// write replaces the record if it is still that of the revision given; it returns the new one.
func (l *elector) write(ctx context.Context, rev int64, next leadership) (int64, bool) {
	b, err := json.Marshal(next)
	if err != nil {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, leadRenew)
	defer cancel()
	at, err := l.store.Txn(ctx, []store.Compare{{Key: fabricLeader, ModRevision: rev}}, []store.Op{store.Put(fabricLeader, b)})
	return at, err == nil
}

// overtaken takes note of a generation that a switch knows. It never waits.
func (l *elector) overtaken(generation uint64) {
	select {
	case l.seen <- generation:
	default:
	}
}
