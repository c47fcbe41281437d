package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// The format is described in docs/format/record.md; all integers are little-endian.

const (
	fileHeaderLen  = 64
	frameHeaderLen = 32
	formatVersion  = 1
	maxSchemaName  = 28
	maxRows        = 1 << 62 // no row has a higher number
)

var fileMagic = [8]byte{'O', 'T', 'R', 'O', 'W', 'S', '\r', '\n'}

// Kinds of frames, as they stand in a hexdump.
const (
	kindRaw  = uint32('R') | 'A'<<8 | 'W'<<16 | '1'<<24
	kindZstd = uint32('Z') | 'S'<<8 | 'T'<<16 | '1'<<24
	kindSeal = uint32('S') | 'E'<<8 | 'A'<<16 | 'L'<<24
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type fileHeader struct {
	number, first uint64
	schema        string
	schemaVersion uint16
}

func (h *fileHeader) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, fileMagic[:]...)
	dst = binary.LittleEndian.AppendUint16(dst, formatVersion)
	dst = binary.LittleEndian.AppendUint16(dst, h.schemaVersion)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	dst = binary.LittleEndian.AppendUint64(dst, h.number)
	dst = binary.LittleEndian.AppendUint64(dst, h.first)
	var name [maxSchemaName]byte
	copy(name[:], h.schema)
	dst = append(dst, name[:]...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

func (h *fileHeader) decode(b []byte) error {
	switch {
	case len(b) < fileHeaderLen:
		return fmt.Errorf("file header cut after %d of %d octets", len(b), fileHeaderLen)
	case [8]byte(b[:8]) != fileMagic:
		return errors.New("not a record file")
	case crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]):
		return errors.New("file header: checksum mismatch")
	case binary.LittleEndian.Uint16(b[8:]) != formatVersion:
		return fmt.Errorf("format version %d, want %d", binary.LittleEndian.Uint16(b[8:]), formatVersion)
	}
	h.schemaVersion = binary.LittleEndian.Uint16(b[10:])
	h.number = binary.LittleEndian.Uint64(b[16:])
	h.first = binary.LittleEndian.Uint64(b[24:])
	if h.first > maxRows {
		return fmt.Errorf("begins with row %d", h.first)
	}
	name := b[32:60]
	if i := slices.Index(name, 0); i >= 0 {
		name = name[:i]
	}
	h.schema = string(name)
	return nil
}

type frameHeader struct {
	kind   uint32
	stored uint32 // octets of the payload in the file
	raw    uint32 // octets of the payload when decompressed
	rows   uint32
	first  uint64 // number of the first row; in a seal, of the row after the last
}

// append writes header and payload.
func (h *frameHeader) append(dst, payload []byte) []byte {
	at := len(dst)
	dst = binary.LittleEndian.AppendUint32(dst, h.kind)
	dst = binary.LittleEndian.AppendUint32(dst, h.stored)
	dst = binary.LittleEndian.AppendUint32(dst, h.raw)
	dst = binary.LittleEndian.AppendUint32(dst, h.rows)
	dst = binary.LittleEndian.AppendUint64(dst, h.first)
	dst = binary.LittleEndian.AppendUint32(dst, 0)
	sum := crc32.Checksum(dst[at:], castagnoli)
	sum = crc32.Update(sum, castagnoli, payload)
	dst = binary.LittleEndian.AppendUint32(dst, sum)
	return append(dst, payload...)
}

// decode reads the header; the checksum is checked with the payload.
func (h *frameHeader) decode(b []byte) error {
	h.kind = binary.LittleEndian.Uint32(b)
	h.stored = binary.LittleEndian.Uint32(b[4:])
	h.raw = binary.LittleEndian.Uint32(b[8:])
	h.rows = binary.LittleEndian.Uint32(b[12:])
	h.first = binary.LittleEndian.Uint64(b[16:])
	switch {
	case h.kind == kindSeal && h.stored == 0 && h.raw == 0 && h.rows == 0:
	case h.kind == kindRaw && h.raw == h.stored && h.raw <= maxFrame && h.rows > 0 && h.rows <= h.raw:
	case h.kind == kindZstd && h.raw <= maxFrame && h.stored < h.raw && h.rows > 0 && h.rows <= h.raw:
	default:
		return errors.New("no frame header")
	}
	return nil
}

var errChecksum = errors.New("checksum mismatch")

// walker reads the frames of one file in order.
type walker struct {
	r       io.Reader
	offset  int64 // of the next frame
	size    int64 // of the file, so that a broken length takes no memory
	h       frameHeader
	head    [frameHeaderLen]byte
	payload []byte // as stored; reused
	rows    []byte // decompressed; reused
	zstd    *zstd.Decoder
}

// next reads one frame and checks it. io.EOF is the clean end; offset moves only past a sound frame.
func (w *walker) next() error {
	if _, err := io.ReadFull(w.r, w.head[:]); err != nil {
		if err == io.ErrUnexpectedEOF {
			return errors.New("frame header cut")
		}
		return err
	}
	if err := w.h.decode(w.head[:]); err != nil {
		return err
	}
	if w.offset+frameHeaderLen+int64(w.h.stored) > w.size {
		return errors.New("frame cut")
	}
	w.payload = slices.Grow(w.payload[:0], int(w.h.stored))[:w.h.stored]
	if _, err := io.ReadFull(w.r, w.payload); err != nil {
		if err == io.ErrUnexpectedEOF || err == io.EOF {
			return errors.New("frame cut")
		}
		return err
	}
	sum := crc32.Checksum(w.head[:28], castagnoli)
	sum = crc32.Update(sum, castagnoli, w.payload)
	if sum != binary.LittleEndian.Uint32(w.head[28:]) {
		return errChecksum
	}
	w.offset += frameHeaderLen + int64(w.h.stored)
	return nil
}

// open decompresses the frame last read and returns its rows, each preceded by its length as a uvarint.
func (w *walker) open() ([]byte, error) {
	if w.h.kind == kindRaw {
		return w.payload, nil
	}
	if w.zstd == nil {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		w.zstd = d
	}
	w.rows = slices.Grow(w.rows[:0], int(w.h.raw))
	rows, err := w.zstd.DecodeAll(w.payload, w.rows)
	if err != nil {
		return nil, err
	}
	w.rows = rows
	if len(rows) != int(w.h.raw) {
		return nil, fmt.Errorf("decompressed to %d octets, want %d", len(rows), w.h.raw)
	}
	return rows, nil
}

func (w *walker) close() {
	if w.zstd != nil {
		w.zstd.Close()
	}
}

// cutRow splits one row off.
func cutRow(b []byte) (row, rest []byte, err error) {
	n, k := binary.Uvarint(b)
	if k <= 0 || n > uint64(len(b)-k) {
		return nil, nil, errors.New("row length beyond the frame")
	}
	return b[k : k+int(n)], b[k+int(n):], nil
}
