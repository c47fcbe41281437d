package segment

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"opentap/capture/index"
	"opentap/packet"
	"opentap/pcap"
)

// Verification says what Verify found.
type Verification struct {
	Segments int
	Open     int // of those: without a seal; a Writer may be at work, or a crash left them
	Chunks   uint64
	Packets  uint64
	Octets   int64 // of files read
	Indexed  int   // segments whose index was there and agreed
	Missing  int   // sealed segments without an index, which is no damage
	Problems []Problem
}

// Problem is one place that is not as it was written.
type Problem struct {
	Path    string
	Chunk   uint32 // sequence number, as far as known
	Offset  int64
	Packets uint64 // that are lost with it, as far as known
	Index   bool   // it is in the index: no packet is lost
	Msg     string
}

// String shows place and reason in one line.
func (p *Problem) String() string {
	if p.Index {
		return fmt.Sprintf("%s: %s", p.Path, p.Msg)
	}
	return fmt.Sprintf("%s: chunk %d at offset %d: %s (%d packets)", p.Path, p.Chunk, p.Offset, p.Msg, p.Packets)
}

// Verify reads the whole recording in dir, as it is now: every checksum, that counts and packets agree, and that each index is
// just what its segment makes. It changes nothing and may run beside a Writer. progress is called now and then with the octets
// done and all there are; it may be nil.
func Verify(ctx context.Context, dir string, progress func(done, all int64)) (Verification, error) {
	var v Verification
	r, err := openUpto(dir, Position{}, nil)
	if err != nil {
		return v, err
	}
	defer r.Close()
	v.catalogue(dir, r.segments)
	var all int64
	for i := range r.segments {
		all += r.segments[i].Bytes
	}
	for i := range r.segments {
		c := checker{v: &v, r: r, in: &r.segments[i], tell: func(at int64) {
			if progress != nil {
				progress(v.Octets+at, all)
			}
		}}
		if err := c.check(ctx); err != nil {
			return v, err
		}
		v.Octets += c.in.Bytes
	}
	return v, nil
}

// catalogue compares what is noted about the segments with what they say.
func (v *Verification) catalogue(dir string, segments []Info) {
	known := readCatalogue(dir)
	for i := range segments {
		in := segments[i]
		noted, ok := known.info(dir, in.Number)
		in.Catalogued, in.IndexBytes = true, noted.IndexBytes // which may have changed meanwhile
		if ok && in.Sealed && noted.Path == in.Path && noted != in {
			v.Problems = append(v.Problems, Problem{Path: in.Path, Index: true, Msg: "the catalogue says something else about it; repair makes it anew"})
		}
	}
	if known != nil {
		for _, path := range checkRuns(dir, known, segments) {
			v.Problems = append(v.Problems, Problem{Path: path, Index: true, Msg: "it is not what the indexes make; repair makes it anew"})
		}
	}
}

// checker verifies one segment.
type checker struct {
	v     *Verification
	r     *Recording
	in    *Info
	tell  func(at int64)
	b     *index.Builder
	built []byte // the index as it should be
	t     totals
	marks []index.Mark
	next  uint32
}

func (c *checker) problem(p Problem) {
	p.Path = c.in.Path
	c.v.Problems = append(c.v.Problems, p)
}

func (c *checker) check(ctx context.Context) error {
	in := c.in
	c.v.Segments++
	if !in.Sealed {
		c.v.Open++
	}
	if in.Damaged != "" {
		c.problem(Problem{Msg: "its head: " + in.Damaged})
	}
	f, err := c.r.file(in.Number)
	if err != nil {
		return err
	}
	link := packet.LinkEthernet
	head := make([]byte, in.start)
	if _, err := readFull(f, head, 0); err != nil {
		return err
	}
	if in.Damaged == "" {
		link = linkOf(head)
	}
	c.b = index.NewBuilder(link, in.recordID, in.Number)
	var buf []byte
	var failed error
	err = walk(f, in, c.r.page, func(h *ChunkHeader) bool {
		if failed = ctx.Err(); failed != nil {
			return false
		}
		c.tell(h.Offset)
		for ; c.next < h.Sequence; c.next++ {
			c.b.Chunk(nil, 0, 0, 0, nil)
		}
		c.next++
		c.v.Chunks++
		c.t.add(h)
		var damage *CorruptionError
		if buf, failed = c.r.ReadChunk(h, buf); errors.As(failed, &damage) {
			failed = nil
			c.problem(Problem{Chunk: h.Sequence, Offset: h.Offset, Packets: uint64(h.Packets), Msg: damage.Msg})
			c.b.Chunk(nil, 0, 0, 0, nil)
			return true
		} else if failed != nil {
			return false
		}
		c.v.Packets += uint64(h.Packets)
		c.chunk(buf, h)
		return true
	}, func(from, to int64, msg string) bool {
		c.problem(Problem{Chunk: c.next, Offset: from, Msg: fmt.Sprintf("unreadable up to offset %d: %s", to, msg)})
		return true
	})
	if err = errors.Join(err, failed); err != nil {
		return err
	}
	if in.Sealed && (c.t.chunks != in.Chunks || c.t.packets != in.Packets || c.t.chain != in.chain || c.t.stored != in.StoredOctets) {
		c.problem(Problem{Chunk: c.next, Offset: in.end, Msg: fmt.Sprintf("the seal counts %d chunks with %d packets, there are %d with %d",
			in.Chunks, in.Packets, c.t.chunks, c.t.packets)})
	}
	return c.index()
}

