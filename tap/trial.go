package tap

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Trial is what a self-test of a flow found: canaries were put on its source's device and listened for at its tool's.
type Trial struct {
	Flow     string            `json:"tap_flow_id"`
	OK       bool              `json:"ok"`
	Faults   []string          `json:"faults,omitempty"` // what is wrong, in plain words; none if OK
	Notes    []string          `json:"notes,omitempty"`  // what could not be tested, and why
	From     string            `json:"from"`             // node/device
	To       string            `json:"to"`               // node/device
	Sorts    []TrialSort       `json:"sorts"`
	Counted  map[string]uint64 `json:"counted"`               // what the tap's counters grew by meanwhile
	DelayUS  *TrialDelay       `json:"delay_us,omitempty"`    // only within one node: two nodes' clocks differ
	Sampled  bool              `json:"sampled,omitempty"`     // the flow takes a part only, so that loss is not told from choice
	Filtered bool              `json:"filtered,omitempty"`    // the flow has a filter, which canaries need not match
	Began    time.Time         `json:"began_at"`              //
	Took     time.Duration     `json:"took_ns"`               //
	Expected int               `json:"expected"`              // copies
	Heard    int               `json:"heard"`                 // of these
	Twice    int               `json:"duplicates"`            //
	Changed  int               `json:"changed"`               // other tag or length than it was sent with, or than the flow cuts to
	CutTo    int               `json:"cut_to,omitempty"`      // octets that longer ones were cut to, which is what the path carries
	Strange  int               `json:"unexpected,omitempty"`  // heard, though the flow must not copy them
	Others   int               `json:"other_flows,omitempty"` // from the same port to the same tool: whose copy one is cannot be told
}

// TrialSort are canaries that are alike.
type TrialSort struct {
	Direction Direction `json:"direction"`
	VLAN      uint16    `json:"vlan"` // 0 = untagged
	Length    int       `json:"length"`
	Sent      int       `json:"sent"`
	Expected  bool      `json:"expected"` // to be heard
	Heard     int       `json:"heard"`
	Twice     int       `json:"duplicates"`
	Changed   int       `json:"changed"`
	Cut       int       `json:"cut,omitempty"`      // of those heard, to what the path carries
	TooLong   int       `json:"too_long,omitempty"` // not sent on, since the path does not carry them and the flow has such dropped
}

// TrialDelay is how long copies took, microseconds.
type TrialDelay struct {
	Median float64 `json:"median"`
	Most   float64 `json:"most"`
}

// HeardCanary is one copy that was heard.
type HeardCanary struct {
	Number       int
	VLAN, Length int
	Delay        time.Duration
}

// Judge fills in what is found from the sorts, which are numbered in order, what was heard, and the flow's options. sameNode says that
// delays mean something.
func (t *Trial) Judge(d Direction, o Options, heard []HeardCanary, sameNode bool) {
	t.Sampled, t.Filtered = o.SampleN > 1 || o.RateBPS > 0, o.Filter != ""
	for i := range t.Sorts {
		s := &t.Sorts[i]
		s.Expected = (d == Both || d == s.Direction) && inVLANs(o.VLANs, s.VLAN)
	}
	heard = t.sortOut(heard)
	if sameNode && len(heard) > 0 {
		delays := make([]time.Duration, len(heard))
		for i, h := range heard {
			delays[i] = h.Delay
		}
		slices.Sort(delays)
		us := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
		t.DelayUS = &TrialDelay{Median: us(delays[len(delays)/2]), Most: us(delays[len(delays)-1])}
	}
	if o.OnMTU == Drop {
		t.dropped(heard)
	} else {
		t.CutTo = t.pathCuts(o, heard)
	}
	for _, h := range heard {
		s := t.sortOf(h.Number)
		switch want := s.copied(o); {
		case h.VLAN != int(s.VLAN) || h.Length != want && h.Length != min(want, t.CutTo):
			s.Changed++
		case h.Length != want:
			s.Cut++
		}
	}
	t.conclude()
}

// sortOut counts what was heard among its sorts, and returns the first copy of each canary.
func (t *Trial) sortOut(heard []HeardCanary) (first []HeardCanary) {
	seen := make(map[int]bool)
	for _, h := range heard {
		switch s := t.sortOf(h.Number); {
		case s == nil:
		case seen[h.Number]:
			s.Twice++
		default:
			seen[h.Number] = true
			s.Heard++
			first = append(first, h)
		}
	}
	return first
}

// copied is how long copies are where the path carries them.
func (s *TrialSort) copied(o Options) int {
	if o.Snap > 0 {
		return min(s.Length, int(o.Snap))
	}
	return s.Length
}

