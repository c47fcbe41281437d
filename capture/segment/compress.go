package segment

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"opentap/capture/zseek"
)

// Compressed says what Compress did.
type Compressed struct {
	Segments int   // that it compressed
	Kept     int   // that it left as they are, since they do not read back whole or would not get smaller
	Before   int64 // octets of those it compressed
	After    int64
}

// Compress compresses every sealed segment of dir that is not: see docs/format/segment.md. A segment is replaced when its
// compressed file is on the disk and each chunk has been read back from it. It may run beside readers and a Writer; one
// Compress at a time. more is asked every few hundred KiB whether to go on; its error ends Compress between any two. nil: always.
func Compress(ctx context.Context, dir string, more func() error) (Compressed, error) {
	var c Compressed
	numbers, err := list(dir)
	if err != nil {
		return c, err
	}
	p := packer{dir: dir, more: func() error {
		if err := ctx.Err(); err != nil || more == nil {
			return err
		}
		return more()
	}}
	defer func() {
		if c.Segments > 0 {
			refreshCatalogue(dir, false)
		}
	}()
	for _, n := range numbers {
		in, err := inspect(dir, n)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, err
		}
		if in.Compressed || !in.Sealed || in.Damaged != "" {
			continue
		}
		after, err := p.pack(&in)
		switch {
		case errors.Is(err, os.ErrNotExist): // expired meanwhile
		case errors.Is(err, errKeep):
			c.Kept++
		case err != nil:
			return c, fmt.Errorf("compress segment %08d: %w", n, err)
		default:
			c.Segments, c.Before, c.After = c.Segments+1, c.Before+in.Bytes, c.After+after
		}
	}
	return c, nil
}

// errKeep says that a segment stays as it is.
var errKeep = errors.New("segment stays as it is")

type packer struct {
	dir  string
	more func() error
	buf  []byte
}

// pack puts a compressed file in the place of a segment and returns its size.
func (p *packer) pack(in *Info) (int64, error) {
	src, err := openPlain(in.Path)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	tmp, final := packingPath(p.dir, in.Number), packedPath(p.dir, in.Number)
	dst, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return 0, err
	}
	defer os.Remove(tmp)
	defer dst.Close()
	w := bufio.NewWriterSize(dst, 1<<20)
	size, err := zseek.Compress(w, io.NewSectionReader(src, 0, src.size), p.more)
	if err == nil {
		err = w.Flush()
	}
	if err == nil && size >= src.size {
		err = errKeep
	}
	if err == nil {
		err = p.readBack(tmp, in)
	}
	if err == nil {
		err = dst.Sync()
	}
	if err == nil {
		err = os.Rename(tmp, final)
	}
	if err != nil {
		return 0, err
	}
	if err := syncDirectory(p.dir); err != nil {
		return 0, err
	}
	if err := os.Remove(in.Path); err != nil {
		if errors.Is(err, os.ErrNotExist) { // expired meanwhile: what was made of it goes as well
			os.Remove(final)
		}
		return 0, err
	}
	return size, nil
}

// readBack verifies all chunks of the compressed file at path, which is to be the segment's.
func (p *packer) readBack(path string, in *Info) error {
	f, err := openPacked(path)
	if err != nil {
		return err
	}
	defer f.Close()
	got, err := inspectFile(f, f.size, in.Number, path)
	if err != nil {
		return err
	}
	whole := got.Sealed && got.chain == in.chain && got.end == in.end
	chunks := uint32(0)
	var failed error
	err = walk(f, &got, make([]byte, Page), func(h *ChunkHeader) bool {
		if failed = p.more(); failed != nil {
			return false
		}
		if cap(p.buf) < h.Length {
			p.buf = make([]byte, max(h.Length, 4<<20))
		}
		b := p.buf[:h.Length]
		n, rerr := readFull(f, b, h.Offset)
		whole = whole && rerr == nil && n == len(b) && h.verify(b) == ""
		chunks++
		return whole
	}, func(int64, int64, string) bool {
		whole = false
		return false
	})
	switch {
	case err != nil:
		return err
	case failed != nil:
		return failed
	case !whole || chunks != in.Chunks:
		return errKeep
	}
	return nil
}

func syncDirectory(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}
