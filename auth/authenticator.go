package auth

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"opentap/fault"
	"opentap/store"
)

// Store is what this room needs of the store.
type Store interface {
	Get(ctx context.Context, key string) (store.KV, error)
	List(ctx context.Context, prefix string) ([]store.KV, int64, error)
	Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error)
	Watch(ctx context.Context, prefix string, first int64) <-chan store.Batch
}

// Keys of this room in the store.
const (
	tokenKeys = "auth/tokens/" // + id → record
	nameKeys  = "auth/names/"  // + name → id, of tokens that are not revoked
	adminKey  = "auth/admin"   // → id of the administrator's token made at the first start
)

// Config of an Authenticator.
type Config struct {
	Anonymous []Grant          // none: everybody needs a token
	Verifiers []Verifier       // of credentials that are not our tokens; the first that recognises one decides
	Now       func() time.Time // nil = time.Now
}

// Authenticator knows the tokens. Its methods may be called from any goroutine.
//
// It holds a copy of all tokens, kept by a watch, so that Authenticate never asks the store, and a revocation takes
// effect at once where it was made and a few milliseconds later at every other controller. While a cluster cannot be reached the last
// known tokens stay valid.
type Authenticator struct {
	store  Store
	grants []Grant
	now    func() time.Time
	log    *slog.Logger

	ready     chan struct{} // closed when the copy has once been complete
	readyOnce sync.Once
	mu        sync.RWMutex
	tokens    map[string]*entry // by id
	wrong     *throttle
	visits    sessions
	verifiers []Verifier
	others    foreigners
}

// entry is one token in the copy.
type entry struct {
	token  Token
	rights Right
	hash   [sha256.Size]byte
	used   *atomic.Int64 // Unix nanoseconds; survives changes of the token
	rev    int64         // the store's revision of what is above
}

// New returns an Authenticator that knows nothing until Run runs. An error is one of the configuration.
func New(s Store, cfg Config, log *slog.Logger) (*Authenticator, error) {
	grants, err := checkGrants(cfg.Anonymous)
	if err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Authenticator{
		store: s, grants: grants, now: cfg.Now, log: log,
		ready: make(chan struct{}), tokens: map[string]*entry{}, wrong: newThrottle(), verifiers: cfg.Verifiers,
	}, nil
}

// Ready is closed once the tokens are known. Until then Authenticate answers Unavailable.
func (a *Authenticator) Ready() <-chan struct{} { return a.ready }

// Run keeps the tokens known until ctx ends, and returns nil then.
func (a *Authenticator) Run(ctx context.Context) error {
	const first, last = 50 * time.Millisecond, 2 * time.Second
	pause := first
	for {
		began := time.Now()
		err := a.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, store.ErrClosed) {
			return fmt.Errorf("follow tokens: %w", err)
		}
		if time.Since(began) > last {
			pause = first
		}
		if !errors.Is(err, store.ErrCompacted) {
			a.log.Warn("tokens are not followed for a moment", "error", err, "retry_in", pause)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		pause = min(2*pause, last)
	}
}

// follow lists the tokens and then watches, until it cannot.
func (a *Authenticator) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	kvs, rev, err := a.store.List(ctx, tokenKeys)
	if err != nil {
		return err
	}
	fresh := make(map[string]*entry, len(kvs))
	a.mu.Lock()
	for id, e := range a.tokens {
		if e.rev > rev { // learned here, after the list was made
			fresh[id] = e
		}
	}
	for _, kv := range kvs {
		a.keep(fresh, kv, a.tokens)
	}
	a.tokens = fresh
	a.mu.Unlock()
	a.readyOnce.Do(func() { close(a.ready) })
	for b := range a.store.Watch(ctx, tokenKeys, rev+1) {
		if b.Err != nil {
			return b.Err
		}
		a.mu.Lock()
		for _, e := range b.Events {
			if e.Deleted {
				if id := strings.TrimPrefix(e.Key, tokenKeys); a.tokens[id] != nil && a.tokens[id].rev < e.ModRevision {
					delete(a.tokens, id)
				}
				continue
			}
			a.keep(a.tokens, e.KV, a.tokens)
		}
		a.mu.Unlock()
	}
	return ctx.Err()
}

