// Package audit is the record of who did what: an append-only log whose lines are chained by hashes.
//
// Runs in: controller
//
// An entry is on the disk before the act it tells of. Append returns an error when it is not, and the caller then
// refuses the act. The format is docs/format/audit.md.
package audit

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"opentap/auth"
)

// Outcome says whether the act was let happen.
type Outcome string

// Outcomes. There is no "succeeded": the entry is written before the act.
const (
	Allowed Outcome = "allowed"
	Denied  Outcome = "denied"
)

// Entry is one line. Append sets Seq, Time, Prev and Hash. Texts longer than MaxText are cut and end in "…" then.
type Entry struct {
	Seq     uint64            `json:"seq"`              // 1, 2, 3 … without a gap, across files
	Time    time.Time         `json:"time"`             // the writer's clock, UTC; Seq orders, not Time
	Prev    string            `json:"prev"`             // Hash of the entry before, hex; zeros of the first
	Actor   Actor             `json:"actor"`            // who
	Action  string            `json:"action"`           // noun.verb: capture.start, capture.retrieve, token.create, auth.denied …
	Object  string            `json:"object,omitempty"` // to what: a capture's or token's id
	Project string            `json:"project,omitempty"`
	Outcome Outcome           `json:"outcome"`
	Details map[string]string `json:"details,omitempty"` // at most MaxDetails; never a secret
	Hash    string            `json:"hash"`              // SHA-256 of the line before this member, hex
}

// Actor is who acts.
type Actor struct {
	Name   string `json:"name"`
	Role   string `json:"role,omitempty"`
	Via    string `json:"via,omitempty"`    // token, anonymous, local, system
	Remote string `json:"remote,omitempty"` // the peer's address
}

// ActorOf returns the actor that an identity is.
func ActorOf(id auth.Identity) Actor {
	return Actor{Name: id.Name, Role: id.Role, Via: id.Via, Remote: id.Remote}
}

// system is the actor of entries the log makes itself.
var system = Actor{Name: "opentap", Via: "system"}

// Limits of an entry.
const (
	MaxText    = 1024 // octets of one text
	MaxDetails = 16
	maxLine    = 256 << 10 // octets of a line; no entry within the limits comes near
	maxBatch   = 128       // entries of one write
)

// Config of a Log.
type Config struct {
	Dir      string           // made with mode 0700 when absent
	MaxBytes int64            // a file is followed by a new one at this size; 0 = 64 MiB
	Now      func() time.Time // nil = time.Now
}

// Recovery says what Open found.
type Recovery struct {
	Entries  uint64 // sequence number of the newest entry; 0 = the log is new
	CutBytes int64  // octets of an unfinished write that were cut off; they had never been acknowledged
}

// Log appends to the record. Append and Head may be called from any goroutine.
type Log struct {
	dir      string
	maxBytes int64
	now      func() time.Time
	log      *slog.Logger
	lock     *os.File

	mu      sync.Mutex
	waiting []*waiter
	busy    bool // somebody writes
	closed  bool
	idle    *sync.Cond
	head    Head

	// Of the one who writes.
	file   file
	path   string
	size   int64 // synced and chained; nothing beyond counts
	stuck  error // the file could not be brought back to size
	create func(path string) (file, error)
	buf    []byte
}

// Head is the newest entry. Noted outside the machine, it is the only proof that nothing was cut off the end.
type Head struct {
	Seq  uint64
	Hash [32]byte
}

// String returns the head as "seq:hash".
func (h Head) String() string { return fmt.Sprintf("%d:%s", h.Seq, hex.EncodeToString(h.Hash[:])) }

// file is what Log needs of a file, so that a test can let the disk fail.
type file interface {
	Write(p []byte) (int, error)
	Sync() error
	Truncate(size int64) error
	Close() error
}

// waiter is an Append in progress.
type waiter struct {
	entry Entry
	err   error
	turn  chan bool // true: write now, for all that wait; false: it is done
}

// Errors of Append beside those of the disk.
var (
	ErrClosed  = errors.New("audit: log is closed")
	ErrInvalid = errors.New("audit: invalid entry")
)

// Append writes e, syncs it and returns nil; or returns an error, and then the act must not happen. An entry whose
// Append failed is not in the log, except after a crash. Calls at the same time share one sync. ctx is looked at
// before writing alone: a write that has begun is waited for.
func (l *Log) Append(ctx context.Context, e Entry) error {
	if err := check(&e); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	w := &waiter{entry: e, turn: make(chan bool, 1)}
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return ErrClosed
	}
	l.waiting = append(l.waiting, w)
	if l.busy {
		l.mu.Unlock()
		if write := <-w.turn; !write {
			return w.err
		}
		l.mu.Lock()
	}
	l.busy = true
	batch := l.waiting[:min(len(l.waiting), maxBatch)]
	l.waiting = l.waiting[len(batch):]
	head := l.head
	l.mu.Unlock()

	head, err := l.commit(batch, head)

	l.mu.Lock()
	l.head = head
	if len(l.waiting) > 0 {
		l.waiting[0].turn <- true
	} else {
		l.waiting = nil // let go of the array
		l.busy = false
		l.idle.Broadcast()
	}
	l.mu.Unlock()
	for _, o := range batch {
		o.err = err
		if o != w {
			o.turn <- false
		}
	}
	return err
}

// check refuses what no honest program writes.
func check(e *Entry) error {
	switch {
	case e.Action == "":
		return fmt.Errorf("%w: no action", ErrInvalid)
	case e.Actor.Name == "":
		return fmt.Errorf("%w: %s without an actor", ErrInvalid, e.Action)
	case e.Outcome != Allowed && e.Outcome != Denied:
		return fmt.Errorf("%w: %s with outcome %q", ErrInvalid, e.Action, e.Outcome)
	case len(e.Details) > MaxDetails:
		return fmt.Errorf("%w: %s with %d details, at most %d", ErrInvalid, e.Action, len(e.Details), MaxDetails)
	}
	return nil
}

// Head returns the newest entry that is on the disk.
func (l *Log) Head() Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// Close waits for the writes in progress and lets go of the directory. Later Appends get ErrClosed.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	for l.busy {
		l.idle.Wait()
	}
	return errors.Join(l.file.Close(), l.lock.Close())
}
