package want

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Fabric describes OpenFlow switches that are one tap fabric, and what is delivered where. It is the body of PUT /v1/fabric
// and what opentap fabric apply reads.
type Fabric struct {
	Switches map[string]FabricSwitch `json:"switches"`
	Links    []FabricLink            `json:"links,omitempty"` // none: they are discovered by LLDP; given: LLDP only verifies them
	Pairs    []FabricPair            `json:"pairs,omitempty"` // in-line: what enters by one port leaves by the other
	Ports    map[string]FabricPort   `json:"ports,omitempty"`
	Tools    map[string]FabricTool   `json:"tools,omitempty"` // several delivery ports that share the load
	Policies []FabricPolicy          `json:"policies,omitempty"`
}

// FabricSwitch is one OpenFlow switch.
type FabricSwitch struct {
	DPID       DPID `json:"dpid"`
	TableLimit int  `json:"table_limit,omitempty"` // rules that it may be given; 0 = as many as it takes
}

// FabricLink is a cable between two switches.
type FabricLink struct {
	A string `json:"a"` // switch/port
	B string `json:"b"`
}

// FabricPair is two ports of one switch, switch/port each, that are joined as a wire is.
type FabricPair [2]string

// Roles of fabric ports.
const (
	RoleFilter   = "filter"   // traffic is taken from here
	RoleDelivery = "delivery" // a tool is here
	RoleService  = "service"  // what goes out at at comes back, changed, at return
)

// FabricPort gives a port of a switch a name and a role.
type FabricPort struct {
	At     string `json:"at"`               // switch/port
	Role   string `json:"role"`             // filter, delivery, service
	Return string `json:"return,omitempty"` // of a service: where its output comes back

	// LeadsTo is the network device of a node with an agent, NODE/DEVICE, that the cable at this port leads to. Into is
	// a device of the same node, to which the agent hands what comes there, filtered exactly: of delivery ports.
	LeadsTo string `json:"leads_to,omitempty"`
	Into    string `json:"into,omitempty"`
}

// FabricTool is several delivery ports of one switch that share what is sent to the tool, flow by flow.
type FabricTool struct {
	Members []string `json:"members"` // names of delivery ports
}

// Directions of a policy on a port that is one of a pair.
const (
	Ingress   = "ingress" // what enters by the port
	Egress    = "egress"  // what leaves by it
	BothSides = "both"    // either
)

// FabricPolicy says what is copied from where to where.
type FabricPolicy struct {
	Name      string   `json:"name"`
	From      []string `json:"from"`                // filter ports
	Direction string   `json:"direction,omitempty"` // ingress (default), egress, both
	Filter    string   `json:"filter,omitempty"`    // pcap-filter expression; "" = all
	To        []string `json:"to"`                  // delivery ports and tools
	Priority  int      `json:"priority,omitempty"`  // decides between exclusive policies: the highest
	Exclusive bool     `json:"exclusive,omitempty"` // takes its packets alone; others get no copy of them
	Services  []string `json:"services,omitempty"`  // service ports to pass, in this order
	Truncate  int      `json:"truncate,omitempty"`  // octets delivered of each packet; 0 = all
	RateKbps  int      `json:"rate_kbps,omitempty"` // delivered at most; 0 = all
	TTL       Duration `json:"ttl,omitempty"`       // it ends so long after it was set; 0 = never

	Owner   string    `json:"owner,omitempty"`  // who set it
	Changed time.Time `json:"changed,omitzero"` // when
	Expires time.Time `json:"expires,omitzero"` // from TTL

	Tap     string `json:"tap,omitempty"`      // the tap flow that it is there for: it comes and goes with that
	ExactAt string `json:"exact_at,omitempty"` // NODE/DEVICE where an agent filters exactly, so that switches may copy more
}

// DPID names an OpenFlow switch on the wire. Text has it as 16 hexadecimal digits; it is read also with colons, with 0x, or
// as a decimal number.
type DPID uint64

// String is the 16 digits.
func (d DPID) String() string { return fmt.Sprintf("%016x", uint64(d)) }

