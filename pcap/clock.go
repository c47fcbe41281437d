package pcap

import (
	"math"
	"math/bits"

	"opentap/packet"
)

// clock converts an interface's timestamps to nanoseconds.
type clock struct {
	perSecond uint64 // units in a second
	shift     uint8  // for a power of two: its exponent
	binary    bool
	offset    int64 // seconds to add
}

// newClock reads the if_tsresol and if_tsoffset options. It reports false for more than 2^63 units in a second.
func newClock(resol uint8, offset int64) (clock, bool) {
	c := clock{binary: resol&0x80 != 0, shift: resol & 0x7f, offset: offset, perSecond: 1}
	if c.binary {
		c.perSecond = 1 << (c.shift & 63)
		return c, c.shift < 64
	}
	if resol > 19 {
		return c, false
	}
	for range resol {
		c.perSecond *= 10
	}
	return c, true
}

// time converts; what nanoseconds in 64 bits cannot hold becomes the nearest that they can.
func (c *clock) time(t uint64) packet.Timestamp {
	if c.perSecond == 1e9 && c.offset == 0 {
		return packet.Timestamp(t) // as written: times before 1970 are negative
	}
	sec, rest := t/c.perSecond, t%c.perSecond
	hi, lo := bits.Mul64(rest, 1e9)
	ns, _ := bits.Div64(hi, lo, c.perSecond)
	s := int64(min(sec, math.MaxInt64/2)) + max(min(c.offset, math.MaxInt64/4), math.MinInt64/4)
	const most = math.MaxInt64 / 1_000_000_000
	if s >= most {
		return math.MaxInt64
	}
	if s <= -most {
		return math.MinInt64
	}
	return packet.Timestamp(s*1e9 + int64(ns))
}
