// Package csvout writes flow records as lines of text.
//
// Runs in: agent | tools
//
// Three forms: Classic is what nfdump 1.6 prints with -o csv, which the first OpenTap's clients read; CSV has every
// field under a readable name; NDJSON has the same names, one JSON object a line. Cells hold only numbers, times, addresses
// and words of this project, so that no cell can be taken for a formula or needs quoting.
//
// All of them stream through one buffer of bounded size, allocate nothing per record, and write the same octets for the
// same records. A writer is for one goroutine at a time; it never closes the io.Writer it was given.
package csvout

import (
	"io"
	"time"

	"opentap/packet"
)

// bufSize is when the buffer is handed on, in octets; no line is longer than a few hundred.
const bufSize = 32 << 10

// out collects lines and hands them on. The first error is sticky.
type out struct {
	w   io.Writer
	b   []byte
	err error
}

func newOut(w io.Writer) out { return out{w: w, b: make([]byte, 0, bufSize+2048)} }

// line ends a record.
func (o *out) line() error {
	o.b = append(o.b, '\n')
	if len(o.b) >= bufSize {
		return o.flush()
	}
	return o.err
}

func (o *out) flush() error {
	if o.err == nil && len(o.b) > 0 {
		_, o.err = o.w.Write(o.b)
	}
	o.b = o.b[:0]
	return o.err
}

// protoNames are the texts of packet.ProtoName, made once.
var protoNames = func() (names [256]string) {
	for i := range names {
		names[i] = packet.ProtoName(uint8(i))
	}
	return names
}()

// flagLetters are the TCP flags from the highest bit on, as nfdump shows them.
const flagLetters = "CEUAPRSF"

func appendFlags(b []byte, flags uint8) []byte {
	for i := range 8 {
		if flags&(0x80>>i) != 0 {
			b = append(b, flagLetters[i])
		} else {
			b = append(b, '.')
		}
	}
	return b
}

// appendDigits appends v with leading zeros to a width.
func appendDigits(b []byte, v uint32, width int) []byte {
	at := len(b)
	for range width {
		b = append(b, '0')
	}
	for i := at + width - 1; i >= at; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return b
}

// clock turns times into text; it keeps the text of the second it saw last, for most records share it.
type clock struct {
	layout string
	sec    int64
	text   []byte
}

// split is floor division: nanos is never negative.
func split(t packet.Timestamp) (sec int64, nanos uint32) {
	s, n := int64(t)/1e9, int64(t)%1e9
	if n < 0 {
		s, n = s-1, n+1e9
	}
	return s, uint32(n)
}

func (c *clock) append(b []byte, sec int64) []byte {
	if c.text == nil || sec != c.sec {
		// Seconds that a Timestamp can hold lie between the years 1677 and 2262.
		c.sec = sec
		c.text = time.Unix(sec, 0).UTC().AppendFormat(c.text[:0], c.layout)
	}
	return append(b, c.text...)
}
