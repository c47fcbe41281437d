package segment

import (
	"bytes"
	"context"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"opentap/capture/index"
)

// The sieves of runs of segments beside one another (docs/format/index.md), so that what is in few of many segments is found
// by few reads. They are a cache, like the indexes that they are made of; the catalogue says which segments are in them.
const (
	sievesSuffix    = ".sieves"
	newSievesSuffix = ".sieves.new"
	magicSieves     = "OTCS"
	sievesMembers   = 32 // in an entry of the catalogue
)

func sievesPath(dir string, first uint32) string { return numbered(dir, first, sievesSuffix) }

// sievesOf is the first number of the run that a segment is in.
func sievesOf(n uint32) uint32 { return (n-1)/index.SievesSegments*index.SievesSegments + 1 }

// run is a run of segments whose sieves are beside one another, as the catalogue has it.
type run struct {
	first    uint32
	recordID uint64
	width    uint8
	opaque   uint16
	members  [index.SievesSegments]member
}

// member is a segment of a run: how many chunks it has and the chain over them, which tell it from any other. Zeros: none.
type member struct{ chunks, chain uint32 }

// seed tells the pages of a run from those of any other: it follows from what segments they are about.
func (r *run) seed() uint32 {
	of := run{first: r.first, recordID: r.recordID, members: r.members}
	return crc32.Checksum(of.append(nil)[12:], castagnoli)
}

// append appends the run as the catalogue has it.
func (r *run) append(dst []byte) []byte {
	at := len(dst)
	dst = append(dst, make([]byte, entrySize)...)
	b := dst[at:]
	copy(b, magicSieves)
	le.PutUint16(b[8:], entryFormat)
	b[10] = r.width
	le.PutUint32(b[12:], r.first)
	le.PutUint64(b[16:], r.recordID)
	le.PutUint16(b[24:], r.opaque)
	for i, m := range r.members {
		le.PutUint32(b[sievesMembers+8*i:], m.chunks)
		le.PutUint32(b[sievesMembers+8*i+4:], m.chain)
	}
	le.PutUint32(b[4:], crc32.Checksum(b[8:], castagnoli))
	return dst
}

// parse reads an entry of the catalogue and reports whether it is a run.
func (r *run) parse(b []byte) bool {
	if !wholeEntry(b, magicSieves) {
		return false
	}
	*r = run{width: b[10], first: le.Uint32(b[12:]), recordID: le.Uint64(b[16:]), opaque: le.Uint16(b[24:])}
	for i := range r.members {
		r.members[i] = member{le.Uint32(b[sievesMembers+8*i:]), le.Uint32(b[sievesMembers+8*i+4:])}
	}
	return true
}

// bit is the place of a segment in its run; false if the run is not about just this one.
func (r *run) bit(in *Info) (int, bool) {
	i := int(in.Number - r.first)
	return i, in.Sealed && in.Chunks > 0 && in.recordID == r.recordID && sievesOf(in.Number) == r.first &&
		r.members[i] == member{in.Chunks, in.chain}
}

// makeRun lays the sieves of the segments from first on beside one another. pages are what the file holds; nil if there can be
// none, or not yet.
func makeRun(dir string, first uint32, segments []Info) (r run, pages []byte) {
	var members [index.SievesSegments]*index.Summary
	r.first = first
	for i := range segments {
		in := &segments[i]
		if sievesOf(in.Number) != first || in.Packets == 0 {
			continue
		}
		f, err := os.Open(indexPath(dir, in.Number))
		if err != nil {
			return r, nil
		}
		defer f.Close()
		st, err := f.Stat()
		if err != nil {
			return r, nil
		}
		m := in.Number - first
		if members[m] = summaryOf(f, st.Size(), in); members[m] == nil || r.recordID != 0 && r.recordID != in.recordID {
			return r, nil
		}
		r.recordID, r.members[m] = in.recordID, member{in.Chunks, in.chain}
	}
	pages, width, opaque, err := index.AppendSieves(nil, members[:], r.seed())
	if err != nil || width == 0 {
		return r, nil
	}
	r.width, r.opaque = width, opaque
	return r, pages
}

