package pcap

import (
	"encoding/binary"
	"io"
	"math/bits"
	"slices"

	"opentap/packet"
)

// Bounds on what a Reader keeps in memory, whatever a file claims.
const (
	maxBlock      = 1 << 20 // octets of a block of a known type
	maxInterfaces = 1 << 16 // in all sections together
	maxTexts      = 4 << 20 // octets of all names, filters and comments of sections and interfaces
	maxStats      = 4096    // statistics blocks kept
	maxStatsBytes = 4 << 20 // octets of comments and custom options in them

	startBuffer = 64 << 10
)

// Reader reads the packets of a pcap or pcapng file in the order of the file. It is not safe for concurrent use.
//
// It holds at most a few MiB: blocks of types it does not know, Custom Blocks among them, are skipped without being
// kept. Captured lengths above the interface's snap length are accepted, since writers get that wrong, up to MaxPacket.
// For files that OpenTap wrote and that are in memory, NextBlock and DecodePacket are quicker.
type Reader struct {
	r       io.Reader
	buf     []byte
	at, end int   // unread octets are buf[at:end]
	base    int64 // file offset of buf[0]
	readErr error // why no more can be read
	err     error // sticky

	ng bool
	bo binary.ByteOrder

	batch Packet // lent to what NextBatch calls

	// classic
	nanos bool
	big   bool // big-endian

	// pcapng
	section    Section
	interfaces []Interface
	clocks     []clock // one for each of interfaces
	first      int     // index of the section's first interface
	texts      int
	stats      []Stats
	statsBytes int
}

// NewReader reads the first header and says with a *FormatError if the file is neither pcap (microseconds or
// nanoseconds) nor pcapng, in either byte order.
func NewReader(r io.Reader) (*Reader, error) {
	d := &Reader{r: r, buf: make([]byte, startBuffer)}
	if err := d.open(); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Reader) open() error {
	if err := d.need(4, "its first header"); err != nil {
		return err
	}
	magic := le.Uint32(d.buf[d.at:])
	switch {
	case magic == BlockSection:
		d.ng = true
		return d.openSection()
	case magic == magicMicros || magic == magicNanos:
		d.bo = binary.LittleEndian
	case bits.ReverseBytes32(magic) == magicMicros || bits.ReverseBytes32(magic) == magicNanos:
		d.bo, d.big = binary.BigEndian, true
	default:
		return d.bad("neither pcap nor pcapng: it begins with %#08x", bits.ReverseBytes32(magic))
	}
	if err := d.need(classicHeader, "its header"); err != nil {
		return err
	}
	h := d.buf[d.at:]
	d.nanos = d.bo.Uint32(h) == magicNanos
	if major, minor := d.bo.Uint16(h[4:]), d.bo.Uint16(h[6:]); major != 2 || minor != 4 {
		return d.bad("pcap version %d.%d is not supported, only 2.4", major, minor)
	}
	d.at += classicHeader
	d.interfaces = []Interface{{SnapLen: d.bo.Uint32(h[16:]), Link: packet.LinkType(d.bo.Uint32(h[20:]))}}
	return nil
}

// Interfaces returns what is known of the interfaces so far: all that were met in pcapng, and the one of a pcap file,
// which has no name. The caller must not change it.
func (d *Reader) Interfaces() []Interface { return d.interfaces[:len(d.interfaces):len(d.interfaces)] }

// Stats returns the statistics blocks met so far, in the order of the file, without those older than the newest 4096.
func (d *Reader) Stats() []Stats { return slices.Clone(d.stats) }

// Section returns the description of the section the last packet was in.
func (d *Reader) Section() Section { return d.section }

// Offset returns where in the file the next block or record begins.
func (d *Reader) Offset() int64 { return d.base + int64(d.at) }

// Next fills p with the next packet. p.Data is borrowed until the next call. The error is io.EOF at a clean end, a
// *FormatError for a wrong or cut file, or the underlying reader's; after an error every call returns it again.
func (d *Reader) Next(p *Packet) error {
	if d.err == nil {
		if d.ng {
			d.err = d.nextBlocks(p)
		} else {
			d.err = d.nextRecord(p)
		}
	}
	return d.err
}

func (d *Reader) nextRecord(p *Packet) error {
	if err := d.needOrEOF(classicRecord, "a packet header"); err != nil {
		return err
	}
	h := (*[classicRecord]byte)(d.buf[d.at:])
	sec, frac, capLen, orig := le.Uint32(h[0:]), le.Uint32(h[4:]), le.Uint32(h[8:]), le.Uint32(h[12:])
	if d.big {
		sec, frac, capLen, orig = bits.ReverseBytes32(sec), bits.ReverseBytes32(frac), bits.ReverseBytes32(capLen), bits.ReverseBytes32(orig)
	}
	if capLen > MaxPacket {
		return d.bad("packet of %d octets: more than %d", capLen, MaxPacket)
	}
	n := classicRecord + int(capLen)
	if err := d.need(n, "a packet"); err != nil {
		return err
	}
	ns := int64(frac)
	if !d.nanos {
		ns *= 1000
	}
	*p = Packet{Time: packet.Timestamp(int64(sec)*1e9 + ns), OrigLen: orig, Data: d.buf[d.at+classicRecord : d.at+n : d.at+n]}
	d.at += n
	return nil
}

