//go:build !linux

package netdev

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"

	"opentap/point"
)

func unsupported(verb string) error {
	return fmt.Errorf("%s on %s/%s: %w", verb, runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// List is not possible here.
func List() ([]point.Point, error) { return nil, unsupported("list network devices") }

// DefaultRoute is not possible here.
func DefaultRoute() (string, error) { return "", unsupported("find the default route") }

// Underlay is not possible here.
func Underlay() ([]netip.Addr, error) { return nil, unsupported("list addresses") }

// SpeedBPS is not possible here.
func SpeedBPS(string) uint64 { return 0 }

// Run is not possible here.
func (w *Watcher) Run(context.Context, func([]point.Point)) error {
	return unsupported("follow network devices")
}
