package want

import (
	"time"

	"opentap/filter"
)

// Rule says what traffic is remarkable and what is done then. It is the body of PUT /v1/detect/rules/{name}.
type Rule struct {
	Name      string        `json:"name"`
	Flow      RuleFlow      `json:"flow"`
	Threshold RuleThreshold `json:"threshold"`
	Then      *RuleAction   `json:"then,omitempty"` // nil = tell, and do nothing
	Disabled  bool          `json:"disabled,omitempty"`

	Project string    `json:"project,omitempty"` // whose it is
	Owner   string    `json:"owner,omitempty"`   // who changed it last; what it does is done in this name
	Changed time.Time `json:"changed,omitzero"`

	Suspended string `json:"suspended,omitempty"` // why it does not run though it is not disabled; not stored
}

// What a rule looks at.
const (
	InputSamples  = "samples"  // packets that sFlow agents sampled: the default
	InputRecords  = "records"  // flow records of exporters and of devices whose flows are kept, when they come
	InputPackets  = "packets"  // the packets of devices of ours
	InputCounters = "counters" // what the kernel counts of devices of ours

	InputInterfaces = "interfaces" // what sFlow agents count of their interfaces
)

// RuleFlow defines what is added up: what is alike in all keys is one flow.
type RuleFlow struct {
	Input   string   `json:"input,omitempty"`
	Points  []string `json:"points,omitempty"`  // with packets and counters: names of devices, on every node that has them; with interfaces: ifIndex or names, none = all
	Keys    []string `json:"keys"`              // src, dst, sport, dport, proto, vlan, tos, smac, dmac; agent, in, out, dpid, port; device; way; index, name
	Value   string   `json:"value,omitempty"`   // bytes (default) or packets; with counters and interfaces also drops and errors
	Filter  string   `json:"filter,omitempty"`  // only packets that this pcap-filter expression means
	Window  Duration `json:"window,omitempty"`  // rates are of the last so long; default 2s
	Top     int      `json:"top,omitempty"`     // flows that may be over the threshold at one time; default 20
	Sources []string `json:"sources,omitempty"` // addresses of agents to listen to; none = all
}

// RuleThreshold says when a flow is remarkable.
type RuleThreshold struct {
	Above      string   `json:"above"`                 // with bytes such as 100Mbps, with packets such as 20kpps
	Clear      string   `json:"clear,omitempty"`       // it is over when it is below this; default 60 % of above
	MinSamples uint32   `json:"min_samples,omitempty"` // in the window, lest one sample decides; default 10, with counters 1
	Hold       Duration `json:"hold,omitempty"`        // below clear for so long, before it is over; default 10s
	CoolDown   Duration `json:"cool_down,omitempty"`   // after it is over, the same flow is not told again for so long
}

// RuleAction is what is done when a flow is remarkable. Texts may have keys in braces, such as host {src}.
type RuleAction struct {
	Capture   *RuleCapture `json:"capture,omitempty"`
	Tap       *RuleTap     `json:"tap,omitempty"`
	Policy    *RulePolicy  `json:"policy,omitempty"`
	Webhook   string       `json:"webhook,omitempty"`    // the name of a target of the server's configuration
	MaxActive int          `json:"max_active,omitempty"` // acts of this rule at one time; default 5
	Confirm   bool         `json:"confirm,omitempty"`    // wait until somebody agrees
	TTL       Duration     `json:"ttl,omitempty"`        // an act ends after so long at the latest; default 10m
}

// RuleCapture is a capture that a rule starts. It ends when the flow is not remarkable any more, or with its duration.
type RuleCapture struct {
	Kind     Kind          `json:"kind,omitempty"`     // default pcap
	Points   []string      `json:"points,omitempty"`   // as in a request
	Filter   string        `json:"filter,omitempty"`   // template
	Past     Duration      `json:"past,omitempty"`     // what was recorded so long before, where a recorder runs
	Duration Duration      `json:"duration,omitempty"` // at most; default the action's ttl
	Snap     int           `json:"snap,omitempty"`
	Limits   filter.Limits `json:"limits,omitzero"`
	Retain   Duration      `json:"retain,omitempty"`
}

// RuleTap is a tap flow that a rule makes. It ends when the flow is not remarkable any more, or with the action's ttl.
type RuleTap struct {
	Service   string `json:"service"`             // id of the tap service that receives the copies
	Port      string `json:"port"`                // id of the port whose packets are copied; template
	Direction string `json:"direction,omitempty"` // IN, OUT or BOTH, the default
	Filter    string `json:"filter,omitempty"`    // template
	Snap      uint32 `json:"snap,omitempty"`
	RateBPS   uint64 `json:"rate_bps,omitempty"`
}

