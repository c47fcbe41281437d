package record

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// suffix ends the name of every file of a Log; what has another name in its directory is left alone.
const suffix = ".rows"

// Open opens the Log of a directory, or makes one. After a crash it cuts torn ends off and says in the report what was
// lost; doing it again finds nothing more. It takes no goroutine but a timer, from the first Append on.
func Open[T any](cfg Config, c Codec[T]) (*Log[T], Report, error) {
	return open(cfg, c, func(path string) (file, error) {
		f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return nil, err // not a file holding nil
		}
		return f, nil
	})
}

func open[T any](cfg Config, c Codec[T], openFile func(string) (file, error)) (*Log[T], Report, error) {
	var rep Report
	if err := cfg.fill(); err != nil {
		return nil, rep, err
	}
	name, version := c.Schema()
	if name == "" || len(name) > maxSchemaName {
		return nil, rep, fmt.Errorf("record: schema name %q is not 1 to %d octets", name, maxSchemaName)
	}
	if !cfg.ReadOnly {
		if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
			return nil, rep, fmt.Errorf("open record log: %w", err)
		}
	}
	found, err := list(cfg.Dir)
	if err != nil {
		return nil, rep, fmt.Errorf("open record log: %w", err)
	}
	l := &Log[T]{cfg: cfg, codec: c, open: openFile}
	next := uint64(1)
	for n, f := range found {
		next = max(next, f.number+1)
		info, err := recoverFile(f, name, version, n == len(found)-1, &rep)
		if err != nil {
			return nil, rep, err
		}
		if info == nil {
			continue
		}
		if k := len(l.files); k > 0 {
			if info.first < l.files[k-1].end {
				return nil, rep, fmt.Errorf("open %s: begins with row %d, but the file before it ends with row %d", info.path, info.first, l.files[k-1].end)
			}
			rep.RowsMissing += info.first - l.files[k-1].end
		}
		l.files = append(l.files, *info)
		rep.Files++
		rep.Rows += info.end - info.first
	}
	if k := len(l.files); k > 0 {
		l.written = l.files[k-1].end
	}
	if cfg.ReadOnly {
		l.closed = true
		return l, rep, nil
	}
	if k := len(l.files); k > 0 {
		if last := l.files[k-1]; !last.sealed {
			if l.journal, err = openFile(last.path); err != nil {
				return nil, rep, fmt.Errorf("open record log: %w", err)
			}
			return l, rep, nil
		}
	}
	if err := l.begin(next, l.written); err != nil {
		return nil, rep, fmt.Errorf("open record log: %w", err)
	}
	return l, rep, nil
}

func list(dir string) ([]fileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var found []fileInfo
	for _, e := range entries {
		digits, ok := strings.CutSuffix(e.Name(), suffix)
		if !ok || !e.Type().IsRegular() {
			continue
		}
		number, err := strconv.ParseUint(digits, 10, 63)
		if err != nil {
			continue
		}
		found = append(found, fileInfo{path: filepath.Join(dir, e.Name()), number: number})
	}
	slices.SortFunc(found, func(a, b fileInfo) int { return cmp.Compare(a.number, b.number) })
	return found, nil
}

// recoverFile finds what is whole of one file and cuts the rest off. nil, nil: there is nothing to keep of it.
func recoverFile(info fileInfo, name string, version uint16, last bool, rep *Report) (*fileInfo, error) {
	f, err := os.OpenFile(info.path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	head := make([]byte, fileHeaderLen)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return nil, fmt.Errorf("recover: %w", err)
	}
	var h fileHeader
	if err := h.decode(head[:n]); err != nil {
		// A crash can leave the newest file without a whole header; then it has no rows either.
		if last && st.Size() <= fileHeaderLen {
			rep.BytesLost += st.Size()
			rep.Torn = append(rep.Torn, info.path)
			return nil, os.Remove(info.path)
		}
		rep.Unreadable = append(rep.Unreadable, info.path)
		return nil, nil
	}
	if h.schema != name || h.schemaVersion != version {
		return nil, &SchemaError{Path: info.path, Have: h.schema, HaveV: h.schemaVersion, Want: name, WantV: version}
	}
	info.first = h.first
	if end, ok := sealOf(f, st.Size()); ok && end >= h.first {
		info.end, info.size, info.sealed = end, st.Size(), true
		return &info, nil
	}
	info.end, info.size, info.sealed = walk(f, st.Size(), h.first)
	if lost := st.Size() - info.size; lost > 0 {
		rep.BytesLost += lost
		rep.Torn = append(rep.Torn, info.path)
		if err := errors.Join(f.Truncate(info.size), f.Sync()); err != nil {
			return nil, fmt.Errorf("recover: %w", err)
		}
	}
	return &info, nil
}

// sealOf reads the seal at the end of a file.
func sealOf(f *os.File, size int64) (end uint64, ok bool) {
	if size < fileHeaderLen+frameHeaderLen {
		return 0, false
	}
	w := walker{r: io.NewSectionReader(f, size-frameHeaderLen, frameHeaderLen), size: frameHeaderLen}
	if w.next() != nil || w.h.kind != kindSeal || w.h.first > maxRows {
		return 0, false
	}
	return w.h.first, true
}

// walk goes through the frames up to the first that is not whole.
func walk(f io.ReaderAt, length int64, first uint64) (end uint64, size int64, sealed bool) {
	w := walker{r: bufio.NewReaderSize(io.NewSectionReader(f, fileHeaderLen, length), 256<<10), offset: fileHeaderLen, size: length}
	defer w.close()
	end, size = first, fileHeaderLen
	for w.next() == nil && w.h.first == end {
		if w.h.kind == kindSeal {
			return end, w.offset, true
		}
		end += uint64(w.h.rows)
		size = w.offset
	}
	return end, size, false
}
