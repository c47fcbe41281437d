//go:build !linux

package ifcount

import (
	"errors"
	"fmt"
	"runtime"
)

// Read is not possible here.
func Read(string) (Row, error) {
	return Row{}, fmt.Errorf("read counters on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}

// ReadAll is not possible here.
func ReadAll() (map[int]Totals, error) {
	return nil, fmt.Errorf("read counters on %s/%s: %w", runtime.GOOS, runtime.GOARCH, errors.ErrUnsupported)
}
