package segment

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"opentap/capture/index"
	"opentap/capture/zseek"
	"opentap/ledger"
	"opentap/packet"
)

// Info describes a segment.
type Info struct {
	Number    uint32
	Path      string
	Sealed    bool
	Recovered bool   // sealed by Recover after a crash
	Bytes     int64  // of the file; of one that is being written, what is readable
	Damaged   string // what is wrong with the head; ""

	Compressed bool // the file is
	Catalogued bool // known from the catalogue: head and seal were not read

	IndexBytes int64 // of the index beside it

	// Of the whole chunks. For a sealed segment they come from its seal.
	Chunks       uint32
	Packets      uint64
	Octets       uint64 // on the wire
	StoredOctets uint64
	Earliest     packet.Timestamp // bounds of the packet times; 0 without packets
	Latest       packet.Timestamp
	Account      ledger.Account // the last one

	start    int64 // of the first chunk
	end      int64 // of the chunks
	limit    int
	lanes    int
	recordID uint64         // 0 = unknown, since the head is damaged
	base     ledger.Account // before the segment
	before   uint64         // packets of the recording before end
	chain    uint32
}

// Base is the account before the segment, as its head has it: nothing if that is damaged.
func (in *Info) Base() ledger.Account { return in.base }

// list returns the numbers of the segments in dir, in order.
func list(dir string) ([]uint32, error) {
	names, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("open recording: %w", err)
	}
	var numbers []uint32
	for _, e := range names {
		n, ok := parseName(e.Name(), segmentSuffix)
		if !ok {
			n, ok = parseName(e.Name(), packedSuffix)
		}
		if ok && e.Type().IsRegular() {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// inspect reads the head and the seal of a segment.
func inspect(dir string, n uint32) (Info, error) {
	f, err := openSegment(dir, n)
	if err != nil {
		return Info{}, err
	}
	defer f.Close()
	in, err := inspectFile(f, f.size, n, f.path)
	in.Bytes, in.Compressed = f.disk, f.packed()
	if f.bad != "" {
		in.Damaged = f.bad
	}
	in.IndexBytes = indexBytes(dir, n)
	return in, err
}

// indexBytes is the size of the index of a segment, and of what goes with the segment; 0 = there is none.
func indexBytes(dir string, n uint32) (octets int64) {
	if n%index.SievesSegments == 0 {
		octets = sievesSize(dir, sievesOf(n))
	}
	if st, err := os.Stat(indexPath(dir, n)); err == nil {
		octets += st.Size()
	}
	return octets
}

func inspectFile(f io.ReaderAt, size int64, n uint32, path string) (Info, error) {
	in := Info{Number: n, Path: path, Bytes: size, start: Page, end: size &^ (Page - 1), limit: MaxChunkBytes}
	b := make([]byte, Page)
	got, err := readFull(f, b, 0)
	if err != nil {
		return in, err
	}
	if m, ok := headLength(b[:got]); ok && m > Page {
		b = make([]byte, m)
		if got, err = readFull(f, b, 0); err != nil {
			return in, err
		}
	}
	var h head
	msg, foreign := parseHead(b[:got], &h)
	if in.Damaged = msg; msg == "" {
		in.start, in.limit, in.recordID, in.lanes, in.base = int64(h.length), h.limit, h.recordID, h.lanes, h.account
		if h.segment != n {
			return in, &ForeignError{Path: path, Msg: fmt.Sprintf("its head says segment %08d", h.segment)}
		}
	} else if foreign {
		return in, &ForeignError{Path: path, Msg: msg}
	}
	if size%Page != 0 || size < in.start+Page {
		return in, nil
	}
	if _, err := readFull(f, b[:Page], size-Page); err != nil {
		return in, err
	}
	var c ChunkHeader
	var t totals
	if parseSeal(b[:Page], size-Page, &c, &t) && in.owns(&c) {
		in.Sealed, in.Recovered, in.end = true, c.Recovered(), c.Offset
		in.setTotals(&t)
		in.recordID, in.before, in.Account = c.RecordID, c.Before, c.Account
	}
	return in, nil
}

// owns reports whether a chunk belongs to the segment, and not to what was on the disk before.
func (in *Info) owns(c *ChunkHeader) bool {
	return c.Segment == in.Number && (in.recordID == 0 || c.RecordID == in.recordID)
}

func (in *Info) setTotals(t *totals) {
	in.Chunks, in.Packets, in.Octets, in.StoredOctets = t.chunks, t.packets, t.octets, t.stored
	in.Earliest, in.Latest, in.chain = t.earliest, t.latest, t.chain
}

// readFull reads as much of b as the file has, of a compressed one as much as can be decompressed.
func readFull(f io.ReaderAt, b []byte, offset int64) (int, error) {
	n, err := f.ReadAt(b, offset)
	if err == io.EOF || errors.Is(err, zseek.ErrDamaged) {
		err = nil
	}
	return n, err
}

// walk calls fn for the header of each chunk of a segment until it returns false; page is scratch of Page octets. gap
// is called for what is not readable in between: damage that was skipped until the next header.
func walk(f io.ReaderAt, in *Info, page []byte, fn func(*ChunkHeader) bool, gap func(from, to int64, msg string) bool) error {
	var h ChunkHeader
	next, bad, why := uint32(0), int64(-1), ""
	if in.Damaged != "" {
		bad, why = 0, in.Damaged
	}
	for at := in.start; at < in.end; {
		n, err := readFull(f, page[:Page], at)
		if err != nil {
			return fmt.Errorf("read segment %s: offset %d: %w", in.Path, at, err)
		}
		msg := h.parse(page[:n], at, in.limit)
		switch {
		case msg != "":
		case !in.owns(&h) || h.Sequence < next && !h.Seal():
			msg = "chunk of another segment"
		case h.End() > in.end:
			msg = "file ends inside the chunk"
		}
		if msg != "" {
			if bad < 0 {
				bad, why = at, msg
			}
			at += Page
			continue
		}
		if bad >= 0 && gap != nil && !gap(bad, at, why) {
			return nil
		}
		bad = -1
		if h.Seal() {
			return nil
		}
		if !fn(&h) {
			return nil
		}
		next, at = h.Sequence+1, h.End()
	}
	if bad >= 0 && gap != nil {
		gap(bad, in.end, why)
	}
	return nil
}
