package record

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// Each calls fn with the rows from the first one kept up to row upto (exclusive), in order. v is borrowed: it is
// reused for the next row. What it reads is settled when it begins, so it gives the same rows however many are appended
// meanwhile; upto beyond Len is Len. An error of fn ends it and is returned as it is. *CorruptionError says where the
// disk no longer gives what was written.
func (l *Log[T]) Each(upto uint64, fn func(i uint64, v *T) error) error {
	return l.Range(0, upto, fn)
}

// Range is Each from a row on: it skips whole files and frames before it.
func (l *Log[T]) Range(from, upto uint64, fn func(i uint64, v *T) error) error {
	open, err := l.snapshot(from, upto)
	defer func() {
		for _, s := range open {
			_ = s.f.Close()
		}
	}()
	if err != nil {
		return err
	}
	var w walker
	defer w.close()
	buf := bufio.NewReaderSize(nil, 256<<10)
	v := new(T)
	for _, s := range open {
		buf.Reset(io.NewSectionReader(s.f, fileHeaderLen, s.size-fileHeaderLen))
		w.r, w.offset, w.size = buf, fileHeaderLen, s.size
		next := s.first
		for next < min(s.end, upto) {
			at := w.offset
			bad := func(err error) error {
				return &CorruptionError{Path: s.path, Offset: at, Row: next, Msg: err.Error()}
			}
			switch err := w.next(); {
			case err == io.EOF:
				return bad(fmt.Errorf("the file ends before row %d", s.end))
			case err != nil:
				return bad(err)
			case w.h.kind == kindSeal || w.h.first != next:
				return bad(fmt.Errorf("frame of row %d", w.h.first))
			}
			if next+uint64(w.h.rows) <= from {
				next += uint64(w.h.rows)
				continue
			}
			rows, err := w.open()
			if err != nil {
				return bad(err)
			}
			for range w.h.rows {
				var row []byte
				if row, rows, err = cutRow(rows); err != nil {
					return bad(err)
				}
				if next >= from && next < upto {
					if err := l.codec.Decode(row, v); err != nil {
						return bad(fmt.Errorf("decode row: %w", err))
					}
					if err := fn(next, v); err != nil {
						return err
					}
				}
				next++
			}
			if len(rows) != 0 {
				return bad(errors.New("octets after the last row"))
			}
		}
	}
	return nil
}

type openFile struct {
	fileInfo
	f *os.File
}

// snapshot opens the files that hold rows from..upto, as they are now.
func (l *Log[T]) snapshot(from, upto uint64) ([]openFile, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil && !l.closed && upto > l.written {
		if err := l.flush(); err != nil {
			return nil, err
		}
	}
	var open []openFile
	for _, info := range l.files {
		if info.end <= from || info.first >= upto || info.first == info.end {
			continue
		}
		f, err := os.Open(info.path)
		if err != nil {
			return open, fmt.Errorf("read rows %d to %d: %w", info.first, info.end, err)
		}
		open = append(open, openFile{info, f})
	}
	return open, nil
}
