package etcd

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.uber.org/zap"
)

// checkDatabase reads every page of the database that is in use, as etcd is about to do. bbolt panics on a damaged page;
// under etcd that happens in goroutines of etcd's and would take the process along. Here it is an error.
func checkDatabase(dir string) (err error) {
	path := filepath.Join(dir, "member", "snap", "db")
	if _, serr := os.Stat(path); errors.Is(serr, os.ErrNotExist) {
		return nil // a first start
	}
	// The file is mapped: reading a page beyond its end is a fault, which this makes a panic of this goroutine.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &DamagedError{Dir: dir, Msg: fmt.Sprintf("database (member/snap/db) or log (member/wal): %v", r)}
		}
	}()
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return &InUseError{Dir: dir}
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("open store %s: %w", dir, err)
	case err != nil:
		return &DamagedError{Dir: dir, Msg: "database (member/snap/db)", Err: err}
	}
	defer db.Close()
	var applied uint64
	err = db.View(func(tx *bbolt.Tx) error {
		if meta := tx.Bucket([]byte("meta")); meta != nil {
			if v := meta.Get([]byte("consistent_index")); len(v) == 8 {
				applied = binary.BigEndian.Uint64(v)
			}
		}
		return tx.ForEach(func(name []byte, b *bbolt.Bucket) error {
			return b.ForEach(func(k, v []byte) error {
				if len(k) == 0 {
					return fmt.Errorf("bucket %q has an empty key", name)
				}
				_ = k[len(k)-1]
				if len(v) > 0 {
					_ = v[len(v)-1]
				}
				return nil
			})
		})
	})
	if err != nil {
		return &DamagedError{Dir: dir, Msg: "database (member/snap/db)", Err: err}
	}
	return checkLog(dir, applied)
}

// checkLog reads the log as etcd is about to do, and changes nothing. etcd takes a damaged place for the torn end of a
// crash, cuts the log there and then waits for ever on entries that the database has and the log has not; applied is
// the last one the database has.
func checkLog(dir string, applied uint64) error {
	damaged := func(err error) error { return &DamagedError{Dir: dir, Msg: "log (member/wal)", Err: err} }
	path := filepath.Join(dir, "member", "wal")
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	lg := zap.NewNop()
	snaps, err := wal.ValidSnapshotEntries(lg, path)
	if err != nil {
		return damaged(err)
	}
	if len(snaps) == 0 {
		return damaged(errors.New("no snapshot entry in it"))
	}
	from := snaps[len(snaps)-1]
	w, err := wal.OpenForRead(lg, path, from)
	if err != nil {
		return damaged(err)
	}
	defer w.Close()
	_, _, entries, err := w.ReadAll()
	if err != nil {
		return damaged(err)
	}
	last := from.GetIndex()
	if n := len(entries); n > 0 {
		last = entries[n-1].GetIndex()
	}
	if last < applied {
		return damaged(fmt.Errorf("it can be read up to entry %d, and the database has entry %d", last, applied))
	}
	return nil
}
