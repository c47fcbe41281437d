// Package segment stores the packets of one recording in append-only, checksummed pcapng files.
//
// Runs in: agent
//
// A recording is a directory of segments; docs/format/segment.md is the format. One Writer appends, any number of
// Recordings read beside it, Recover repairs what a crash left.
package segment

import (
	"errors"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"opentap/pcap"
)

// Page is the alignment of heads and chunks in octets: the logical block of O_DIRECT on every common disk.
const Page = 4096

// Limits of a Config.
const (
	MinChunkBytes = 4 * Page
	MaxChunkBytes = 16 << 20
)

// Config says where and how a Writer writes.
type Config struct {
	Dir          string        // the recording's directory; made if it is not there
	SegmentBytes int64         // a segment is sealed before it would grow beyond this
	SegmentSpan  time.Duration // packet time after which a segment is sealed; 0 = only by size
	ChunkBytes   int           // size of a chunk buffer, a multiple of Page: the largest chunk
	Buffers      int           // chunk buffers: how long a stall of the disk can be bridged. At least 2. Memory only in a stall
	Direct       bool          // write past the page cache (O_DIRECT) where the file system can
	FlushEvery   time.Duration // age after which a chunk that is not full is written; <= 0: only Flush and Close do
	SyncEvery    time.Duration // fdatasync at most this often while writing; 0 = only at rotation and close
	NoSync       bool          // never sync: for tests and data that may vanish with the power
	Lanes        int           // ways in, for goroutines that append beside one another; 0 = 1
	NoIndex      bool          // write no index beside the segments: queries then read every chunk of their window
	Interface    pcap.Interface
	Section      pcap.Section
}

// DefaultConfig returns the configuration for a recording in dir, without its interface.
func DefaultConfig(dir string) Config {
	return Config{
		Dir: dir, SegmentBytes: 256 << 20, ChunkBytes: 4 << 20, Buffers: 32, Direct: true,
		FlushEvery: time.Second, SyncEvery: 10 * time.Second,
	}
}

func (c *Config) check() error {
	switch {
	case c.Dir == "":
		return errors.New("segment config: no directory")
	case c.ChunkBytes < MinChunkBytes || c.ChunkBytes > MaxChunkBytes || c.ChunkBytes%Page != 0:
		return fmt.Errorf("segment config: chunk of %d octets: want a multiple of %d from %d to %d", c.ChunkBytes, Page, MinChunkBytes, MaxChunkBytes)
	case c.SegmentBytes < int64(c.ChunkBytes)+maxHead+Page:
		return fmt.Errorf("segment config: segment of %d octets is too small for a chunk of %d", c.SegmentBytes, c.ChunkBytes)
	case c.Lanes < 0 || c.Lanes > MaxLanes:
		return fmt.Errorf("segment config: %d lanes: want at most %d", c.Lanes, MaxLanes)
	case c.Buffers < 2*max(c.Lanes, 1):
		return fmt.Errorf("segment config: %d buffers: want at least 2 for each lane", c.Buffers)
	}
	return nil
}

// Position says up to where a recording can be read: all segments before Segment, and of it what is before Offset. The
// zero Position is used for "everything that is on the disk". Positions grow.
type Position struct {
	Segment uint32
	Chunk   uint32 // chunks of Segment that are readable
	Offset  int64  // octets of Segment that are readable
}

// Before reports whether p is before q.
func (p Position) Before(q Position) bool {
	return p.Segment < q.Segment || p.Segment == q.Segment && p.Offset < q.Offset
}

// Sentinels: one for each decision a caller takes.
var (
	ErrClosed       = errors.New("recording is closed")
	ErrNotRecovered = errors.New("recording was not closed: recover it first")
	ErrBusy         = errors.New("recording is in use by another writer")
)

// ForeignError says that a file with a segment's name holds something else. It is never changed.
type ForeignError struct {
	Path string
	Msg  string
}

// Error shows the path and the reason.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("segment %s: not a segment file: %s", e.Path, e.Msg)
}

// CorruptionError says that a part of a segment does not read back as it was written.
type CorruptionError struct {
	Path    string
	Chunk   uint32 // sequence number, as far as known
	Offset  int64  // in the file
	Packets uint64 // that are lost with it, as far as known
	Msg     string
}

// Error shows the place and the reason.
func (e *CorruptionError) Error() string {
	return fmt.Sprintf("segment %s: chunk %d at offset %d: %s", e.Path, e.Chunk, e.Offset, e.Msg)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

const (
	segmentSuffix = ".pcapng"
	tableSuffix   = ".chunks"
	newSuffix     = ".new"
	packedSuffix  = ".pcapng.zst"
	packingSuffix = ".zst.new"
)

func segmentPath(dir string, n uint32) string { return numbered(dir, n, segmentSuffix) }
func packedPath(dir string, n uint32) string  { return numbered(dir, n, packedSuffix) }
func packingPath(dir string, n uint32) string { return numbered(dir, n, packingSuffix) }
func tablePath(dir string, n uint32) string   { return numbered(dir, n, tableSuffix) }
func newPath(dir string, n uint32) string     { return numbered(dir, n, newSuffix) }

func numbered(dir string, n uint32, suffix string) string {
	return filepath.Join(dir, fmt.Sprintf("%08d%s", n, suffix))
}

// parseName returns the number in a file name of ours with the suffix.
func parseName(name, suffix string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, suffix)
	if !ok || len(digits) != 8 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	return uint32(n), err == nil && n > 0 && digits[0] != '+'
}
