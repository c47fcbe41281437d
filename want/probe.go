package want

import (
	"net/netip"
	"time"
)

// Kinds of probes.
const (
	ProbePing   = "ping"    // ICMP echo requests
	ProbeUDP    = "udp"     // UDP datagrams
	ProbeTCPSYN = "tcp-syn" // the first segment of a TCP connection, which is never made
)

// Probe asks for frames that are sent out of a device, and for what answers them. It is the body of POST /v1/probes. Zero fields
// are filled in where it is run.
type Probe struct {
	Point    string     `json:"point"`              // of a node: the device that the frames leave by
	Kind     string     `json:"kind"`               // ping, udp or tcp-syn
	Target   netip.Addr `json:"target"`             // IPv4 or IPv6
	Port     uint16     `json:"port,omitempty"`     // of the target; not with ping
	Count    int        `json:"count,omitempty"`    // frames; default 5
	Interval Duration   `json:"interval,omitempty"` // between them; default 200ms
	Wait     Duration   `json:"wait,omitempty"`     // for answers to the last one; default 1s

	Source     netip.Addr `json:"source,omitzero"`       // default: the device's own
	SourcePort uint16     `json:"source_port,omitempty"` // default: one that is free for each frame
	SourceMAC  string     `json:"source_mac,omitempty"`  // default: the device's own
	TargetMAC  string     `json:"target_mac,omitempty"`  // default: who the kernel, ARP or neighbour discovery say has the next hop
	Via        netip.Addr `json:"via,omitzero"`          // the next hop; default: the kernel's route, with a tag the target itself

	VLAN         uint16 `json:"vlan,omitempty"`          // an 802.1Q tag with this id; 0 = untagged
	Priority     uint8  `json:"priority,omitempty"`      // of the tag, 0 to 7
	TTL          uint8  `json:"ttl,omitempty"`           // or hop limit; default 64
	TOS          uint8  `json:"tos,omitempty"`           // or traffic class
	DontFragment bool   `json:"dont_fragment,omitempty"` // IPv6 routers never fragment
	Size         *int   `json:"size,omitempty"`          // octets of payload; default 56 with ping, else 0
	Pattern      []byte `json:"pattern,omitempty"`       // repeated to fill the payload; default 00 01 02 … ff

	AllowGroup bool `json:"allow_group,omitempty"` // the target may be a group or everybody, who may all answer
}

// ProbeRun is a Probe as a node is asked to run it.
type ProbeRun struct {
	Probe
	Device  string `json:"device"`
	OwnOnly bool   `json:"own_only,omitempty"` // addresses that are not the device's own are refused
}

// Outcomes of a frame.
const (
	ProbeReply       = "reply"       // an echo reply or a UDP datagram came back
	ProbeOpen        = "open"        // SYN-ACK: somebody listens at the TCP port
	ProbeClosed      = "closed"      // RST: nobody does
	ProbeUnreachable = "unreachable" // ICMP: it cannot be delivered; Text says why
	ProbeExpired     = "expired"     // ICMP: time to live, or time to reassemble, was exceeded
	ProbeTooBig      = "too-big"     // ICMP: it must be fragmented and may not be
	ProbeProblem     = "problem"     // ICMP: a header is wrong
	ProbeSilent      = "silent"      // nothing came in time
	ProbeUnresolved  = "unresolved"  // it was not sent: nobody said that it has the next hop
)

// ProbeAnswer is what came of one frame.
type ProbeAnswer struct {
	Number  int        `json:"number"` // from 1
	Sent    time.Time  `json:"sent"`
	Outcome string     `json:"outcome"`
	From    netip.Addr `json:"from,omitzero"`     // who answered
	RTT     float64    `json:"rtt_us,omitempty"`  // microseconds
	TTL     uint8      `json:"ttl,omitempty"`     // of the answer
	Octets  int        `json:"octets,omitempty"`  // of the answer's IP packet
	Text    string     `json:"text,omitempty"`    // of an ICMP error, in words
	MTU     int        `json:"mtu,omitempty"`     // with too-big: what passes
	Again   int        `json:"again,omitempty"`   // further answers to the same frame
	Damaged bool       `json:"damaged,omitempty"` // the payload came back otherwise than it was sent
}

// ProbeTimes are of the frames that were answered, microseconds.
type ProbeTimes struct {
	Min    float64 `json:"min"`
	Median float64 `json:"median"`
	Max    float64 `json:"max"`
}

// ProbeReport is what a probe found.
type ProbeReport struct {
	Node        string         `json:"node"`
	Device      string         `json:"device"`
	Kind        string         `json:"kind"`
	Target      netip.Addr     `json:"target"`
	Port        uint16         `json:"port,omitempty"`
	Source      netip.Addr     `json:"source"`
	SourceMAC   string         `json:"source_mac"`
	TargetMAC   string         `json:"target_mac"`   // "" = nobody has the next hop
	ResolvedBy  string         `json:"resolved_by"`  // request, kernel, arp, nd, group
	Via         netip.Addr     `json:"via,omitzero"` // a next hop that is not the target
	VLAN        uint16         `json:"vlan,omitempty"`
	FrameOctets int            `json:"frame_octets"` // without FCS
	Began       time.Time      `json:"began"`
	Sent        int            `json:"sent"`
	Answered    int            `json:"answered"` // with reply, open or closed: the target itself
	Refused     int            `json:"refused"`  // with an ICMP error
	Lost        int            `json:"lost"`     // silent
	RTT         *ProbeTimes    `json:"rtt_us,omitempty"`
	Outcomes    map[string]int `json:"outcomes"`
	Answers     []ProbeAnswer  `json:"answers"`
	Notes       []string       `json:"notes,omitempty"`
}
