package query

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"sort"

	"opentap/capture/segment"
	"opentap/pcap"
)

// outBuffer is how much of a merge is gathered before it is written, in octets.
const outBuffer = 256 << 10

// keepOctets is how much of what a filter takes a plan keeps in memory from when it finds out its size, so that it need not
// be read again.
const keepOctets = 32 << 20

// expectPieces is how many pieces ahead of the one that is read the disk is told about.
const expectPieces = 64

// expect tells the disk about the pieces behind i, of which those before told know. Pieces that are read whole in a row
// are left to the kernel's own reading ahead.
func (c *cursor) expect(i, told int) int {
	told = max(told, i+1)
	for ; told < len(c.src.pieces) && told <= i+expectPieces; told++ {
		if g := &c.src.pieces[told]; len(g.spans) > 0 {
			h := g.chunk()
			c.rec.Expect(&h, g.spans)
		}
	}
	return told
}

// Size returns the exact number of octets of the output. For pcapng without Match, limits over several sources or Snap
// it follows from the chunk headers, and at most the chunks at the ends of the window are read; otherwise all chunks
// are read once (for pcap, whose size cannot be kept when a chunk turns out to be damaged, to verify them).
func (p *Plan) Size(ctx context.Context) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.resolve(ctx, nil); err != nil {
		return 0, err
	}
	return p.size, nil
}

// limit counts down to the limits of the window.
type limit struct {
	packets, octets         uint64 // limits; 0 = none
	usedPackets, usedOctets uint64
}

func (l *limit) fits(packets, octets uint64) bool {
	return (l.packets == 0 || l.usedPackets+packets <= l.packets) && (l.octets == 0 || l.usedOctets+octets <= l.octets)
}

func (l *limit) use(packets, octets uint64) {
	l.usedPackets += packets
	l.usedOctets += octets
}

// scan looks at every packet of a piece. It reports whether a limit ends the output there.
func (p *Plan) scan(s *source, g *piece, body []byte, l *limit) (full bool, err error) {
	var k block
	g.stored = 0
	keep := p.window.Match != nil && g.kept == nil
	defer func() { p.held += cap(g.kept) }()
	for len(body) > 0 {
		if !k.parse(body) {
			return false, fmt.Errorf("read chunk %d of segment %08d: its checksum is right and its packet blocks are not", g.sequence, g.segment)
		}
		body = body[len(k.raw):]
		s.looked.Packets++
		if !p.wants(&k) {
			continue
		}
		n := uint64(p.kept(&k))
		if !l.fits(1, n) {
			return true, nil
		}
		l.use(1, n)
		g.wanted++
		g.stored += n
		g.out += p.encodedSize(&k)
		if keep {
			if keep = p.held+len(g.kept)+len(k.raw) <= keepOctets; keep {
				g.kept = append(g.kept, k.raw...)
			} else {
				g.kept = nil
			}
		}
	}
	return false, nil
}

// WriteTo writes length octets of the output from offset on; a negative length is up to the end. The same plan always
// gives the same octets. A chunk that became unreadable after Size was told is replaced by a statistics block of the
// same size that says so; in pcap, or under limits over several sources, that is a *segment.CorruptionError.
//
// A whole output whose size nobody asked for is written as the packets are found; other calls of the Plan wait for it.
func (p *Plan) WriteTo(ctx context.Context, w io.Writer, offset, length int64) error {
	done, err := p.stream(ctx, w, offset == 0 && length < 0)
	if done || err != nil {
		return err
	}
	if length < 0 {
		length = p.size - offset
	}
	if offset < 0 || length < 0 || offset > p.size || length > p.size-offset {
		return fmt.Errorf("write range: %d octets at %d are not in the %d there are", length, offset, p.size)
	}
	out := &cut{w: w, skip: offset, left: length}
	out.write(p.head)
	if len(p.sources) == 1 {
		err = p.writeSource(ctx, out)
	} else {
		err = p.writeMerge(ctx, out)
	}
	if err != nil {
		return err
	}
	out.write(p.tail)
	if out.err == nil && out.left > 0 {
		return errors.New("write range: the output came out shorter than its size") // a bug, never a short file unseen
	}
	return out.err
}

// stream resolves the plan, and writes the whole output as it does, if that is wanted and can be.
func (p *Plan) stream(ctx context.Context, w io.Writer, whole bool) (done bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := &cut{w: w, left: math.MaxInt64}
	switch {
	case p.resolved || !whole:
		return false, p.resolve(ctx, nil)
	case len(p.sources) > 1:
		return true, p.writeFound(ctx, out)
	}
	return true, p.resolve(ctx, out)
}

