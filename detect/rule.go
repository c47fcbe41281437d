package detect

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/fault"
	"opentap/filter"
	"opentap/filter/cbpf"
	"opentap/packet"
	"opentap/want"
)

// Compiled is a rule that was checked, with its defaults filled in. It is immutable, and may be used by several Engines.
type Compiled struct {
	Name       string
	Keys       []string
	Bits       bool // values are bits, else packets
	Drops      bool // values are packets that devices dropped
	Errors     bool // values are packets that were wrong
	Above      uint64
	Clear      uint64
	Window     time.Duration
	MinSamples uint32
	Hold       time.Duration
	CoolDown   time.Duration
	Top        int
	Sources    []netip.Addr
	Input      string   // of want
	Points     []string // of want.InputPackets and InputCounters

	keys               []key
	match              *cbpf.Matcher
	aboveSum, clearSum uint64 // over the window
}

// Defaults and bounds of a rule.
const (
	defaultWindow     = 2 * time.Second
	defaultTop        = 20
	defaultMinSamples = 10
	defaultHold       = 10 * time.Second
	minCounted        = time.Second // window of counters, which are read some times in it
	minWindow         = 80 * time.Millisecond
	maxWindow         = 10 * time.Minute
	maxHold           = 24 * time.Hour
	maxTop            = 1000
	maxKeys           = 8
	maxPoints         = 16
	maxName           = 100
)

var ruleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Compile checks a rule. Errors are *fault.Error and name the field.
func Compile(r *want.Rule) (*Compiled, error) {
	c := &Compiled{
		Name: r.Name, Window: time.Duration(r.Flow.Window), Top: r.Flow.Top, MinSamples: r.Threshold.MinSamples, Hold: time.Duration(r.Threshold.Hold),
		CoolDown: time.Duration(r.Threshold.CoolDown),
	}
	if len(r.Name) > maxName || !ruleName.MatchString(r.Name) {
		return nil, fault.Field("name", "%q is not of letters, digits, dots, dashes and underscores, at most %d", r.Name, maxName)
	}
	switch c.Input = cmp.Or(r.Flow.Input, want.InputSamples); c.Input {
	case want.InputPackets, want.InputCounters:
		if len(r.Flow.Points) == 0 || len(r.Flow.Points) > maxPoints {
			return nil, fault.Field("flow.points", "names %d devices; with "+c.Input+" it names 1 to %d", len(r.Flow.Points), maxPoints)
		}
		c.Points = r.Flow.Points
	case want.InputInterfaces:
		if len(r.Flow.Points) > maxPoints {
			return nil, fault.Field("flow.points", "names %d interfaces; it names up to %d", len(r.Flow.Points), maxPoints)
		}
		c.Points = r.Flow.Points
	case want.InputSamples, want.InputRecords:
		if len(r.Flow.Points) > 0 {
			return nil, fault.Field("flow.points", "means nothing without input: packets, counters or interfaces")
		}
	default:
		return nil, fault.Field("flow.input", "%q is none of samples, records, packets, counters, interfaces", r.Flow.Input)
	}
	switch r.Flow.Value {
	case "", "bytes":
		c.Bits = true
	case "packets":
	case "drops":
		if c.Drops = true; !countersAre(c.Input) {
			return nil, fault.Field("flow.value", "drops are known with input: counters or interfaces alone")
		}
	case "errors":
		if c.Errors = true; !countersAre(c.Input) {
			return nil, fault.Field("flow.value", "errors are known with input: counters or interfaces alone")
		}
	default:
		return nil, fault.Field("flow.value", "%q is none of bytes, packets, drops, errors", r.Flow.Value)
	}
	if len(r.Flow.Keys) == 0 || len(r.Flow.Keys) > maxKeys {
		return nil, fault.Field("flow.keys", "has %d keys; it has 1 to %d", len(r.Flow.Keys), maxKeys)
	}
	for _, name := range r.Flow.Keys {
		k, ok := keyNamed(name)
		if !ok || slices.Contains(c.Keys, name) {
			return nil, &fault.Error{Kind: fault.Invalid, Field: "flow.keys", Msg: strconv.Quote(name) + " is no key, or is there twice", Hint: "keys are " + strings.Join(KeyNames(), ", ")}
		}
		if !keyOf(name, c.Input) {
			return nil, fault.Field("flow.keys", "%s is not known with input: %s", name, c.Input)
		}
		c.Keys, c.keys = append(c.Keys, name), append(c.keys, k)
	}
	if r.Flow.Filter != "" {
		e, err := filter.Parse(r.Flow.Filter)
		if err == nil {
			c.match, err = cbpf.NewMatcher(e, cbpf.Options{Link: packet.LinkEthernet, Target: cbpf.File})
		}
		if err != nil {
			return nil, &fault.Error{Kind: fault.Invalid, Field: "flow.filter", Msg: err.Error()}
		}
	}
	switch {
	case c.Input == want.InputCounters && (r.Flow.Filter != "" || len(r.Flow.Sources) > 0):
		return nil, fault.Field("flow", "filter and sources mean nothing with input: counters")
	case c.Input == want.InputInterfaces && r.Flow.Filter != "":
		return nil, fault.Field("flow.filter", "means nothing with input: interfaces")
	}
	for _, s := range r.Flow.Sources {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return nil, fault.Field("flow.sources", "%q is no address of an agent", s)
		}
		c.Sources = append(c.Sources, a)
	}
	return c, c.threshold(r)
}