// RulePolicy is a policy of the fabric that a rule sets. It ends when the flow is not remarkable any more, or with the action's ttl.
type RulePolicy struct {
	From      []string `json:"from"` // filter ports; templates. {dpid}/{port} is the filter port that is there
	To        []string `json:"to"`   // delivery ports and tools
	Direction string   `json:"direction,omitempty"`
	Filter    string   `json:"filter,omitempty"` // template
	Priority  int      `json:"priority,omitempty"`
	Truncate  int      `json:"truncate,omitempty"`
	RateKbps  int      `json:"rate_kbps,omitempty"`
}

// Crossing says that a flow has come to be remarkable, or is no more: what a node tells.
type Crossing struct {
	Rule    string    `json:"rule"`
	Keys    []string  `json:"keys"`   // values, in the order of the rule's keys
	Agent   string    `json:"agent"`  // who saw it
	Source  string    `json:"source"` // where there: sub-agent/type/index, or a point
	Over    bool      `json:"over,omitempty"`
	Value   uint64    `json:"value"` // per second, at this time: bit or packets
	Peak    uint64    `json:"peak"`  // the most since it began
	Samples uint64    `json:"samples"`
	At      time.Time `json:"at"`
}

// Detections tell a line of what a node sees: crossings, and the largest flows now and then.
type Detections struct {
	Crossing *Crossing           `json:"crossing,omitempty"`
	Tops     map[string][]Ranked `json:"tops,omitempty"`   // by rule
	Counts   *DetectCounts       `json:"counts,omitempty"` // with Tops
}

// Ranked is one of the largest flows of a rule.
type Ranked struct {
	Keys    []string `json:"keys"`
	Agent   string   `json:"agent"`
	Value   uint64   `json:"value"` // per second
	Samples uint64   `json:"samples"`
	Active  bool     `json:"active"`         // over its threshold
	Peak    uint64   `json:"peak,omitempty"` // per second, since it is active
}

// DetectCounts are what a node's detection met since it began.
type DetectCounts struct {
	Samples    uint64 `json:"samples"`
	Untracked  uint64 `json:"untracked"`  // flows that were given up for others: there are too many
	Suppressed uint64 `json:"suppressed"` // crossings not told: more than top at one time
	Late       uint64 `json:"late"`       // samples older than the window
	Polled     uint64 `json:"polled"`     // counter samples of interfaces, if a rule looks at them
}

// Detection is a flow that was remarkable once, and what was done: an event.
type Detection struct {
	ID        string            `json:"id"`
	Rule      string            `json:"rule"`
	Project   string            `json:"project"`
	Node      string            `json:"node"`
	Agent     string            `json:"agent"`
	Source    string            `json:"source"`
	Keys      map[string]string `json:"keys"`
	Unit      string            `json:"unit"`      // of value, peak and threshold: bit/s or packets/s
	Value     uint64            `json:"value"`     // when it was told last
	Peak      uint64            `json:"peak"`      //
	Threshold uint64            `json:"threshold"` //
	Samples   uint64            `json:"samples"`
	Began     time.Time         `json:"began"`
	Ended     time.Time         `json:"ended,omitzero"` // zero = it goes on
	Action    DetectionAction   `json:"action"`
}

// DetectionAction is what became of a rule's action.
type DetectionAction struct {
	State   string    `json:"state"`             // none, pending (waits for somebody to agree), running, ending, done, refused, failed
	Reason  string    `json:"reason,omitempty"`  // why it is refused or failed
	Until   time.Time `json:"until,omitzero"`    // of a running one: it ends then at the latest
	Capture string    `json:"capture,omitempty"` // its id
	Tap     string    `json:"tap,omitempty"`     // id of the tap flow
	Policy  string    `json:"policy,omitempty"`  // name of the fabric's policy
	Webhook string    `json:"webhook,omitempty"` // told, or why not
}

// DetectTop is what a rule sees most of.
type DetectTop struct {
	Rule      string                  `json:"rule"`
	Keys      []string                `json:"keys"` // names
	Unit      string                  `json:"unit"`
	Threshold uint64                  `json:"threshold"`
	Flows     []Ranked                `json:"flows"` // the largest first
	Nodes     map[string]DetectCounts `json:"nodes"` // that detect
}

// WebhookStatus is how a target fares that rules may tell.
type WebhookStatus struct {
	Name     string    `json:"name"`
	Waiting  int       `json:"waiting"` // messages
	Told     uint64    `json:"told"`
	Failed   uint64    `json:"failed"`  // messages that were given up
	Dropped  uint64    `json:"dropped"` // messages that found too many waiting
	ToldAt   time.Time `json:"told_at,omitzero"`
	FailedAt time.Time `json:"failed_at,omitzero"`
	Problem  string    `json:"problem,omitempty"` // why the last try failed; for administrators
}