// cut passes a range of what is written to it.
type cut struct {
	w          io.Writer
	skip, left int64
	err        error
}

func (c *cut) done() bool { return c.left == 0 || c.err != nil }

func (c *cut) write(b []byte) {
	if c.skip >= int64(len(b)) {
		c.skip -= int64(len(b))
		return
	}
	b = b[c.skip:]
	c.skip = 0
	b = b[:min(int64(len(b)), c.left)]
	if len(b) > 0 && c.err == nil {
		c.left -= int64(len(b))
		_, c.err = c.w.Write(b)
	}
}

// writeSource writes the packets of the only source; chunks before the range are skipped by arithmetic.
func (p *Plan) writeSource(ctx context.Context, out *cut) error {
	s := p.sources[0]
	c := cursor{plan: p, src: s, rec: s.rec.Clone()}
	defer c.rec.Close()
	at := out.skip + int64(len(p.head)) // in the output, if the head was skipped
	first := 0
	if out.skip > 0 {
		first = sort.Search(len(s.pieces), func(i int) bool { return s.pieces[i].start+s.pieces[i].out > at })
		if first < len(s.pieces) {
			out.skip -= s.pieces[first].start - int64(len(p.head))
		} else {
			out.skip -= p.size - int64(len(p.tail)) - int64(len(p.head))
		}
	}
	var buf []byte
	for i := first; i < len(s.pieces) && !out.done(); i++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		g := &s.pieces[i]
		if g.wanted == 0 {
			continue
		}
		if err := c.load(i); err != nil {
			if buf, err = p.replace(buf[:0], 0, s, g, err); err != nil {
				return err
			}
			out.write(buf)
			continue
		}
		var err error
		if buf, err = c.writePiece(out, g, buf); err != nil {
			return err
		}
	}
	return out.err
}

// replace appends what stands for a piece that became unreadable, or returns the cause if nothing can.
func (p *Plan) replace(dst []byte, iface uint32, s *source, g *piece, cause error) ([]byte, error) {
	var damage *segment.CorruptionError
	if !errors.As(cause, &damage) || p.format != PcapNG {
		return dst, cause
	}
	p.missed(uint64(g.wanted))
	text := fmt.Sprintf("%d packets are missing here: %v", g.wanted, cause)
	return appendFiller(dst, iface, g.earliest, int(g.out), text), nil
}

func (p *Plan) writeMerge(ctx context.Context, out *cut) error {
	limited := p.window.MaxPackets > 0 || p.window.MaxOctets > 0
	m := p.merge(func(c *cursor, i int, cause error) error {
		if limited || p.format != PcapNG {
			return cause
		}
		c.lost, c.cause = &c.src.pieces[i], cause
		return nil
	})
	defer m.close()
	buf := make([]byte, 0, outBuffer+pcap.MaxPacket/4)
	end := p.size - int64(len(p.tail))
	for at := int64(len(p.head)); at < end && !out.done(); {
		c, err := m.step(ctx)
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
		n := len(buf)
		if c.lost != nil {
			if buf, err = p.replace(buf, c.iface, c.src, c.lost, c.cause); err != nil {
				return err
			}
		} else {
			buf = p.encode(buf, c.iface, &c.k)
		}
		at += int64(len(buf) - n)
		if len(buf) >= outBuffer {
			out.write(buf)
			buf = buf[:0]
		}
	}
	out.write(buf)
	return out.err
}

// Each calls fn for every packet of the output in order until it returns an error, which Each returns. The packet and
// its data are valid until fn returns. Chunks that became unreadable are left out and counted. The first time the packets are
// given as they are found, and fn must not call the Plan.
func (p *Plan) Each(ctx context.Context, fn func(*pcap.Packet) error) error {
	p.mu.Lock()
	if !p.resolved {
		defer p.mu.Unlock()
		return p.eachFound(ctx, fn)
	}
	p.mu.Unlock()
	m := p.merge(func(c *cursor, i int, _ error) error {
		p.missed(uint64(c.src.pieces[i].wanted))
		return nil
	})
	defer m.close()
	var packets uint64
	for _, s := range p.sources {
		packets += s.packets
	}
	var out pcap.Packet
	for ; packets > 0; packets-- {
		c, err := m.step(ctx)
		if err != nil {
			return err
		}
		if c == nil {
			return nil
		}
		p.fill(&out, c)
		if err := fn(&out); err != nil {
			return err
		}
	}
	return nil
}
