// Package query retrieves the packets of recordings as one capture file.
//
// Runs in: agent
//
// A Plan is fixed when it is made: it always gives the same octets, so its size can be told before and any range of it
// can be fetched again.
package query

import (
	"errors"
	"fmt"
	"sync"

	"opentap/capture/index"
	"opentap/capture/segment"
	"opentap/ledger"
	"opentap/packet"
	"opentap/pcap"
)

// Source is one recording to read.
type Source struct {
	Name      string           // of the observation point, for errors
	Interface pcap.Interface   // as it is described in the output
	Dir       string           // of the recording
	Upto      segment.Position // read up to here; zero = everything there is when the Plan is made
	Account   *ledger.Account  // the accounts to state; nil = those of the chunks that are read
}

// Window says which packets are wanted.
type Window struct {
	From packet.Timestamp // inclusive
	To   packet.Timestamp // exclusive; 0 = no end

	// Match decides about each packet, on the whole stored frame; nil = all. It must always decide the same, and is
	// called by one goroutine at a time for each call of a Plan's methods.
	Match func(frame []byte, origLen uint32) bool

	// Need is what every packet that Match takes necessarily is (index.Necessary of the same filter); nil = not known. Chunks
	// that cannot hold such a packet are not read, and damage to them is not noticed.
	Need *index.Cond

	MaxPackets uint64 // 0 = no limit
	MaxOctets  uint64 // stored octets, after Snap: the packet that would exceed it is the first left out; 0 = no limit
	Snap       int    // octets kept of each packet; 0 = all that are stored
}

// Format is the format of the output.
type Format uint8

// Formats.
const (
	PcapNG     Format = iota + 1 // with an interface a source and its accounts at the end
	Pcap                         // classic pcap, nanoseconds
	PcapMicros                   // classic pcap, microseconds
)

// Meta describes the output: provenance for the section header of pcapng.
type Meta struct {
	Section pcap.Section
}

// Result says what a Plan gives.
type Result struct {
	Packets uint64 // in the output
	Octets  uint64 // of those, as stored
	Chunks  uint64 // that can hold wanted packets

	CorruptChunks  uint64 // that could not be read; damaged places without a header count as one each
	CorruptPackets uint64 // that were lost with them, as far as known: of the whole chunks, not only of the window
	Sources        []SourceResult
	Explain        Explain
}

// Explain says what a Plan looked at. want.Search has the same fields.
type Explain struct {
	Segments       uint64 // in the recordings
	Catalogued     uint64 // of those: known without reading their heads and seals
	Chunks         uint64 // in the recordings
	SkippedByTime  uint64 // of those: outside the window
	SkippedByIndex uint64 // without what Window.Need demands
	NotIndexed     uint64 // read whole, since no index speaks of them
	Read           uint64 // chunks read, wholly or in part, until the size was known
	OctetsRead     uint64
	Packets        uint64 // looked at
}

// Add adds o to e.
func (e *Explain) Add(o *Explain) {
	e.Segments += o.Segments
	e.Catalogued += o.Catalogued
	e.Chunks += o.Chunks
	e.SkippedByTime += o.SkippedByTime
	e.SkippedByIndex += o.SkippedByIndex
	e.NotIndexed += o.NotIndexed
	e.Read += o.Read
	e.OctetsRead += o.OctetsRead
	e.Packets += o.Packets
}

// SourceResult is the part of one source.
type SourceResult struct {
	Packets uint64 // in the output
	Octets  uint64
	Account ledger.Account // as stated in the output: corrupt chunks are under ledger.Corrupt
}

// Plan is a query over fixed parts of recordings. Its methods may be called from several goroutines. The files it reads
// must not expire before it is done with: what is missing then is treated as corrupt.
type Plan struct {
	window  Window
	format  Format
	meta    Meta
	sources []*source
	head    []byte

	mu       sync.Mutex
	held     int // octets of packets that pieces keep
	resolved bool
	size     int64
	tail     []byte
	numbers  *directory // see Rows; nil = not made yet

	lateMu sync.Mutex // after mu
	late   Result     // what became unreadable after its size was counted
}

// source is a lane of a Source: a run of chunks in the order of time. Nearly all have one.
type source struct {
	Source
	iface  uint32 // in the output, for all its lanes
	lane   uint32
	next   *source // lane of the same Source
	rec    *segment.Recording
	pieces []piece
	base   ledger.Account // before the first piece
	last   ledger.Account // with the last piece

	gaps, gapPackets uint64 // damage without a header
	bad, badPackets  uint64 // chunks that do not verify
	looked           Explain
	packets, octets  uint64 // in the output
}

