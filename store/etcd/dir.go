package etcd

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// readyFile tells that the member has once served, so that its log must be there.
const readyFile = "ready"

// prepare looks at the directory before etcd does. etcd would take a lost log for a first start and begin anew over
// the old database; and a first start cut short leaves pieces that were never acknowledged to anyone.
func prepare(dir string) error {
	_, err := os.Stat(filepath.Join(dir, readyFile))
	ready := err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open store %s: %w", dir, err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "member", "wal", "*.wal"))
	switch {
	case ready && len(logs) == 0:
		return &DamagedError{Dir: dir, Msg: "the log (member/wal) is missing"}
	case ready:
		if _, err := os.Stat(filepath.Join(dir, "member", "snap", "db")); err != nil {
			return &DamagedError{Dir: dir, Msg: "the database (member/snap/db) is missing", Err: err}
		}
	case len(logs) == 0:
		if err := os.RemoveAll(filepath.Join(dir, "member")); err != nil {
			return fmt.Errorf("open store %s: clear unfinished first start: %w", dir, err)
		}
	}
	return nil
}

// markReady leaves readyFile, durably.
func markReady(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, readyFile), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = errors.Join(f.Sync(), f.Close())
	d, derr := os.Open(dir)
	if derr != nil {
		return errors.Join(err, derr)
	}
	return errors.Join(err, d.Sync(), d.Close())
}

// lockDir takes the directory for this process. The kernel lets go when the process ends, however it ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", dir, err)
	}
	if err := tryLock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, errLocked) {
			return nil, fmt.Errorf("open store %s: lock: %w", dir, err)
		}
		pid := make([]byte, 16)
		n, _ := f.ReadAt(pid, 0)
		return nil, &InUseError{Dir: dir, PID: strings.TrimSpace(string(pid[:n]))}
	}
	if err := f.Truncate(0); err == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid()) // a courtesy to the reader; the lock does not depend on it
	}
	return f, nil
}

var errLocked = errors.New("locked by another process")