// MarshalText writes the 16 digits.
func (d DPID) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads 16 hexadecimal digits, with colons or not, 0x and digits, or a decimal number.
func (d *DPID) UnmarshalText(b []byte) error {
	s := strings.ReplaceAll(string(b), ":", "")
	base := 10
	switch {
	case strings.HasPrefix(s, "0x"):
		s, base = s[2:], 16
	case len(s) == 16:
		base = 16
	}
	v, err := strconv.ParseUint(s, base, 64)
	if err != nil {
		return fmt.Errorf("%q is no datapath id such as 1, 0x1 or 0000000000000001", b)
	}
	*d = DPID(v)
	return nil
}

// UnmarshalJSON reads the same spellings, and a bare number.
func (d *DPID) UnmarshalJSON(b []byte) error {
	return d.UnmarshalText([]byte(strings.Trim(string(b), `"`)))
}

// PolicyState is what became of a policy.
type PolicyState string

// States of a policy.
const (
	PolicyPending    PolicyState = "pending"    // not in the switches yet
	PolicyActive     PolicyState = "active"     // the switches have it
	PolicyDegraded   PolicyState = "degraded"   // in part, or unproven; Reason says what is missing
	PolicyInfeasible PolicyState = "infeasible" // it cannot be; Reason says why
)

// FabricPolicyView is a policy with what became of it.
type FabricPolicyView struct {
	FabricPolicy
	State   PolicyState `json:"state"`
	Reason  string      `json:"reason,omitempty"`
	Rules   int         `json:"rules"`           // in all switches
	Packets uint64      `json:"packets"`         // matched at the filter ports since this controller knows of it, when the switches were last read
	Octets  uint64      `json:"octets"`          // of these
	Seen    uint64      `json:"seen"`            // packets of the filter ports in the same time, matched or not
	Split   string      `json:"split,omitempty"` // which part of the filter is where, when switches cannot match all of it
	Hops    []FabricHop `json:"hops,omitempty"`  // where copies pass, counted

	Probed *FabricProbed `json:"probed,omitempty"` // the last probe; nil = none since this controller leads
}

// FabricProbed is what became of the last probe of a policy.
type FabricProbed struct {
	At     time.Time `json:"at"`
	Result string    `json:"result"` // the worst of all its paths
	Detail string    `json:"detail,omitempty"`
}

// FabricHop is a place that a policy's copies pass.
type FabricHop struct {
	Switch  string `json:"switch"`
	What    string `json:"what"` // in words
	Packets uint64 `json:"packets"`
	Octets  uint64 `json:"octets"`
}

// FabricSwitchView is a switch with what is known of it.
type FabricSwitchView struct {
	Name      string       `json:"name"` // "" = it connected and the fabric does not name it
	DPID      DPID         `json:"dpid"`
	Connected bool         `json:"connected"`
	Address   string       `json:"address,omitempty"`
	Since     time.Time    `json:"since,omitzero"`
	Software  string       `json:"software,omitempty"` // as the switch says
	Role      string       `json:"role,omitempty"`     // of this controller: master, slave, equal
	Rules     int          `json:"rules"`              // of ours that it should have
	Foreign   int          `json:"foreign"`            // rules of others that it has
	InSync    bool         `json:"in_sync"`            // when it was last read it had what it should
	Checked   time.Time    `json:"checked,omitzero"`
	Problem   string       `json:"problem,omitempty"`
	Ports     []SwitchPort `json:"ports,omitempty"`
}

// SwitchPort is a port as a switch describes it.
type SwitchPort struct {
	Number    uint32 `json:"number"`
	Name      string `json:"name"` // the switch's own; hostile text
	Up        bool   `json:"up"`
	SpeedKbps uint32 `json:"speed_kbps,omitempty"`
	Use       string `json:"use,omitempty"` // what the fabric does with it, in words
}

// FabricLinkView is a link with what is known of it.
type FabricLinkView struct {
	A         string    `json:"a"` // switch/port
	B         string    `json:"b"`
	Up        bool      `json:"up"`
	Confirmed bool      `json:"confirmed"` // LLDP came through, in both directions
	Static    bool      `json:"static,omitempty"`
	Seen      time.Time `json:"seen,omitzero"`
	Problem   string    `json:"problem,omitempty"`
}

// FabricView is the fabric as it is shown.
type FabricView struct {
	Fabric   Fabric             `json:"fabric"`
	Switches []FabricSwitchView `json:"switches"`
	Links    []FabricLinkView   `json:"links"`
	Policies []FabricPolicyView `json:"policies"`
}

