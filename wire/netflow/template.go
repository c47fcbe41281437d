package netflow

import (
	"fmt"

	"opentap/packet"
)

// op says what a field of a template does to a Flow.
type op uint8

const (
	opSkip op = iota
	opOctets
	opOctetsLayer2 // counts when no field counts IP octets
	opOctetsSum    // totals, of exporters that give no deltas
	opPackets
	opPacketsSum
	opProto
	opTOS
	opFlags
	opSrcPort
	opDstPort
	opSrc4
	opDst4
	opSrc6
	opDst6
	opInput
	opOutput
	opFirstUptime
	opLastUptime
	opICMPTypeCode
	opICMPType
	opICMPCode
	opSampling
	opSampler
	opSelectedPackets // 305
	opSkippedPackets  // 306
	opSampleSize      // 309
	opPopulation      // 310
	opSrcMAC
	opDstMAC
	opVLAN
	opInnerVLAN
	opEndReason
	opIPVersion
	opFirstSeconds
	opLastSeconds
	opFirstMillis
	opLastMillis
	opFirstNTP
	opLastNTP
	opFirstDelta
	opLastDelta
	opDuration  // milliseconds
	opDurationU // microseconds
	opBoot      // systemInitTimeMilliseconds
	opRevOctets
	opRevPackets
	opRevFlags
	opRevTOS
	opNotSentFlows
	opNotSentPackets
	opFragments // fragmentOffset: a later fragment has no ports
)

// shape is how long an element may be.
type shape uint8

const (
	whole   shape = iota // an unsigned integer of 1 to 8 octets (reduced-size encoding, RFC 7011 section 6.2)
	exact4               // exactly so many octets
	exact6               //
	exact8               //
	exact16              //
)

// element is what we make of an information element of the registry (https://www.iana.org/assignments/ipfix).
func element(id uint16) (op, shape) {
	switch id {
	case 1:
		return opOctets, whole
	case 85:
		return opOctetsSum, whole
	case 352:
		return opOctetsLayer2, whole
	case 2:
		return opPackets, whole
	case 86:
		return opPacketsSum, whole
	case 4:
		return opProto, whole
	case 5:
		return opTOS, whole
	case 6:
		return opFlags, whole
	case 7, 180, 182:
		return opSrcPort, whole
	case 11, 181, 183:
		return opDstPort, whole
	case 8:
		return opSrc4, exact4
	case 12:
		return opDst4, exact4
	case 27:
		return opSrc6, exact16
	case 28:
		return opDst6, exact16
	case 10:
		return opInput, whole
	case 14:
		return opOutput, whole
	case 22:
		return opFirstUptime, whole
	case 21:
		return opLastUptime, whole
	case 32, 139:
		return opICMPTypeCode, whole
	case 176, 178:
		return opICMPType, whole
	case 177, 179:
		return opICMPCode, whole
	case 34, 50:
		return opSampling, whole
	case 48, 302:
		return opSampler, whole
	case 305:
		return opSelectedPackets, whole
	case 306:
		return opSkippedPackets, whole
	case 309:
		return opSampleSize, whole
	case 310:
		return opPopulation, whole
	case 56:
		return opSrcMAC, exact6
	case 80:
		return opDstMAC, exact6
	case 58, 243:
		return opVLAN, whole
	case 245:
		return opInnerVLAN, whole
	case 60:
		return opIPVersion, whole
	case 88:
		return opFragments, whole
	case 136:
		return opEndReason, whole
	case 150:
		return opFirstSeconds, whole
	case 151:
		return opLastSeconds, whole
	case 152:
		return opFirstMillis, whole
	case 153:
		return opLastMillis, whole
	case 154, 156:
		return opFirstNTP, exact8
	case 155, 157:
		return opLastNTP, exact8
	case 158:
		return opFirstDelta, whole
	case 159:
		return opLastDelta, whole
	case 160:
		return opBoot, whole
	case 161:
		return opDuration, whole
	case 162:
		return opDurationU, whole
	case 165:
		return opNotSentFlows, whole
	case 166:
		return opNotSentPackets, whole
	case 231: // initiatorOctets, of exporters that make records of both directions in their own way
		return opOctets, whole
	case 232:
		return opRevOctets, whole
	case 298:
		return opPackets, whole
	case 299:
		return opRevPackets, whole
	}
	return opSkip, whole
}

// reverseElement is element for the enterprise of RFC 5103.
func reverseElement(id uint16) (op, shape) {
	switch id {
	case 1:
		return opRevOctets, whole
	case 2:
		return opRevPackets, whole
	case 5:
		return opRevTOS, whole
	case 6:
		return opRevFlags, whole
	}
	return opSkip, whole
}

// fits reports whether an element of the shape may have n octets.
func (s shape) fits(n int) bool {
	switch s {
	case exact4:
		return n == 4
	case exact6:
		return n == 6
	case exact8:
		return n == 8
	case exact16:
		return n == 16
	}
	return n >= 1 && n <= 8
}

// variable is the length of a field whose octets say how many they are, RFC 7011 section 7.
const variable = 65535

// step is one field of a template that is compiled: what lies in skip octets before it is of no interest.
type step struct {
	op   op
	skip uint16 // octets to pass before it; of fixed templates
	size uint16 // octets, or variable
}

