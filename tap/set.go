package tap

import (
	"net/netip"
	"time"

	"opentap/ledger"
)

// Device names a network device of one node so that it is found again under another name or index: the first of
// IfaceID, Name and MAC that fits, in this order, Name only together with MAC when both are given.
type Device struct {
	Name    string `json:"name"`
	MAC     string `json:"mac,omitempty"`
	IfaceID string `json:"iface_id,omitempty"` // of Open vSwitch's external_ids, or a port's UUID
}

// Source asks for copies of one device's packets.
type Source struct {
	ID        string    `json:"id"` // of the flow, or of the mirror and its direction: "<uuid>" or "<uuid>.in"; unique in a Set
	Device    Device    `json:"device"`
	Direction Direction `json:"direction"`
	Options   Options   `json:"options"`
	To        Target    `json:"to"`
	// Feed is for drivers among themselves: if it is set, what goes out of Device are copies of another device's packets of this direction.
	Feed Direction `json:"-"`
}

// UDP ports between our nodes. They are not the assigned ones (4789 and 6081), on which an overlay network of the same hosts
// may use the same tunnel ids.
const (
	NodeVXLAN  uint16 = 14789
	NodeGeneve uint16 = 16081
)

// NodePort is the UDP port of an encapsulation between our nodes; 0 = it is not over UDP.
func NodePort(e Encap) uint16 {
	switch e {
	case VXLAN, "":
		return NodeVXLAN
	case Geneve:
		return NodeGeneve
	}
	return 0
}

// Target is where copies go. Exactly one of Device.Name and Remote is set.
type Target struct {
	Device   Device     `json:"device,omitzero"`     // on the same node: frames are delivered as they are
	Remote   netip.Addr `json:"remote,omitzero"`     // to another host
	Encap    Encap      `json:"encap,omitempty"`     // with Remote
	TunnelID uint32     `json:"tunnel_id,omitempty"` // with Remote
	UDPPort  uint16     `json:"udp_port,omitempty"`  // of VXLAN and Geneve; 0 = 4789 and 6081
}

// Sink asks for copies that arrive in a tunnel to be delivered to a device, without the tunnel.
type Sink struct {
	ID       string       `json:"id"` // of the service; unique in a Set
	Device   Device       `json:"device"`
	Make     bool         `json:"make,omitempty"` // make Device as a tap device when there is none, and remove it with the sink
	Encap    Encap        `json:"encap"`
	TunnelID uint32       `json:"tunnel_id"`
	UDPPort  uint16       `json:"udp_port,omitempty"`
	From     []netip.Addr `json:"from,omitempty"`      // only from these hosts; empty = from none
	Expires  time.Time    `json:"expires_at,omitzero"` // it is taken away then, by the agent's own clock; zero = never
}

// Set is all that one node shall do. It is complete: what is not in it shall not be.
type Set struct {
	Sources []Source `json:"sources,omitempty"`
	Sinks   []Sink   `json:"sinks,omitempty"`
}

// State of a source or sink.
type State string

// States.
const (
	Pending State = "pending" // not made real yet; Reason says what it waits for
	Active  State = "active"  // packets are copied
	Failed  State = "error"   // it cannot be; Reason says why. It is tried again
	Expired State = "expired" // its time is over, and it is away
)

// Gap is a time in which nothing was copied though it should have been.
type Gap struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to,omitzero"` // zero = still open
	Reason string    `json:"reason"`
}

// Status is what a node says of a source or sink. Counters are cumulative since it was first asked for on this node,
// through restarts of the agent as long as the kernel's objects live.
type Status struct {
	ID      string    `json:"id"`
	State   State     `json:"state"`
	Reason  string    `json:"reason,omitempty"` // never empty when Failed
	Driver  string    `json:"driver,omitempty"` // that serves it
	Device  string    `json:"device,omitempty"` // as it is called now
	Since   time.Time `json:"since,omitzero"`   // in this state
	Counts  Counts    `json:"counts"`
	Gaps    []Gap     `json:"gaps,omitempty"`
	Note    string    `json:"note,omitempty"` // a warning in plain words, such as an MTU that is short by so many octets
	Updated time.Time `json:"updated"`
}

// Counts are the packet accounts of a source or sink.
//
//	Seen = Mirrored + NotMatched + SampledOut + RateLimited + TooLong + sum(Errors)
//
// Copies of one super-packet (GSO) that leave segmented are counted once in Mirrored and each in Sent.
type Counts struct {
	Seen        uint64            `json:"seen"`         // packets of the device in the direction asked for
	NotMatched  uint64            `json:"not_matched"`  // refused by filter or VLAN list
	SampledOut  uint64            `json:"sampled_out"`  //
	RateLimited uint64            `json:"rate_limited"` //
	TooLong     uint64            `json:"too_long"`     // dropped because of the path's MTU
	Mirrored    uint64            `json:"mirrored"`     // copies handed on
	Octets      uint64            `json:"octets"`       // of Mirrored
	Sent        uint64            `json:"sent"`         // frames that left, after segmentation; equals Mirrored where nothing is segmented
	Truncated   uint64            `json:"truncated"`    // among Sent
	Errors      map[string]uint64 `json:"errors"`       // packets lost, by reason: no_device, queue, no_route, …
}

// Account gives the counts in the ledger's terms, in which filtered is what did not match.
func (c *Counts) Account() ledger.Account {
	a := ledger.Account{Seen: c.Seen, Captured: c.Mirrored, Filtered: c.NotMatched, SampledOut: c.SampledOut, RateLimited: c.RateLimited, Octets: c.Octets}
	a.Dropped[ledger.Other] = c.TooLong
	for _, n := range c.Errors {
		a.Dropped[ledger.Other] += n
	}
	return a
}

// Add adds the counts of another time.
func (c *Counts) Add(o *Counts) {
	c.Seen += o.Seen
	c.NotMatched += o.NotMatched
	c.SampledOut += o.SampledOut
	c.RateLimited += o.RateLimited
	c.TooLong += o.TooLong
	c.Mirrored += o.Mirrored
	c.Octets += o.Octets
	c.Sent += o.Sent
	c.Truncated += o.Truncated
	for reason, n := range o.Errors {
		if c.Errors == nil {
			c.Errors = make(map[string]uint64)
		}
		c.Errors[reason] += n
	}
}