// newRuns makes the sieves of the runs that are complete and have none in known, and returns them.
func newRuns(dir string, known *catalogue) (made []run) {
	var segments []Info
	done := uint32(0) // runs up to this number are complete
	for n, e := range known.segments {
		segments = append(segments, e.info)
		if n%index.SievesSegments == 0 {
			done = max(done, n)
		}
	}
	tried := make(map[uint32]bool)
	for i := range segments {
		in := &segments[i]
		first := sievesOf(in.Number)
		if in.Number > done || tried[first] || in.Packets == 0 {
			continue
		}
		if r, ok := known.runs[first]; ok {
			if _, ok := r.bit(in); ok && sievesSize(dir, first) == index.SievesSize(r.width) {
				continue
			}
		}
		tried[first] = true
		r, pages := makeRun(dir, first, segments)
		if pages == nil {
			continue
		}
		tmp := strings.TrimSuffix(sievesPath(dir, first), sievesSuffix) + newSievesSuffix
		if os.WriteFile(tmp, pages, 0o640) != nil || os.Rename(tmp, sievesPath(dir, first)) != nil {
			os.Remove(tmp)
			continue
		}
		made = append(made, r)
	}
	return made
}

// sievesSize is how long the sieves of a run are; 0 = there are none.
func sievesSize(dir string, first uint32) int64 {
	if st, err := os.Stat(sievesPath(dir, first)); err == nil {
		return st.Size()
	}
	return 0
}

// removeSieves deletes the sieves of a run with the last segment of it.
func removeSieves(dir string, n uint32) {
	if n%index.SievesSegments == 0 {
		os.Remove(sievesPath(dir, sievesOf(n)))
	}
}

// checkRuns reports whether the sieves of the recording are just what its indexes make.
func checkRuns(dir string, known *catalogue, segments []Info) (wrong []string) {
	for first, r := range known.runs {
		b, err := os.ReadFile(sievesPath(dir, first))
		if err != nil {
			continue
		}
		var of []Info
		for i := range segments {
			if _, ok := r.bit(&segments[i]); ok {
				of = append(of, segments[i])
			}
		}
		members := 0
		for _, m := range r.members {
			if m.chunks > 0 {
				members++
			}
		}
		if len(of) < members {
			continue // some are gone, and their sieves cannot be made any more
		}
		if now, pages := makeRun(dir, first, of); pages != nil && (now != r || !bytes.Equal(pages, b)) {
			wrong = append(wrong, filepath.Join(dir, filepath.Base(sievesPath(dir, first))))
		}
	}
	return wrong
}

// sifted is what the sieves of a run of segments say about a condition.
type sifted struct {
	run
	done  chan struct{} // closed when the rest is there
	known bool
	may   uint16 // segments that may hold something that is wanted
}

// sift begins to ask the sieves of runs.
func (s *Selection) sift(ctx context.Context, dir string, c *index.Cond, runs []*sifted) {
	var next atomic.Int64
	for range min(len(runs), selectorsAtMost) {
		s.workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(runs); i = int(next.Add(1)) - 1 {
				if ctx.Err() == nil {
					runs[i].ask(dir, c)
				}
				close(runs[i].done)
			}
		})
	}
}

// ask asks the sieves of the run. What they cannot say is asked of each index.
func (x *sifted) ask(dir string, c *index.Cond) {
	f, err := os.Open(sievesPath(dir, x.first))
	if err != nil {
		return
	}
	defer f.Close()
	readsAnywhere(f)
	s := index.Sieves{R: f, Width: x.width, Opaque: x.opaque, Seed: x.seed()}
	x.may, err = s.MayHold(c)
	x.known = err == nil
}

// passed reports whether the run says that the segment holds nothing that is wanted, and whether it holds packets that belong to every
// answer. It waits for that.
func (x *selected) passed() (nothing, opaque, known bool) {
	if x.run == nil {
		return false, true, false
	}
	<-x.run.done
	if !x.run.known {
		return false, true, false
	}
	return x.run.may>>x.bit&1 == 0, x.run.opaque>>x.bit&1 != 0, true
}
