package netflow

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"opentap/packet"
)

// DecoderConfig bounds what one exporter may make us keep. Zero fields mean the defaults.
type DecoderConfig struct {
	Domains   int  // observation domains (IPFIX), sources (version 9), engines (version 5); 0 = 64. More are refused, and counted
	Templates int  // of one domain; 0 = 512. The one declared longest ago makes room
	Held      int  // octets of data sets that wait for their template; 0 = 64 KiB. More are dropped, and counted
	Stream    bool // the messages come over TCP or TLS: templates can be withdrawn (RFC 7011 section 8.1)
}

// Stats are what a Decoder met, cumulative since NewDecoder. Data sets are in Sets or one of Unknown, Held (for now) and
// Malformed.
type Stats struct {
	Messages  uint64 // that could be read, if only in part
	Malformed uint64 // messages, sets and templates that contradict themselves; what is sound of a message is taken
	Records   uint64 // flow records given out
	NoFlow    uint64 // data records that say nothing of a flow: no addresses and no counters
	Options   uint64 // records of options
	Templates uint64 // declared, those declared again included
	Withdrawn uint64
	Evicted   uint64 // templates given up for newer ones

	Unknown uint64 // data sets dropped because their template was not known
	Held    uint64 // data sets that wait for their template now
	Late    uint64 // data sets that had waited and were read

	LostMessages uint64 // of version 9, by the sequence numbers
	LostRecords  uint64 // of the others
	Reordered    uint64 // messages that came after a later one
	Restarts     uint64 // times the sequence began anew
	Refused      uint64 // messages of domains too many

	NotSentFlows   uint64 // what the exporter says itself it could not send
	NotSentPackets uint64
}

// Decoder reads the messages of one exporter: over UDP of one address, over TCP of one connection. Not safe for concurrent
// use. Reading data whose templates are known allocates nothing.
type Decoder struct {
	cfg     DecoderConfig
	stats   Stats
	domains map[domainID]*domain
	clock   uint64 // counts declarations
	held    int    // octets
	flow    Flow   // lent to the caller's function
}

type domainID struct {
	version Version
	id      uint32
}

// domain is what is known of an observation domain.
type domain struct {
	id        domainID
	templates map[uint16]*template
	held      []heldSet

	known     bool // next is
	next      uint32
	open      uint32 // what is missing of the sequence and may still come
	since     uint32 // what has come after the first of it
	uptime    uint32 // of the newest message, milliseconds; versions 5 and 9
	last      uint32 // version 5: the number in the newest message
	lastCount uint32 // and its records
	atEnd     bool   // version 5: numbers are of the last record of a message, as Open vSwitch has it, not of the first
	sampling  uint32 // of all records that name no sampler; 0 = not said
	samplers  map[uint64]uint32
}

// heldSet is a data set that waits for its template.
type heldSet struct {
	id   uint16
	h    header
	data []byte
}

// header is what a message says once for all its records.
type header struct {
	version Version
	export  packet.Timestamp
	boot    packet.Timestamp // versions 5 and 9: when the clock of flow times was zero
}

// Defaults and bounds.
const (
	defaultDomains   = 64
	defaultTemplates = 512
	defaultHeld      = 64 << 10
	maxSamplers      = 256
	maxHeldSets      = 256
)

var errShort = errors.New("ends early")

// NewDecoder makes a Decoder.
func NewDecoder(cfg DecoderConfig) *Decoder {
	if cfg.Domains <= 0 {
		cfg.Domains = defaultDomains
	}
	if cfg.Templates <= 0 {
		cfg.Templates = defaultTemplates
	}
	if cfg.Held <= 0 {
		cfg.Held = defaultHeld
	}
	return &Decoder{cfg: cfg, domains: make(map[domainID]*domain)}
}

// Stats returns what was met until now.
func (d *Decoder) Stats() Stats { return d.stats }