// piece is a chunk that can hold wanted packets, and what of it is in the output.
type piece struct {
	offset   int64
	earliest packet.Timestamp
	out      int64  // octets it gives; -1 = not known yet
	start    int64  // single source: where they are in the output
	stored   uint64 // octets of the wanted packets
	segment  uint32
	sequence uint32
	length   uint32
	last     uint32
	header   uint32
	epb      uint32 // octets of all its packet blocks
	packets  uint32 // in the chunk
	wanted   uint32 // of those
	bodyCRC  uint32
	headCRC  uint32
	partial  bool // the window cuts it
	scan     bool // packets must be looked at one by one

	spans []segment.Span // what must be read of it; none: all
	kept  []byte         // the wanted packet blocks, if they are kept in memory
}

func (p *piece) chunk() segment.ChunkHeader {
	return segment.ChunkHeader{
		Segment: p.segment, Sequence: p.sequence, Offset: p.offset, Length: int(p.length),
		Header: int(p.header), Last: p.last, Packets: p.packets, PacketOctets: p.epb, BodyCRC: p.bodyCRC, HeaderCRC: p.headCRC,
	}
}

// New makes the plan: it finds out how far the recordings go, and reads no packets. The sources must not be many (tens):
// each is looked at for every packet of a merge.
func New(sources []Source, w Window, f Format, m Meta) (*Plan, error) {
	if len(sources) == 0 {
		return nil, errors.New("plan query: no source")
	}
	if f < PcapNG || f > PcapMicros {
		return nil, fmt.Errorf("plan query: unknown format %d", f)
	}
	p := &Plan{window: w, format: f, meta: m}
	for i, s := range sources {
		if f != PcapNG && s.Interface.Link != sources[0].Interface.Link {
			return nil, fmt.Errorf("plan query: %s and %s have different link types, which a pcap file cannot hold: ask for pcapng",
				sources[0].Name, s.Name)
		}
		lanes, err := open(s, uint32(i))
		if err != nil {
			return nil, fmt.Errorf("plan query: %s: %w", s.Name, err)
		}
		p.sources = append(p.sources, lanes...)
	}
	p.head = p.appendHead(nil)
	return p, nil
}

func open(s Source, iface uint32) ([]*source, error) {
	rec, err := segment.OpenUpto(s.Dir, s.Upto)
	if err != nil {
		return nil, err
	}
	lanes := make([]*source, rec.Lanes())
	for i := len(lanes) - 1; i >= 0; i-- {
		lanes[i] = &source{Source: s, iface: iface, lane: uint32(i), rec: rec}
		if i+1 < len(lanes) {
			lanes[i].next = lanes[i+1]
		}
	}
	return lanes, rec.Close()
}

// has reports whether a chunk is of the lane. What a damaged head does not tell of is of the last one.
func (s *source) has(h *segment.ChunkHeader) bool {
	return h.Lane == s.lane || h.Lane > s.lane && s.next == nil
}

// sums are of all lanes of a Source.
type sums struct {
	packets, octets uint64 // in the output
	bad, lost       uint64 // chunks that do not read, and packets in them
}

// sums adds up the lanes from this one, which must be the first.
func (s *source) sums() (t sums) {
	for l := s; l != nil; l = l.next {
		t.packets += l.packets
		t.octets += l.octets
		t.bad += l.bad + l.gaps
		t.lost += l.badPackets + l.gapPackets
	}
	return t
}

// Result says what the plan gives. It is complete after Size, WriteTo or Each; before, it says at most what was looked at.
func (p *Plan) Result() Result {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lateMu.Lock()
	r := p.late
	p.lateMu.Unlock()
	r.Sources = nil
	for _, s := range p.sources {
		r.Explain.Add(&s.looked)
	}
	if !p.resolved {
		return r
	}
	for _, s := range p.sources {
		r.Chunks += uint64(len(s.pieces))
		if s.lane > 0 {
			continue
		}
		t := s.sums()
		r.Packets += t.packets
		r.Octets += t.octets
		r.CorruptChunks += t.bad
		r.CorruptPackets += t.lost
		r.Sources = append(r.Sources, SourceResult{Packets: t.packets, Octets: t.octets, Account: s.account()})
	}
	return r
}
