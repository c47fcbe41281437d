package segment

import (
	"errors"
	"io"
	"os"

	"opentap/capture/zseek"
)

// file is a segment's, open for reading. What is read is the segment as it was written, compressed or not.
type file struct {
	f    *os.File
	path string
	disk int64         // octets that it takes
	size int64         // of the segment
	z    *zseek.Reader // nil: it is not compressed
	bad  string        // why a compressed one cannot be read at all; ""
}

// openSegment opens the file of a segment, the compressed one where there is no other.
func openSegment(dir string, n uint32) (*file, error) {
	f, err := openPlain(segmentPath(dir, n))
	if errors.Is(err, os.ErrNotExist) {
		return openPacked(packedPath(dir, n))
	}
	return f, err
}

func openPlain(path string) (*file, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, err
	}
	return &file{f: f, path: path, disk: st.Size(), size: st.Size()}, nil
}

func openPacked(path string) (*file, error) {
	f, err := openPlain(path)
	if err != nil {
		return nil, err
	}
	f.z, err = zseek.NewReader(f.f, f.disk)
	switch {
	case errors.Is(err, zseek.ErrDamaged):
		f.bad, f.size = err.Error(), 0
	case err != nil:
		f.f.Close()
		return nil, err
	default:
		f.size = f.z.Size()
	}
	return f, nil
}

// packed reports whether the file is compressed.
func (f *file) packed() bool { return f.z != nil || f.bad != "" }

// ReadAt reads the segment as it was written.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	switch {
	case f.z != nil:
		return f.z.ReadAt(p, off)
	case f.bad != "":
		return 0, io.EOF
	}
	return f.f.ReadAt(p, off)
}

// expect tells the kernel that a range of the segment will be read soon.
func (f *file) expect(off, n int64) {
	if f.z != nil {
		off, n = f.z.Extent(off, n)
	}
	willRead(f.f, off, n)
}

// Close closes the file.
func (f *file) Close() error {
	if f.z != nil {
		f.z.Close()
	}
	return f.f.Close()
}
