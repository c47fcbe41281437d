package query

import (
	"context"

	"opentap/pcap"
)

// finding is how a cursor finds out what the pieces of its source give, as it passes them.
type finding struct {
	survey   *surveyor
	pause    func() error // before something may have to be waited for
	size     *int64       // of the output so far
	limit    *limit       // that ends the output at some packet; nil = none does
	alone    bool         // the only cursor: all that comes before a piece is known when it is met
	expected int          // pieces that the disk was told about
	whole    bool         // all packets of the piece are wanted
}

// segment has the next segment looked at.
func (f *finding) segment(ctx context.Context) error {
	if err := f.pause(); err != nil {
		return err
	}
	_, err := f.survey.segment(ctx)
	return err
}

// meet begins piece i.
func (f *finding) meet(c *cursor, i int) error {
	if err := f.pause(); err != nil {
		return err
	}
	p, g := c.plan, &c.src.pieces[i]
	f.whole = !g.partial && p.window.Match == nil && p.window.Snap == 0 &&
		(f.limit == nil || f.alone && f.limit.fits(uint64(g.packets), g.stored)) // as the resolver has it: a piece that does not read counts whole
	g.start, g.scan, g.wanted, g.out = *f.size, !f.whole, g.packets, 0
	switch {
	case !f.whole:
		g.stored = 0
	case p.format == PcapNG:
		g.out = int64(g.epb)
	default:
		g.out = int64(pcap.ClassicPacketSize(0))*int64(g.packets) + int64(g.stored)
	}
	if p.window.Match != nil {
		f.expected = c.expect(i, f.expected)
	}
	return nil
}

// loaded begins to count what of piece i is wanted.
func (f *finding) loaded(c *cursor, i int) {
	s := c.src
	if f.whole && c.plan.format == PcapNG {
		return // read because packets are wanted, not to know how many
	}
	s.looked.Read++
	s.looked.OctetsRead += uint64(len(c.rest))
	if !f.whole {
		s.pieces[i].wanted = 0
	}
}

// tally counts the packet that the cursor is at.
func (f *finding) tally(c *cursor, wanted bool) {
	if f.whole {
		return
	}
	c.src.looked.Packets++
	if wanted {
		g := &c.src.pieces[c.next-1]
		g.wanted++
		g.stored += uint64(c.plan.kept(&c.k))
		g.out += c.plan.encodedSize(&c.k)
	}
}

// untally takes the packet that the cursor is at back: a limit leaves it out.
func (f *finding) untally(c *cursor) {
	g := &c.src.pieces[c.next-1]
	g.wanted--
	g.stored -= uint64(c.plan.kept(&c.k))
	g.out -= c.plan.encodedSize(&c.k)
}

// find resolves the plan by going through all packets in order, and calls fn for each of the output as it is found: c.k is
// the packet, or c.lost a piece of the output that became unreadable. pause is called before something may have to be waited
// for. Called with mu held.
func (p *Plan) find(ctx context.Context, pause func() error, fn func(c *cursor) error) error {
	l := limit{packets: p.window.MaxPackets, octets: p.window.MaxOctets}
	size := int64(len(p.head))
	p.forget()
	m := p.merge(func(c *cursor, i int, cause error) error {
		g := &c.src.pieces[i]
		if c.ask.whole && p.format == PcapNG {
			c.lost, c.cause = g, cause
			return nil
		}
		g.wanted, g.out, g.stored = 0, 0, 0
		c.src.bad++
		c.src.badPackets += uint64(g.packets)
		return nil
	})
	defer m.close()
	for i := range m.cursors {
		c := &m.cursors[i]
		c.ask = &finding{survey: c.src.survey(ctx, &p.window), pause: pause, size: &size, alone: len(m.cursors) == 1}
		if l.packets > 0 || l.octets > 0 {
			c.ask.limit = &l
		}
		defer c.ask.survey.close()
	}
	for {
		c, err := m.step(ctx)
		if err != nil {
			return err
		}
		if c == nil {
			break
		}
		n, packets, octets := int64(0), uint64(1), uint64(0)
		if c.lost != nil {
			n, packets, octets = c.lost.out, uint64(c.lost.wanted), c.lost.stored
		} else {
			n, octets = p.encodedSize(&c.k), uint64(p.kept(&c.k))
		}
		if !l.fits(packets, octets) {
			c.ask.untally(c)
			break
		}
		if err := fn(c); err != nil {
			return err
		}
		l.use(packets, octets)
		c.src.packets += packets
		c.src.octets += octets
		size += n
	}
	for i := range m.cursors { // the accounts speak of the whole window
		c := &m.cursors[i]
		for k := c.next; k < len(c.src.pieces); k++ {
			g := &c.src.pieces[k]
			g.start, g.out, g.wanted, g.stored = size, 0, 0, 0
		}
		v := c.ask.survey
		v.enough()
		for more := true; more; {
			var err error
			if more, err = v.segment(ctx); err != nil {
				return err
			}
		}
	}
	p.tail = p.appendTail(nil)
	p.size, p.resolved = size+int64(len(p.tail)), true
	return nil
}

// writeFound writes the whole output as it is found. Called with mu held.
func (p *Plan) writeFound(ctx context.Context, out *cut) error {
	buf := make([]byte, 0, outBuffer+pcap.MaxPacket/4)
	flush := func() error {
		out.write(buf)
		buf = buf[:0]
		return out.err
	}
	out.write(p.head)
	err := p.find(ctx, flush, func(c *cursor) (err error) {
		if c.lost != nil {
			if buf, err = p.replace(buf, c.iface, c.src, c.lost, c.cause); err != nil {
				return err
			}
		} else {
			buf = p.encode(buf, c.iface, &c.k)
		}
		if len(buf) >= outBuffer {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	buf = append(buf, p.tail...)
	return flush()
}

// goOn does nothing.
func goOn() error { return nil }

// eachFound is Each for a plan that is not resolved yet. Called with mu held.
func (p *Plan) eachFound(ctx context.Context, fn func(*pcap.Packet) error) error {
	var out pcap.Packet
	return p.find(ctx, goOn, func(c *cursor) error {
		if c.lost != nil {
			p.missed(uint64(c.lost.wanted))
			return nil
		}
		p.fill(&out, c)
		return fn(&out)
	})
}

// missed notes a chunk with so many packets of the output that became unreadable.
func (p *Plan) missed(packets uint64) {
	p.lateMu.Lock()
	defer p.lateMu.Unlock()
	p.late.CorruptChunks++
	p.late.CorruptPackets += packets
}

// forget begins to count anew: an earlier resolving may have been interrupted. Called with mu held.
func (p *Plan) forget() {
	p.held = 0
	p.lateMu.Lock()
	p.late = Result{}
	p.lateMu.Unlock()
}
