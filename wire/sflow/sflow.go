// Package sflow reads the datagrams of sFlow version 5.
//
// Runs in: agent | tools
//
// Sources: "sFlow Version 5" (sflow.org, July 2004) sections 4 and 5, and the structures of its appendices; the records of
// OpenFlow ports are of "sFlow OpenFlow Structures" (sflow.org, 2014). Datagrams are octets in memory. Nothing here looks at a
// clock: a sample has no time but that of the datagram's coming.
package sflow

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"opentap/packet"
)

// Source says where on an agent samples are taken: sFlowDataSource.
type Source struct {
	Type  uint32 // 0 = interface by ifIndex, 1 = VLAN, 2 = entity
	Index uint32
}

// Interface is where a sampled packet came in or went out.
type Interface struct {
	Format uint8  // 0 = Value is an ifIndex, 1 = it was discarded, for the reason Value, 2 = Value interfaces
	Value  uint32 // 0 with Format 0: not known
}

// Known reports whether it is one interface, and which.
func (i Interface) Known() (ifIndex uint32, ok bool) {
	return i.Value, i.Format == 0 && i.Value != 0 && i.Value != internal
}

// internal is an interface inside the agent: the packet was for itself, or of its own.
const internal = 0x3fffffff

// FlowSample is one packet that was sampled. Fields of records that the sample has not are zero.
type FlowSample struct {
	Sequence      uint32 // of the source
	Source        Source
	Rate          uint32 // one packet in so many was to be sampled
	Pool          uint32 // packets that could have been sampled, of the source, since it began
	Drops         uint32 // samples lost in the agent, of the source, since it began
	Input, Output Interface

	// Of a sampled header.
	Protocol    uint32 // 1 = Ethernet, 11 = IPv4, 12 = IPv6
	FrameLength uint32 // octets of the packet before it was sampled, with what was stripped
	Stripped    uint32 // octets taken from the packet, such as its FCS
	Header      []byte // borrowed from the datagram; nil = the sample has none

	// Of a switch.
	HasSwitch       bool
	InVLAN, OutVLAN uint32

	// Of a gateway.
	HasGateway   bool
	SrcAS, DstAS uint32
	NextHop      netip.Addr

	eth  ethernetRecord
	ip   ipRecord
	have uint8
}

// ethernetRecord and ipRecord are what agents send that look into packets themselves.
type ethernetRecord struct {
	length   uint32
	src, dst packet.MAC
	typ      uint32
}

type ipRecord struct {
	length, proto    uint32
	src, dst         [16]byte
	srcPort, dstPort uint32
	flags, tos       uint32
}

const (
	haveEthernet = 1 << iota
	haveIPv4
	haveIPv6
)

// Octets returns how long the packet was, without FCS where the agent says so.
func (s *FlowSample) Octets() uint32 {
	switch {
	case s.Header != nil:
		if s.Stripped <= s.FrameLength {
			return s.FrameLength - s.Stripped
		}
		return s.FrameLength
	case s.have&haveEthernet != 0:
		return s.eth.length
	}
	return s.ip.length
}

// Parse fills p with what the sample says of its packet; p.Time is the caller's. false: it says nothing that is understood.
func (s *FlowSample) Parse(p *packet.Parsed) bool {
	at := p.Time
	if s.Header != nil {
		link := packet.LinkEthernet
		switch s.Protocol {
		case 1:
		case 11, 12:
			link = packet.LinkRaw
		default:
			return false
		}
		p.Decode(link, s.Header, max(s.Octets(), uint32(len(s.Header))))
		p.Time = at
		return true
	}
	*p = packet.Parsed{Time: at, OrigLen: s.Octets(), Link: packet.LinkEthernet}
	if s.have&haveEthernet != 0 {
		p.Layers |= packet.LayerEthernet
		p.SrcMAC, p.DstMAC, p.EtherType = s.eth.src, s.eth.dst, uint16(s.eth.typ)
	}
	switch {
	case s.have&haveIPv4 != 0:
		p.Layers |= packet.LayerIPv4
	case s.have&haveIPv6 != 0:
		p.Layers |= packet.LayerIPv6
	default:
		return s.have != 0
	}
	ip := &s.ip
	p.Src, p.Dst, p.Proto, p.TOS, p.IPOctets = ip.src, ip.dst, uint8(ip.proto), uint8(ip.tos), ip.length
	switch p.Proto {
	case packet.ProtoTCP:
		p.Layers |= packet.LayerTCP
		p.TCPFlags = uint8(ip.flags)
		fallthrough
	case packet.ProtoUDP:
		p.Layers |= packet.LayerTransport
		p.SrcPort, p.DstPort = uint16(ip.srcPort), uint16(ip.dstPort)
	case packet.ProtoICMP, packet.ProtoICMP6: // type and code stand in the ports
		p.Layers |= packet.LayerICMP
		p.ICMPType, p.ICMPCode = uint8(ip.srcPort), uint8(ip.dstPort)
	}
	return true
}

