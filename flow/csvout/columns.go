package csvout

import (
	"io"
	"strconv"

	"opentap/flow"
	"opentap/packet"
)

// Columns are the names of CSV columns and NDJSON members, in order; docs/reference/flow-records.md explains each. New
// ones are added at the end. community_id is there only when asked for.
var Columns = [...]string{
	"first", "last", "duration_ms", "ip_version", "src_addr", "dst_addr", "src_port", "dst_port", "protocol", "protocol_number",
	"icmp_type", "icmp_code", "tcp_flags", "tos", "packets", "octets", "rev_packets", "rev_octets", "rev_tcp_flags", "rev_tos",
	"fragments", "ports_known", "vlan", "inner_vlan", "src_mac", "dst_mac", "end_reason", "community_id", "sampling",
}

// Options of CSV and NDJSON.
type Options struct {
	CommunityID bool // add community_id, version 1 with seed 0 (costs an allocation and a SHA-1 per record)
}

// CSV writes every field of a record under a header with the names of Columns. Times are RFC 3339 in UTC with nine
// decimals; a cell is empty where a field has no meaning (ports of GRE, flags of UDP).
type CSV struct{ columns }

// NewCSV returns a writer that has written nothing yet.
func NewCSV(w io.Writer, o Options) *CSV { return &CSV{newColumns(w, o, false)} }

// NDJSON writes every field of a record as one JSON object a line, with the names of Columns. Every object has every
// member; it is null where a field has no meaning.
type NDJSON struct{ columns }

// NewNDJSON returns a writer that has written nothing yet.
func NewNDJSON(w io.Writer, o Options) *NDJSON { return &NDJSON{newColumns(w, o, true)} }

// columns walks a record field by field; it differs between the forms only in what stands around a value.
type columns struct {
	out
	json        bool
	opt         Options
	begun       bool
	n           int // column
	first, last clock
	names       [len(Columns)]string // JSON: what stands before the value
	parsed      packet.Parsed
}

func newColumns(w io.Writer, o Options, json bool) columns {
	c := columns{out: newOut(w), json: json, opt: o}
	c.first.layout, c.last.layout = "2006-01-02T15:04:05", "2006-01-02T15:04:05"
	for i, name := range Columns {
		c.names[i] = `,"` + name + `":`
	}
	return c
}

func (c *columns) begin() {
	if c.begun || c.json {
		return
	}
	c.begun = true
	for i, name := range Columns {
		if name == "community_id" && !c.opt.CommunityID {
			continue
		}
		if i > 0 {
			c.b = append(c.b, ',')
		}
		c.b = append(c.b, name...)
	}
	c.b = append(c.b, '\n')
}

// next begins a value.
func (c *columns) next() {
	switch {
	case c.json && c.n == 0:
		c.b = append(append(c.b, '{'), c.names[0][1:]...)
	case c.json:
		c.b = append(c.b, c.names[c.n]...)
	case c.n > 0:
		c.b = append(c.b, ',')
	}
	c.n++
}

func (c *columns) quote() {
	if c.json {
		c.b = append(c.b, '"')
	}
}

func (c *columns) none() {
	c.next()
	if c.json {
		c.b = append(c.b, "null"...)
	}
}

func (c *columns) number(v uint64, valid bool) {
	if !valid {
		c.none()
		return
	}
	c.next()
	c.b = strconv.AppendUint(c.b, v, 10)
}

func (c *columns) word(s string) {
	c.next()
	c.quote()
	c.b = append(c.b, s...)
	c.quote()
}

func (c *columns) flags(f uint8, valid bool) {
	if !valid {
		c.none()
		return
	}
	c.next()
	c.quote()
	c.b = appendFlags(c.b, f)
	c.quote()
}

func (c *columns) mac(m packet.MAC) {
	if m == (packet.MAC{}) {
		c.none()
		return
	}
	c.next()
	c.quote()
	c.b = m.AppendTo(c.b)
	c.quote()
}

func (c *columns) time(k *clock, t packet.Timestamp) {
	sec, nanos := split(t)
	c.next()
	c.quote()
	c.b = k.append(c.b, sec)
	c.b = appendDigits(append(c.b, '.'), nanos, 9)
	c.b = append(c.b, 'Z')
	c.quote()
}

// Write adds one record; r is not kept.
func (c *columns) Write(r *flow.Record) error {
	c.begin()
	if r.Sampling > 1 {
		e := r.Estimate()
		r = &e
	}
	c.n = 0
	tcp, icmp, ports := r.HasTCP(), r.HasICMP(), r.HasPorts()
	reverse := r.RevPackets > 0

	c.time(&c.first, r.First)
	c.time(&c.last, r.Last)
	c.next()
	ns := uint64(r.Last) - uint64(r.First)
	c.b = strconv.AppendUint(c.b, ns/1e6, 10)
	c.b = appendDigits(append(c.b, '.'), uint32(ns%1e6), 6)
	c.number(uint64(r.Version), true)
	c.next()
	c.quote()
	c.b = r.SrcAddr().AppendTo(c.b)
	c.quote()
	c.next()
	c.quote()
	c.b = r.DstAddr().AppendTo(c.b)
	c.quote()
	c.number(uint64(r.SrcPort), ports)
	c.number(uint64(r.DstPort), ports)
	c.word(protoNames[r.Proto])
	c.number(uint64(r.Proto), true)
	c.number(uint64(r.ICMPType), icmp)
	c.number(uint64(r.ICMPCode), icmp)
	c.flags(r.TCPFlags, tcp)
	c.number(uint64(r.TOS), true)
	c.number(r.Packets, true)
	c.number(r.Octets, true)
	c.number(r.RevPackets, true)
	c.number(r.RevOctets, true)
	c.flags(r.RevTCPFlags, tcp && reverse)
	c.number(uint64(r.RevTOS), reverse)
	c.number(r.Fragments, true)
	c.next()
	c.b = strconv.AppendBool(c.b, !r.PortsUnknown)
	c.number(uint64(r.VLAN), r.VLAN != 0)
	c.number(uint64(r.InnerVLAN), r.InnerVLAN != 0)
	c.mac(r.SrcMAC)
	c.mac(r.DstMAC)
	c.word(r.EndReason.String())
	if c.opt.CommunityID {
		c.word(c.communityID(r))
	} else {
		c.n++
	}
	c.number(uint64(max(r.Sampling, 1)), true)
	if c.json {
		c.b = append(c.b, '}')
	}
	return c.line()
}

func (c *columns) communityID(r *flow.Record) string {
	p := &c.parsed
	*p = packet.Parsed{Src: r.Src, Dst: r.Dst, Proto: r.Proto, SrcPort: r.SrcPort, DstPort: r.DstPort, ICMPType: r.ICMPType, ICMPCode: r.ICMPCode}
	p.Layers = packet.LayerIPv4
	if r.Version == 6 {
		p.Layers = packet.LayerIPv6
	}
	if r.HasPorts() {
		p.Layers |= packet.LayerTransport
	}
	if r.HasICMP() {
		p.Layers |= packet.LayerICMP
	}
	return p.CommunityID(0)
}

// Close hands everything on, the header of a CSV without records included. It does not close the io.Writer.
func (c *columns) Close() error {
	c.begin()
	return c.flush()
}
