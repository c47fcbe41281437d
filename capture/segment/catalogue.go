package segment

import (
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

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

// parse reads an entry of entrySize octets and reports whether it is one.
func (e *entry) parse(b []byte) bool {
	if len(b) != entrySize || string(b[:4]) != magicEntry || le.Uint16(b[8:]) != entryFormat ||
		crc32.Checksum(b[8:], castagnoli) != le.Uint32(b[4:]) {
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

// catalogue is what is noted about the segments of a recording, by number.
type catalogue map[uint32]entry

// readCatalogue reads what is whole of the catalogue of dir. Without one there is nothing in it.
func readCatalogue(dir string) catalogue {
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

// parseCatalogue returns the newest whole entry of each segment.
func parseCatalogue(b []byte) catalogue {
	c := make(catalogue, len(b)/entrySize)
	var e entry
	for ; len(b) >= entrySize; b = b[entrySize:] {
		if e.parse(b[:entrySize]) {
			c[e.info.Number] = e
		}
	}
	return c
}

// info returns what is noted about a segment, if its file is still the one that was noted.
func (c catalogue) info(dir string, n uint32) (Info, bool) {
	e, ok := c[n]
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
	var old catalogue
	if !anew {
		old = readCatalogue(dir)
	}
	var b []byte
	for _, n := range numbers {
		e := old[n]
		if _, ok := old.info(dir, n); !ok {
			if e, ok = newEntry(dir, n); !ok {
				continue
			}
		}
		b = e.append(b)
	}
	path := filepath.Join(dir, catalogueName)
	switch now, err := os.ReadFile(path); {
	case len(b) == 0:
		os.Remove(path)
	case err == nil && string(now) == string(b):
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
	waiting []uint32 // too new to be noted
	entries int      // in the file
	live    int      // of those, when it was written anew; 0 = it was not
}

// add notes a segment that was sealed, or when the next one is.
func (c *cataloguer) add(n uint32) {
	c.waiting = append(c.waiting, n)
	if c.live == 0 || c.entries > 2*c.live+64 { // so that those of segments that expired go as well
		c.live = refreshCatalogue(c.dir, false)
		c.entries = c.live
		noted := readCatalogue(c.dir)
		c.keep(func(n uint32) bool { _, ok := noted[n]; return ok })
		return
	}
	c.keep(func(n uint32) bool {
		e, ok := newEntry(c.dir, n)
		if ok {
			c.entries++
			appendCatalogue(c.dir, &e)
		}
		return ok
	})
}

// keep tries those that wait, and forgets who was noted, and who never will be.
func (c *cataloguer) keep(noted func(n uint32) bool) {
	var left []uint32
	for _, n := range c.waiting {
		if !noted(n) {
			left = append(left, n)
		}
	}
	c.waiting = left[max(0, len(left)-4):]
}

// appendCatalogue adds an entry behind the last whole one. Two that do so at a time may lose one of theirs.
func appendCatalogue(dir string, e *entry) {
	f, err := os.OpenFile(filepath.Join(dir, catalogueName), os.O_WRONLY|os.O_CREATE, 0o640)
	if err != nil {
		return
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil {
		_, _ = f.WriteAt(e.append(nil), st.Size()/entrySize*entrySize)
	}
}
