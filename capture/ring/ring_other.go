//go:build !linux

package ring

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"opentap/packet"
)

// Ring exists on Linux only.
type Ring struct{}

func unsupported() error {
	return fmt.Errorf("packet ring on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Open returns an error that wraps errors.ErrUnsupported.
func Open(Config) (*Ring, error) { return nil, unsupported() }

// LinkType returns 0.
func (r *Ring) LinkType() packet.LinkType { return 0 }

// Read returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Read(time.Duration, func(*Block)) (int, error) { return 0, unsupported() }

// Counts returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Counts() (Counts, error) { return Counts{}, unsupported() }

// Stop returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Stop() error { return unsupported() }

// Drain returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Drain(func(*Block)) error { return unsupported() }

// Pressed returns false.
func (r *Ring) Pressed() bool { return false }

// Wake does nothing.
func (r *Ring) Wake() {}

// Close does nothing.
func (r *Ring) Close() error { return nil }
