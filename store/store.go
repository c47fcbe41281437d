// Package store keeps the controller's desired state: small values under ordered keys, with revisions, transactions and watches.
//
// Runs in: controller
//
// One revision counter orders everything: each successful Txn that changes a key takes the next revision, and every
// change it makes carries that number. The promises, the same for every implementation and proven by store/storetest:
//
//   - Txn is atomic, and durable before it returns nil. Get, List and Txn are linearizable: each takes effect at one
//     instant between its call and its return, and all callers agree on the order.
//   - List is a snapshot: all its keys as of the one revision it returns.
//   - Watch reports every change at or after its first revision exactly once, in revision order, one Batch a revision,
//     never a part of a transaction. List at revision r followed by Watch from r+1 therefore misses nothing and
//     repeats nothing.
//   - A revision never goes back, restarts included.
//
// Nothing here is a lock or a lease: a writer that may be late compares the revision it has read (fencing).
// Heartbeats, counters, packets and flow records never enter the store.
package store

import (
	"context"
	"errors"
	"fmt"
)

// Limits of a request. They are those of the smallest implementation, and each one checks them alike (see Check).
const (
	MaxKeyBytes = 1024    // octets of a key
	MaxTxnBytes = 1 << 20 // octets of all keys and values of one Txn; so also the limit of a value
	MaxTxnOps   = 128     // operations of one Txn, and compares of one Txn
)

// Errors a caller can decide on; test with errors.Is. Any other error of a Txn (context ended, connection lost,
// ErrUnavailable, ErrClosed) leaves its outcome unknown: read again before acting.
var (
	ErrNotFound    = errors.New("store: key not found")
	ErrConflict    = errors.New("store: another writer was first")           // a compare failed; nothing was changed
	ErrCompacted   = errors.New("store: revision has been compacted")        // List again, watch from there
	ErrInvalid     = errors.New("store: invalid request")                    // a mistake in the program; nothing was changed
	ErrTooLarge    = errors.New("store: request too large")                  // a *LimitError says what; nothing was changed
	ErrFull        = errors.New("store: space quota used up")                // deletes are still taken; nothing was changed
	ErrUnavailable = errors.New("store: not available")                      // no leader, disk failed: ask again
	ErrDenied      = errors.New("store: the cluster refused our credential") // external clusters only
	ErrClosed      = errors.New("store: closed")
)

// KV is one key with its value. The value belongs to the store and must not be modified: watchers share it.
type KV struct {
	Key            string
	Value          []byte
	ModRevision    int64 // revision of its last change; above 0
	CreateRevision int64 // revision at which it came into being, the last time
}

// Compare is one condition of a Txn: the key's ModRevision is exactly this; 0 = the key does not exist.
type Compare struct {
	Key         string
	ModRevision int64
}

// Absent is the condition that key does not exist.
func Absent(key string) Compare { return Compare{Key: key} }

// Unchanged is the condition that kv is still the newest.
func Unchanged(kv KV) Compare { return Compare{Key: kv.Key, ModRevision: kv.ModRevision} }

// Op is one change of a Txn. The zero Value with Delete false puts an empty value.
type Op struct {
	Key    string
	Value  []byte // copied by Txn
	Delete bool   // delete the key; deleting an absent key changes nothing and takes no revision
}

// Put makes the Op that sets key to value.
func Put(key string, value []byte) Op { return Op{Key: key, Value: value} }

// Delete makes the Op that removes key.
func Delete(key string) Op { return Op{Key: key, Delete: true} }

// Event is one change seen by a Watch.
type Event struct {
	KV           // of a deletion: Key and ModRevision (the deletion's own) alone
	Deleted bool // the key is gone
}

// Batch is the changes one transaction made under a watched prefix. Events are in the transaction's order and have no
// two of the same key.
type Batch struct {
	Revision int64
	Events   []Event
	Err      error // set on the last Batch alone, which has no events: why the watch ended before its context
}

