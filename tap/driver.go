package tap

import (
	"context"
	"errors"
)

// Errors of drivers that callers decide on.
var (
	// ErrNoDevice says that the device is not there now. It is waited for.
	ErrNoDevice = errors.New("the device is not there")
	// ErrUnsupported says that this driver or this kernel cannot do what is asked; the text says what is missing.
	ErrUnsupported = errors.New("not supported here")
)

// Driver makes sources and sinks real on one node. All of it is level-triggered: updating with what is already so changes
// nothing and interrupts nothing, and what a driver made is found again after a restart by its mark.
//
// A Driver is called by one goroutine at a time, except Counts, which is safe beside everything.
type Driver interface {
	// Name is "ebpf", "ovs" or "fabric".
	Name() string
	// Takes reports whether devices of this kind are the driver's: nil if so. A node's drivers are asked in order.
	Takes(d Device) error
	// UpdateSource makes a source as wished. Note is a warning to show; err wraps ErrNoDevice or ErrUnsupported, or is any other failure.
	UpdateSource(ctx context.Context, s Source) (note string, err error)
	// UpdateSink does the same for a sink.
	UpdateSink(ctx context.Context, s Sink) (note string, err error)
	// Delete takes a source or sink away; of one that is not there it says nil.
	Delete(ctx context.Context, id string) error
	// Prune takes away everything of ours for which keep is false, including what an earlier process left, and names it.
	Prune(ctx context.Context, keep func(id string) bool) (removed []string, err error)
	// Counts reads the counters of a source or sink.
	Counts(id string) (Counts, error)
	// Close gives up what belongs to this process only. Taps go on without it.
	Close() error
}
