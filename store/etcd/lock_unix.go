//go:build unix

package etcd

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes flock(2) on f without waiting; errLocked when another open file has it.
func tryLock(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return err
}