// chunk checks that the packet blocks are what the header says.
func (c *checker) chunk(b []byte, h *ChunkHeader) {
	c.marks = marksOf(c.marks[:0], b, h)
	c.b.Chunk(b, h.Header, h.Packets, h.HeaderCRC, c.marks)
	if c.b.Full() {
		c.built = c.b.Part(c.built)
	}
	if h.Packets == 0 {
		return
	}
	var p pcap.Packet
	packets, stored, octets := uint32(0), uint64(0), uint64(0)
	for rest := b[h.Header:]; len(rest) > 0; packets++ {
		typ, body, n, err := pcap.NextBlock(rest)
		if err == nil && typ == pcap.BlockPacket {
			err = pcap.DecodePacket(body, &p)
		}
		if err != nil || typ != pcap.BlockPacket {
			c.problem(Problem{Chunk: h.Sequence, Offset: h.Offset, Packets: uint64(h.Packets), Msg: fmt.Sprintf("no packet block at octet %d of it", len(b)-len(rest))})
			return
		}
		stored, octets = stored+uint64(len(p.Data)), octets+uint64(p.OrigLen)
		if p.Time < h.Earliest || p.Time > h.Latest {
			c.problem(Problem{Chunk: h.Sequence, Offset: h.Offset, Msg: fmt.Sprintf("packet %d is outside of the times of the header", packets)})
		}
		rest = rest[n:]
	}
	if packets != h.Packets || stored != h.StoredOctets || octets != h.Octets {
		c.problem(Problem{Chunk: h.Sequence, Offset: h.Offset, Msg: fmt.Sprintf("the header counts %d packets with %d octets, there are %d with %d",
			h.Packets, h.StoredOctets, packets, stored)})
	}
}

// index compares the index with what the chunks make. Of a segment that is being written the newest chunks are in none.
func (c *checker) index() error {
	in := c.in
	for ; in.Sealed && c.next < in.Chunks && in.Damaged == ""; c.next++ {
		c.b.Chunk(nil, 0, 0, 0, nil)
	}
	parts := 0 // octets of them: all that was written before there were summaries
	if in.Sealed {
		if c.b.Pending() {
			c.built = c.b.Part(c.built)
		}
		parts = len(c.built)
		c.built = c.b.Summary(c.built)
	}
	b, err := os.ReadFile(indexPath(c.r.dir, in.Number))
	switch {
	case errors.Is(err, os.ErrNotExist):
		if in.Sealed {
			c.v.Missing++
		}
		return nil
	case err != nil:
		return err
	}
	if index.Outdated(b) {
		if in.Sealed {
			c.v.Missing++
		}
		return nil
	}
	want := c.built
	if !in.Sealed { // both may have more than the other
		n := min(len(b), len(want))
		b, want = b[:n], want[:n]
	} else if len(b) == parts {
		want = want[:parts]
	}
	if !bytes.Equal(b, want) {
		at := 0
		for at < min(len(b), len(want)) && b[at] == want[at] {
			at++
		}
		c.problem(Problem{Index: true, Msg: fmt.Sprintf("its index differs from octet %d on; queries find nothing less, repair makes it anew", at)})
		return nil
	}
	c.v.Indexed++
	return nil
}

// Interface reads how the recording describes its point. io.EOF: it has no segment with a whole head.
func (r *Recording) Interface() (pcap.Interface, error) {
	for i := range r.segments {
		in := &r.segments[i]
		if in.Damaged != "" {
			continue
		}
		face, err := r.InterfaceOf(in.Number)
		if !errors.Is(err, io.EOF) {
			return face, err
		}
	}
	return pcap.Interface{}, io.EOF
}

// InterfaceOf reads how the segment with a number describes the point. io.EOF: it does not.
func (r *Recording) InterfaceOf(n uint32) (pcap.Interface, error) {
	f, err := r.file(n)
	if err != nil {
		return pcap.Interface{}, err
	}
	p, err := pcap.NewReader(io.NewSectionReader(f, 0, f.size))
	if err != nil {
		return pcap.Interface{}, fmt.Errorf("read segment %s: %w", f.path, err)
	}
	var k pcap.Packet
	for len(p.Interfaces()) == 0 {
		if err := p.Next(&k); err != nil && len(p.Interfaces()) == 0 { // a segment without packets ends behind its interface
			if errors.Is(err, io.EOF) {
				return pcap.Interface{}, io.EOF
			}
			return pcap.Interface{}, fmt.Errorf("read segment %s: %w", f.path, err)
		}
	}
	return p.Interfaces()[0], nil
}
