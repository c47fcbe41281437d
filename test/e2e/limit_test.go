//go:build linux

package e2e

import (
	"testing"

	"golang.org/x/sys/unix"
)

// limitFiles bounds the size of files that a process may write (RLIMIT_FSIZE, getrlimit(2)): beyond it a write fails.
func limitFiles(t testing.TB, pid int, octets uint64) {
	t.Helper()
	if err := unix.Prlimit(pid, unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: octets, Max: ^uint64(0)}, nil); err != nil {
		t.Skipf("needs CAP_SYS_RESOURCE: %v", err)
	}
}
