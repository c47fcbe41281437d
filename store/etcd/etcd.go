// Package etcd is the store on etcd v3: one member embedded in the process, or a cluster elsewhere.
//
// Runs in: controller
//
// The embedded member opens no port and no socket: the raft server runs inside the process and its client calls it
// directly, so the only ways in are this package and the files, whose directory is mode 0700. Both ways run the same
// code above the etcd client, and both pass store/storetest.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"opentap/store"
)

// Config says where the state is. Dir alone: embedded. Endpoints alone: a cluster.
type Config struct {
	Dir          string        // directory of the embedded member; made with mode 0700 when absent
	QuotaBytes   int64         // of the embedded member's database; 0 = 1 GiB. Beyond it changes get store.ErrFull
	History      time.Duration // how long the embedded member remembers old revisions for watchers; 0 = one hour
	StartTimeout time.Duration // how long Open waits to be able to serve; 0 = 30 s embedded, 10 s cluster

	Endpoints []string // of a cluster: "host:2379", "https://host:2379"
	Prefix    string   // of a cluster: put before every key, so that it can be shared; "" = "opentap/"
	Username  string
	Password  string
	TLS       TLS
	Patience  time.Duration // of a cluster: how long a request waits for an answer before it is store.ErrUnavailable; 0 = 10 s
}

// TLS of the connection to a cluster; all paths are PEM files. The zero value is a plain connection, which Open
// refuses when a password would travel on it.
type TLS struct {
	CAFile     string // trusted authorities; "" = the system's
	CertFile   string // our certificate
	KeyFile    string // its key
	ServerName string // expected in the server's certificate; "" = the endpoint's host
	Enable     bool   // use TLS though no file is named
}

// Store is an open store. Its methods may be called from any goroutine.
type Store struct {
	log    *slog.Logger
	client *clientv3.Client
	kv     clientv3.KV
	watch  clientv3.Watcher
	member *member // nil for a cluster
	remote bool

	patience time.Duration // with one request; 0 = as long as its caller's

	closing   chan struct{} // closed by Close
	closeOnce sync.Once
	closeErr  error
	reclaim   sync.Mutex // one at a time gives space back
}

var (
	_ store.Store     = (*Store)(nil)
	_ store.Compacter = (*Store)(nil)
)

// Open opens the store and returns when it can serve. ctx bounds the opening alone. The caller must Close it.
//
// Errors name the directory or the endpoints: *InUseError when another process has the directory, *DamagedError when
// its contents cannot be read.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	switch {
	case cfg.Dir == "" && len(cfg.Endpoints) == 0:
		return nil, errors.New("open store: neither a directory nor endpoints are configured")
	case cfg.Dir != "" && len(cfg.Endpoints) > 0:
		return nil, fmt.Errorf("open store: both a directory (%s) and endpoints are configured: choose one", cfg.Dir)
	case len(cfg.Endpoints) > 0:
		return dial(ctx, cfg, log)
	}
	m, err := startMember(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	c := m.client
	s := &Store{log: log, client: c, kv: c.KV, watch: c.Watcher, member: m, closing: make(chan struct{})}
	if err := s.clearAlarm(ctx); err != nil {
		log.Warn("store is out of space and stays read-only", "dir", cfg.Dir, "error", err)
	}
	return s, nil
}

// Failed is closed when the embedded member has stopped by itself, for instance because its disk is full; Err says
// why. Every call then returns store.ErrUnavailable: what was acknowledged is on the disk, and a new process can open
// it. For a cluster it never closes.
func (s *Store) Failed() <-chan struct{} {
	if s.member == nil {
		return nil
	}
	return s.member.failed
}

// Err returns why the store failed; nil while it works.
func (s *Store) Err() error {
	if s.member == nil {
		return nil
	}
	return s.member.failure()
}

// Close ends all watches with store.ErrClosed and stops the embedded member, or the connection. Calls in flight return
// store.ErrClosed. It may be called again.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		close(s.closing)
		if s.member != nil {
			s.closeErr = s.member.stop()
			return
		}
		s.closeErr = s.client.Close()
	})
	return s.closeErr
}

