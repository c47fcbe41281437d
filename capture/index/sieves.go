package index

import (
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
)

// SievesSegments is how many segments' sieves are laid beside one another, so that one read answers for all of them.
const SievesSegments = 16

// Sizes of docs/format/index.md: sieves of several segments.
const (
	sievesPage = 4096
	sievesRows = (sievesPage - 4) / 2 // of a page, 16 bits each, before its checksum
)

// AppendSieves lays the sieves of up to SievesSegments segments beside one another and appends them to dst; nil is a segment that
// they say nothing about. width is the bits of a key that number a row; 0: none of them has a sieve, and nothing was appended.
// opaque are the segments that belong to every answer.
func AppendSieves(dst []byte, members []*Summary, seed uint32) (out []byte, width uint8, opaque uint16, err error) {
	for _, s := range members {
		if s != nil && s.width <= sieveBits {
			width = max(width, s.width)
		}
	}
	if width == 0 || len(members) > SievesSegments {
		return dst, 0, 0, nil
	}
	at := len(dst)
	dst = append(dst, make([]byte, SievesSize(width))...)
	pages := dst[at:]
	for m, s := range members {
		if s == nil {
			continue
		}
		if s.width == 0 || s.width > sieveBits { // it may hold anything
			opaque |= 1 << m
			continue
		}
		b, err := s.sieve()
		if err != nil {
			return dst[:at], 0, 0, err
		}
		wide := uint(width - s.width)
		for i := 0; i < len(b); i += 8 {
			for w := le.Uint64(b[i:]); w != 0; w &= w - 1 {
				row := (i<<3 + bits.TrailingZeros64(w)) << wide
				for range 1 << wide {
					pages[sievesAt(row)+m>>3] |= 1 << (m & 7)
					row++
				}
			}
		}
		if k := int(keyOpaque() >> (32 - s.width)); b[k>>3]>>(k&7)&1 != 0 {
			opaque |= 1 << m
		}
	}
	for n := 0; n*sievesPage < len(pages); n++ {
		p := pages[n*sievesPage:][:sievesPage]
		le.PutUint32(p[sievesPage-4:], sievesSum(p, seed, n))
	}
	return dst, width, opaque, nil
}

// SievesSize is how many octets rows of so many bits of keys take.
func SievesSize(width uint8) int64 {
	return (int64(1)<<width + sievesRows - 1) / sievesRows * sievesPage
}

// sievesAt is where a row is.
func sievesAt(row int) int { return row/sievesRows*sievesPage + row%sievesRows*2 }

// sievesSum is the checksum of a page, which also says whose it is.
func sievesSum(page []byte, seed uint32, n int) uint32 {
	var of [8]byte
	le.PutUint32(of[:], seed)
	le.PutUint32(of[4:], uint32(n))
	return crc32.Update(crc32.Checksum(of[:], castagnoli), castagnoli, page[:sievesPage-4])
}

// sieve reads all of the sieve of a segment.
func (s *Summary) sieve() ([]byte, error) {
	b := make([]byte, int64(1)<<s.width/8)
	if n, err := s.r.ReadAt(b, s.at); n < len(b) {
		return nil, fmt.Errorf("read index summary: %w", err)
	}
	for i := 0; i*sievePage < len(b); i++ {
		page := b[i*sievePage:]
		if crc32.Checksum(page[:min(len(page), sievePage)], castagnoli) != le.Uint32(s.sums[4*i:]) {
			return nil, ErrDamaged
		}
	}
	return b, nil
}

// Sieves says nearly which of several segments have a key: what AppendSieves made. It is used by one goroutine at a time.
type Sieves struct {
	R      io.ReaderAt
	Width  uint8
	Opaque uint16
	Seed   uint32

	page []byte
	n    int // page that is in page, if there is one
}

// MayHold returns the segments that may hold packets that are what c demands, which is not nil. With an error it is not known.
func (s *Sieves) MayHold(c *Cond) (uint16, error) {
	if s.Width < 6 || s.Width > sieveBits {
		return 0, ErrDamaged
	}
	m, err := s.eval(c)
	return m | s.Opaque, err
}

func (s *Sieves) eval(c *Cond) (uint16, error) {
	out := uint16(0)
	if c.all {
		out = 1<<SievesSegments - 1
	}
	for _, k := range c.keys {
		m, err := s.has(k)
		if err != nil {
			return 0, err
		}
		out |= m
	}
	for _, sub := range c.subs {
		m, err := s.eval(sub)
		if err != nil {
			return 0, err
		}
		if !c.all {
			out |= m
		} else if out &= m; out == 0 {
			break
		}
	}
	return out, nil
}

// has returns the segments that have a key that begins as k does.
func (s *Sieves) has(k Key) (uint16, error) {
	row := int(k >> (32 - s.Width))
	n := row / sievesRows
	if s.page == nil || n != s.n {
		if s.page == nil {
			s.page = make([]byte, sievesPage)
		}
		s.n = -1
		if got, err := s.R.ReadAt(s.page, int64(n)*sievesPage); got < sievesPage {
			return 0, fmt.Errorf("read sieves: %w", err)
		}
		if sievesSum(s.page, s.Seed, n) != le.Uint32(s.page[sievesPage-4:]) {
			return 0, ErrDamaged
		}
		s.n = n
	}
	return le.Uint16(s.page[row%sievesRows*2:]), nil
}

// Opaque reports whether packets of the segment may belong to every answer.
func (s *Summary) Opaque() bool {
	if s.width == 0 {
		return true
	}
	yes, err := s.has(keyOpaque())
	return yes || err != nil
}

// NoOpaque says that no packet of the part belongs to every answer, as the summary of its segment tells, so that Find need not look.
func (p *Part) NoOpaque() { p.looked = true }
