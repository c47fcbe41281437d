package audit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// commit writes and syncs the entries behind head and returns the new head; on an error the old one, and the file is
// as it was.
func (l *Log) commit(batch []*waiter, head Head) (Head, error) {
	if err := l.restore(); err != nil {
		return head, err
	}
	if l.size >= l.maxBytes {
		if err := l.rotate(head.Seq + 1); err != nil {
			return head, fmt.Errorf("audit: begin a new file: %w", err)
		}
	}
	next := head
	l.buf = l.buf[:0]
	for _, w := range batch {
		w.entry.Time = l.now().UTC()
		l.buf, next = appendLine(l.buf, &w.entry, next)
	}
	_, err := l.file.Write(l.buf)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		// What of this was written must not be taken for acknowledged, nor stand before later entries.
		l.stuck = err
		l.restore()
		l.log.Error("audit log cannot be written; what it guards is refused", "path", l.path, "error", err)
		return head, fmt.Errorf("audit: write %s: %w", l.path, err)
	}
	l.size += int64(len(l.buf))
	if cap(l.buf) > 1<<20 {
		l.buf = nil
	}
	return next, nil
}

// restore brings the file back to its acknowledged size after a failed write. Until it succeeds nothing is appended.
func (l *Log) restore() error {
	if l.stuck == nil {
		return nil
	}
	err := l.file.Truncate(l.size)
	if err == nil {
		err = l.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("audit: undo a failed write (%w) of %s: %w", l.stuck, l.path, err)
	}
	l.stuck = nil
	return nil
}

// rotate begins the file whose first entry is seq.
func (l *Log) rotate(seq uint64) error {
	path := filepath.Join(l.dir, fileName(seq))
	f, err := l.create(path)
	if err != nil {
		return err
	}
	if err := syncDir(l.dir); err != nil {
		return errors.Join(err, f.Close(), os.Remove(path))
	}
	if l.file != nil {
		err = l.file.Close() // it is synced
	}
	l.file, l.path, l.size = f, path, 0
	return err
}

// createFile makes an empty file, or takes one that a crash left empty.
func createFile(path string) (file, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() != 0 {
		err = &fs.PathError{Op: "create", Path: path, Err: fs.ErrExist}
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Names of the log's files: the sequence number of the first entry, so that their order is the log's.
const (
	filePrefix = "audit-"
	fileSuffix = ".jsonl"
)

func fileName(seq uint64) string { return fmt.Sprintf("%s%020d%s", filePrefix, seq, fileSuffix) }

// fileSeq returns the first entry's number by the file's name; 0 = not a file of the log.
func fileSeq(name string) uint64 {
	mid, ok := strings.CutPrefix(name, filePrefix)
	mid, ok2 := strings.CutSuffix(mid, fileSuffix)
	if !ok || !ok2 || len(mid) != 20 {
		return 0
	}
	var n uint64
	for _, c := range []byte(mid) {
		d := uint64(c - '0')
		if d > 9 || n > (1<<64-1-d)/10 {
			return 0
		}
		n = n*10 + d
	}
	return n
}

// files returns the log's files of dir in order.
func files(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir) // sorted by name
	if err != nil {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if fileSeq(e.Name()) != 0 && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}