// Length returns how many octets the message at the front of b has, when b holds at least its first four: for streams, where
// IPFIX messages follow one another. The error is of a stream that is none of IPFIX.
func Length(b []byte) (int, error) {
	if v := be.Uint16(b); v != uint16(IPFIX) {
		return 0, fmt.Errorf("netflow: a message of version %d in a stream of IPFIX", v)
	}
	n := int(be.Uint16(b[2:]))
	if n < headerIPFIX {
		return 0, fmt.Errorf("netflow: a message of %d octets, shorter than its header", n)
	}
	return n, nil
}

// Octets of headers.
const (
	headerV9    = 20
	headerIPFIX = 16
)

// Decode reads one message, which is not kept, and gives each flow record to fn, which must not keep it: it is used again
// for the next. Records that had to wait for a template that this message declares come with it. now is when the message
// came, for protocols whose times are too short to stand alone. The error says what of the message could not be read;
// what was sound has been given out.
func (d *Decoder) Decode(msg []byte, fn func(f *Flow)) error {
	if len(msg) < 4 {
		d.stats.Malformed++
		return fmt.Errorf("netflow: a message of %d octets", len(msg))
	}
	var err error
	switch v := Version(be.Uint16(msg)); v {
	case V5:
		err = d.decodeV5(msg, fn)
	case V9:
		err = d.decodeV9(msg, fn)
	case IPFIX:
		err = d.decodeIPFIX(msg, fn)
	default:
		d.stats.Malformed++
		return fmt.Errorf("netflow: version %d is none of 5, 9, 10", uint16(v))
	}
	if err != nil {
		d.stats.Malformed++
	}
	return err
}

// errDomains is of a message of a domain too many.
var errDomains = errors.New("netflow: the exporter has more observation domains than are taken")

func (d *Decoder) domain(v Version, id uint32) (*domain, error) {
	k := domainID{v, id}
	if at := d.domains[k]; at != nil {
		return at, nil
	}
	if len(d.domains) >= d.cfg.Domains {
		d.stats.Refused++
		return nil, errDomains
	}
	at := &domain{id: k, templates: make(map[uint16]*template)}
	d.domains[k] = at
	return at, nil
}

func (d *Decoder) decodeIPFIX(msg []byte, fn func(*Flow)) error {
	if len(msg) < headerIPFIX {
		return fmt.Errorf("ipfix: a message of %d octets", len(msg))
	}
	n := int(be.Uint16(msg[2:]))
	if n < headerIPFIX || n > len(msg) {
		return fmt.Errorf("ipfix: a message of %d octets says that it has %d", len(msg), n)
	}
	dom, err := d.domain(IPFIX, be.Uint32(msg[12:]))
	if err != nil {
		return err
	}
	d.stats.Messages++
	h := header{version: IPFIX, export: packet.Timestamp(int64(be.Uint32(msg[4:])) * 1e9)}
	at := d.arrive(dom, be.Uint32(msg[8:]))
	records, certain, err := d.sets(dom, &h, msg[headerIPFIX:n], fn)
	d.expect(dom, at, records, certain && err == nil)
	return err
}

func (d *Decoder) decodeV9(msg []byte, fn func(*Flow)) error {
	if len(msg) < headerV9 {
		return fmt.Errorf("netflow9: a message of %d octets", len(msg))
	}
	dom, err := d.domain(V9, be.Uint32(msg[16:]))
	if err != nil {
		return err
	}
	d.stats.Messages++
	uptime, seconds := be.Uint32(msg[4:]), be.Uint32(msg[8:])
	export := packet.Timestamp(int64(seconds) * 1e9)
	h := header{version: V9, export: export, boot: export - packet.Timestamp(uptime)*1e6}
	d.rebooted(dom, uptime)
	at := d.arrive(dom, be.Uint32(msg[12:]))
	_, _, err = d.sets(dom, &h, msg[headerV9:], fn)
	d.expect(dom, at, 1, true) // RFC 3954 section 5.1 counts messages
	return err
}