// countersAre reports whether an input is counters, and not packets.
func countersAre(input string) bool {
	return input == want.InputCounters || input == want.InputInterfaces
}

// keyOf reports whether a key is known with an input.
func keyOf(name, input string) bool {
	switch input {
	case want.InputCounters:
		return name == "device" || name == "way"
	case want.InputInterfaces:
		return slices.Contains([]string{"agent", "index", "name", "dpid", "port", "way"}, name)
	}
	return name != "way" && name != "index" && name != "name"
}

// threshold fills in the numbers.
func (c *Compiled) threshold(r *want.Rule) (err error) {
	if c.Above, err = ParseLevel(r.Threshold.Above, c.Bits); err != nil {
		return fault.Field("threshold.above", "%v", err)
	}
	if c.Clear = c.Above * 6 / 10; r.Threshold.Clear != "" {
		if c.Clear, err = ParseLevel(r.Threshold.Clear, c.Bits); err != nil {
			return fault.Field("threshold.clear", "%v", err)
		}
	}
	if c.Clear > c.Above {
		return fault.Field("threshold.clear", "is more than above: it would be over as soon as it began")
	}
	for _, d := range []struct {
		v   *time.Duration
		def time.Duration
	}{{&c.Window, defaultWindow}, {&c.Hold, defaultHold}} {
		if *d.v == 0 {
			*d.v = d.def
		}
	}
	if c.Top == 0 {
		c.Top = defaultTop
	}
	if c.MinSamples == 0 {
		if c.MinSamples = defaultMinSamples; countersAre(c.Input) {
			c.MinSamples = 1
		}
	}
	switch {
	case c.Input == want.InputInterfaces && c.MinSamples > 1:
		return fault.Field("threshold.min_samples", "is %d; the counters of an interface come one sample at a time", c.MinSamples)
	case c.Input == want.InputCounters && c.Window < minCounted:
		return fault.Field("flow.window", "is %s; with counters it is at least %s", c.Window, minCounted)
	case c.Window < minWindow || c.Window > maxWindow:
		return fault.Field("flow.window", "is %s; it can be %s to %s", c.Window, minWindow, maxWindow)
	case c.Hold < 0 || c.Hold > maxHold:
		return fault.Field("threshold.hold", "is %s; it can be up to %s", c.Hold, maxHold)
	case c.CoolDown < 0 || c.CoolDown > maxHold:
		return fault.Field("threshold.cool_down", "is %s; it can be up to %s", c.CoolDown, maxHold)
	case c.Top < 1 || c.Top > maxTop:
		return fault.Field("flow.top", "is %d; it can be 1 to %d", c.Top, maxTop)
	}
	c.aboveSum, c.clearSum = mulDiv(c.Above, uint64(c.Window), uint64(time.Second)), mulDiv(c.Clear, uint64(c.Window), uint64(time.Second))
	c.clearSum = max(c.clearSum, 1) // nothing at all is below any threshold
	return nil
}

// Unit is what values are counted in.
func (c *Compiled) Unit() string {
	if c.Bits {
		return "bit/s"
	}
	return "packets/s"
}

// mulDiv is a*b/c, at most the largest number.
func mulDiv(a, b, c uint64) uint64 {
	hi, lo := bits.Mul64(a, b)
	if hi >= c {
		return math.MaxUint64
	}
	q, _ := bits.Div64(hi, lo, c)
	return q
}

// levels are the units of thresholds.
var levels = []struct {
	suffix string
	bits   bool
	factor float64
}{
	{"Gbps", true, 1e9},
	{"Mbps", true, 1e6},
	{"kbps", true, 1e3},
	{"Tbps", true, 1e12},
	{"GBps", true, 8e9},
	{"MBps", true, 8e6},
	{"kBps", true, 8e3},
	{"bps", true, 1},
	{"Bps", true, 8},
	{"Mpps", false, 1e6},
	{"kpps", false, 1e3},
	{"pps", false, 1},
}

// ParseLevel reads a threshold: bits per second such as 100Mbps, or packets per second such as 20kpps.
func ParseLevel(text string, inBits bool) (uint64, error) {
	example := "20kpps"
	if inBits {
		example = "100Mbps"
	}
	for _, l := range levels {
		number, ok := strings.CutSuffix(text, l.suffix)
		if !ok || l.bits != inBits {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || !(v*l.factor >= 1) || v*l.factor > 1e18 {
			break
		}
		return uint64(v * l.factor), nil
	}
	return 0, fmt.Errorf("%q is no rate such as %s", text, example)
}
