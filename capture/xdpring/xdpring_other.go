//go:build !linux

package xdpring

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"opentap/capture/ring"
	"opentap/packet"
)

// Ring exists on Linux only.
type Ring struct{}

// Block exists on Linux only.
type Block struct{}

func unsupported() error {
	return fmt.Errorf("AF_XDP on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

// Open returns an error that wraps errors.ErrUnsupported.
func Open(Config) (*Ring, error) { return nil, unsupported() }

// LinkType returns 0.
func (r *Ring) LinkType() packet.LinkType { return 0 }

// Mode returns Best.
func (r *Ring) Mode() Mode { return Best }

// Queues returns 0.
func (r *Ring) Queues() int { return 0 }

// Tags returns nil.
func (r *Ring) Tags() error { return nil }

// Read returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Read(time.Duration, func(*Block)) (int, error) { return 0, unsupported() }

// Counts returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Counts() (ring.Counts, error) { return ring.Counts{}, unsupported() }

// Stop returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Stop() error { return unsupported() }

// Drain returns an error that wraps errors.ErrUnsupported.
func (r *Ring) Drain(func(*Block)) error { return unsupported() }

// Wake does nothing.
func (r *Ring) Wake() {}

// Pressed returns false.
func (r *Ring) Pressed() bool { return false }

// Close does nothing.
func (r *Ring) Close() error { return nil }

// Len returns 0.
func (b *Block) Len() int { return 0 }

// Octets returns 0.
func (b *Block) Octets() int { return 0 }

// Next returns false.
func (b *Block) Next(*ring.Frame) bool { return false }
