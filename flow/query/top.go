package query

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/flow"
	"opentap/packet"
)

// Keys are the words that records can be grouped by.
var Keys = []string{"src", "dst", "sport", "dport", "proto", "vlan", "tos", "smac", "dmac", "ipversion", "end"}

// Metrics are the words that groups can be ordered by.
var Metrics = []string{"bytes", "packets", "flows"}

// Counts are what a group holds: octets and packets as sent, and records. Of a record with both directions, the one of
// its source counts as the flow.
type Counts struct{ Octets, Packets, Flows uint64 }

func (c *Counts) add(o Counts) {
	c.Octets = sum(c.Octets, o.Octets)
	c.Packets = sum(c.Packets, o.Packets)
	c.Flows = sum(c.Flows, o.Flows)
}

// sum stays at the largest number instead of overflowing: records are not ours alone.
func sum(a, b uint64) uint64 {
	if s, over := bits.Add64(a, b, 0); over == 0 {
		return s
	}
	return math.MaxUint64
}

// By returns the count a metric names.
func (c Counts) By(metric string) uint64 {
	switch metric {
	case "packets":
		return c.Packets
	case "flows":
		return c.Flows
	}
	return c.Octets
}

// Config says what is counted.
type Config struct {
	By       []string         // of Keys; none: all in one group
	Metric   string           // of Metrics
	Filter   *Filter          // nil = all
	From, To packet.Timestamp // only records that touch this time; 0 = no bound
	Step     time.Duration    // Series: length of an interval
	MaxKeys  int              // groups at most; 0 = 4 million
}

// maxIntervals bounds a time series.
const maxIntervals = 1 << 20

func (c *Config) check() error {
	for _, k := range c.By {
		if !slices.Contains(Keys, k) {
			return fmt.Errorf("%q is none of %s", k, strings.Join(Keys, ", "))
		}
	}
	if !slices.Contains(Metrics, c.Metric) {
		return fmt.Errorf("%q is none of %s", c.Metric, strings.Join(Metrics, ", "))
	}
	if c.Step < 0 {
		return fmt.Errorf("step %v is negative", c.Step)
	}
	if c.MaxKeys == 0 {
		c.MaxKeys = 4 << 20
	}
	return nil
}

// Group is one line of an answer.
type Group struct {
	Key []string // values of Config.By
	Counts
	sample flow.Record
}

// Counter counts records by their keys. It keeps no records: memory grows with the groups, up to MaxKeys of them.
type Counter struct {
	cfg     Config
	groups  map[string]*Group
	buf     []byte
	total   Counts
	series  map[int64]map[string]*Counts // by interval
	points  int
	records uint64
}

// NewCounter checks what is asked for.
func NewCounter(cfg Config) (*Counter, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	return &Counter{cfg: cfg, groups: make(map[string]*Group), series: make(map[int64]map[string]*Counts)}, nil
}

// Total are the counts of all groups.
func (c *Counter) Total() Counts { return c.total }

// Records is how many records were counted.
func (c *Counter) Records() uint64 { return c.records }

// Add counts one record; r is not kept. Counts are multiplied by the record's sampling interval. The error says that
// there are more groups or intervals than memory is meant for.
func (c *Counter) Add(r *flow.Record) error {
	if c.cfg.From != 0 && r.Last < c.cfg.From || c.cfg.To != 0 && r.First >= c.cfg.To {
		return nil
	}
	e := r.Estimate()
	counted := false
	if c.cfg.Filter.Match(&e) {
		counted = true
		if err := c.add(&e, Counts{e.Octets, e.Packets, 1}); err != nil {
			return err
		}
	}
	if e.RevPackets > 0 {
		e.Src, e.Dst, e.SrcMAC, e.DstMAC, e.TOS, e.TCPFlags = e.Dst, e.Src, e.DstMAC, e.SrcMAC, e.RevTOS, e.RevTCPFlags
		if e.Proto != packet.ProtoICMP && e.Proto != packet.ProtoICMP6 {
			e.SrcPort, e.DstPort = e.DstPort, e.SrcPort
		}
		if c.cfg.Filter.Match(&e) {
			counted = true
			if err := c.add(&e, Counts{e.RevOctets, e.RevPackets, 0}); err != nil {
				return err
			}
		}
	}
	if counted {
		c.records++
	}
	return nil
}

func (c *Counter) add(r *flow.Record, n Counts) error {
	c.total.add(n)
	c.buf = c.cfg.key(c.buf[:0], r)
	g := c.groups[string(c.buf)]
	if g == nil {
		if len(c.groups) >= c.cfg.MaxKeys {
			return fmt.Errorf("more than %d different %s: ask for fewer with a filter or other keys", c.cfg.MaxKeys, strings.Join(c.cfg.By, ", "))
		}
		g = &Group{sample: *r}
		c.groups[string(c.buf)] = g
	}
	g.add(n)
	if c.cfg.Step > 0 {
		return c.spread(r, n)
	}
	return nil
}

