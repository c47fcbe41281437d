package audit

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
)

// Last returns the newest n entries that keep takes, of those before the entry before (0 = all), the newest first. Each
// line's own hash is proven, its place in the chain is not: Verify does that. It can run beside the writer.
func (l *Log) Last(n int, before uint64, keep func(*Entry) bool) ([]Entry, error) {
	paths, err := files(l.dir)
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	var out []Entry
	for i := len(paths) - 1; i >= 0 && len(out) < n; i-- {
		found, err := lastOf(paths[i], n-len(out), before, keep)
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

func lastOf(path string, n int, before uint64, keep func(*Entry) bool) ([]Entry, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil // taken away by an administrator
	}
	if err != nil {
		return nil, fmt.Errorf("audit log: %w", err)
	}
	defer f.Close()
	var ring []Entry
	b := bufio.NewReaderSize(f, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if err == io.EOF {
			break // what has no end yet is being written
		}
		if err != nil {
			return nil, fmt.Errorf("audit log %s: %w", path, err)
		}
		e, _, err := parseLine(line[:len(line)-1])
		if err != nil {
			return nil, fmt.Errorf("audit log %s: a line %w", path, err)
		}
		if before != 0 && e.Seq >= before {
			break
		}
		if keep != nil && !keep(&e) {
			continue
		}
		if len(ring) == n {
			ring = append(ring[:0], ring[1:]...)
		}
		ring = append(ring, e)
	}
	slices.Reverse(ring)
	return ring, nil
}

// Verify proves the whole chain as it is now; see the function of that name.
func (l *Log) Verify() (Report, error) { return Verify(l.dir) }
