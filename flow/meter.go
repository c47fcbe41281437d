package flow

import "opentap/packet"

// Meter decodes frames and meters them: the whole way from octets to flow records, for whoever reads stored packets.
// It is used from one goroutine at a time.
type Meter struct {
	*Table
	parsed packet.Parsed
}

// NewMeter makes a Meter with an empty table; see New for sink.
func NewMeter(cfg Config, sink func(*Record)) (*Meter, error) {
	t, err := New(cfg, sink)
	if err != nil {
		return nil, err
	}
	return &Meter{Table: t}, nil
}

// AddFrame meters one frame as captured; origLen is its length on the wire in octets. frame is not kept, nothing is
// allocated. The decoded frame is returned for whoever wants more of it, valid until the next call.
func (m *Meter) AddFrame(ts packet.Timestamp, link packet.LinkType, frame []byte, origLen uint32) *packet.Parsed {
	m.parsed.Decode(link, frame, origLen)
	m.parsed.Time = ts
	m.Table.Add(&m.parsed)
	return &m.parsed
}