// nextBlocks reads blocks until one holds a packet.
func (d *Reader) nextBlocks(p *Packet) error {
	for {
		if ok, err := d.nextBlock(p); ok || err != nil {
			return err
		}
	}
}

// nextBlock reads one block and says whether it holds a packet.
func (d *Reader) nextBlock(p *Packet) (bool, error) {
	if err := d.needOrEOF(8, "a block header"); err != nil {
		return false, err
	}
	typ, n := d.bo.Uint32(d.buf[d.at:]), d.bo.Uint32(d.buf[d.at+4:])
	if typ == BlockSection {
		return false, d.openSection()
	}
	if n < 12 || n%4 != 0 {
		return false, badLength(d.Offset(), typ, n)
	}
	switch typ {
	case BlockInterface, BlockOldPacket, BlockSimple, BlockStatistics, BlockPacket:
	default:
		return false, d.skip(typ, n)
	}
	body, err := d.block(typ, n)
	if err != nil {
		return false, err
	}
	var msg string
	switch typ {
	case BlockInterface:
		msg = d.addInterface(body)
	case BlockStatistics:
		msg = d.addStats(body)
	case BlockPacket:
		msg = d.enhanced(body, p)
	case BlockSimple:
		msg = d.simple(body, p)
	case BlockOldPacket:
		msg = d.old(body, p)
	}
	if msg != "" {
		return false, d.bad("%s", msg)
	}
	d.at += int(n)
	return typ != BlockInterface && typ != BlockStatistics, nil
}

// block makes the block at d.at whole and returns its body.
func (d *Reader) block(typ, n uint32) ([]byte, error) {
	if n > maxBlock {
		return nil, d.bad("block type %#x: length %d is more than %d", typ, n, maxBlock)
	}
	if err := d.need(int(n), "a block"); err != nil {
		return nil, err
	}
	b := d.buf[d.at : d.at+int(n)]
	if t := d.bo.Uint32(b[n-4:]); t != n {
		return nil, badTrailer(d.Offset(), typ, n, t)
	}
	return b[8 : n-4], nil
}

// skip passes over a block of any length without keeping it.
func (d *Reader) skip(typ, n uint32) error {
	start := d.Offset()
	for left := int64(n) - 4; left > 0; {
		if d.at == d.end {
			if err := d.fill(); err != nil {
				return d.cut(start, "a block", err)
			}
		}
		k := min(left, int64(d.end-d.at))
		d.at += int(k)
		left -= k
	}
	if err := d.need(4, "a block"); err != nil {
		return err
	}
	t := d.bo.Uint32(d.buf[d.at:])
	d.at += 4
	if t != n {
		return badTrailer(start, typ, n, t)
	}
	return nil
}

// openSection reads the Section Header Block at d.at.
func (d *Reader) openSection() error {
	if err := d.need(16, "a section header"); err != nil {
		return err
	}
	h := d.buf[d.at:]
	switch uint32(byteOrderMagic) {
	case le.Uint32(h[8:]):
		d.bo = binary.LittleEndian
	case binary.BigEndian.Uint32(h[8:]):
		d.bo = binary.BigEndian
	default:
		return d.bad("section header: bad byte order magic")
	}
	n := d.bo.Uint32(h[4:])
	if n < 28 || n%4 != 0 {
		return badLength(d.Offset(), BlockSection, n)
	}
	if major := d.bo.Uint16(h[12:]); major != 1 {
		return d.bad("pcapng version %d is not supported, only 1", major)
	}
	body, err := d.block(BlockSection, n)
	if err != nil {
		return err
	}
	d.section = Section{}
	for opts := body[16:]; len(opts) > 0; {
		code, v, rest, msg := nextOption(opts, d.bo)
		if msg != "" {
			return d.bad("section header: %s", msg)
		}
		opts = rest
		switch code {
		case optHardware:
			d.section.Hardware = string(v)
		case optSectionOS:
			d.section.OS = string(v)
		case optApplication:
			d.section.Application = string(v)
		case optComment:
			if d.section.Comment == "" {
				d.section.Comment = string(v)
			}
		}
	}
	d.first = len(d.interfaces)
	d.at += int(n)
	return nil
}
