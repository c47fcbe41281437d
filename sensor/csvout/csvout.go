// Package csvout writes rows of counters and samples as text: classic CSV, plain CSV, NDJSON.
//
// Runs in: agent | tools
package csvout

import (
	"encoding/json"
	"io"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"opentap/fault"
	"opentap/packet"
	"opentap/sensor"
	"opentap/sensor/ifcount"
	"opentap/want"
)

// The same rows in the same format always give the same octets, so that a download can be resumed. Rows without a value
// keep their place, with empty columns (null in NDJSON) and the reason in the column missing; the classic formats have no
// word for that and leave them out.

// flushAt is how many octets are gathered for one Write to the destination.
const flushAt = 32 << 10

// out gathers text for a writer. The first error stays.
type out struct {
	w   io.Writer
	buf []byte
	err error
}

func (o *out) flush() error {
	if o.err == nil && len(o.buf) > 0 {
		_, o.err = o.w.Write(o.buf)
	}
	o.buf = o.buf[:0]
	return o.err
}

// endLine ends a line and writes when enough is gathered.
func (o *out) endLine() error {
	o.buf = append(o.buf, '\n')
	if len(o.buf) >= flushAt {
		return o.flush()
	}
	return o.err
}

func unsupported(f want.Format) error {
	return fault.New(fault.Unsupported, "format %q cannot be written as text: csv, classic and ndjson can", string(f))
}

// ClassicCounters is the header of the first OpenTap's ethernet type.
const ClassicCounters = "time,state,rx_bytes,rx_packets,rx_errors,rx_dropped,rx_overrun,rx_mcast," +
	"tx_bytes,tx_packets,tx_errors,tx_dropped,tx_carrier,tx_collision"

// classicStats is how many of ifcount.Stats, from the first, the classic format has, in its order.
const classicStats = 12

// Counters writes rows of interface counters. It is for one goroutine.
type Counters struct {
	out
	format  want.Format
	names   [ifcount.NumStats]string
	skipped uint64
}

// NewCounters begins the text of rows in format CSV, Classic or NDJSON; others are a *fault.Error of kind Unsupported.
// Nothing is written to w before the first Write or Close.
func NewCounters(w io.Writer, f want.Format) (*Counters, error) {
	c := &Counters{out: out{w: w}, format: f, names: ifcount.Names()}
	switch f {
	case want.Classic:
		c.buf = append(c.buf, ClassicCounters+"\n"...)
	case want.CSV:
		c.buf = append(c.buf, "time,point,up,admin,carrier,ifindex,"+strings.Join(c.names[:], ",")+",missing\n"...)
	case want.NDJSON:
	default:
		return nil, unsupported(f)
	}
	return c, nil
}

// Skipped is the number of rows that the classic format left out because they have no counters.
func (c *Counters) Skipped() uint64 { return c.skipped }

// Close writes what is gathered. It leaves the destination open.
func (c *Counters) Close() error { return c.flush() }

// Write writes one row. r is not kept.
func (c *Counters) Write(r *ifcount.Row) error {
	b := c.buf
	switch c.format {
	case want.Classic:
		if r.Missing != "" {
			c.skipped++
			return c.err
		}
		b = appendMillis(b, r.Time)
		b = append(b, ',', digit(r.Up))
		i := 0
		r.Each(func(_ string, v *uint64) {
			if i < classicStats {
				b = append(b, ',')
				b = strconv.AppendUint(b, *v, 10)
			}
			i++
		})
	case want.CSV:
		b = appendTime(b, r.Time)
		b = append(b, ',')
		b = appendField(b, r.Point)
		if r.Missing == "" {
			b = append(b, ',', digit(r.Up), ',', digit(r.Admin), ',', digit(r.Carrier), ',')
			b = strconv.AppendUint(b, uint64(r.IfIndex), 10)
			r.Each(func(_ string, v *uint64) {
				b = append(b, ',')
				b = strconv.AppendUint(b, *v, 10)
			})
		} else {
			for range 4 + ifcount.NumStats {
				b = append(b, ',')
			}
		}
		b = append(b, ',')
		b = appendField(b, r.Missing)
	case want.NDJSON:
		b = appendStart(b, r.Time, r.Point)
		if r.Missing == "" {
			b = strconv.AppendBool(append(b, `,"up":`...), r.Up)
			b = strconv.AppendBool(append(b, `,"admin":`...), r.Admin)
			b = strconv.AppendBool(append(b, `,"carrier":`...), r.Carrier)
			b = strconv.AppendUint(append(b, `,"ifindex":`...), uint64(r.IfIndex), 10)
			r.Each(func(name string, v *uint64) {
				b = append(b, ',', '"')
				b = append(b, name...)
				b = append(b, '"', ':')
				b = strconv.AppendUint(b, *v, 10)
			})
		} else {
			b = appendString(append(b, `,"missing":`...), r.Missing)
		}
		b = append(b, '}')
	}
	c.buf = b
	return c.endLine()
}