// keep puts a stored token into the copy. One that cannot be read is not valid. Called with mu held.
func (a *Authenticator) keep(tokens map[string]*entry, kv store.KV, old map[string]*entry) {
	id := strings.TrimPrefix(kv.Key, tokenKeys)
	if o := tokens[id]; o != nil && o.rev >= kv.ModRevision {
		return // older news, behind what was learned here
	}
	e, err := decode(kv)
	if err != nil {
		a.log.Error("token cannot be read and is refused", "id", id, "error", err)
		delete(tokens, id)
		return
	}
	e.used = new(atomic.Int64)
	if o := old[id]; o != nil {
		e.used = o.used
	}
	tokens[id] = e
}

// learn takes over what this controller has just stored at revision, without waiting for the watch to tell.
func (a *Authenticator) learn(r record, revision int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.keep(a.tokens, store.KV{Key: tokenKeys + r.ID, Value: r.value(), ModRevision: revision}, a.tokens)
}

func decode(kv store.KV) (*entry, error) {
	var r record
	if err := json.Unmarshal(kv.Value, &r); err != nil {
		return nil, err
	}
	if r.ID != strings.TrimPrefix(kv.Key, tokenKeys) {
		return nil, fmt.Errorf("token under another's key: %q", r.ID)
	}
	e := &entry{token: r.Token, rev: kv.ModRevision}
	sum, err := hex.DecodeString(r.Hash)
	if err != nil || len(sum) != len(e.hash) {
		return nil, errors.New("malformed hash")
	}
	copy(e.hash[:], sum)
	e.rights, err = RightsOf(r.Role)
	return e, err
}

// Authenticate says who holds the token; the empty token asks for what an anonymous caller at that address may do.
//
// Errors are *fault.Error: Unauthenticated, which tells a wrong id from a wrong secret neither by its text nor by its
// time, and says "expired" or "revoked" to the right secret alone; Exhausted with RetryAfter, to an address that
// presented too many wrong tokens (the right token is still accepted from there: it cannot be found by trying, and
// a neighbour behind the same address must not be shut out); Unavailable, before Ready.
func (a *Authenticator) Authenticate(ctx context.Context, token string, remote netip.AddrPort) (Identity, error) {
	if token == "" {
		if id, ok := anonymous(a.grants, remote); ok {
			return id, nil
		}
		return Identity{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "a token is needed", Hint: "send it as Authorization: Bearer TOKEN"}
	}
	select {
	case <-a.ready:
	default:
		return Identity{}, &fault.Error{Kind: fault.Unavailable, Msg: "the tokens are not known yet", RetryAfter: time.Second}
	}
	if !strings.HasPrefix(token, "ot_") {
		if id, ok, err := a.foreign(ctx, token, remote); ok {
			return id, err
		}
	}
	id, secret, ok := split(token)
	a.mu.RLock()
	e := a.tokens[id]
	a.mu.RUnlock()
	if e == nil {
		e, ok = &nobody, false
	}
	sum := sha256.Sum256([]byte(secret))
	if subtle.ConstantTimeCompare(sum[:], e.hash[:]) != 1 || !ok {
		if wait := a.wrong.failed(remote.Addr(), a.now()); wait > 0 {
			return Identity{}, &fault.Error{Kind: fault.Exhausted, Msg: "too many wrong tokens from this address", RetryAfter: wait}
		}
		return Identity{}, &fault.Error{Kind: fault.Unauthenticated, Msg: "the token is not valid"}
	}
	now := a.now()
	t := &e.token
	switch {
	case !t.Revoked.IsZero():
		return Identity{}, fault.New(fault.Unauthenticated, "the token was revoked on %s", t.Revoked.UTC().Format(time.RFC3339))
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		return Identity{}, fault.New(fault.Unauthenticated, "the token expired on %s", t.Expires.UTC().Format(time.RFC3339))
	}
	e.used.Store(now.UnixNano())
	return Identity{Name: t.Name, Project: t.Project, Role: t.Role, Rights: e.rights, Via: "token", Remote: remote.String()}, nil
}

// nobody is compared with when the id is not known, so that the comparison is made all the same.
var nobody entry