// CounterSample is what an agent counted at a source. Fields of records that the sample has not are zero.
type CounterSample struct {
	Sequence uint32
	Source   Source

	HasInterface bool
	Interface    Counters

	HasPort bool // of an OpenFlow switch
	Port    OpenFlowPort
	Name    []byte // of the port; borrowed; nil = not said. Text from the network
}

// Counters are the generic interface counters: those of the interfaces group of RFC 2233. What an agent does not count has
// all bits set.
type Counters struct {
	IfIndex, IfType           uint32
	Speed                     uint64 // bit/s
	Direction                 uint32 // 1 = full duplex
	AdminUp, OperUp           bool
	InOctets                  uint64
	InUnicast, InMulticast    uint32
	InBroadcast, InDiscards   uint32
	InErrors, InUnknown       uint32
	OutOctets                 uint64
	OutUnicast, OutMulticast  uint32
	OutBroadcast, OutDiscards uint32
	OutErrors                 uint32
	Promiscuous               uint32
}

// OpenFlowPort says which port of which switch an interface is.
type OpenFlowPort struct {
	Datapath uint64
	Port     uint32
}

// Datagram is one datagram. It is filled in place by Decode, and what Decode lends is in its memory.
type Datagram struct {
	Agent    netip.Addr
	SubAgent uint32
	Sequence uint32
	Uptime   uint32 // milliseconds

	Samples uint32 // that were understood
	Unknown uint32 // samples of formats that are not read
	Damaged uint32 // samples that contradict themselves; they are passed over

	flow    FlowSample
	counter CounterSample
}

// maxSamples bounds the samples of a datagram: a UDP datagram has no room for more of the shortest.
const maxSamples = 65535 / 8

var (
	be       = binary.BigEndian
	errShort = errors.New("ends early")
)

// Decode reads a datagram, which it does not keep, and gives its samples to flow and counters, either of which may be nil. A
// sample is lent until the function returns: what it borrows is of the datagram. The error says why the rest could not be read.
func (d *Datagram) Decode(b []byte, flow func(*FlowSample), counters func(*CounterSample)) error {
	d.Agent, d.SubAgent, d.Sequence, d.Uptime = netip.Addr{}, 0, 0, 0
	d.Samples, d.Unknown, d.Damaged = 0, 0, 0
	r := reader{b: b}
	if v := r.uint32(); v != 5 {
		if r.short {
			return fmt.Errorf("sflow: a datagram of %d octets", len(b))
		}
		return fmt.Errorf("sflow: version %d is not 5", v)
	}
	var ok bool
	if d.Agent, ok = r.address(); !ok {
		return errors.New("sflow: the agent's address is of no known kind")
	}
	d.SubAgent, d.Sequence, d.Uptime = r.uint32(), r.uint32(), r.uint32()
	n := r.uint32()
	if r.short {
		return fmt.Errorf("sflow: a datagram of %d octets ends in its header", len(b))
	}
	if n > maxSamples {
		return fmt.Errorf("sflow: a datagram of %d octets with %d samples", len(b), n)
	}
	for i := range n {
		format, body := r.uint32(), r.opaque()
		if r.short {
			return fmt.Errorf("sflow: sample %d of %d %w", i+1, n, errShort)
		}
		var err error
		switch format {
		case 1, 3:
			if err = d.flow.decode(body, format == 3); err == nil && flow != nil {
				flow(&d.flow)
			}
		case 2, 4:
			if err = d.counter.decode(body, format == 4); err == nil && counters != nil {
				counters(&d.counter)
			}
		default:
			d.Unknown++
			continue
		}
		if err != nil {
			d.Damaged++
			continue
		}
		d.Samples++
	}
	return nil
}

func (s *FlowSample) decode(b []byte, expanded bool) error {
	*s = FlowSample{}
	r := reader{b: b}
	s.Sequence = r.uint32()
	if expanded {
		s.Source = Source{r.uint32(), r.uint32()}
		s.Rate, s.Pool, s.Drops = r.uint32(), r.uint32(), r.uint32()
		s.Input = Interface{uint8(min(r.uint32(), 3)), r.uint32()}
		s.Output = Interface{uint8(min(r.uint32(), 3)), r.uint32()}
	} else {
		s.Source = source(r.uint32())
		s.Rate, s.Pool, s.Drops = r.uint32(), r.uint32(), r.uint32()
		s.Input, s.Output = face(r.uint32()), face(r.uint32())
	}
	for n := r.uint32(); n > 0 && !r.short; n-- {
		format, body := r.uint32(), r.opaque()
		if r.short {
			break
		}
		if err := s.record(format, body); err != nil {
			return err
		}
	}
	if r.short {
		return errShort
	}
	return nil
}

