package audit

import (
	"bufio"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// ChainError names the first line that is not as it was written.
type ChainError struct {
	Path   string
	Line   int    // from 1
	Offset int64  // of the line in the file, octets
	Seq    uint64 // of the entry that should be there; 0 = unknown
	Msg    string
}

// Error implements error.
func (e *ChainError) Error() string {
	return fmt.Sprintf("audit log %s: line %d at offset %d (entry %d): %s", e.Path, e.Line, e.Offset, e.Seq, e.Msg)
}

// Report is what Verify found in order.
type Report struct {
	Files int
	First uint64 // number of the oldest entry; above 1 when older files were taken away
	Head  Head   // the newest entry, to compare with one that was noted elsewhere
	Torn  int64  // octets of an unfinished line at the very end: a write in progress, or a crash
}

// Verify checks every line of the log in dir, and that none was changed, left out, added or moved; memory is bounded.
// The error is a *ChainError, or one of reading. It can run beside the writer.
//
// A chain cannot show that its end was cut off, nor that all of it was made anew: compare Report.Head with a Head noted
// on another machine (Contains finds an older one).
func Verify(dir string) (Report, error) { return Each(dir, nil) }

// Contains reports whether the log has the entry that was its head once.
func Contains(dir string, h Head) (bool, error) {
	found := false
	_, err := Each(dir, func(e Entry) error {
		found = found || e.Seq == h.Seq && e.Hash == hex.EncodeToString(h.Hash[:])
		return nil
	})
	return found, err
}

// Each is Verify that also hands over each entry, once it is proven, until fn returns an error.
func Each(dir string, fn func(Entry) error) (Report, error) {
	paths, err := files(dir)
	if err != nil {
		return Report{}, fmt.Errorf("audit log: %w", err)
	}
	var r Report
	for i, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return r, fmt.Errorf("audit log: %w", err)
		}
		s := scan{path: path, head: r.Head, known: r.Head.Seq > 0, want: fileSeq(filepath.Base(path))}
		err = s.run(f, func(e Entry) error {
			if r.First == 0 {
				r.First = e.Seq
			}
			if fn != nil {
				return fn(e)
			}
			return nil
		})
		f.Close()
		r.Files, r.Head, r.Torn = i+1, s.head, s.torn
		if err != nil {
			return r, err
		}
		if s.torn > 0 && i < len(paths)-1 {
			return r, &ChainError{Path: path, Line: s.line + 1, Offset: s.good, Seq: s.head.Seq + 1, Msg: "is not whole, and another file follows"}
		}
	}
	return r, nil
}

// scan reads one file of the log.
type scan struct {
	path  string
	head  Head   // the entry before; afterwards the last good one
	known bool   // head is known: the first line must follow it
	want  uint64 // number of the first entry by the file's name; 0 = any

	line int   // good lines
	good int64 // octets of good lines
	torn int64 // octets after the last newline
}

// run reads lines from r until its end, or the first that is bad (*ChainError).
func (s *scan) run(r io.Reader, fn func(Entry) error) error {
	b := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := b.ReadSlice('\n')
		if err == io.EOF {
			s.torn = int64(len(line))
			return nil
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			return s.bad("is longer than %d octets", maxLine)
		}
		if err != nil {
			return fmt.Errorf("audit log %s: %w", s.path, err)
		}
		e, head, err := parseLine(line[:len(line)-1])
		switch {
		case err != nil:
			return s.bad("%v", err)
		case s.line == 0 && s.want != 0 && e.Seq != s.want:
			return s.bad("the file's name says entry %d, the line says %d", s.want, e.Seq)
		case s.known && e.Seq != s.head.Seq+1:
			return s.bad("follows entry %d and says %d: lines were taken away, added or moved", s.head.Seq, e.Seq)
		case s.known && e.Prev != hex.EncodeToString(s.head.Hash[:]):
			return s.bad("does not follow the line before it")
		case e.Seq == 0 || e.Seq == 1 && e.Prev != hex.EncodeToString(make([]byte, 32)):
			return s.bad("is no first entry")
		}
		if err := fn(e); err != nil {
			return err
		}
		s.head, s.known = head, true
		s.line++
		s.good += int64(len(line))
	}
}

func (s *scan) bad(format string, args ...any) error {
	e := &ChainError{Path: s.path, Line: s.line + 1, Offset: s.good, Msg: fmt.Sprintf(format, args...)}
	switch {
	case s.known:
		e.Seq = s.head.Seq + 1
	default:
		e.Seq = s.want
	}
	return e
}
