// Package zseek reads anywhere in a file that is compressed with zstd, and writes such files.
//
// Runs in: agent | tools
//
// The format is Zstandard's seekable one (github.com/facebook/zstd, contrib/seekable_format): frames that are independent of one another, and
// at the end a table of their sizes in a skippable frame, RFC 8878 section 3.1.2. So `zstd -d` makes the original of it.
package zseek

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"

	"github.com/klauspost/compress/zstd"
)

// FrameOctets is how much of the original a frame holds: what is decompressed at least to read an octet.
const FrameOctets = 128 << 10

// Of the seek table.
const (
	skippableMagic = 0x184d2a5e
	footerMagic    = 0x8f92eab1
	footerSize     = 9
	entrySize      = 8
	checksummed    = 0x80 // descriptor: entries have four octets more
	reserved       = 0x7c

	maxFrame = 64 << 20 // of the original, that a reader takes
	maxTable = 256 << 20
)

// ErrDamaged says that a file does not read back as it was written. An error of the device is no ErrDamaged.
var ErrDamaged = errors.New("compressed file is damaged")

var le = binary.LittleEndian

// Compress writes what r has to w. more is asked between frames: an error of it ends Compress with that error. It returns how many octets it wrote.
func Compress(w io.Writer, r io.Reader, more func() error) (int64, error) {
	z, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(FrameOctets), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return 0, err
	}
	defer z.Close()
	table := le.AppendUint32(nil, skippableMagic)
	table = append(table, 0, 0, 0, 0) // its length
	buf, out := make([]byte, FrameOctets), []byte(nil)
	written, frames := int64(0), uint32(0)
	for {
		if err := more(); err != nil {
			return written, err
		}
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			out = z.EncodeAll(buf[:n], out[:0])
			k, werr := w.Write(out)
			if written += int64(k); werr != nil {
				return written, werr
			}
			table = le.AppendUint32(table, uint32(len(out)))
			table = le.AppendUint32(table, uint32(n))
			frames++
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return written, err
		}
	}
	table = le.AppendUint32(table, frames)
	table = append(table, 0)
	table = le.AppendUint32(table, footerMagic)
	le.PutUint32(table[4:], uint32(len(table)-8))
	n, err := w.Write(table)
	return written + int64(n), err
}

// Reader reads the original. It is used by one goroutine at a time.
type Reader struct {
	r      io.ReaderAt
	frames []frame // and one more, which is the end
	z      *zstd.Decoder

	in    []byte
	out   []byte // the frame that was read last
	outOf int    // its number; -1 = none
}

// frame is where a frame begins, in the file and in the original.
type frame struct{ at, origin int64 }

// NewReader reads the table of a file of so many octets. ErrDamaged: it has none that fits.
func NewReader(r io.ReaderAt, size int64) (*Reader, error) {
	var foot [footerSize]byte
	if size < footerSize+8 {
		return nil, fmt.Errorf("%w: it is too short", ErrDamaged)
	}
	if _, err := r.ReadAt(foot[:], size-footerSize); err != nil {
		return nil, fmt.Errorf("read seek table: %w", err)
	}
	each := int64(entrySize)
	if foot[4]&checksummed != 0 {
		each += 4
	}
	n := int64(le.Uint32(foot[:]))
	length := 8 + n*each + footerSize
	if le.Uint32(foot[5:]) != footerMagic || foot[4]&reserved != 0 || length > size || length > maxTable {
		return nil, fmt.Errorf("%w: it has no seek table", ErrDamaged)
	}
	table := make([]byte, length)
	if _, err := r.ReadAt(table, size-length); err != nil {
		return nil, fmt.Errorf("read seek table: %w", err)
	}
	if le.Uint32(table) != skippableMagic || int64(le.Uint32(table[4:])) != length-8 {
		return nil, fmt.Errorf("%w: it has no seek table", ErrDamaged)
	}
	out := &Reader{r: r, frames: make([]frame, 1, n+1), outOf: -1}
	end := frame{}
	for e := table[8 : length-footerSize]; len(e) > 0; e = e[each:] {
		octets := int64(le.Uint32(e[4:]))
		if octets > maxFrame {
			return nil, fmt.Errorf("%w: a frame of %d octets", ErrDamaged, octets)
		}
		end.at += int64(le.Uint32(e))
		end.origin += octets
		out.frames = append(out.frames, end)
	}
	if end.at != size-length {
		return nil, fmt.Errorf("%w: the seek table is of another file", ErrDamaged)
	}
	z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	out.z = z
	return out, nil
}

// Size is how long the original is.
func (r *Reader) Size() int64 { return r.frames[len(r.frames)-1].origin }

// Close gives memory back. The file stays open.
func (r *Reader) Close() { r.z.Close() }

// find returns the number of the frame that has the octet of the original at off, which is one of it.
func (r *Reader) find(off int64) int {
	return sort.Search(len(r.frames)-1, func(i int) bool { return r.frames[i+1].origin > off })
}

// Extent says which octets of the file must be read for n of the original from off on.
func (r *Reader) Extent(off, n int64) (from, octets int64) {
	end := min(off+n, r.Size())
	if off < 0 || off >= end {
		return 0, 0
	}
	from = r.frames[r.find(off)].at
	return from, r.frames[r.find(end-1)+1].at - from
}

// ReadAt is io.ReaderAt for the original.
func (r *Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("read at a negative offset")
	}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		if at >= r.Size() {
			return done, io.EOF
		}
		i := r.find(at)
		begin, end := r.frames[i].origin, r.frames[i+1].origin
		if at == begin && int64(len(p)-done) >= end-begin && i != r.outOf { // whole: no copy
			if err := r.decode(i, p[done:done:done+int(end-begin)]); err != nil {
				return done, err
			}
			done += int(end - begin)
			continue
		}
		if i != r.outOf {
			r.outOf = -1
			if int64(cap(r.out)) < end-begin {
				r.out = make([]byte, end-begin)
			}
			r.out = r.out[:end-begin]
			if err := r.decode(i, r.out[:0]); err != nil {
				return done, err
			}
			r.outOf = i
		}
		done += copy(p[done:], r.out[at-begin:])
	}
	return done, nil
}

// decode decompresses a frame to dst, which has just the room for it.
func (r *Reader) decode(i int, dst []byte) error {
	n := int(r.frames[i+1].at - r.frames[i].at)
	want := int(r.frames[i+1].origin - r.frames[i].origin)
	if n > maxFrame+maxFrame/64 {
		return fmt.Errorf("%w: frame %d takes %d octets", ErrDamaged, i, n)
	}
	if cap(r.in) < n {
		r.in = make([]byte, n)
	}
	in := r.in[:n]
	if k, err := r.r.ReadAt(in, r.frames[i].at); k < n {
		if err == io.EOF {
			return fmt.Errorf("%w: it ends in frame %d", ErrDamaged, i)
		}
		return fmt.Errorf("read frame %d: %w", i, err)
	}
	out, err := r.z.DecodeAll(in, dst)
	if err != nil {
		return fmt.Errorf("%w: frame %d: %w", ErrDamaged, i, err)
	}
	if len(out) != want || want > 0 && &out[0] != &dst[:1][0] {
		return fmt.Errorf("%w: frame %d has %d octets instead of %d", ErrDamaged, i, len(out), want)
	}
	return nil
}
