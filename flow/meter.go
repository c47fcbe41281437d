package flow

import (
	"io"

	"opentap/packet"
)

// Meter decodes frames and meters them: the whole way from octets to flow records, for whoever reads stored packets.
// It is used from one goroutine at a time.
type Meter struct {
	table  *Table
	n      int // digests in the table's batch that are not yet metered
	inner  bool
	parsed packet.Parsed
	tun    packet.Parsed
}

// maxTunnels bounds how many tunnels in one another are followed.
const maxTunnels = 4

// innermost replaces p, which was decoded from frame, by what its tunnels carry, if it has any.
func innermost(p, scratch *packet.Parsed, frame []byte) {
	for range maxTunnels {
		at, ok := p.Inner(scratch, frame)
		if !ok || !scratch.IsIP() {
			return
		}
		*p = *scratch
		frame = frame[at : at+int(p.CapLen)]
	}
}

// NewMeter makes a Meter with an empty table; see New for sink.
func NewMeter(cfg Config, sink func(*Record)) (*Meter, error) {
	t, err := New(cfg, sink)
	if err != nil {
		return nil, err
	}
	return &Meter{table: t, inner: cfg.Inner}, nil
}

// AddFrame meters one frame as captured; origLen is its length on the wire in octets. frame is not kept, nothing is
// allocated. Frames are decoded at once and metered a few together, so that a large table's memory is asked for ahead of
// use: records may reach the sink up to a few dozen frames late, in the same order, and the other methods wait for none.
func (m *Meter) AddFrame(ts packet.Timestamp, link packet.LinkType, frame []byte, origLen uint32) {
	p := &m.parsed
	p.Decode(link, frame, origLen)
	p.Time = ts
	if m.inner {
		innermost(p, &m.tun, frame)
	}
	m.table.stats.arrived(p)
	m.table.digest(&m.table.batch[m.n], p)
	if m.n++; m.n == batchLen {
		m.settle()
	}
}

// AddAll meters the frames that next gives, in the way Parallel has them, and returns what ended them, if not io.EOF.
func (m *Meter) AddAll(next func(*Frames) error) error {
	var some Frames
	for {
		some.List = some.List[:0]
		err := next(&some)
		for i := range some.List {
			f := &some.List[i]
			m.AddFrame(f.Time, f.Link, f.Data, f.OrigLen)
		}
		if err == io.EOF { //nolint:errorlint // the one that says that there is no more, not one that wraps it
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (m *Meter) settle() {
	m.table.settle(m.table.batch[:m.n])
	m.n = 0
}

// Advance is Table.Advance.
func (m *Meter) Advance(now packet.Timestamp) {
	m.settle()
	m.table.Advance(now)
}

// Flush is Table.Flush.
func (m *Meter) Flush(reason EndReason) {
	m.settle()
	m.table.Flush(reason)
}

// Snapshot is Table.Snapshot.
func (m *Meter) Snapshot(fn func(*Record)) {
	m.settle()
	m.table.Snapshot(fn)
}

// Stats is Table.Stats.
func (m *Meter) Stats() Stats {
	m.settle()
	return m.table.Stats()
}
