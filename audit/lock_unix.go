//go:build unix

package audit

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes flock(2) on f without waiting: two writers would fork the chain.
func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errors.New("in use by another process")
	}
	return err
}