// position says where a message lies in the sequence.
type position struct {
	sequence uint32
	early    bool // before what was expected: it had been overtaken
}

// rebooted notes a clock of uptime that has gone back: the sequence begins anew.
func (d *Decoder) rebooted(dom *domain, uptime uint32) {
	const overtaken = 10_000 // milliseconds that a message may come late
	if dom.known && uptime+overtaken < dom.uptime && dom.uptime < math.MaxUint32-overtaken {
		dom.known = false
		d.stats.Restarts++
	}
	dom.uptime = uptime
}

// arrive compares a sequence number with the expected one and counts what is missing.
func (d *Decoder) arrive(dom *domain, sequence uint32) position {
	if !dom.known {
		return position{sequence: sequence}
	}
	switch gap := int32(sequence - dom.next); {
	case gap > 0:
		*d.lost(dom) += uint64(gap)
		dom.open += uint32(gap)
	case gap < 0 && dom.open > 0 && uint32(-gap) <= dom.open+dom.since: // it may be what was missing
		d.stats.Reordered++
		return position{sequence: sequence, early: true}
	case gap < 0:
		d.stats.Restarts++
		dom.known, dom.open, dom.since = false, 0, 0
	}
	return position{sequence: sequence}
}

// lost is where it is counted what a domain's sequence lacks.
func (d *Decoder) lost(dom *domain) *uint64 {
	if dom.id.version == V9 {
		return &d.stats.LostMessages
	}
	return &d.stats.LostRecords
}

// overtaking bounds what may come before something that is late: messages of version 9, records of the others.
const overtaking = 1 << 14

// expect sets the sequence number of the next message. Without certain the number of records in this one is not known, and
// the next message begins the sequence anew.
func (d *Decoder) expect(dom *domain, at position, units uint64, certain bool) {
	if at.early {
		back := min(uint32(units), dom.open)
		dom.open -= back
		*d.lost(dom) -= uint64(back)
		return
	}
	if dom.open > 0 {
		if dom.since += uint32(units); dom.since > overtaking || dom.open > overtaking {
			dom.open, dom.since = 0, 0 // lost for good
		}
	}
	dom.known = certain
	dom.next = at.sequence + uint32(units)
}

// sets reads the sets of a message. certain is false when data could not be read, so that records is too few.
func (d *Decoder) sets(dom *domain, h *header, b []byte, fn func(*Flow)) (records uint64, certain bool, err error) {
	certain = true
	for len(b) >= 4 {
		id, n := be.Uint16(b), int(be.Uint16(b[2:]))
		if n < 4 || n > len(b) {
			return records, false, fmt.Errorf("%s: set %d of %d octets in %d", h.version, id, n, len(b))
		}
		body := b[4:n]
		b = b[n:]
		switch {
		case id == 0 && h.version == V9, id == 2 && h.version == IPFIX:
			err = errors.Join(err, d.declareAll(dom, h.version, false, body, fn))
		case id == 1 && h.version == V9, id == 3 && h.version == IPFIX:
			err = errors.Join(err, d.declareAll(dom, h.version, true, body, fn))
		case id >= 256:
			t := dom.templates[id]
			if t == nil {
				certain = false
				d.hold(dom, h, id, body)
				continue
			}
			n, e := d.data(dom, h, t, body, fn)
			records += n
			if e != nil {
				err, certain = errors.Join(err, e), false
			}
		default:
			err = errors.Join(err, fmt.Errorf("%s: a set of identifier %d, which means nothing", h.version, id))
		}
	}
	if len(b) > 0 && err == nil && slices.ContainsFunc(b, func(o byte) bool { return o != 0 }) {
		err = fmt.Errorf("%s: %d octets after the last set", h.version, len(b))
	}
	return records, certain, err
}

