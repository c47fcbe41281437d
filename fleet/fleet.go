// Package fleet knows the members of an installation: the hosts with agents, and the controllers.
//
// Runs in: controller
//
// It lets hosts in by one-time join tokens, gives them certificates of its own authority, and shuts out those whose
// membership was revoked. All of that is in the store: any controller can do it, and each knows it a moment after. The
// authority's key is there too, so that every controller signs for the same fleet: who can read the store is trusted with it.
package fleet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"opentap/audit"
	"opentap/auth"
	"opentap/cert"
	"opentap/fault"
	"opentap/store"
	"opentap/want"
)

// Store is what this room needs of the store.
type Store interface {
	Get(ctx context.Context, key string) (store.KV, error)
	List(ctx context.Context, prefix string) ([]store.KV, int64, error)
	Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error)
	Watch(ctx context.Context, prefix string, first int64) <-chan store.Batch
}

// Auditor writes an entry durably before it returns nil.
type Auditor interface {
	Append(ctx context.Context, e audit.Entry) error
}

// Keys of this room in the store.
const (
	prefix         = "fleet/"
	authorityKey   = prefix + "authority"    // → secret
	epochKey       = prefix + "epoch"        // → want.Epoch
	tokenKeys      = prefix + "tokens/"      // + id → joinToken
	nodeKeys       = prefix + "nodes/"       // + id → want.Member
	nameKeys       = prefix + "names/"       // + name → id
	controllerKeys = prefix + "controllers/" // + id → Controller
)

// Config is what an administrator decides.
type Config struct {
	ID        string           // of this controller; stays over restarts
	Name      string           // of its host
	Version   string           // of the program
	Advertise string           // HOST:PORT at which agents and other controllers reach it; "" = nobody does
	Life      time.Duration    // of a certificate
	Now       func() time.Time // nil = time.Now
}

// DefaultLife is how long an agent's certificate is valid. It is renewed when a third of that has passed, so that an agent
// can be without a controller for two thirds of it at least.
const DefaultLife = 7 * 24 * time.Hour

// MinLife bounds the life of a certificate from below: clocks differ.
const MinLife = 10 * time.Second

// Controller is one that others reach.
type Controller struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Address string    `json:"address"` // HOST:PORT
	Version string    `json:"version"`
	Started time.Time `json:"started"`
}

// Registry is the fleet as this controller knows it. It is safe for concurrent use.
type Registry struct {
	store Store
	audit Auditor
	cfg   Config
	log   *slog.Logger
	now   func() time.Time
	wrong *auth.Throttle

	authority *cert.Authority
	own       atomic.Pointer[ownCert]
	conns     conns
	started   time.Time

	mu          sync.Mutex
	nodes       map[string]want.Member // by id
	revs        map[string]int64       // by key
	touched     []string               // ids of nodes that have changed and whose connections were not looked at
	controllers map[string]Controller  // by id
	epoch       want.Epoch
	changed     chan struct{} // closed and replaced at every change
}

// Open makes the fleet's authority and epoch if nobody has, and reads them. It starts nothing.
func Open(ctx context.Context, cfg Config, st Store, au Auditor, log *slog.Logger) (*Registry, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Life == 0 {
		cfg.Life = DefaultLife
	}
	if cfg.Life < MinLife {
		return nil, fmt.Errorf("open fleet: certificates of %s are too short, at least %s", cfg.Life, MinLife)
	}
	r := &Registry{
		store: st, audit: au, cfg: cfg, log: log, now: cfg.Now, wrong: auth.NewThrottle(), started: cfg.Now().UTC(),
		nodes: make(map[string]want.Member), revs: make(map[string]int64), controllers: make(map[string]Controller), changed: make(chan struct{}),
	}
	if err := r.openAuthority(ctx); err != nil {
		return nil, fmt.Errorf("open fleet: %w", err)
	}
	if err := r.openEpoch(ctx); err != nil {
		return nil, fmt.Errorf("open fleet: %w", err)
	}
	if _, err := r.certificate(); err != nil {
		return nil, fmt.Errorf("open fleet: %w", err)
	}
	if _, err := r.list(ctx); err != nil {
		return nil, fmt.Errorf("open fleet: %w", err)
	}
	return r, nil
}

// secret is the authority as the store holds it.
type secret struct {
	PEM string `json:"pem"`
}

// openAuthority reads the authority, or makes it, and renews its certificate when it is about to end.
func (r *Registry) openAuthority(ctx context.Context) error {
	for {
		kv, err := r.store.Get(ctx, authorityKey)
		var made *cert.Authority
		switch {
		case errors.Is(err, store.ErrNotFound):
			kv = store.KV{Key: authorityKey}
			made, err = cert.NewAuthority("OpenTap fleet", r.now())
		case err == nil:
			var s secret
			if err := json.Unmarshal(kv.Value, &s); err != nil {
				return fmt.Errorf("the fleet's authority in the store cannot be read: %w", err)
			}
			if r.authority, err = cert.ParseAuthority([]byte(s.PEM)); err == nil {
				made, err = r.authority.Renewed(r.now())
			}
		}
		if err != nil || made == nil {
			return err
		}
		pem, err := made.Secret()
		if err != nil {
			return err
		}
		_, err = r.store.Txn(ctx, []store.Compare{store.Unchanged(kv)}, []store.Op{store.Put(authorityKey, encode(secret{string(pem)}))})
		if !errors.Is(err, store.ErrConflict) { // otherwise another controller was first
			r.authority = made
			return err
		}
	}
}

