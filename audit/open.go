package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// maxTorn bounds what recovery may cut: more than one write can leave behind.
const maxTorn = maxBatch * maxLine

// Open opens the log for appending, after it has looked at the newest file. A write that a crash cut short is removed,
// and a new entry (audit.recovered) says so. A line that is bad in any other way is not the work of a crash: Open
// refuses with a *ChainError and changes nothing; an administrator keeps the directory as evidence and names another.
func Open(cfg Config, log *slog.Logger) (*Log, Recovery, error) {
	if cfg.MaxBytes <= 0 {
		cfg.MaxBytes = 64 << 20
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, Recovery{}, fmt.Errorf("open audit log: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cfg.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, Recovery{}, fmt.Errorf("open audit log: %w", err)
	}
	if err := tryLock(lock); err != nil {
		return nil, Recovery{}, errors.Join(fmt.Errorf("open audit log %s: %w", cfg.Dir, err), lock.Close())
	}
	l := &Log{dir: cfg.Dir, maxBytes: cfg.MaxBytes, now: cfg.Now, log: log, lock: lock, create: createFile}
	l.idle = sync.NewCond(&l.mu)
	rec, cut, err := l.recover()
	if err == nil && l.file == nil {
		err = l.rotate(l.head.Seq + 1)
	}
	if err != nil {
		if l.file != nil {
			l.file.Close()
		}
		lock.Close()
		return nil, rec, fmt.Errorf("open audit log: %w", err)
	}
	if rec.CutBytes > 0 {
		log.Warn("audit log ended in an unfinished write, which was cut off", "path", l.path, "bytes", rec.CutBytes)
		err := l.Append(context.Background(), Entry{Actor: system, Action: "audit.recovered", Outcome: Allowed, Details: map[string]string{
			"cut_bytes": strconv.FormatInt(rec.CutBytes, 10), "cut_sha256": hex.EncodeToString(cut[:]),
		}})
		if err != nil {
			return nil, rec, errors.Join(err, l.Close())
		}
	}
	return l, rec, nil
}

// recover finds the head from the newest file that has an entry, cuts off what a crash left behind it, and opens that
// file. A newer file without an entry is removed: a crash came right after it was made.
func (l *Log) recover() (rec Recovery, cut [sha256.Size]byte, err error) {
	paths, err := files(l.dir)
	if err != nil {
		return rec, cut, err
	}
	for i := len(paths) - 1; i >= 0 && l.file == nil; i-- {
		path, newest := paths[i], i == len(paths)-1
		f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND, 0)
		if err != nil {
			return rec, cut, err
		}
		s := scan{path: path, want: fileSeq(filepath.Base(path))}
		err = s.run(f, func(Entry) error { return nil })
		rest, sum, torn := tornTail(f, &s, err)
		switch {
		case !torn && err == nil: // whole
		case !torn:
			return rec, cut, errors.Join(err, f.Close())
		case !newest: // it was synced before the next one was made
			return rec, cut, errors.Join(s.bad("is not whole, and another file follows"), f.Close())
		default:
			if err := errors.Join(f.Truncate(s.good), f.Sync()); err != nil {
				return rec, cut, errors.Join(err, f.Close())
			}
			rec.CutBytes, cut = rest, sum
		}
		if s.good == 0 {
			if err := errors.Join(f.Close(), os.Remove(path)); err != nil {
				return rec, cut, err
			}
			continue
		}
		l.file, l.path, l.size, l.head = f, path, s.good, s.head
		rec.Entries = s.head.Seq
	}
	return rec, cut, syncDir(l.dir)
}

// tornTail reports whether octets follow the last good line of f that can be what a crash leaves of a write: no newline
// at their end, or octets of zero among them, which the file system puts where it had no time to put ours. It returns
// their number and sum. scanErr is what the scan said.
func tornTail(f io.ReaderAt, s *scan, scanErr error) (rest int64, sum [sha256.Size]byte, torn bool) {
	var chain *ChainError
	if scanErr != nil && !errors.As(scanErr, &chain) || scanErr == nil && s.torn == 0 {
		return 0, sum, false
	}
	h := sha256.New()
	var zero zeroFinder
	n, err := io.Copy(io.MultiWriter(h, &zero), io.NewSectionReader(f, s.good, maxTorn+1))
	if err != nil || n > maxTorn {
		return 0, sum, false
	}
	h.Sum(sum[:0])
	return n, sum, zero.found || zero.last != '\n'
}

// zeroFinder notes whether a zero octet was written to it, and the last octet.
type zeroFinder struct {
	found bool
	last  byte
}

func (z *zeroFinder) Write(p []byte) (int, error) {
	if len(p) > 0 {
		z.found = z.found || bytes.IndexByte(p, 0) >= 0
		z.last = p[len(p)-1]
	}
	return len(p), nil
}
