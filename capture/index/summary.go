package index

import (
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
)

// Sizes of docs/format/index.md: the summary.
const (
	summaryMagic   = "OTIS"
	summaryVersion = 1
	summaryFixed   = 32
	summaryTail    = 16
	summaryPart    = 8
	sieveBits      = 21      // of a key that are noted while a segment grows
	sieveSpare     = 3       // bits of a key beyond those that number the keys: how rarely another key is met by chance
	sieveMost      = 1 << 19 // keys; with more there is no sieve
	sievePage      = 4096

	// SummaryRead is how many octets from the end of a file are likely to hold all of a summary but its sieve.
	SummaryRead = 4096
)

// sieve is the keys of a segment that grows, by their first bits.
type sieve struct {
	bits   []uint64
	parts  []PartSize
	chunks uint32
	chain  uint32 // crc32c over their header checksums
	crc    [4]byte
}

// PartSize is how long a part is and its front, in octets.
type PartSize struct{ Length, Front uint32 }

func newSieve() sieve {
	return sieve{bits: make([]uint64, 1<<sieveBits/64), parts: make([]PartSize, 0, 64)}
}

func (s *sieve) reset() {
	clear(s.bits)
	s.parts, s.chunks, s.chain = s.parts[:0], 0, 0
}

// part notes a part of those chunks.
func (s *sieve) part(h *partHead, chunks []chunkEntry) {
	s.parts = append(s.parts, PartSize{h.length, h.front})
	s.chunks += uint32(len(chunks))
	for _, c := range chunks {
		le.PutUint32(s.crc[:], c.headerCRC)
		s.chain = crc32.Update(s.chain, castagnoli, s.crc[:])
	}
}

// Keys are noted bucket by bucket as a part is encoded: going through the sieve in order keeps it in the cache. That
// takes buckets that are whole words of the sieve, and prefixes that are as long as it wants them: small parts are noted key by key.
func (h *partHead) noted() bool {
	return h.prefixBits >= sieveBits && h.bucketBits() <= sieveBits-6
}

// bucket notes the values of a bucket's entries.
func (s *sieve) bucket(h *partHead, bucket uint32, entries []uint32) {
	if !h.noted() {
		return
	}
	n := uint32(1) << (sieveBits - 6 - h.bucketBits())
	words, drop := s.bits[bucket*n:][:n], (h.prefixBits-sieveBits)&31
	for _, e := range entries {
		bit := (e & valued) >> drop
		words[bit>>6] |= 1 << (bit & 63)
	}
}

// prefix notes a prefix that is in no bucket.
func (s *sieve) prefix(h *partHead, prefix uint32) {
	if h.noted() {
		bit := prefix >> (h.prefixBits - sieveBits)
		s.bits[bit>>6] |= 1 << (bit & 63)
	}
}

// small notes the keys of a part of which buckets do not say enough.
func (s *sieve) small(h *partHead, keys []Key) {
	if h.noted() {
		return
	}
	for _, k := range keys {
		bit := k >> (32 - sieveBits)
		s.bits[bit>>6] |= 1 << (bit & 63)
	}
}

// fold appends the sieve with as many bits as its keys deserve, 1<<width; nothing if they are too many.
func (s *sieve) fold(dst []byte) (out []byte, width uint8) {
	n := 0
	for _, w := range s.bits {
		n += bits.OnesCount64(w)
	}
	if n > sieveMost {
		return dst, 0
	}
	width = uint8(max(6, min(sieveBits, bits.Len(uint(n))+sieveSpare)))
	shift := sieveBits - width
	at := len(dst)
	dst = append(dst, make([]byte, 1<<width/8)...)
	for i, w := range s.bits {
		for ; w != 0; w &= w - 1 {
			bit := uint(i<<6+bits.TrailingZeros64(w)) >> shift
			dst[at+int(bit>>3)] |= 1 << (bit & 7)
		}
	}
	return dst, width
}

// Summary appends what ends the index of a segment to dst, behind its last part.
func (b *Builder) Summary(dst []byte) []byte {
	s := &b.sieve
	begin := len(dst)
	dst, width := s.fold(dst)
	table := dst[begin:]
	at := len(dst)
	dst = append(dst, summaryMagic...)
	dst = le.AppendUint16(dst, summaryVersion)
	dst = append(dst, width, 0)
	dst = le.AppendUint32(dst, b.head.segment)
	dst = le.AppendUint32(dst, uint32(len(s.parts)))
	dst = le.AppendUint64(dst, b.head.recordID)
	dst = le.AppendUint32(dst, s.chunks)
	dst = le.AppendUint32(dst, s.chain)
	for _, p := range s.parts {
		dst = le.AppendUint32(dst, p.Length)
		dst = le.AppendUint32(dst, p.Front)
	}
	for ; len(table) > 0; table = table[min(len(table), sievePage):] {
		dst = le.AppendUint32(dst, crc32.Checksum(table[:min(len(table), sievePage)], castagnoli))
	}
	front := len(dst) - at
	dst = le.AppendUint32(dst, uint32(front))
	dst = le.AppendUint32(dst, crc32.Checksum(dst[at:at+front], castagnoli))
	dst = le.AppendUint32(dst, summaryVersion)
	return append(dst, summaryMagic...)
}

