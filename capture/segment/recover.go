package segment

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"opentap/ledger"
)

// Report says what Recover found and did.
type Report struct {
	Segments []SegmentReport // those without a seal, in order: usually none or one
	Next     uint32          // number of the segment that a Writer begins next
	Packets  uint64          // kept in those segments
	Cut      int64           // octets cut off
	Lost     int64           // of those, up to the last that was not zero: the incomplete chunks
	Missing  uint64          // packets known to be lost between complete chunks
	Account  ledger.Account  // the last known accounts of the recording
}

// SegmentReport says what Recover did with a segment that had no seal.
type SegmentReport struct {
	Number  uint32
	Path    string
	Removed bool   // it held nothing, not even a head
	Chunks  uint32 // kept
	Packets uint64 // kept
	End     int64  // where it was cut: behind the last complete chunk, before the new seal
	Cut     int64  // octets cut off there
	Lost    int64  // of those, up to the last that was not zero
	Why     string // what is wrong with the first octets that were cut off; ""
	Damage  []Damage
	Account ledger.Account // of the last complete chunk
}

// Damage is a place before the end of a segment that does not read back. It is left as it is: readers skip it.
type Damage struct {
	From, To int64  // in the file
	Packets  uint64 // lost there, as far as known
	Msg      string
}

// Clean reports whether there was nothing to do.
func (r *Report) Clean() bool { return len(r.Segments) == 0 }

// Recover makes the recording in dir whole after a crash: every segment without a seal is cut behind its last complete
// chunk and sealed. Complete chunks are never touched. Calling it again changes nothing. A file that has a segment's
// name and other content makes it return a *ForeignError before anything is changed; ErrBusy means that a Writer is at
// work. A directory that does not exist is a recording without segments.
func Recover(dir string) (Report, error) {
	var rep Report
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		rep.Next = 1
		return rep, nil
	}
	lock, err := lockDir(dir)
	if err != nil {
		return rep, err
	}
	defer lock.Close()
	numbers, err := list(dir)
	if err != nil {
		return rep, err
	}
	var todo []*patient
	var before uint64
	for _, n := range numbers {
		in, err := inspect(dir, n)
		if err != nil {
			return rep, fmt.Errorf("recover: %w", err)
		}
		if in.Sealed || in.Compressed { // a compressed one was whole, and is not ours to change
			rep.Next = n
			rep.Account, before = in.Account, in.before
			continue
		}
		p := &patient{in: in, last: ChunkHeader{Account: rep.Account, Before: before}}
		if err := p.examine(); err != nil {
			return rep, fmt.Errorf("recover: %w", err)
		}
		if p.Chunks > 0 {
			rep.Account, before = p.Account, p.last.Before+uint64(p.last.Packets)
		}
		todo = append(todo, p)
	}
	for _, p := range todo {
		if err := p.mend(dir, lock); err != nil {
			return rep, fmt.Errorf("recover: %w", err)
		}
		rep.Segments = append(rep.Segments, p.SegmentReport)
		rep.Packets += p.Packets
		rep.Cut += p.Cut
		rep.Lost += p.Lost
		for _, d := range p.Damage {
			rep.Missing += d.Packets
		}
		if !p.Removed {
			rep.Next = max(rep.Next, p.Number)
		}
	}
	rep.Next++
	os.Remove(filepath.Join(dir, catalogueNewName))
	unfinished, err := filepath.Glob(filepath.Join(dir, "*"+newSuffix))
	for _, path := range unfinished {
		_, ok := parseName(filepath.Base(path), newSuffix)
		for _, suffix := range []string{packingSuffix, newSievesSuffix} {
			if _, is := parseName(filepath.Base(path), suffix); is {
				ok = true
			}
		}
		if ok {
			os.Remove(path)
		}
	}
	return rep, err
}

// patient is a segment without a seal.
type patient struct {
	SegmentReport
	in     Info
	totals totals
	table  []byte
	last   ChunkHeader
}

