package query

import (
	"context"
	"errors"

	"opentap/capture/segment"
	"opentap/packet"
	"opentap/pcap"
)

// cursor steps through the wanted packets of one source.
type cursor struct {
	plan  *Plan
	src   *source
	iface uint32
	rec   *segment.Recording
	next  int    // piece
	buf   []byte // the chunk
	rest  []byte // its packet blocks not yet looked at
	left  uint32 // wanted packets still in rest, at most

	// Where the cursor is, if on.
	on    bool
	k     block
	lost  *piece // instead of k: a chunk that became unreadable
	cause error

	bad func(i int, cause error) error // decides about a chunk that does not read: nil = leave it out
	ask *finding                       // the pieces are found as the cursor comes to them; nil = they are known
}

// step moves to the next wanted packet. Afterwards c.on says whether there is one, or if not, waits whether one may be in
// segments that were not looked at.
func (c *cursor) step(ctx context.Context) error {
	c.on, c.lost = false, nil
	for {
		for c.left > 0 && len(c.rest) > 0 {
			if !c.k.parse(c.rest) {
				return errors.New("read chunk: its checksum is right and its packet blocks are not") // a writer's bug
			}
			c.rest = c.rest[len(c.k.raw):]
			wanted := c.plan.wants(&c.k)
			if c.ask != nil {
				c.ask.tally(c, wanted)
			}
			if wanted {
				c.left--
				c.on = true
				return nil
			}
		}
		if c.next == len(c.src.pieces) {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		i := c.next
		c.next++
		if c.ask != nil {
			if err := c.ask.meet(c, i); err != nil {
				return err
			}
		}
		if c.src.pieces[i].wanted == 0 {
			continue
		}
		if err := c.load(i); err != nil {
			var damage *segment.CorruptionError
			if !errors.As(err, &damage) {
				return err
			}
			if err := c.bad(i, err); err != nil {
				return err
			}
			if c.lost != nil {
				c.on = true
				return nil
			}
			continue
		}
		if c.ask != nil {
			c.ask.loaded(c, i)
		}
	}
}

// waits reports whether there may be packets in segments that were not looked at, none of which is before the floor.
func (c *cursor) waits() (floor packet.Timestamp, ok bool) {
	if c.on || c.ask == nil || c.ask.survey.done() {
		return 0, false
	}
	return c.ask.survey.floor(), true
}

// load reads the chunk of piece i.
func (c *cursor) load(i int) error {
	g := &c.src.pieces[i]
	c.rest, c.left = nil, 0
	if g.kept != nil {
		c.rest, c.left = g.kept, g.wanted
		return nil
	}
	var err error
	h := g.chunk()
	if len(g.spans) > 0 {
		if c.buf, err = c.rec.ReadSpans(&h, g.spans, c.buf); err != nil {
			return err
		}
		body, ok := g.unpadSpans(c.buf)
		if !ok {
			return &segment.CorruptionError{Path: c.src.Dir, Chunk: g.sequence, Offset: g.offset, Msg: "last packet block contradicts the header"}
		}
		c.rest, c.left = body, g.wanted
		return nil
	}
	if c.buf, err = c.rec.ReadChunk(&h, c.buf); err != nil {
		return err
	}
	body, ok := g.unpad(c.buf)
	if !ok {
		return &segment.CorruptionError{Path: c.src.Dir, Chunk: g.sequence, Offset: g.offset, Msg: "last packet block contradicts the header"}
	}
	c.rest, c.left = body, g.wanted
	return nil
}

func (c *cursor) time() packet.Timestamp {
	if c.lost != nil {
		return c.lost.earliest
	}
	return c.k.ts
}

// wants reports whether a packet is in the window and matches.
func (p *Plan) wants(k *block) bool {
	w := &p.window
	return k.ts >= w.From && (w.To == 0 || k.ts < w.To) && (w.Match == nil || w.Match(k.data, k.origLen))
}

func (p *Plan) kept(k *block) int {
	if s := p.window.Snap; s > 0 && s < len(k.data) {
		return s
	}
	return len(k.data)
}

// encodedSize is the number of octets encode appends.
func (p *Plan) encodedSize(k *block) int64 {
	n := p.kept(k)
	switch {
	case p.format != PcapNG:
		return int64(pcap.ClassicPacketSize(n))
	case n < len(k.data):
		return int64(pcap.PacketSize(n, k.direction()))
	}
	return int64(len(k.raw))
}

// encode appends a packet as the output has it.
func (p *Plan) encode(dst []byte, iface uint32, k *block) []byte {
	n := p.kept(k)
	switch {
	case p.format != PcapNG:
		return pcap.AppendClassicPacket(dst, k.ts, k.origLen, k.data[:n], p.format == Pcap)
	case n < len(k.data):
		return pcap.AppendPacket(dst, iface, k.ts, k.origLen, k.data[:n], k.direction())
	}
	at := len(dst)
	dst = append(dst, k.raw...)
	le.PutUint32(dst[at+8:], iface)
	return dst
}

// merge is all sources in time order; packets of the same time are in the order of the sources. Within a source the
// order is the stored one.
type merge struct {
	cursors []cursor
	current *cursor
	begun   bool // the cursors are at packets that were not given yet
}

func (p *Plan) merge(bad func(c *cursor, i int, cause error) error) *merge {
	m := &merge{cursors: make([]cursor, len(p.sources))}
	for i, s := range p.sources {
		c := &m.cursors[i]
		*c = cursor{plan: p, src: s, iface: s.iface, rec: s.rec.Clone()}
		c.bad = func(i int, cause error) error { return bad(c, i, cause) }
	}
	return m
}

// step moves to the next packet of all and returns its cursor, or nil at the end. Segments are looked at when what is found
// already may not be the next.
func (m *merge) step(ctx context.Context) (*cursor, error) {
	if m.current != nil {
		if err := m.current.step(ctx); err != nil {
			return nil, err
		}
	} else if !m.begun {
		for i := range m.cursors {
			if err := m.cursors[i].step(ctx); err != nil {
				return nil, err
			}
		}
	}
	for {
		m.current = nil
		var waiting *cursor
		var least packet.Timestamp
		for i := range m.cursors {
			c := &m.cursors[i]
			if c.on && (m.current == nil || c.time() < m.current.time()) {
				m.current = c
			} else if floor, ok := c.waits(); ok && (waiting == nil || floor < least) {
				waiting, least = c, floor
			}
		}
		if waiting == nil || m.current != nil && m.current.time() < least {
			return m.current, nil
		}
		if err := waiting.ask.segment(ctx); err != nil {
			return nil, err
		}
		if err := waiting.step(ctx); err != nil {
			return nil, err
		}
	}
}

func (m *merge) close() {
	for i := range m.cursors {
		m.cursors[i].rec.Close()
	}
}