// record reads a record of a flow sample. One that is shorter than its format is damage; a longer one is of a later version.
func (s *FlowSample) record(format uint32, b []byte) error {
	r := reader{b: b}
	switch format {
	case 1:
		s.Protocol, s.FrameLength, s.Stripped = r.uint32(), r.uint32(), r.uint32()
		s.Header = r.opaque()
	case 2:
		s.have |= haveEthernet
		s.eth.length, s.eth.src, s.eth.dst, s.eth.typ = r.uint32(), r.mac(), r.mac(), r.uint32()
	case 3, 4:
		s.ip.length, s.ip.proto = r.uint32(), r.uint32()
		if format == 3 {
			s.have |= haveIPv4
			s.ip.src, s.ip.dst = r.v4(), r.v4()
		} else {
			s.have |= haveIPv6
			s.ip.src, s.ip.dst = r.v6(), r.v6()
		}
		s.ip.srcPort, s.ip.dstPort, s.ip.flags, s.ip.tos = r.uint32(), r.uint32(), r.uint32(), r.uint32()
	case 1001:
		s.HasSwitch = true
		s.InVLAN = r.uint32()
		r.uint32()
		s.OutVLAN = r.uint32()
		r.uint32()
	case 1003:
		var ok bool
		if s.NextHop, ok = r.address(); !ok && !r.short {
			return nil // an address of another kind: what follows cannot be found
		}
		s.HasGateway = true
		r.uint32() // the agent's own
		s.SrcAS = r.uint32()
		r.uint32() // the peer's
		for n := r.uint32(); n > 0 && !r.short; n-- {
			r.uint32() // set or sequence
			for k := r.uint32(); k > 0 && !r.short; k-- {
				s.DstAS = r.uint32() // the last one is where the packet goes
			}
		}
	}
	if r.short {
		return errShort
	}
	return nil
}

func (s *CounterSample) decode(b []byte, expanded bool) error {
	*s = CounterSample{}
	r := reader{b: b}
	s.Sequence = r.uint32()
	if expanded {
		s.Source = Source{r.uint32(), r.uint32()}
	} else {
		s.Source = source(r.uint32())
	}
	for n := r.uint32(); n > 0 && !r.short; n-- {
		format, body := r.uint32(), r.opaque()
		if r.short {
			break
		}
		in := reader{b: body}
		switch format {
		case 1:
			s.HasInterface = true
			in.counters(&s.Interface)
		case 1004:
			s.HasPort = true
			s.Port = OpenFlowPort{in.uint64(), in.uint32()}
		case 1005:
			s.Name = in.opaque()
		}
		if in.short {
			return errShort
		}
	}
	if r.short {
		return errShort
	}
	return nil
}

// source is a data source in 32 bits.
func source(v uint32) Source { return Source{v >> 24, v & 0xffffff} }

// face is an interface in 32 bits.
func face(v uint32) Interface { return Interface{uint8(v >> 30), v & 0x3fffffff} }

// reader reads XDR (RFC 4506) from b; after the end it gives zeros and short is set.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.b, r.short = nil, true
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) uint32() uint32 {
	if len(r.b) < 4 {
		r.b, r.short = nil, true
		return 0
	}
	v := be.Uint32(r.b)
	r.b = r.b[4:]
	return v
}

func (r *reader) uint64() uint64 { return uint64(r.uint32())<<32 | uint64(r.uint32()) }

// opaque is octets with their number in front, filled up to a multiple of four.
func (r *reader) opaque() []byte {
	n := r.uint32()
	if uint64(n) > uint64(len(r.b)) {
		r.b, r.short = nil, true
		return nil
	}
	p := r.take(int(n))
	r.take(min((4-int(n)%4)%4, len(r.b))) // some agents leave out the filling of the last one
	return p
}

func (r *reader) mac() (m packet.MAC) {
	if p := r.take(8); p != nil {
		m = packet.MAC(p[:6])
	}
	return m
}

func (r *reader) v4() (a [16]byte) {
	if p := r.take(4); p != nil {
		a[10], a[11] = 0xff, 0xff
		copy(a[12:], p)
	}
	return a
}

func (r *reader) v6() (a [16]byte) {
	copy(a[:], r.take(16))
	return a
}

// address is one of a kind that stands in front. Kind 0 is none.
func (r *reader) address() (netip.Addr, bool) {
	switch r.uint32() {
	case 0:
		return netip.Addr{}, !r.short
	case 1:
		if p := r.take(4); p != nil {
			return netip.AddrFrom4([4]byte(p)), true
		}
	case 2:
		if p := r.take(16); p != nil {
			return netip.AddrFrom16([16]byte(p)), true
		}
	}
	return netip.Addr{}, false
}

func (r *reader) counters(c *Counters) {
	c.IfIndex, c.IfType, c.Speed, c.Direction = r.uint32(), r.uint32(), r.uint64(), r.uint32()
	status := r.uint32()
	c.AdminUp, c.OperUp = status&1 != 0, status&2 != 0
	c.InOctets, c.InUnicast, c.InMulticast, c.InBroadcast = r.uint64(), r.uint32(), r.uint32(), r.uint32()
	c.InDiscards, c.InErrors, c.InUnknown = r.uint32(), r.uint32(), r.uint32()
	c.OutOctets, c.OutUnicast, c.OutMulticast, c.OutBroadcast = r.uint64(), r.uint32(), r.uint32(), r.uint32()
	c.OutDiscards, c.OutErrors, c.Promiscuous = r.uint32(), r.uint32(), r.uint32()
}
