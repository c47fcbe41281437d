package csvout

import (
	"io"
	"math/bits"
	"strconv"

	"opentap/flow"
	"opentap/packet"
)

// ClassicHeader is the first line of nfdump 1.6 -o csv.
const ClassicHeader = "ts,te,td,sa,da,sp,dp,pr,flg,fwd,stos,ipkt,ibyt,opkt,obyt,in,out,sas,das,smk,dmk,dtos,dir,nh,nhb,svln,dvln," +
	"ismc,odmc,idmc,osmc,mpls1,mpls2,mpls3,mpls4,mpls5,mpls6,mpls7,mpls8,mpls9,mpls10,cl,sl,al,ra,eng,exid,tr"

// What nfdump prints in columns that a meter on a host has no value for.
const (
	classicRouting = ",0,0,0,0,0,0," // in, out, sas, das, smk, dmk
	classicMPLS    = ",0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0,0-0-0"
	classicLatency = ",    0.000,    0.000,    0.000" // cl, sl, al: nfdump pads them to nine places
	classicNoMAC   = ",00:00:00:00:00:00"
)

// Classic writes nfdump 1.6 CSV: the header, a line a record, and the three lines of nfdump's summary. Old clients drop
// the last three lines unread, so Close must be called, with or without records.
//
// Times are UTC in whole seconds, td in seconds with three decimals; ICMP type and code stand in dp as "type.code". The
// reverse direction of a bidirectional record stands in opkt, obyt and dtos. The summary counts both directions.
type Classic struct {
	out
	ts, te clock
	begun  bool

	flows, octets, packets uint64
	first, last            packet.Timestamp
}

// NewClassic returns a writer that has written nothing yet.
func NewClassic(w io.Writer) *Classic {
	return &Classic{out: newOut(w), ts: clock{layout: classicTime}, te: clock{layout: classicTime}}
}

const classicTime = "2006-01-02 15:04:05"

func (c *Classic) begin() {
	if !c.begun {
		c.begun = true
		c.b = append(append(c.b, ClassicHeader...), '\n')
	}
}

// Write adds one record; r is not kept.
func (c *Classic) Write(r *flow.Record) error {
	c.begin()
	if r.Sampling > 1 {
		e := r.Estimate()
		r = &e
	}
	if c.flows == 0 {
		c.first, c.last = r.First, r.Last
	}
	c.first, c.last = min(c.first, r.First), max(c.last, r.Last)
	c.flows++
	c.octets += r.Octets + r.RevOctets
	c.packets += r.Packets + r.RevPackets

	fs, fn := split(r.First)
	ls, ln := split(r.Last)
	ms := uint64((ls-fs)*1000) + uint64(ln/1e6) - uint64(fn/1e6)
	b := c.ts.append(c.b, fs)
	b = c.te.append(append(b, ','), ls)
	b = strconv.AppendUint(append(b, ','), ms/1000, 10)
	b = appendDigits(append(b, '.'), uint32(ms%1000), 3)
	b = r.SrcAddr().AppendTo(append(b, ','))
	b = r.DstAddr().AppendTo(append(b, ','))
	b = strconv.AppendUint(append(b, ','), uint64(r.SrcPort), 10)
	if r.HasICMP() {
		b = strconv.AppendUint(append(b, ','), uint64(r.ICMPType), 10)
		b = strconv.AppendUint(append(b, '.'), uint64(r.ICMPCode), 10)
	} else {
		b = strconv.AppendUint(append(b, ','), uint64(r.DstPort), 10)
	}
	b = append(append(b, ','), protoNames[r.Proto]...)
	b = appendFlags(append(b, ','), r.TCPFlags)
	b = append(b, ",0,"...) // fwd
	b = strconv.AppendUint(b, uint64(r.TOS), 10)
	b = strconv.AppendUint(append(b, ','), r.Packets, 10)
	b = strconv.AppendUint(append(b, ','), r.Octets, 10)
	b = strconv.AppendUint(append(b, ','), r.RevPackets, 10)
	b = strconv.AppendUint(append(b, ','), r.RevOctets, 10)
	b = append(b, classicRouting...)
	b = strconv.AppendUint(b, uint64(r.RevTOS), 10)
	b = append(b, ",0,0.0.0.0,0.0.0.0,"...) // dir, nh, nhb
	b = strconv.AppendUint(b, uint64(r.VLAN), 10)
	b = append(b, ",0,"...)            // dvln
	b = r.SrcMAC.AppendTo(b)           // ismc: source, incoming
	b = append(b, classicNoMAC+","...) // odmc: destination, outgoing
	b = r.DstMAC.AppendTo(b)           // idmc: destination, incoming
	b = append(b, classicNoMAC...)     // osmc: source, outgoing
	b = append(b, classicMPLS+classicLatency...)
	b = append(b, ",0.0.0.0,0/0,0,"...) // ra, eng, exid
	b = c.te.append(b, ls)              // tr: when the record was received
	c.b = appendDigits(append(b, '.'), ln/1e6, 3)
	return c.line()
}

// Close writes the summary and hands everything on. It does not close the io.Writer.
func (c *Classic) Close() error {
	c.begin()
	c.b = append(c.b, "Summary\nflows,bytes,packets,avg_bps,avg_pps,avg_bpp\n"...)
	var bps, pps, bpp uint64
	fs, fn := split(c.first)
	ls, ln := split(c.last)
	if ms := uint64((ls-fs)*1000) + uint64(ln/1e6) - uint64(fn/1e6); ms > 0 {
		bps, pps = perSecond(c.octets, 8, ms), perSecond(c.packets, 1, ms)
	}
	if c.packets > 0 {
		bpp = c.octets / c.packets
	}
	for i, v := range [...]uint64{c.flows, c.octets, c.packets, bps, pps, bpp} {
		if i > 0 {
			c.b = append(c.b, ',')
		}
		c.b = strconv.AppendUint(c.b, v, 10)
	}
	c.b = append(c.b, '\n')
	return c.flush()
}

// perSecond is v*scale*1000/ms, whole, at most the largest uint64.
func perSecond(v, scale, ms uint64) uint64 {
	hi, lo := bits.Mul64(v, scale*1000)
	if hi >= ms {
		return 1<<64 - 1
	}
	q, _ := bits.Div64(hi, lo, ms)
	return q
}