// examine reads the whole segment and changes nothing.
func (p *patient) examine() error {
	p.Number, p.Path = p.in.Number, p.in.Path
	f, err := os.Open(p.Path)
	if err != nil {
		return err
	}
	defer f.Close()
	size := p.in.Bytes
	p.in.end = size
	p.End = p.in.start
	if size < p.End {
		p.End = size
	}
	page := make([]byte, Page)
	var buf []byte
	var at int64  // end of what is known so far
	var why error // what is wrong behind it
	if p.in.Damaged == "" {
		at = p.in.start
	}
	visit := func(h *ChunkHeader) bool {
		if cap(buf) < h.Length {
			buf = make([]byte, max(h.Length, min(p.in.limit, 1<<20)))
		}
		buf = buf[:h.Length]
		n, err := readFull(f, buf, h.Offset)
		msg := ""
		if err != nil {
			msg = err.Error()
		} else if msg = "file ends inside the chunk"; n == len(buf) {
			msg = h.verify(buf)
		}
		if msg != "" {
			if why == nil {
				why = errors.New(msg)
			}
			return true
		}
		if h.Offset > at {
			d := Damage{From: at, To: h.Offset, Msg: "unreadable"}
			if why != nil {
				d.Msg = why.Error()
			}
			if known := p.last.Before + uint64(p.last.Packets); p.totals.chunks > 0 && h.Before > known {
				d.Packets = h.Before - known
			}
			p.Damage = append(p.Damage, d)
		}
		why = nil
		p.totals.add(h)
		p.table = appendEntry(p.table, h.Offset, buf)
		p.last = *h
		at = h.End()
		return true
	}
	err = walk(f, &p.in, page, visit, func(from, to int64, msg string) bool {
		if why == nil {
			why = errors.New(msg)
		}
		return true
	})
	if err != nil {
		return err
	}
	p.Chunks, p.Packets, p.Account = p.totals.chunks, p.totals.packets, p.last.Account
	if p.Chunks > 0 {
		p.End = at
	}
	if p.Chunks > 0 && p.in.recordID == 0 {
		p.in.recordID = p.last.RecordID
	}
	tail, err := lastNonZero(f, p.End, size)
	if err != nil {
		return err
	}
	p.Cut, p.Lost = size-p.End, tail-p.End
	if p.Lost > 0 && why != nil {
		p.Why = why.Error()
	}
	if p.in.Damaged != "" && p.Chunks == 0 {
		// Neither head nor chunk. Only zeros, or nothing, is what a crash can leave of a segment.
		if tail, err = lastNonZero(f, 0, size); err != nil {
			return err
		}
		if tail > 0 {
			return &ForeignError{Path: p.Path, Msg: p.in.Damaged}
		}
		p.Removed, p.End, p.Cut, p.Lost = true, 0, size, 0
	}
	return nil
}

// lastNonZero returns the end of the last octet of f from from to to that is not zero, or from.
func lastNonZero(f *os.File, from, to int64) (int64, error) {
	buf := make([]byte, 1<<20)
	for end := to; end > from; {
		at := max(from, end-int64(len(buf)))
		b := buf[:end-at]
		if _, err := readFull(f, b, at); err != nil {
			return 0, err
		}
		for i := len(b) - 1; i >= 0; i-- {
			if b[i] != 0 {
				return at + int64(i) + 1, nil
			}
		}
		end = at
	}
	return from, nil
}

// mend cuts and seals the segment.
func (p *patient) mend(dir string, lock *os.File) error {
	os.Remove(tablePath(dir, p.Number))
	removeIndex(dir, p.Number)
	if p.Removed {
		if err := os.Remove(p.Path); err != nil {
			return err
		}
		return lock.Sync()
	}
	f, err := os.OpenFile(p.Path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(p.End); err != nil {
		return err
	}
	b := make([]byte, Page)
	h := ChunkHeader{
		Segment: p.Number, Offset: p.End, RecordID: p.in.recordID, Account: p.Account,
		Before: p.last.Before + uint64(p.last.Packets), flags: flagRecovered,
	}
	putSeal(b, &h, &p.totals)
	if _, err := f.WriteAt(b, p.End); err != nil {
		return fmt.Errorf("seal segment %08d: %w", p.Number, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("seal segment %08d: %w", p.Number, err)
	}
	if len(p.Damage) == 0 {
		writeTable(tablePath(dir, p.Number), p.in.recordID, p.Number, &p.totals, p.table)
	}
	in, err := inspect(dir, p.Number)
	if err != nil {
		return err
	}
	return buildIndex(context.Background(), dir, &in)
}