// template is compiled. Steps of templates without variable fields name the fields of interest alone.
type template struct {
	id       uint16
	options  bool
	variable bool
	shortest int // octets of the shortest record; never 0
	steps    []step
	raw      []byte // as it was declared: what is kept over restarts

	declared uint64 // the decoder's clock of declarations, for giving up the oldest
}

// Bounds of a template.
const (
	maxFields = 1024
	maxRecord = 65535
)

// parse reads one template record from the front of b and says how many octets it took. A template that contradicts
// itself, or whose records would have no octets, is an error, and n says where the next would begin, 0 when that cannot be
// known.
func parseTemplate(v Version, options bool, b []byte) (t *template, n int, err error) {
	r := reader{b: b}
	t = &template{id: r.uint16(), options: options}
	fields, scopes := 0, 0
	switch {
	case !options:
		fields = int(r.uint16())
	case v == V9: // RFC 3954 section 6.1: lengths in octets
		scope, rest := int(r.uint16()), int(r.uint16())
		if scope%4 != 0 || rest%4 != 0 {
			return nil, 0, fmt.Errorf("options template %d: its fields are %d and %d octets long, which are no whole fields", t.id, scope, rest)
		}
		scopes, fields = scope/4, (scope+rest)/4
	default:
		fields, scopes = int(r.uint16()), int(r.uint16())
	}
	if r.short {
		return nil, 0, errShort
	}
	if fields == 0 { // a withdrawal, RFC 7011 section 8.1
		return t, len(b) - len(r.b), nil
	}
	if fields > maxFields {
		return nil, 0, fmt.Errorf("template %d has %d fields, at most %d are taken", t.id, fields, maxFields)
	}
	if options && (scopes == 0 && v == IPFIX || scopes > fields) {
		err = fmt.Errorf("options template %d has %d fields of which %d are the scope", t.id, fields, scopes)
	}
	steps := make([]step, 0, fields)
	longest := 0
	for i := range fields {
		id, size := r.uint16(), int(r.uint16())
		var pen uint32
		if v == IPFIX && id&0x8000 != 0 {
			pen = r.uint32()
			id &= 0x7fff
		}
		if r.short {
			return nil, 0, errShort
		}
		if size == 0 {
			err = fmt.Errorf("template %d: field %d (element %d) has no octets", t.id, i, id)
			continue
		}
		what, shape := opSkip, whole
		switch {
		case v == V9 && options && i < scopes: // scopes of version 9 are of a numbering of their own
		case pen == 0:
			what, shape = element(id)
		case pen == reversePEN:
			what, shape = reverseElement(id)
		}
		if size == variable && v == IPFIX {
			t.variable = true
			t.shortest++
			longest++
			if what != opSkip && shape != whole {
				err = fmt.Errorf("template %d: element %d is of variable length", t.id, id)
			}
		} else {
			if what != opSkip && !shape.fits(size) {
				if shape != whole || size < 1 {
					err = fmt.Errorf("template %d: element %d has %d octets", t.id, id, size)
				}
				what = opSkip // a count of more than 64 bits is none of ours
			}
			t.shortest += size
			longest += size
		}
		steps = append(steps, step{op: what, size: uint16(size)})
	}
	n = len(b) - len(r.b)
	if err == nil && t.id < 256 {
		err = fmt.Errorf("template identifier %d is one of sets", t.id)
	}
	if err == nil && longest > maxRecord {
		err = fmt.Errorf("template %d: a record has %d octets, more than a message", t.id, longest)
	}
	if err != nil {
		return nil, n, err
	}
	t.steps = steps
	if !t.variable {
		t.steps = compact(steps)
	}
	t.raw = append([]byte(nil), b[:n]...)
	return t, n, nil
}

// compact leaves out what is of no interest.
func compact(all []step) []step {
	out := make([]step, 0, len(all))
	skip := 0
	for _, s := range all {
		if s.op == opSkip {
			skip += int(s.size)
			continue
		}
		s.skip = uint16(skip)
		skip = 0
		out = append(out, s)
	}
	return out
}

// reader reads from b; after the end it gives zeros and short is set.
type reader struct {
	b     []byte
	short bool
}

func (r *reader) take(n int) []byte {
	if n > len(r.b) {
		r.b, r.short = nil, true
		return nil
	}
	p := r.b[:n]
	r.b = r.b[n:]
	return p
}

func (r *reader) uint16() uint16 {
	if p := r.take(2); p != nil {
		return be.Uint16(p)
	}
	return 0
}

func (r *reader) uint32() uint32 {
	if p := r.take(4); p != nil {
		return be.Uint32(p)
	}
	return 0
}

// number is an unsigned integer of at most 8 octets.
func number(b []byte) uint64 {
	switch len(b) {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(be.Uint16(b))
	case 4:
		return uint64(be.Uint32(b))
	case 8:
		return be.Uint64(b)
	}
	var n uint64
	for _, o := range b[:min(len(b), 8)] {
		n = n<<8 | uint64(o)
	}
	return n
}

// ntp is a time of RFC 5905 section 6: seconds since 1900 and a fraction.
func ntp(v uint64) packet.Timestamp {
	const since1900 = 2208988800
	return packet.Timestamp((int64(v>>32)-since1900)*1e9 + int64((v&0xffffffff)*1e9>>32))
}
