package tap

import "time"

// Condition is the status of a service, flow or mirror as the API spells it.
type Condition string

// Conditions.
const (
	Down  Condition = "DOWN"   // not made real, or not known to be; Reason says what it waits for
	Up    Condition = "ACTIVE" // source and sink both say that they are
	Error Condition = "ERROR"  // it cannot be; Reason says why
)

// Report is what became of a service, flow or mirror, as the nodes concerned say.
type Report struct {
	Status Condition `json:"status"`
	Reason string    `json:"reason,omitempty"` // never empty unless ACTIVE
	Counts Counts    `json:"counts"`           // of the sources where they are now; of a service, of all its flows
	Gaps   []Gap     `json:"gaps,omitempty"`   // in which nothing was copied, the moves between nodes included
	Notes  []string  `json:"notes,omitempty"`  // warnings in plain words
	Ends   []End     `json:"ends,omitempty"`   // what each node says
}

// End is what one node says of its part of a tap.
type End struct {
	Role   string `json:"role"` // source, sink
	Node   string `json:"node"`
	NodeID string `json:"node_id"`
	Status
}

// ServiceView is a service as it is shown.
type ServiceView struct {
	Service
	Port  string `json:"port"` // its port's name
	Flows int    `json:"flows"`
	Report
}

// FlowView is a flow as it is shown.
type FlowView struct {
	Flow
	Port      string `json:"port"`    // its source port's name
	Service   string `json:"service"` // its service's name
	Filtering string `json:"filtering,omitempty"`
	Report
}

// MirrorView is a mirror as it is shown.
type MirrorView struct {
	Mirror
	Port      string `json:"port"`
	Filtering string `json:"filtering,omitempty"`
	Report
}

// Origin says where a port is known from.
type Origin string

// Origins.
const (
	Inventory Origin = "inventory" // a device that a node reports, and nothing more is known
	Declared  Origin = "declared"  // somebody told us of it
	Neutron   Origin = "neutron"   // a Neutron told us of it
)

// PortView is a port as it is shown.
type PortView struct {
	Port
	Description string    `json:"description,omitempty"`
	Origin      Origin    `json:"origin"`
	Present     bool      `json:"present"`             // its device is there
	Nodes       []string  `json:"nodes,omitempty"`     // all where it is: two while it moves
	MTU         int       `json:"mtu,omitempty"`       // octets; 0 = not known here
	SpeedBPS    uint64    `json:"speed_bps,omitempty"` // 0 = not known here
	Services    int       `json:"services"`
	Flows       int       `json:"flows"`
	Mirrors     int       `json:"mirrors"`
	Created     time.Time `json:"created_at,omitzero"`
}

// Change says what of a service, flow or mirror shall be otherwise; nil = as it is.
type Change struct {
	Name        *string  `json:"name,omitempty"`
	Description *string  `json:"description,omitempty"`
	Options     *Options `json:"options,omitempty"` // all of them
}

// Estimate is what a flow or mirror would mean for the network, before it is made. Rates are those of the second in which it
// was asked; a filter can only make them less.
type Estimate struct {
	Node      string   `json:"node"`
	Device    string   `json:"device"`
	PPS       float64  `json:"pps"`        // packets that pass the source in the direction, per second
	BPS       float64  `json:"bps"`        // bits of these
	MirrorPPS float64  `json:"mirror_pps"` // copies, after sampling
	MirrorBPS float64  `json:"mirror_bps"` // bits per second of copies on their way, the tunnel's headers included
	Local     bool     `json:"local"`      // source and destination are on one node: no tunnel
	Encap     Encap    `json:"encap,omitempty"`
	Overhead  int      `json:"overhead"`  // octets that the tunnel adds to a frame, as an IP packet
	MTUShort  int      `json:"mtu_short"` // octets by which the longest copy does not fit into the path; 0 = it fits
	Notes     []string `json:"notes,omitempty"`
}

// Overhead is how many octets longer than the frame inside the IP packet is that carries it: outer IP header (20 octets, 40
// of IPv6), then what the encapsulation has.
func (e Encap) Overhead(ipv6 bool) int {
	n := 20
	if ipv6 {
		n = 40
	}
	switch e {
	case VXLAN: // UDP and VXLAN, RFC 7348 section 5
		return n + 8 + 8
	case Geneve: // UDP, Geneve and our option of 8 octets, RFC 8926 section 3
		return n + 8 + 8 + 8
	case GRE: // with key, RFC 2890
		return n + 8
	case ERSPAN1, ERSPAN2: // GRE with sequence number, and the ERSPAN header
		return n + 8 + 8
	}
	return n
}
