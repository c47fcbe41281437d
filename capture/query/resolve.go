package query

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"opentap/capture/segment"
	"opentap/pcap"
)

// resolve finds out what each piece gives. With out, for the only source, it writes the whole output as it does, and a
// piece that cannot be read is treated as WriteTo does after resolve. Called with mu held.
func (p *Plan) resolve(ctx context.Context, out *cut) error {
	if p.resolved {
		return nil
	}
	if out != nil {
		out.write(p.head)
	}
	l := &limit{packets: p.window.MaxPackets, octets: p.window.MaxOctets}
	if len(p.sources) > 1 && (l.packets > 0 || l.octets > 0) { // which only the order of all settles
		return p.find(ctx, goOn, func(*cursor) error { return nil })
	}
	size := int64(len(p.head))
	p.forget()
	for _, s := range p.sources {
		r := resolver{plan: p, limit: l, size: &size, out: out, c: cursor{plan: p, src: s, rec: s.rec.Clone()}}
		if err := r.run(ctx); err != nil {
			return err
		}
	}
	p.tail = p.appendTail(nil)
	if out != nil {
		if out.write(p.tail); out.err != nil {
			return out.err
		}
		if math.MaxInt64-out.left != size+int64(len(p.tail)) {
			return errors.New("write output: it came out of another size than was counted") // a bug, never a wrong file unseen
		}
	}
	p.size, p.resolved = size+int64(len(p.tail)), true
	return nil
}

// resolver finds out what the pieces of one source give.
type resolver struct {
	plan  *Plan
	c     cursor
	limit *limit
	size  *int64 // of the output so far
	out   *cut   // nil = only count
	buf   []byte

	next     int  // piece
	expected int  // pieces that the disk was told about
	full     bool // a limit ended the output
}

func (r *resolver) run(ctx context.Context) error {
	defer r.c.rec.Close()
	s := r.c.src
	v := s.survey(ctx, &r.plan.window)
	defer v.close()
	for more := true; more; {
		var err error
		if more, err = v.segment(ctx); err != nil {
			return err
		}
		for ; r.next < len(s.pieces); r.next++ {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := r.piece(r.next); err != nil {
				return err
			}
			if r.out != nil && r.out.err != nil {
				return r.out.err
			}
		}
		if r.full {
			v.enough()
		}
	}
	return nil
}

// piece resolves piece i, and writes what it gives.
func (r *resolver) piece(i int) error {
	p, s, l := r.plan, r.c.src, r.limit
	g := &s.pieces[i]
	stored := g.stored
	g.start, g.out, g.wanted = *r.size, 0, 0
	if r.full {
		return nil
	}
	if p.window.Match != nil {
		r.expected = r.c.expect(i, r.expected)
	}
	all := !g.partial && p.window.Match == nil && p.window.Snap == 0 && l.fits(uint64(g.packets), stored)
	g.scan = !all
	if all {
		g.wanted, g.out = g.packets, int64(g.epb)
	}
	if !all || p.format != PcapNG {
		if err := r.c.load(i); err != nil {
			var damage *segment.CorruptionError
			if !errors.As(err, &damage) {
				return err
			}
			g.wanted, g.out = 0, 0
			s.bad++
			s.badPackets += uint64(g.packets)
			return nil
		}
		s.looked.Read++
		s.looked.OctetsRead += uint64(len(r.c.rest))
		if all {
			g.out = int64(pcap.ClassicPacketSize(0))*int64(g.packets) + int64(stored)
		} else {
			var err error
			if r.full, err = p.scan(s, g, r.c.rest, l); err != nil {
				return err
			}
		}
	}
	if all {
		l.use(uint64(g.packets), stored)
	}
	s.packets += uint64(g.wanted)
	s.octets += g.stored
	*r.size += g.out
	if r.out == nil || g.wanted == 0 {
		return nil
	}
	return r.write(i)
}

// write writes piece i, which was just resolved.
func (r *resolver) write(i int) (err error) {
	g := &r.c.src.pieces[i]
	switch {
	case !g.scan && r.plan.format == PcapNG:
		if err := r.c.load(i); err != nil {
			if r.buf, err = r.plan.replace(r.buf[:0], 0, r.c.src, g, err); err != nil {
				return err
			}
			r.out.write(r.buf)
			return nil
		}
	case g.kept != nil:
		r.c.rest = g.kept
	}
	r.c.left = g.wanted
	r.buf, err = r.c.writePiece(r.out, g, r.buf)
	r.plan.held -= cap(g.kept)
	g.kept = nil // it is read again by who asks again
	return err
}

// writePiece writes the piece that was loaded.
func (c *cursor) writePiece(out *cut, g *piece, buf []byte) ([]byte, error) {
	p := c.plan
	if !g.scan && p.format == PcapNG {
		out.write(c.rest)
		return buf, nil
	}
	var k block
	buf = slices.Grow(buf[:0], int(min(g.out, outBuffer)))
	left := g.out
	for c.left > 0 && k.parse(c.rest) {
		c.rest = c.rest[len(k.raw):]
		if g.scan && !p.wants(&k) {
			continue
		}
		at := len(buf)
		buf = p.encode(buf, 0, &k)
		c.left--
		if left -= int64(len(buf) - at); len(buf) >= outBuffer && left >= 0 {
			out.write(buf)
			buf = buf[:0]
		}
	}
	if left != 0 {
		return buf, fmt.Errorf("write range: chunk %d of segment %08d gives %d octets, %d were counted: the filter decides differently, or the file changed",
			g.sequence, g.segment, g.out-left, g.out)
	}
	out.write(buf)
	return buf, nil
}