// pathCuts is what copies were cut to because the path carries no longer ones; 0 = they were not, or not for that reason: then they are not
// all cut to one length, a longer one came whole, or the tap has not counted them.
func (t *Trial) pathCuts(o Options, heard []HeardCanary) int {
	to, longest, cut := 0, 0, uint64(0)
	for _, h := range heard {
		longest = max(longest, h.Length)
		if h.Length < t.sortOf(h.Number).copied(o) {
			to = h.Length
			cut++
		}
	}
	if longest > to || cut > t.Counted["truncated"] {
		return 0
	}
	return to
}

// dropped finds the sorts of which none was sent on because the path carries none so long: the tap has counted that.
func (t *Trial) dropped(heard []HeardCanary) {
	longest, left := 0, t.Counted["too_long"]
	for _, h := range heard {
		longest = max(longest, h.Length)
	}
	for i := range t.Sorts {
		s := &t.Sorts[i]
		if n := uint64(s.Sent); s.Expected && s.Heard == 0 && s.Length > longest && n <= left {
			s.TooLong = s.Sent
			left -= n
		}
	}
}

// sortOf finds the sort of a number.
func (t *Trial) sortOf(number int) *TrialSort {
	for i := range t.Sorts {
		if number < t.Sorts[i].Sent {
			return &t.Sorts[i]
		}
		number -= t.Sorts[i].Sent
	}
	return nil
}

// conclude says what is wrong.
func (t *Trial) conclude() {
	tapped := 0
	for _, s := range t.Sorts {
		name := s.name()
		if s.Expected {
			tapped += s.Sent
		}
		switch {
		case !s.Expected && s.Heard > 0 && t.Others > 0:
		case !s.Expected && s.Heard > 0:
			t.Strange += s.Heard
			t.fault("%d of %d canaries %s were copied, which the flow must not do", s.Heard, s.Sent, name)
		case s.Expected:
			t.Expected += s.Sent
			t.Heard += s.Heard
			if lost := s.Sent - s.Heard - s.TooLong; lost > 0 && !t.Sampled && !t.Filtered {
				t.fault("%d of %d canaries %s were lost", lost, s.Sent, name)
			}
		}
		if s.TooLong > 0 {
			t.Notes = append(t.Notes, fmt.Sprintf("%d canaries %s were too long for the path, and are dropped as the flow says", s.TooLong, name))
		}
		t.Twice += s.Twice
		t.Changed += s.Changed
		if s.Twice > 0 && t.Others == 0 {
			t.fault("%d canaries %s came more than once", s.Twice, name)
		}
		if s.Changed > 0 {
			t.fault("%d of %d canaries %s came with another tag or length", s.Changed, s.Heard, name)
		}
	}
	if t.CutTo > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("the path carries frames of %d octets; longer copies are cut to that", t.CutTo))
	}
	if n := t.Counted["seen"]; n < uint64(tapped) {
		t.fault("the tap saw %d packets, fewer than the %d canaries that passed its device", n, tapped)
	}
	for why, n := range t.Counted {
		if strings.HasPrefix(why, "lost: ") {
			t.fault("the tap counts %d copies as %s", n, why)
		}
	}
	if t.Others > 0 {
		t.Notes = append(t.Notes, fmt.Sprintf("%d other flows copy from this port to this tool: whose copy one is cannot be told, so that duplicates and the other direction say nothing", t.Others))
	}
	switch {
	case t.Filtered:
		t.Notes = append(t.Notes, fmt.Sprintf("the flow has a filter, which canaries need not match: %d were heard, and that packets are seen is told by the tap's counters", t.Heard))
	case t.Sampled:
		t.Notes = append(t.Notes, "the flow takes a part of the packets only, so that loss cannot be told from choice")
	}
	slices.Sort(t.Faults)
	t.OK = len(t.Faults) == 0
}

func (t *Trial) fault(format string, args ...any) {
	t.Faults = append(t.Faults, fmt.Sprintf(format, args...))
}

func (s *TrialSort) name() string {
	tag := "untagged"
	if s.VLAN != 0 {
		tag = fmt.Sprintf("in VLAN %d", s.VLAN)
	}
	return fmt.Sprintf("%s, %s, of %d octets,", s.Direction, tag, s.Length)
}

// inVLANs reports whether a list of VLAN ids and ranges has one. An empty list has all, and the untagged.
func inVLANs(list string, id uint16) bool {
	if list == "" {
		return true
	}
	if id == 0 {
		return false
	}
	for part := range strings.SplitSeq(list, ",") {
		var lo, hi uint16
		if n, _ := fmt.Sscanf(strings.TrimSpace(part), "%d-%d", &lo, &hi); n == 1 {
			hi = lo
		}
		if lo <= id && id <= hi {
			return true
		}
	}
	return false
}
