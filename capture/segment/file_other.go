//go:build !linux

package segment

import (
	"fmt"
	"os"
	"syscall"
)

const errInvalid = syscall.EINVAL

func create(path string, direct bool) (f *os.File, isDirect bool, err error) {
	f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	return f, false, err
}

func clearDirect(*os.File) error { return nil }

func dataSync(f *os.File) error { return f.Sync() }

// lockDir opens a directory. Where there is no flock(2) nothing keeps a second writer away.
func lockDir(path string) (*os.File, error) {
	d, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	return d, nil
}

func mapBuffers(n int) ([]byte, func(), error) { return aligned(n), func() {}, nil }

func forget([]byte) {}

func willRead(*os.File, int64, int64) {}

func readsAnywhere(*os.File) {}
