package query

import (
	"context"
	"errors"
	"sort"

	"opentap/capture/segment"
	"opentap/packet"
	"opentap/pcap"
)

// everyRows is how many packets of a merge lie between two places that are remembered.
const everyRows = 4096

// directory says where packets are by their number in the output, from 0. Of one source it follows from what the plan knows
// of each chunk; of several, places of the merge are remembered.
type directory struct {
	before []uint64 // one source: packets before each piece
	marks  []mark   // several: every everyRows packets
	total  uint64
}

// mark is where a merge is: the number of the packet that comes next, and where each cursor is.
type mark struct {
	number  uint64
	cursors []markCursor
}

type markCursor struct {
	piece int    // that the cursor is in; below 0: it has not begun or is at its end
	taken uint32 // wanted packets of it up to the cursor's own
	over  bool
}

// rows makes the directory once. Of several sources all packets are stepped through for it.
func (p *Plan) rows(ctx context.Context) (*directory, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.resolve(ctx, nil); err != nil {
		return nil, err
	}
	if p.numbers != nil {
		return p.numbers, nil
	}
	d := &directory{}
	if len(p.sources) == 1 {
		s := p.sources[0]
		d.before = make([]uint64, len(s.pieces))
		for i := range s.pieces {
			d.before[i] = d.total
			d.total += uint64(s.pieces[i].wanted)
		}
		p.numbers = d
		return d, nil
	}
	var most uint64
	for _, s := range p.sources {
		most += s.packets
	}
	m := p.merge(func(*cursor, int, error) error { return nil })
	defer m.close()
	for ; d.total < most; d.total++ {
		c, err := m.step(ctx)
		if err != nil {
			return nil, err
		}
		if c == nil {
			break
		}
		if d.total%everyRows == 0 {
			d.marks = append(d.marks, m.mark(d.total))
		}
	}
	p.numbers = d
	return d, nil
}

// mark remembers where the cursors are; the current one's packet is the next.
func (m *merge) mark(number uint64) mark {
	k := mark{number: number, cursors: make([]markCursor, len(m.cursors))}
	for i := range m.cursors {
		c := &m.cursors[i]
		if !c.on {
			k.cursors[i] = markCursor{piece: -1, over: true}
			continue
		}
		k.cursors[i] = markCursor{piece: c.next - 1, taken: c.src.pieces[c.next-1].wanted - c.left}
	}
	return k
}

// restore brings the cursors to a mark. The next step gives the packet with its number.
func (m *merge) restore(ctx context.Context, k mark) error {
	for i := range m.cursors {
		c, at := &m.cursors[i], k.cursors[i]
		if at.over {
			c.next, c.left, c.on = len(c.src.pieces), 0, false
			continue
		}
		c.next = at.piece
		for n := uint32(0); n < at.taken; n++ {
			if err := c.step(ctx); err != nil {
				return err
			}
		}
	}
	m.begun = true
	return nil
}

// Count is how many packets there are.
func (p *Plan) Count(ctx context.Context) (uint64, error) {
	d, err := p.rows(ctx)
	if err != nil {
		return 0, err
	}
	return d.total, nil
}

// Rows calls fn for up to n packets from the given number on, which counts from 0, until it returns an error, which Rows
// returns. The packet and its data are valid until fn returns. Packets of a chunk that became unreadable are left out.
func (p *Plan) Rows(ctx context.Context, from uint64, n int, fn func(number uint64, pk *pcap.Packet) error) error {
	d, err := p.rows(ctx)
	if err != nil || from >= d.total || n <= 0 {
		return err
	}
	if d.before != nil {
		return p.rowsOfOne(ctx, d, from, n, fn)
	}
	i := sort.Search(len(d.marks), func(i int) bool { return d.marks[i].number > from }) - 1
	m := p.merge(func(*cursor, int, error) error { return nil })
	defer m.close()
	if err := m.restore(ctx, d.marks[i]); err != nil {
		return err
	}
	var out pcap.Packet
	for number := d.marks[i].number; number < min(from+uint64(n), d.total); number++ {
		c, err := m.step(ctx)
		if err != nil || c == nil {
			return err
		}
		if number < from {
			continue
		}
		p.fill(&out, c)
		if err := fn(number, &out); err != nil {
			return err
		}
	}
	return nil
}

func (p *Plan) rowsOfOne(ctx context.Context, d *directory, from uint64, n int, fn func(number uint64, pk *pcap.Packet) error) error {
	s := p.sources[0]
	c := cursor{plan: p, src: s, rec: s.rec.Clone(), bad: func(int, error) error { return nil }}
	defer c.rec.Close()
	var out pcap.Packet
	first := sort.Search(len(d.before), func(i int) bool { return d.before[i] > from }) - 1
	for i := first; i < len(s.pieces) && d.before[i] < from+uint64(n); i++ {
		if s.pieces[i].wanted == 0 {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.load(i); err != nil {
			var damage *segment.CorruptionError
			if errors.As(err, &damage) {
				continue
			}
			return err
		}
		c.next = len(s.pieces) // step stays in this piece
		for number := d.before[i]; number < from+uint64(n); number++ {
			if err := c.step(ctx); err != nil {
				return err
			}
			if !c.on {
				break
			}
			if number < from {
				continue
			}
			p.fill(&out, &c)
			if err := fn(number, &out); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *Plan) fill(out *pcap.Packet, c *cursor) {
	*out = pcap.Packet{Interface: int(c.iface), Time: c.k.ts, OrigLen: c.k.origLen, Data: c.k.data[:p.kept(&c.k)], Direction: c.k.direction()}
}

// NumberAt is the number of the first packet that is not before t, found by the order in which packets are stored, which is
// that of time but for a few; the number of packets when there is none.
func (p *Plan) NumberAt(ctx context.Context, t packet.Timestamp) (uint64, error) {
	d, err := p.rows(ctx)
	if err != nil {
		return 0, err
	}
	var failed error
	at := func(number uint64) (ts packet.Timestamp) {
		if err := p.Rows(ctx, number, 1, func(_ uint64, pk *pcap.Packet) error { ts = pk.Time; return nil }); err != nil {
			failed = err
		}
		return ts
	}
	lo, hi := uint64(0), d.total
	if d.before != nil { // the chunk first: its header says when it begins
		s := p.sources[0]
		i := sort.Search(len(s.pieces), func(i int) bool { return s.pieces[i].earliest > t })
		if i < len(s.pieces) {
			hi = d.before[i]
		}
		if i > 0 {
			lo = d.before[i-1]
		}
	}
	for lo < hi && failed == nil {
		if mid := lo + (hi-lo)/2; at(mid) < t {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	return lo, failed
}
