package segment

import (
	"hash/crc32"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"opentap/capture/index"
	"opentap/packet"
)

// The catalogue of docs/format/catalogue.md: what the heads and seals of the sealed segments say, in one file, so that opening
// a recording of many segments does not read each. It is a cache: an entry counts only as long as the segment's file is the
// one that it was made of.
const (
	catalogueName    = "segments.catalogue"
	catalogueNewName = "segments.catalogue.new"
	magicEntry       = "OTCE"
	entryFormat      = 1
	entrySize        = 512
	entryAccount     = 120
	entryBase        = entryAccount + accountSize
	maxCatalogue     = 1 << 28
)

// Flags of an entry.
const (
	entryRecovered = 1 << iota
	entryPacked
	entryUncounted
)

// settled is how old a file must be to be noted: the clock that stamps files may stand still for some ms, in which another
// change would not be seen.
const settled = 50 * time.Millisecond

// stamp tells one content of a file from another.
type stamp struct {
	size  int64
	mtime int64 // ns since 1970
}

func stampOf(st os.FileInfo) stamp { return stamp{st.Size(), st.ModTime().UnixNano()} }

// entry is a segment in the catalogue.
type entry struct {
	info Info
	file stamp
}

// append appends the entry as the file has it.
func (e *entry) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, entrySize)...)
	b, in := dst[at:], &e.info
	copy(b, magicEntry)
	le.PutUint16(b[8:], entryFormat)
	flags := uint16(0)
	if in.Recovered {
		flags |= entryRecovered
	}
	if in.Compressed {
		flags |= entryPacked
	}
	if in.Account.FilterUncounted {
		flags |= entryUncounted
	}
	le.PutUint16(b[10:], flags)
	le.PutUint32(b[12:], in.Number)
	le.PutUint64(b[16:], in.recordID)
	le.PutUint64(b[24:], uint64(e.file.size))
	le.PutUint64(b[32:], uint64(e.file.mtime))
	le.PutUint64(b[40:], uint64(in.end))
	le.PutUint32(b[48:], uint32(in.start))
	le.PutUint32(b[52:], uint32(in.limit))
	le.PutUint32(b[56:], uint32(in.lanes))
	le.PutUint32(b[60:], in.Chunks)
	le.PutUint32(b[64:], in.chain)
	le.PutUint64(b[72:], in.Packets)
	le.PutUint64(b[80:], uint64(in.Earliest))
	le.PutUint64(b[88:], uint64(in.Latest))
	le.PutUint64(b[96:], in.Octets)
	le.PutUint64(b[104:], in.StoredOctets)
	le.PutUint64(b[112:], in.before)
	putAccount(b[entryAccount:], &in.Account)
	putAccount(b[entryBase:], &in.base)
	le.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return dst
}

// wholeEntry reports whether b is an entry of a kind, in the version that is read here.
func wholeEntry(b []byte, magic string) bool {
	return len(b) == entrySize && string(b[:4]) == magic && le.Uint16(b[8:]) == entryFormat &&
		crc32.Checksum(b[8:], castagnoli) == le.Uint32(b[4:])
}

// parse reads an entry of entrySize octets and reports whether it is a segment's.
func (e *entry) parse(b []byte) bool {
	if !wholeEntry(b, magicEntry) {
		return false
	}
	flags := le.Uint16(b[10:])
	*e = entry{
		file: stamp{int64(le.Uint64(b[24:])), int64(le.Uint64(b[32:]))},
		info: Info{
			Sealed: true, Catalogued: true, Recovered: flags&entryRecovered != 0, Compressed: flags&entryPacked != 0,
			Number: le.Uint32(b[12:]), recordID: le.Uint64(b[16:]), end: int64(le.Uint64(b[40:])),
			start: int64(le.Uint32(b[48:])), limit: int(le.Uint32(b[52:])), lanes: int(le.Uint32(b[56:])),
			before: le.Uint64(b[112:]),
		},
	}
	in := &e.info
	in.setTotals(&totals{
		chunks: le.Uint32(b[60:]), chain: le.Uint32(b[64:]), packets: le.Uint64(b[72:]),
		earliest: packet.Timestamp(le.Uint64(b[80:])), latest: packet.Timestamp(le.Uint64(b[88:])),
		octets: le.Uint64(b[96:]), stored: le.Uint64(b[104:]),
	})
	getAccount(b[entryAccount:], &in.Account)
	getAccount(b[entryBase:], &in.base)
	in.Account.FilterUncounted = flags&entryUncounted != 0
	in.Bytes = e.file.size
	return in.start >= Page && in.end >= in.start && in.end%Page == 0 && in.limit >= Page && in.limit <= MaxChunkBytes && in.lanes <= MaxLanes
}

// catalogue is what is noted about the segments of a recording, by number, and about runs of them, by their first number. nil
// is that of a recording without one.
type catalogue struct {
	segments map[uint32]entry
	runs     map[uint32]run
}