// call runs one request beside the caller, which so gets an answer even when etcd hangs on a broken disk.
func call[T any](ctx context.Context, s *Store, fn func(context.Context) (T, error)) (T, error) {
	type answer struct {
		v   T
		err error
	}
	var none T
	select {
	case <-s.closing:
		return none, store.ErrClosed
	case <-s.Failed():
		return none, unavailable(s.Err())
	default:
	}
	if err := ctx.Err(); err != nil {
		return none, err
	}
	inner, cancel := s.bounded(ctx)
	defer cancel()
	done := make(chan answer, 1)
	go func() {
		v, err := fn(inner)
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		if a.err != nil {
			select {
			case <-s.closing:
				return none, store.ErrClosed
			default:
			}
			return none, classify(ctx, a.err)
		}
		return a.v, nil
	case <-ctx.Done():
		return none, ctx.Err()
	case <-inner.Done():
		return none, unavailable(context.Cause(inner))
	case <-s.closing:
		return none, store.ErrClosed
	case <-s.Failed():
		return none, unavailable(s.Err())
	}
}

// bounded is a context for one request. etcd's client would ask for ever while nobody answers.
func (s *Store) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if s.patience == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeoutCause(ctx, s.patience, fmt.Errorf("no answer within %v", s.patience))
}

// Get implements store.Store.
func (s *Store) Get(ctx context.Context, key string) (store.KV, error) {
	if err := store.CheckKey(key); err != nil {
		return store.KV{}, err
	}
	r, err := call(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) { return s.kv.Get(ctx, key) })
	if err != nil {
		return store.KV{}, err
	}
	if len(r.Kvs) == 0 {
		return store.KV{}, fmt.Errorf("%w: %q", store.ErrNotFound, key)
	}
	return fromKV(r.Kvs[0]), nil
}

// List implements store.Store.
func (s *Store) List(ctx context.Context, prefix string) ([]store.KV, int64, error) {
	if len(prefix) > store.MaxKeyBytes {
		return nil, 0, store.CheckKey(prefix)
	}
	r, err := call(ctx, s, func(ctx context.Context) (*clientv3.GetResponse, error) {
		return s.kv.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	})
	if err != nil {
		return nil, 0, err
	}
	kvs := make([]store.KV, len(r.Kvs))
	for i, kv := range r.Kvs {
		kvs[i] = fromKV(kv)
	}
	return kvs, r.Header.Revision, nil
}

// Txn implements store.Store.
func (s *Store) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	if err := store.Check(compares, ops); err != nil {
		return 0, err
	}
	cmps := make([]clientv3.Cmp, len(compares))
	for i, c := range compares {
		cmps[i] = clientv3.Compare(clientv3.ModRevision(c.Key), "=", c.ModRevision)
	}
	todo := make([]clientv3.Op, len(ops))
	puts := false
	for i, op := range ops {
		if op.Delete {
			todo[i] = clientv3.OpDelete(op.Key)
			continue
		}
		puts = true
		todo[i] = clientv3.OpPut(op.Key, string(op.Value))
	}
	try := func(ctx context.Context) (*clientv3.TxnResponse, error) {
		return s.kv.Txn(ctx).If(cmps...).Then(todo...).Commit()
	}
	r, err := call(ctx, s, try)
	if puts && errors.Is(err, store.ErrFull) && s.clearAlarm(ctx) == nil {
		r, err = call(ctx, s, try)
	}
	if err != nil {
		return 0, err
	}
	if !r.Succeeded {
		return 0, fmt.Errorf("%w: one of %d compares failed", store.ErrConflict, len(compares))
	}
	return r.Header.Revision, nil
}

// Compact implements store.Compacter.
func (s *Store) Compact(ctx context.Context, revision int64) error {
	_, err := call(ctx, s, func(ctx context.Context) (*clientv3.CompactResponse, error) { return s.kv.Compact(ctx, revision) })
	return err
}
