package pcap

import (
	"fmt"
	"io"

	"opentap/packet"
)

// NGWriter writes a pcapng file of one section. Each call makes one Write of whole blocks: buffering is the caller's. It
// is not safe for concurrent use. What it writes is in docs/format/pcapng.md.
type NGWriter struct {
	w          io.Writer
	buf        []byte
	interfaces int
	err        error
}

// NewNGWriter writes the Section Header Block.
func NewNGWriter(w io.Writer, s Section) (*NGWriter, error) {
	n := &NGWriter{w: w}
	n.buf = AppendSectionHeader(n.buf[:0], s)
	return n, n.flush()
}

// AddInterface writes an Interface Description Block and returns the number that packets and statistics refer to.
func (n *NGWriter) AddInterface(i Interface) (int, error) {
	if n.err != nil {
		return 0, n.err
	}
	n.buf = AppendInterface(n.buf[:0], i)
	if err := n.flush(); err != nil {
		return 0, err
	}
	n.interfaces++
	return n.interfaces - 1, nil
}

// WritePacket writes an Enhanced Packet Block. p is not kept. A packet that no reader would accept is refused, and the
// file stays good; after an error of the underlying writer every call returns it.
func (n *NGWriter) WritePacket(p *Packet) error {
	if n.err != nil {
		return n.err
	}
	if err := n.known(p.Interface); err != nil {
		return fmt.Errorf("write packet: %w", err)
	}
	if len(p.Data) > MaxPacket {
		return fmt.Errorf("write packet: %d octets are more than %d", len(p.Data), MaxPacket)
	}
	n.buf = AppendPacket(n.buf[:0], uint32(p.Interface), p.Time, p.OrigLen, p.Data, p.Direction)
	if p.Comment != "" {
		n.buf = appendComment(n.buf, p.Comment)
	}
	return n.flush()
}

// WriteStats writes an Interface Statistics Block. s is not kept.
func (n *NGWriter) WriteStats(s *Stats) error {
	if n.err != nil {
		return n.err
	}
	if err := n.known(s.Interface); err != nil {
		return fmt.Errorf("write statistics: %w", err)
	}
	n.buf = AppendStats(n.buf[:0], s)
	if len(n.buf) > maxBlock {
		return fmt.Errorf("write statistics: %d octets are more than %d", len(n.buf), maxBlock)
	}
	return n.flush()
}

func (n *NGWriter) known(iface int) error {
	if iface < 0 || iface >= n.interfaces {
		return fmt.Errorf("interface %d of %d", iface, n.interfaces)
	}
	return nil
}

func (n *NGWriter) flush() error {
	if _, err := n.w.Write(n.buf); err != nil {
		n.err = fmt.Errorf("write pcapng: %w", err)
	}
	return n.err
}

// appendComment adds an opt_comment to the block that b is.
func appendComment(b []byte, comment string) []byte {
	opts := epbHeader + align4(int(le.Uint32(b[20:])))
	b = b[:len(b)-4]
	if len(b) > opts {
		b = b[:len(b)-4] // the end of options
	}
	return closeBlock(appendText(b, optComment, comment), 0, opts)
}

// ClassicWriter writes a little-endian pcap file. Each call makes one Write. It is not safe for concurrent use. The
// format has no interfaces, directions, comments and statistics: they are left out.
type ClassicWriter struct {
	w     io.Writer
	buf   []byte
	nanos bool
	err   error
}

// NewClassicWriter writes the file header. A snapLen of 0 means no limit. Without nanos times are cut to microseconds.
func NewClassicWriter(w io.Writer, link packet.LinkType, snapLen uint32, nanos bool) (*ClassicWriter, error) {
	c := &ClassicWriter{w: w, nanos: nanos}
	c.buf = AppendClassicHeader(c.buf[:0], link, snapLen, nanos)
	return c, c.flush()
}

// WritePacket writes one record. A packet the format cannot hold (times before 1970 or after 2106, more than MaxPacket
// octets) is refused, and the file stays good; after an error of the underlying writer every call returns it.
func (c *ClassicWriter) WritePacket(p *Packet) error {
	if c.err != nil {
		return c.err
	}
	if len(p.Data) > MaxPacket {
		return fmt.Errorf("write packet: %d octets are more than %d", len(p.Data), MaxPacket)
	}
	if p.Time < 0 || int64(p.Time)/1e9 > 1<<32-1 {
		return fmt.Errorf("write packet: time %d ns is outside what pcap can hold", p.Time)
	}
	c.buf = AppendClassicPacket(c.buf[:0], p.Time, p.OrigLen, p.Data, c.nanos)
	return c.flush()
}

func (c *ClassicWriter) flush() error {
	if _, err := c.w.Write(c.buf); err != nil {
		c.err = fmt.Errorf("write pcap: %w", err)
	}
	return c.err
}