// hold keeps a data set until its template comes, if there is room.
func (d *Decoder) hold(dom *domain, h *header, id uint16, body []byte) {
	if d.held+len(body) > d.cfg.Held || len(dom.held) >= maxHeldSets {
		d.stats.Unknown++
		return
	}
	d.held += len(body)
	d.stats.Held++
	dom.held = append(dom.held, heldSet{id, *h, slices.Clone(body)})
}

// declareAll takes the templates of a set, and reads the data that waited for them.
func (d *Decoder) declareAll(dom *domain, v Version, options bool, b []byte, fn func(*Flow)) (err error) {
	for len(b) >= 4 {
		if be.Uint16(b) == 0 && !slices.ContainsFunc(b, func(o byte) bool { return o != 0 }) {
			break // padding
		}
		t, n, e := parseTemplate(v, options, b)
		if e != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", v, e))
			if n == 0 {
				return err
			}
			if id := be.Uint16(b); id >= 256 { // what it said before holds no more
				delete(dom.templates, id)
			}
			b = b[n:]
			continue
		}
		b = b[n:]
		if t.steps == nil && t.shortest == 0 {
			d.withdraw(dom, t, options)
			continue
		}
		d.declare(dom, t)
		d.release(dom, t, fn)
	}
	return err
}

// withdraw forgets a template. Over UDP nobody may withdraw one: it is ignored, as RFC 7011 section 8.4 says.
func (d *Decoder) withdraw(dom *domain, t *template, options bool) {
	if !d.cfg.Stream {
		return
	}
	if t.id == 2 || t.id == 3 { // all templates, or all of options
		for id, have := range dom.templates {
			if have.options == options {
				delete(dom.templates, id)
				d.stats.Withdrawn++
			}
		}
		return
	}
	if dom.templates[t.id] != nil {
		delete(dom.templates, t.id)
		d.stats.Withdrawn++
	}
}

func (d *Decoder) declare(dom *domain, t *template) {
	d.clock++
	t.declared = d.clock
	d.stats.Templates++
	if dom.templates[t.id] == nil && len(dom.templates) >= d.cfg.Templates {
		var oldest *template
		for _, have := range dom.templates {
			if oldest == nil || have.declared < oldest.declared {
				oldest = have
			}
		}
		delete(dom.templates, oldest.id)
		d.stats.Evicted++
	}
	dom.templates[t.id] = t
}

// release reads the data sets that waited for a template.
func (d *Decoder) release(dom *domain, t *template, fn func(*Flow)) {
	if len(dom.held) == 0 {
		return
	}
	kept := dom.held[:0]
	for i := range dom.held {
		s := dom.held[i]
		if s.id != t.id {
			kept = append(kept, s)
			continue
		}
		d.held -= len(s.data)
		d.stats.Held--
		d.stats.Late++
		if _, err := d.data(dom, &s.h, t, s.data, fn); err != nil {
			d.stats.Malformed++
		}
	}
	clear(dom.held[len(kept):])
	dom.held = kept
}

// data reads the records of a data set.
func (d *Decoder) data(dom *domain, h *header, t *template, b []byte, fn func(*Flow)) (records uint64, err error) {
	for len(b) >= t.shortest {
		var v values
		n := t.shortest
		if t.variable {
			if n, err = t.walk(b, h, &d.flow, &v); err != nil {
				return records, fmt.Errorf("%s: set %d, record %d: %w", h.version, t.id, records, err)
			}
		} else {
			t.read(b, h, &d.flow, &v)
		}
		b = b[n:]
		records++
		if t.options {
			d.stats.Options++
			d.option(dom, &v)
			continue
		}
		if !v.settle(h, dom, &d.flow) {
			d.stats.NoFlow++
			continue
		}
		d.stats.Records++
		fn(&d.flow)
	}
	return records, nil
}