// readCatalogue reads what is whole of the catalogue of dir.
func readCatalogue(dir string) *catalogue {
	path := filepath.Join(dir, catalogueName)
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() || st.Size() > maxCatalogue {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return parseCatalogue(b)
}

// parseCatalogue takes the newest whole entry of each segment and run.
func parseCatalogue(b []byte) *catalogue {
	c := &catalogue{segments: make(map[uint32]entry, len(b)/entrySize), runs: make(map[uint32]run)}
	var e entry
	var r run
	for ; len(b) >= entrySize; b = b[entrySize:] {
		switch one := b[:entrySize]; {
		case e.parse(one):
			c.segments[e.info.Number] = e
		case r.parse(one):
			c.runs[r.first] = r
		}
	}
	return c
}

// info returns what is noted about a segment, if its file is still the one that was noted.
func (c *catalogue) info(dir string, n uint32) (Info, bool) {
	if c == nil {
		return Info{}, false
	}
	e, ok := c.segments[n]
	if !ok {
		return Info{}, false
	}
	in := e.info
	if in.Path = segmentPath(dir, n); in.Compressed {
		if _, err := os.Lstat(in.Path); !os.IsNotExist(err) {
			return Info{}, false // the plain one counts
		}
		in.Path = packedPath(dir, n)
	}
	st, err := os.Stat(in.Path)
	if err != nil || stampOf(st) != e.file {
		return Info{}, false
	}
	in.IndexBytes = indexBytes(dir, n)
	return in, true
}

// newEntry makes the entry of a segment. ok is false where there can be none, or not yet.
func newEntry(dir string, n uint32) (e entry, ok bool) {
	f, err := openSegment(dir, n)
	if err != nil {
		return e, false
	}
	defer f.Close()
	st, err := f.f.Stat()
	if err != nil || time.Since(st.ModTime()) < settled {
		return e, false
	}
	e.file = stampOf(st)
	if e.info, err = inspectFile(f, f.size, n, f.path); err != nil {
		return e, false
	}
	e.info.Compressed = f.packed()
	return e, e.info.Sealed && e.info.Damaged == "" && f.bad == ""
}

// refreshCatalogue brings the catalogue of dir up to date, or makes all of it anew, and returns how many entries it has. That
// it cannot be written only means that it is not there.
func refreshCatalogue(dir string, anew bool) int {
	numbers, err := list(dir)
	if err != nil {
		return 0
	}
	var old *catalogue
	if !anew {
		old = readCatalogue(dir)
	}
	now := catalogue{segments: make(map[uint32]entry), runs: make(map[uint32]run)}
	var b []byte
	for _, n := range numbers {
		var e entry
		if in, ok := old.info(dir, n); ok {
			e = old.segments[n]
			if r, ok := old.runs[sievesOf(n)]; ok {
				if _, ok := r.bit(&in); ok {
					now.runs[r.first] = r
				}
			}
		} else if e, ok = newEntry(dir, n); !ok {
			continue
		}
		now.segments[n] = e
		b = e.append(b)
	}
	if late := readCatalogue(dir); late != nil && old != nil {
		for n, e := range late.segments {
			if _, known := old.segments[n]; !known && now.segments[n] == (entry{}) { // noted meanwhile by a Writer
				now.segments[n] = e
				b = e.append(b)
			}
		}
	}
	for _, r := range newRuns(dir, &now) {
		now.runs[r.first] = r
	}
	for _, first := range slices.Sorted(maps.Keys(now.runs)) {
		r := now.runs[first]
		b = r.append(b)
	}
	path := filepath.Join(dir, catalogueName)
	switch is, err := os.ReadFile(path); {
	case len(b) == 0:
		os.Remove(path)
	case err == nil && string(is) == string(b):
	default:
		writeCatalogue(dir, b)
	}
	return len(b) / entrySize
}

// writeCatalogue puts b in the place of the catalogue.
func writeCatalogue(dir string, b []byte) {
	tmp := filepath.Join(dir, catalogueNewName)
	if os.WriteFile(tmp, b, 0o640) != nil || os.Rename(tmp, filepath.Join(dir, catalogueName)) != nil {
		os.Remove(tmp)
	}
}

// cataloguer notes the segments that a Writer seals. It is used by one goroutine at a time.
type cataloguer struct {
	dir     string
	begun   bool
	waiting []uint32 // too new to be noted
	entries int64    // in the file
	live    int64    // of those, when it was written anew
}

// mostWaiting is how many segments may be too new: who is not noted by then is left to who writes the catalogue anew.
const mostWaiting = 8

// add notes a segment that was sealed, or when the next one is. Segments from before the Writer are left to Reindex: they may be many.
func (c *cataloguer) add(n uint32) {
	if !c.begun {
		c.begun = true
		if st, err := os.Stat(filepath.Join(c.dir, catalogueName)); err == nil {
			c.entries, c.live = st.Size()/entrySize, st.Size()/entrySize
		}
	}
	c.waiting = append(c.waiting, n)
	if c.entries > 2*c.live+64 { // so that those of segments that expired go
		c.live = int64(refreshCatalogue(c.dir, false))
		c.entries = c.live
		if noted := readCatalogue(c.dir); noted != nil {
			c.waiting = slices.DeleteFunc(c.waiting, func(n uint32) bool { _, ok := noted.segments[n]; return ok })
		}
	}
	complete := false
	c.waiting = slices.DeleteFunc(c.waiting, func(n uint32) bool {
		e, ok := newEntry(c.dir, n)
		if ok {
			c.append(e.append(nil))
			complete = complete || n%index.SievesSegments == 0
		}
		return ok
	})
	c.waiting = c.waiting[max(0, len(c.waiting)-mostWaiting):]
	if !complete {
		return
	}
	if noted := readCatalogue(c.dir); noted != nil {
		for _, r := range newRuns(c.dir, noted) {
			c.append(r.append(nil))
		}
	}
}

// append adds an entry behind the last whole one. Two that do so at a time may lose one of theirs.
func (c *cataloguer) append(e []byte) {
	c.entries++
	f, err := os.OpenFile(filepath.Join(c.dir, catalogueName), os.O_WRONLY|os.O_CREATE, 0o640)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil {
		_, _ = f.WriteAt(e, st.Size()/entrySize*entrySize)
	}
}