func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("fleet: encode: %v", err)) // strings and times of ours always encode
	}
	return b
}

// Authority is the fingerprint that members trust.
func (r *Registry) Authority() string { return cert.Fingerprint(r.authority.Certificate()) }

// Run follows the store, and says there that this controller is here, until ctx ends; then it takes that back and returns nil.
func (r *Registry) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Go(func() { r.conns.watch(ctx, r) })
	defer wg.Wait()
	const first, last = 50 * time.Millisecond, 2 * time.Second
	pause := first
	for ctx.Err() == nil {
		began := r.now()
		err := r.follow(ctx)
		if ctx.Err() != nil {
			break
		}
		if errors.Is(err, store.ErrClosed) {
			return fmt.Errorf("follow the fleet: %w", err)
		}
		if r.now().Sub(began) > last {
			pause = first
		}
		r.log.Warn("the fleet is not followed for a moment", "err", err, "retry_in", pause)
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, last)
	}
	return r.withdraw()
}

// follow lists the members and then applies changes as they come.
func (r *Registry) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rev, err := r.list(ctx)
	if err != nil {
		return err
	}
	if err := r.announce(ctx); err != nil {
		return err
	}
	for b := range r.store.Watch(ctx, prefix, rev+1) {
		if b.Err != nil {
			return b.Err
		}
		r.mu.Lock()
		for _, e := range b.Events {
			r.apply(e)
		}
		r.tell()
		lost := r.cfg.Advertise != "" && r.controllers[r.cfg.ID].ID == ""
		r.mu.Unlock()
		r.conns.check(r)
		if lost { // somebody took us for gone for good
			if err := r.announce(ctx); err != nil {
				return err
			}
		}
	}
	return ctx.Err()
}

// list takes over all members, and returns the revision as of which that is.
func (r *Registry) list(ctx context.Context) (int64, error) {
	kvs, rev, err := r.store.List(ctx, prefix)
	if err != nil {
		return 0, err
	}
	r.mu.Lock()
	here := make(map[string]bool)
	for _, kv := range kvs {
		here[kv.Key] = true
		r.apply(store.Event{KV: kv})
	}
	for key := range r.revs {
		if !here[key] && r.revs[key] <= rev {
			r.apply(store.Event{KV: store.KV{Key: key, ModRevision: rev}, Deleted: true})
		}
	}
	r.tell()
	r.mu.Unlock()
	r.conns.check(r)
	return rev, nil
}

// apply takes over one change that is not older than what is known. r.mu is held.
func (r *Registry) apply(e store.Event) {
	if r.revs[e.Key] > e.ModRevision {
		return
	}
	r.revs[e.Key] = e.ModRevision
	if e.Deleted {
		delete(r.revs, e.Key)
	}
	bad := func(err error) {
		r.log.Error("the store holds a member that cannot be read; it is left alone", "key", e.Key, "err", err)
	}
	switch {
	case strings.HasPrefix(e.Key, nodeKeys):
		id := strings.TrimPrefix(e.Key, nodeKeys)
		r.touched = append(r.touched, id)
		delete(r.nodes, id)
		if e.Deleted {
			return
		}
		var n want.Member
		if err := json.Unmarshal(e.Value, &n); err != nil || n.ID != id {
			bad(err)
			return
		}
		r.nodes[id] = n
	case strings.HasPrefix(e.Key, controllerKeys):
		id := strings.TrimPrefix(e.Key, controllerKeys)
		delete(r.controllers, id)
		if e.Deleted {
			return
		}
		var c Controller
		if err := json.Unmarshal(e.Value, &c); err != nil || c.ID != id {
			bad(err)
			return
		}
		r.controllers[id] = c
	case e.Key == epochKey && !e.Deleted:
		var ep want.Epoch
		if err := json.Unmarshal(e.Value, &ep); err != nil {
			bad(err)
			return
		}
		r.epoch = ep
	}
}

// tell wakes those that wait for Changed. r.mu is held.
func (r *Registry) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Changed returns a channel that is closed when something changes.
func (r *Registry) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// Members returns the hosts that have joined, revoked ones included, in no order.
func (r *Registry) Members() []want.Member {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Values(r.nodes))
}

// unavailable wraps an error of the store for a caller.
func unavailable(what string, err error) error {
	if errors.Is(err, store.ErrFull) {
		return &fault.Error{Kind: fault.Exhausted, Msg: what, Err: err}
	}
	return &fault.Error{Kind: fault.Unavailable, Msg: what, Err: err, RetryAfter: time.Second}
}
