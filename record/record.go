// Package record keeps tabular rows in append-only interval files.
//
// Runs in: agent | tools
//
// A Log is a directory of files. The newest is a journal: frames of rows, each compressed and covered by a crc32c, are
// appended to it; when it is long enough, or Rotate is called, it is sealed and the next begins. Journal and sealed file are
// one format (docs/format/record.md), so that sealing costs nothing and everything written can be read at once.
package record

import (
	"fmt"
	"time"
)

// Codec turns one row into octets and back. Its methods are called by several goroutines at the same time: it keeps no state.
type Codec[T any] interface {
	// Append appends the octets of v to dst.
	Append(dst []byte, v *T) []byte
	// Decode fills all of v from exactly the octets Append made. It never keeps src and returns an error on any other octets.
	Decode(src []byte, v *T) error
	// Schema names the kind of row, at most 28 octets, and its version. A Log of another schema is refused.
	Schema() (name string, version uint16)
}

// Config says where a Log lives and how it is written.
type Config struct {
	Dir string // made if it is not there; belongs to one Log at a time

	// SyncEvery bounds the time from Append to the disk: rows older than this survive a power loss. 0 is one second;
	// negative leaves it to Sync, Rotate and Close.
	SyncEvery time.Duration

	// ReadOnly opens the rows that are there, makes nothing and takes no more: a Log that is closed already. It works on a
	// full disk.
	ReadOnly bool

	MaxFileBytes int64 // a file longer than this is sealed and the next begins; 0 is 64 MiB
	FrameBytes   int   // rows are compressed and written in frames of about this many octets; 0 is 64 KiB
}

// Bounds of the format. A reader refuses more, so that a broken length cannot make it take memory.
const (
	MaxRow   = 1 << 20        // octets of one row
	maxFrame = 8<<20 + MaxRow // octets of one frame, before compression
)

func (c *Config) fill() error {
	if c.Dir == "" {
		return fmt.Errorf("record: no directory")
	}
	if c.SyncEvery == 0 {
		c.SyncEvery = time.Second
	}
	if c.MaxFileBytes == 0 {
		c.MaxFileBytes = 64 << 20
	}
	if c.FrameBytes == 0 {
		c.FrameBytes = 64 << 10
	}
	if c.MaxFileBytes < 0 || c.FrameBytes < 0 || c.FrameBytes > 8<<20 {
		return fmt.Errorf("record: max file bytes %d, frame bytes %d: out of range", c.MaxFileBytes, c.FrameBytes)
	}
	return nil
}

// Report says what Open found and did.
type Report struct {
	Files       int      // files found and kept
	Rows        uint64   // rows that can be read
	BytesLost   int64    // octets cut off torn ends
	RowsMissing uint64   // rows between the first and the last that no file holds
	Torn        []string // paths of the files that were cut
	Unreadable  []string // paths of files whose header cannot be read; they are left as they are
}

// Clean says whether nothing was lost.
func (r *Report) Clean() bool {
	return r.BytesLost == 0 && r.RowsMissing == 0 && len(r.Unreadable) == 0
}

// CorruptionError says where stored rows no longer read back.
type CorruptionError struct {
	Path   string
	Offset int64  // octets from the beginning of the file
	Row    uint64 // first row that cannot be had
	Msg    string
}

func (e *CorruptionError) Error() string {
	return fmt.Sprintf("read %s: frame at offset %d (row %d): %s", e.Path, e.Offset, e.Row, e.Msg)
}

// SchemaError says that a directory holds rows of another kind.
type SchemaError struct {
	Path         string
	Have, Want   string
	HaveV, WantV uint16
}

func (e *SchemaError) Error() string {
	return fmt.Sprintf("open %s: holds rows of %q version %d, want %q version %d", e.Path, e.Have, e.HaveV, e.Want, e.WantV)
}

// LostError is the sticky error of a Log that could not write: what was appended since the last frame is lost, what was
// written before it stays readable.
type LostError struct {
	Path string
	Rows uint64 // rows accepted by Append that are not kept
	Err  error  // what the system said: syscall.ENOSPC, …
}

func (e *LostError) Error() string {
	return fmt.Sprintf("write %s: %d rows lost: %v", e.Path, e.Rows, e.Err)
}

// Unwrap returns what the system said.
func (e *LostError) Unwrap() error { return e.Err }