// Samples writes samples of sensors. It is for one goroutine.
type Samples struct {
	out
	format  want.Format
	skipped uint64
}

// NewSamples begins the text of samples in format CSV, Classic or NDJSON; others are a *fault.Error of kind Unsupported.
// column names the value in the classic header ("temperature"); "" is "value". Nothing is written to w before the first
// Write or Close.
func NewSamples(w io.Writer, f want.Format, column string) (*Samples, error) {
	s := &Samples{out: out{w: w}, format: f}
	switch f {
	case want.Classic:
		if column == "" {
			column = "value"
		}
		s.buf = append(appendField(append(s.buf, "time,"...), column), '\n')
	case want.CSV:
		s.buf = append(s.buf, "time,point,value,missing\n"...)
	case want.NDJSON:
	default:
		return nil, unsupported(f)
	}
	return s, nil
}

// Skipped is the number of samples that the classic format left out because they have no value.
func (s *Samples) Skipped() uint64 { return s.skipped }

// Close writes what is gathered. It leaves the destination open.
func (s *Samples) Close() error { return s.flush() }

// Write writes one sample. v is not kept. A value that is no finite number is written as missing.
func (s *Samples) Write(v *sensor.Sample) error {
	missing := v.Missing
	if missing == "" && (math.IsNaN(v.Value) || math.IsInf(v.Value, 0)) {
		missing = "not a number"
	}
	b := s.buf
	switch s.format {
	case want.Classic:
		if missing != "" {
			s.skipped++
			return s.err
		}
		b = append(appendMillis(b, v.Time), ',')
		b = appendValue(b, v.Value)
	case want.CSV:
		b = append(appendTime(b, v.Time), ',')
		b = append(appendField(b, v.Point), ',')
		if missing == "" {
			b = appendValue(b, v.Value)
		}
		b = appendField(append(b, ','), missing)
	case want.NDJSON:
		b = append(appendStart(b, v.Time, v.Point), `,"value":`...)
		if missing == "" {
			b = appendValue(b, v.Value)
		} else {
			b = appendString(append(b, `null,"missing":`...), missing)
		}
		b = append(b, '}')
	}
	s.buf = b
	return s.endLine()
}

func digit(v bool) byte {
	if v {
		return '1'
	}
	return '0'
}

// appendMillis appends Unix milliseconds, rounded down.
func appendMillis(b []byte, t packet.Timestamp) []byte {
	ms := int64(t) / int64(time.Millisecond)
	if int64(t)%int64(time.Millisecond) < 0 {
		ms--
	}
	return strconv.AppendInt(b, ms, 10)
}

// appendTime appends RFC 3339 in UTC with nanoseconds, always as long.
func appendTime(b []byte, t packet.Timestamp) []byte {
	return t.Time().AppendFormat(b, "2006-01-02T15:04:05.000000000Z07:00")
}

// appendValue appends the shortest decimal that reads back as v; very large and small ones with an exponent.
func appendValue(b []byte, v float64) []byte {
	format := byte('f')
	if a := math.Abs(v); a != 0 && (a < 1e-6 || a >= 1e21) {
		format = 'e'
	}
	return strconv.AppendFloat(b, v, format, -1, 64)
}

// appendField appends a CSV field, quoted where RFC 4180 section 2 asks for it.
func appendField(b []byte, s string) []byte {
	if !strings.ContainsAny(s, ",\"\r\n") {
		return append(b, s...)
	}
	b = append(b, '"')
	b = append(b, strings.ReplaceAll(s, `"`, `""`)...)
	return append(b, '"')
}

// appendStart appends the start of a JSON object.
func appendStart(b []byte, t packet.Timestamp, point string) []byte {
	b = append(appendTime(append(b, `{"time":"`...), t), `","point":`...)
	return appendString(b, point)
}

// appendString appends a JSON string.
func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, err := json.Marshal(s)
			if err != nil { // a string always marshals
				return append(b, `""`...)
			}
			return append(b, quoted...)
		}
	}
	b = append(append(b, '"'), s...)
	return append(b, '"')
}
