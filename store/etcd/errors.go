package etcd

import (
	"context"
	"errors"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"opentap/store"
)

// InUseError says that another process has the directory.
type InUseError struct {
	Dir string
	PID string // of the holder as it wrote it down; may be empty
}

// Error implements error.
func (e *InUseError) Error() string {
	who := "another process"
	if e.PID != "" {
		who = "process " + e.PID
	}
	return fmt.Sprintf("open store %s: in use by %s", e.Dir, who)
}

// DamagedError says that the directory's contents cannot be used. Nothing in it has been changed.
type DamagedError struct {
	Dir string
	Msg string // what etcd could not read
	Err error  // cause; may be nil
}

// Error implements error.
func (e *DamagedError) Error() string {
	s := fmt.Sprintf("open store %s: damaged: %s", e.Dir, e.Msg)
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s + " (restore the directory from a backup, or move it away to begin anew)"
}

// Unwrap returns the cause.
func (e *DamagedError) Unwrap() error { return e.Err }

func unavailable(err error) error {
	if err == nil {
		return store.ErrUnavailable
	}
	return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
}

// classify turns etcd's errors into the store's, keeping the cause.
func classify(ctx context.Context, err error) error {
	if cerr := ctx.Err(); cerr != nil {
		return cerr
	}
	err = rpctypes.Error(err)
	var e rpctypes.EtcdError
	kind := store.ErrUnavailable
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		kind = store.ErrCompacted
	case errors.Is(err, rpctypes.ErrNoSpace):
		kind = store.ErrFull
	case errors.Is(err, rpctypes.ErrRequestTooLarge):
		kind = store.ErrTooLarge
	case errors.Is(err, rpctypes.ErrFutureRev), errors.Is(err, rpctypes.ErrDuplicateKey),
		errors.Is(err, rpctypes.ErrEmptyKey), errors.Is(err, rpctypes.ErrTooManyOps):
		kind = store.ErrInvalid
	case refused(err):
		kind = store.ErrDenied
	case errors.As(err, &e):
	default:
		if c := status.Code(err); c == codes.ResourceExhausted {
			kind = store.ErrTooLarge
		}
	}
	return fmt.Errorf("%w: %w", kind, err)
}

// refused reports whether the cluster does not let us in, which asking again does not mend.
func refused(err error) bool {
	switch {
	case errors.Is(err, rpctypes.ErrPermissionDenied), errors.Is(err, rpctypes.ErrAuthFailed),
		errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrUserNotFound):
		return true
	}
	var e rpctypes.EtcdError
	if errors.As(err, &e) {
		return e.Code() == codes.PermissionDenied
	}
	return status.Code(err) == codes.PermissionDenied
}

func fromKV(kv *mvccpb.KeyValue) store.KV {
	return store.KV{Key: string(kv.Key), Value: kv.Value, ModRevision: kv.ModRevision, CreateRevision: kv.CreateRevision}
}

func fromEvent(e *clientv3.Event) store.Event {
	if e.Type == clientv3.EventTypeDelete {
		return store.Event{KV: store.KV{Key: string(e.Kv.Key), ModRevision: e.Kv.ModRevision}, Deleted: true}
	}
	return store.Event{KV: fromKV(e.Kv)}
}

func isCompacted(err error) bool { return errors.Is(err, store.ErrCompacted) }