// Summary says where the parts of a segment's index are, and nearly whether any of them has a key. It is used by one
// goroutine at a time.
type Summary struct {
	Parts []PartSize // one after the other from the beginning of the file on

	r        io.ReaderAt
	segment  uint32
	recordID uint64
	chunks   uint32
	chain    uint32
	width    uint8
	at       int64 // of the sieve
	sums     []byte
	page     []byte
	paged    int64 // page that is in page; -1 = none
}

// ReadSummary reads the summary at the end of an index file of so many octets. It is ErrDamaged if there is none.
func ReadSummary(r io.ReaderAt, size int64) (*Summary, error) {
	buf := make([]byte, min(size, SummaryRead))
	if n, err := r.ReadAt(buf, size-int64(len(buf))); n < len(buf) {
		return nil, fmt.Errorf("read index summary: %w", err)
	}
	if len(buf) < summaryFixed+summaryTail {
		return nil, ErrDamaged
	}
	tail := buf[len(buf)-summaryTail:]
	front := int64(le.Uint32(tail))
	if string(tail[12:]) != summaryMagic || le.Uint32(tail[8:]) != summaryVersion || front < summaryFixed || front > MaxFront || front+summaryTail > size {
		return nil, ErrDamaged
	}
	if front+summaryTail > int64(len(buf)) {
		buf = make([]byte, front+summaryTail)
		if n, err := r.ReadAt(buf, size-int64(len(buf))); n < len(buf) {
			return nil, fmt.Errorf("read index summary: %w", err)
		}
		tail = buf[len(buf)-summaryTail:]
	}
	b := buf[int64(len(buf))-summaryTail-front:][:front]
	if crc32.Checksum(b, castagnoli) != le.Uint32(tail[4:]) || string(b[:4]) != summaryMagic || le.Uint16(b[4:]) != summaryVersion {
		return nil, ErrDamaged
	}
	s := &Summary{r: r, width: b[6], segment: le.Uint32(b[8:]), recordID: le.Uint64(b[16:]), chunks: le.Uint32(b[24:]), chain: le.Uint32(b[28:]), paged: -1}
	octets, pages := int64(0), int64(0)
	if s.width != 0 {
		if s.width < 6 || s.width > 32 {
			return nil, ErrDamaged
		}
		octets = 1 << s.width / 8
		pages = (octets + sievePage - 1) / sievePage
	}
	n := int64(le.Uint32(b[12:]))
	if front != summaryFixed+n*summaryPart+4*pages {
		return nil, ErrDamaged
	}
	s.Parts = make([]PartSize, n)
	for i := range s.Parts {
		e := b[summaryFixed+i*summaryPart:]
		s.Parts[i] = PartSize{le.Uint32(e), le.Uint32(e[4:])}
		if p := s.Parts[i]; p.Front < partFixed || p.Front > p.Length || p.Front > MaxFront {
			return nil, ErrDamaged
		}
		s.at += int64(s.Parts[i].Length)
	}
	if s.at+octets+front+summaryTail != size {
		return nil, ErrDamaged
	}
	s.sums = b[summaryFixed+n*summaryPart:]
	return s, nil
}

// Of says which segment of which recording the summary is about, how many chunks it has, and the crc32c over their header
// checksums.
func (s *Summary) Of() (recordID uint64, segment, chunks, chain uint32) {
	return s.recordID, s.segment, s.chunks, s.chain
}

// MayHold reports whether packets of the segment can be what c demands, which is not nil. With an error it is not known.
func (s *Summary) MayHold(c *Cond) (bool, error) {
	if s.width == 0 {
		return true, nil
	}
	if yes, err := s.has(keyOpaque()); yes || err != nil {
		return yes, err
	}
	return s.eval(c)
}

func (s *Summary) eval(c *Cond) (bool, error) {
	for _, k := range c.keys {
		if yes, err := s.has(k); yes || err != nil {
			return yes, err
		}
	}
	for _, sub := range c.subs {
		if yes, err := s.eval(sub); yes != c.all || err != nil {
			return yes, err
		}
	}
	return c.all, nil
}

// has reports whether a key of the segment begins as k does.
func (s *Summary) has(k Key) (bool, error) {
	bit := int64(k >> (32 - s.width))
	octets := int64(1) << s.width / 8
	page := bit / (8 * sievePage)
	if page != s.paged {
		s.paged = -1
		s.page = append(s.page[:0], make([]byte, min(sievePage, octets))...)
		if n, err := s.r.ReadAt(s.page, s.at+page*sievePage); n < len(s.page) {
			return false, fmt.Errorf("read index summary: %w", err)
		}
		if crc32.Checksum(s.page, castagnoli) != le.Uint32(s.sums[4*page:]) {
			return false, ErrDamaged
		}
		s.paged = page
	}
	bit %= 8 * sievePage
	return s.page[bit>>3]>>(bit&7)&1 != 0, nil
}
