//go:build !linux

package bpftap

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"opentap/tap"
)

// Open says that this system has no eBPF.
func Open(Config) (tap.Driver, error) {
	return nil, fmt.Errorf("%w: eBPF is Linux's, and this is %s", tap.ErrUnsupported, runtime.GOOS)
}

// Probe says the same.
func Probe() error {
	return fmt.Errorf("%w: eBPF is Linux's, and this is %s", tap.ErrUnsupported, runtime.GOOS)
}

// Left reports that nothing is left.
func Left(Config) bool { return false }

// Orphans finds nothing.
func Orphans(Config) (dirs, devices []string, err error) { return nil, nil, nil }

// Inject says the same.
func Inject(string, tap.Direction, [][]byte) error { return Probe() }

// Hear says the same.
func Hear(context.Context, string, func(), func([]byte, time.Time)) error { return Probe() }