// FabricPlan says what a description would change.
type FabricPlan struct {
	Switches []FabricSwitchPlan `json:"switches"`
	Policies []FabricPolicyView `json:"policies"`
}

// FabricSwitchPlan says what would change in one switch.
type FabricSwitchPlan struct {
	Switch  string       `json:"switch"`
	Old     int          `json:"old"` // rules of ours at present
	New     int          `json:"new"`
	Changes []RuleChange `json:"changes"`
	Problem string       `json:"problem,omitempty"`
}

// RuleChange is one rule, group or meter that comes, goes or changes.
type RuleChange struct {
	Verb string `json:"verb"` // add, change, remove
	What string `json:"what"` // rule, group, meter
	Text string `json:"text"` // as it shall be; of removals as it is
	Was  string `json:"was,omitempty"`
	Why  string `json:"why,omitempty"` // what it is for
}

// Finding kinds of a verification.
const (
	FindingMissing     = "missing"     // a rule, group or meter that should be there is not
	FindingChanged     = "changed"     // it does something else
	FindingExtra       = "extra"       // it has our mark and nobody wants it
	FindingForeign     = "foreign"     // a rule of somebody else takes packets from ours
	FindingUnreachable = "unreachable" // the switch is not connected: nothing is known
	FindingLink        = "link"        // a link is down, unproven, or not where it should be
	FindingPort        = "port"        // a port that is named does not exist, or is down
	FindingPolicy      = "policy"      // a policy is not active
	FindingSpoof       = "spoof"       // discovery frames came from where they cannot
	FindingDuplicate   = "duplicate"   // two switches claim one datapath id
)

// FabricFinding is one difference between what should be and what is.
type FabricFinding struct {
	Kind     string `json:"kind"`
	Switch   string `json:"switch,omitempty"`
	Text     string `json:"text"` // in words
	Intended string `json:"intended,omitempty"`
	Actual   string `json:"actual,omitempty"`
}

// FabricReport is a verification: intended against actual, read from the switches when it was asked for.
type FabricReport struct {
	OK       bool            `json:"ok"`
	Checked  time.Time       `json:"checked"`
	Switches int             `json:"switches"` // read
	Rules    int             `json:"rules"`    // compared
	Findings []FabricFinding `json:"findings"`
}

// FabricDrift is one line of the drift log: something was not as it should be, and what was done about it.
type FabricDrift struct {
	Time   time.Time `json:"time"`
	Switch string    `json:"switch"`
	Kind   string    `json:"kind"`
	Text   string    `json:"text"`
	Done   string    `json:"done"` // repaired, reported
}

// Results of a probe, the worst last.
const (
	ProbeDelivered  = "delivered"
	ProbeSkipped    = "skipped" // it could not be sent
	ProbeLost       = "lost"
	ProbeDuplicated = "duplicated"
	ProbeLeaked     = "leaked" // it came by where it should not
)

// FabricTally is what monitoring is told of the fabric.
type FabricTally struct {
	Leads     bool // this controller changes switches
	Switches  []FabricSwitchTally
	Policies  map[PolicyState]int
	Drift     uint64            // findings of the drift log, from the start
	Turns     uint64            // comparisons, from the start
	Reconcile time.Duration     // how long the last one took
	Probes    map[string]uint64 // paths probed, by result
}

// FabricSwitchTally is one switch of it.
type FabricSwitchTally struct {
	Name                   string
	Connected              bool
	Intended, Ours, Others int           // rules: that it should have, that it has with our mark, that it has of others
	Echo                   time.Duration // of the last question whether it lives; 0 = none was answered
	PacketIns, Dropped     uint64        // frames that it sent us, and those of them that were too many to look at
}

// ProbeResult says what became of one marked frame.
type ProbeResult struct {
	Policy string   `json:"policy"`
	From   string   `json:"from"`
	To     string   `json:"to"`
	Result string   `json:"result"` // delivered, lost, duplicated, leaked, skipped
	Detail string   `json:"detail,omitempty"`
	Hops   []string `json:"hops,omitempty"`
	Micros int64    `json:"micros,omitempty"` // from sending to the last confirmation
}