// Store is the interface every implementation offers; all methods may be called from any goroutine.
type Store interface {
	// Get returns the key's present value, or ErrNotFound.
	Get(ctx context.Context, key string) (KV, error)

	// List returns the keys that begin with prefix, in byte order, as of the revision returned. An empty prefix is every key.
	List(ctx context.Context, prefix string) (kvs []KV, revision int64, err error)

	// Txn applies every op if every compare holds, and returns the store's revision after that (the transaction's own
	// when it changed something). ErrConflict: a compare failed. Two ops of one key are ErrInvalid.
	// A Txn without ops reads: do the compares hold?
	Txn(ctx context.Context, compares []Compare, ops []Op) (revision int64, err error)

	// Watch reports the changes of keys that begin with prefix, from the first revision (at least 1; it may lie in the
	// future). The channel closes when ctx ends, without a last word; or after a Batch with Err: ErrCompacted (the
	// caller lists again), ErrClosed, ErrDenied or ErrInvalid. Lost connections are mended inside, without loss.
	// The receiver's pace is its own; a receiver far behind may meet ErrCompacted.
	Watch(ctx context.Context, prefix string, first int64) <-chan Batch
}

// Compacter is implemented by stores whose history can be cut by hand. Each store also does it by itself.
type Compacter interface {
	// Compact forgets the history before revision: a later Watch from an older one gets ErrCompacted.
	// Present values stay whatever their age.
	Compact(ctx context.Context, revision int64) error
}

// LimitError says which limit a request passed. It is ErrTooLarge.
type LimitError struct {
	What     string // "key", "transaction", "operations", "compares"
	Key      string // the key concerned, if one; cut to 64 octets
	Got, Max int    // octets, or a count
}

// Error implements error.
func (e *LimitError) Error() string {
	if e.Key != "" {
		return fmt.Sprintf("store: %s %q: %d exceeds the limit of %d", e.What, e.Key, e.Got, e.Max)
	}
	return fmt.Sprintf("store: %s: %d exceeds the limit of %d", e.What, e.Got, e.Max)
}

// Is reports that the error is ErrTooLarge.
func (e *LimitError) Is(target error) bool { return target == ErrTooLarge }

// CheckKey returns the error of a key no store takes.
func CheckKey(key string) error {
	if key == "" {
		return fmt.Errorf("%w: empty key", ErrInvalid)
	}
	if len(key) > MaxKeyBytes {
		return &LimitError{What: "key", Key: key[:64], Got: len(key), Max: MaxKeyBytes}
	}
	return nil
}

// Check returns the error of a Txn no store takes. Implementations call it first, so that all refuse alike.
func Check(compares []Compare, ops []Op) error {
	if len(ops) > MaxTxnOps {
		return &LimitError{What: "operations", Got: len(ops), Max: MaxTxnOps}
	}
	if len(compares) > MaxTxnOps {
		return &LimitError{What: "compares", Got: len(compares), Max: MaxTxnOps}
	}
	size := 0
	for _, c := range compares {
		if err := CheckKey(c.Key); err != nil {
			return err
		}
		if c.ModRevision < 0 {
			return fmt.Errorf("%w: compare %q with revision %d", ErrInvalid, c.Key, c.ModRevision)
		}
		size += len(c.Key)
	}
	seen := make(map[string]struct{}, len(ops))
	for _, op := range ops {
		if err := CheckKey(op.Key); err != nil {
			return err
		}
		if _, twice := seen[op.Key]; twice {
			return fmt.Errorf("%w: two operations on key %q", ErrInvalid, op.Key)
		}
		seen[op.Key] = struct{}{}
		if op.Delete && op.Value != nil {
			return fmt.Errorf("%w: deletion of key %q carries a value", ErrInvalid, op.Key)
		}
		size += len(op.Key) + len(op.Value)
	}
	if size > MaxTxnBytes {
		e := &LimitError{What: "transaction", Got: size, Max: MaxTxnBytes}
		if len(ops) == 1 {
			e.Key = ops[0].Key[:min(len(ops[0].Key), 64)]
		}
		return e
	}
	return nil
}

// Failed makes the channel of a Watch that never began.
func Failed(err error) <-chan Batch {
	c := make(chan Batch, 1)
	c <- Batch{Err: err}
	close(c)
	return c
}