// spread shares a record's counts out to the intervals it touches, evenly over its duration. Nothing is lost to rounding:
// each interval gets what is due until its end, less what earlier ones have. The flow counts where it begins.
func (c *Counter) spread(r *flow.Record, n Counts) error {
	step := int64(c.cfg.Step)
	first, last := floorDiv(int64(r.First), step), floorDiv(int64(r.Last), step)
	if uint64(last-first) >= maxIntervals {
		return fmt.Errorf("a record lasts %d intervals of %v: ask for a longer step", last-first, c.cfg.Step)
	}
	duration := uint64(r.Last-r.First) + 1
	var given Counts
	for i := first; i <= last; i++ {
		upto := duration
		if i < last {
			upto = uint64((i+1)*step - int64(r.First))
		}
		share := Counts{portion(n.Octets, upto, duration) - given.Octets, portion(n.Packets, upto, duration) - given.Packets, n.Flows - given.Flows}
		given.add(share)
		at := c.series[i]
		if at == nil {
			at = make(map[string]*Counts)
			c.series[i] = at
		}
		if p := at[string(c.buf)]; p != nil {
			p.add(share)
			continue
		}
		if c.points++; c.points > c.cfg.MaxKeys {
			return fmt.Errorf("more than %d points: ask for a longer step or fewer keys", c.cfg.MaxKeys)
		}
		at[string(c.buf)] = &share
	}
	return nil
}

// portion is v*part/whole, rounded down.
func portion(v, part, whole uint64) uint64 {
	hi, lo := bits.Mul64(v, part)
	q, _ := bits.Div64(hi, lo, whole) // part ≤ whole, so it fits
	return q
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// key appends the values of the keys, so that different values are different octets.
func (c *Config) key(b []byte, r *flow.Record) []byte {
	for _, k := range c.By {
		switch k {
		case "src":
			b = append(append(b, r.Version), r.Src[:]...)
		case "dst":
			b = append(append(b, r.Version), r.Dst[:]...)
		case "sport":
			b = binary.BigEndian.AppendUint16(b, portOf(r, r.SrcPort))
		case "dport":
			b = binary.BigEndian.AppendUint16(b, portOf(r, r.DstPort))
		case "proto":
			b = append(b, r.Proto)
		case "vlan":
			b = binary.BigEndian.AppendUint16(b, r.VLAN)
		case "tos":
			b = append(b, r.TOS)
		case "smac":
			b = append(b, r.SrcMAC[:]...)
		case "dmac":
			b = append(b, r.DstMAC[:]...)
		case "ipversion":
			b = append(b, r.Version)
		case "end":
			b = append(b, byte(r.EndReason))
		}
	}
	return b
}

// portOf is 0 where what stands in a port is none: ICMP type and code.
func portOf(r *flow.Record, p uint16) uint16 {
	if r.Proto == packet.ProtoICMP || r.Proto == packet.ProtoICMP6 {
		return 0
	}
	return p
}

func (c *Config) text(r *flow.Record) []string {
	out := make([]string, len(c.By))
	for i, k := range c.By {
		switch k {
		case "src":
			out[i] = r.SrcAddr().String()
		case "dst":
			out[i] = r.DstAddr().String()
		case "sport":
			out[i] = strconv.Itoa(int(portOf(r, r.SrcPort)))
		case "dport":
			out[i] = strconv.Itoa(int(portOf(r, r.DstPort)))
		case "proto":
			out[i] = packet.ProtoName(r.Proto)
		case "vlan":
			out[i] = strconv.Itoa(int(r.VLAN))
		case "tos":
			out[i] = strconv.Itoa(int(r.TOS))
		case "smac":
			out[i] = macText(r.SrcMAC)
		case "dmac":
			out[i] = macText(r.DstMAC)
		case "ipversion":
			out[i] = strconv.Itoa(int(r.Version))
		case "end":
			out[i] = r.EndReason.String()
		}
	}
	return out
}

func macText(m packet.MAC) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4], m[5])
}

// Top returns the n groups with most of the metric, the largest first; equals in the order of their keys. 0 is all.
func (c *Counter) Top(n int) []Group {
	keys := c.largest(n)
	out := make([]Group, len(keys))
	for i, k := range keys {
		out[i] = *c.groups[k]
		out[i].Key = c.cfg.text(&out[i].sample)
	}
	return out
}

func (c *Counter) largest(n int) []string {
	keys := make([]string, 0, len(c.groups))
	for k := range c.groups {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int {
		return cmp.Or(cmp.Compare(c.groups[b].By(c.cfg.Metric), c.groups[a].By(c.cfg.Metric)), cmp.Compare(a, b))
	})
	if n > 0 && len(keys) > n {
		keys = keys[:n]
	}
	return keys
}

// Point is what a group has in one interval.
type Point struct {
	Start packet.Timestamp
	Group
}

// Series returns the intervals in order of time, each with the n largest groups of all the time and, with the key
// "other" in each column, what all others have. Intervals without counts are left out.
func (c *Counter) Series(n int) []Point {
	keys := c.largest(n)
	other := make([]string, len(c.cfg.By))
	for i := range other {
		other[i] = "other"
	}
	starts := make([]int64, 0, len(c.series))
	for i := range c.series {
		starts = append(starts, i)
	}
	slices.Sort(starts)
	chosen := make(map[string]bool, len(keys))
	for _, k := range keys {
		chosen[k] = true
	}
	var out []Point
	for _, i := range starts {
		at := packet.Timestamp(i * int64(c.cfg.Step))
		for _, k := range keys {
			if p := c.series[i][k]; p != nil {
				g := c.groups[k]
				out = append(out, Point{at, Group{Key: c.cfg.text(&g.sample), Counts: *p}})
			}
		}
		var rest Counts
		for k, p := range c.series[i] {
			if !chosen[k] {
				rest.add(*p)
			}
		}
		if rest != (Counts{}) {
			out = append(out, Point{at, Group{Key: other, Counts: rest}})
		}
	}
	return out
}