// option takes what a record of options says of sampling and of loss.
func (d *Decoder) option(dom *domain, v *values) {
	if v.hasNotSent {
		d.stats.NotSentFlows, d.stats.NotSentPackets = v.notSentFlows, v.notSentPackets
	}
	rate := v.rate()
	if rate == 0 {
		return
	}
	if !v.hasSampler {
		dom.sampling = rate
		return
	}
	if dom.samplers == nil {
		dom.samplers = make(map[uint64]uint32)
	}
	if _, ok := dom.samplers[v.sampler]; ok || len(dom.samplers) < maxSamplers {
		dom.samplers[v.sampler] = rate
	}
}

func (d *Decoder) decodeV5(msg []byte, fn func(*Flow)) error {
	if len(msg) < headerV5 {
		return fmt.Errorf("netflow5: a message of %d octets", len(msg))
	}
	n := int(be.Uint16(msg[2:]))
	if n > (len(msg)-headerV5)/recordV5 {
		return fmt.Errorf("netflow5: %d records in %d octets", n, len(msg))
	}
	dom, err := d.domain(V5, uint32(be.Uint16(msg[20:])))
	if err != nil {
		return err
	}
	d.stats.Messages++
	uptime := be.Uint32(msg[4:])
	export := packet.Timestamp(int64(be.Uint32(msg[8:]))*1e9 + int64(min(be.Uint32(msg[12:]), 999_999_999)))
	h := header{version: V5, export: export, boot: export - packet.Timestamp(uptime)*1e6}
	d.rebooted(dom, uptime)
	at := d.arrive(dom, dom.firstV5(be.Uint32(msg[16:]), uint32(n)))
	d.expect(dom, at, uint64(n), true)
	sampling := uint32(be.Uint16(msg[22:]) & 0x3fff)
	for i := range n {
		r := msg[headerV5+i*recordV5:][:recordV5]
		f := &d.flow
		*f = Flow{
			IP: 4, Src: v4(r[0:4]), Dst: v4(r[4:8]), Input: uint32(be.Uint16(r[12:])), Output: uint32(be.Uint16(r[14:])),
			Packets: uint64(be.Uint32(r[16:])), Octets: uint64(be.Uint32(r[20:])),
			First: h.at(be.Uint32(r[24:])), Last: h.at(be.Uint32(r[28:])),
			SrcPort: be.Uint16(r[32:]), DstPort: be.Uint16(r[34:]), TCPFlags: r[37], Proto: r[38], TOS: r[39], Sampling: sampling,
		}
		if f.Last < f.First {
			f.Last = f.First
		}
		if f.Proto == packet.ProtoICMP {
			f.ICMPTypeCode = f.DstPort
		}
		d.stats.Records++
		fn(f)
	}
	return nil
}

// firstV5 is the number of the first of the n records of a message. Numbers are of the first record of a message, or, by some, of
// its last: which of the two fits is told by two messages that follow one another.
func (dom *domain) firstV5(sequence, n uint32) uint32 {
	if dom.known {
		switch first := dom.last + dom.lastCount; { // what the next number is when numbers are of the first record
		case !dom.atEnd && sequence != first && sequence == dom.last+n:
			dom.atEnd, dom.next = true, dom.last+1
		case dom.atEnd && sequence != dom.last+n && sequence == first:
			dom.atEnd, dom.next = false, first
		}
	}
	dom.last, dom.lastCount = sequence, n
	if dom.atEnd {
		return sequence + 1 - n
	}
	return sequence
}

func v4(b []byte) (a [16]byte) {
	a[10], a[11] = 0xff, 0xff
	copy(a[12:], b)
	return a
}

// at is a time on the exporter's clock, in milliseconds since it began; the clock passes 32 bits after 49 days.
func (h *header) at(uptime uint32) packet.Timestamp {
	now := uint32((h.export - h.boot) / 1e6)
	return h.export + packet.Timestamp(int32(uptime-now))*1e6
}
