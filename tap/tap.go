// Package tap is the model of traffic mirroring: services, flows and mirrors, what becomes of them on each node, and
// what a driver must do to make them real.
//
// The model is Neutron's Tap-as-a-Service: a tap service is a port that receives copies, a tap flow says which port's
// packets go to a service, a tap mirror sends a port's packets in a tunnel to an address. Options are what Neutron lacks.
// A controller lowers these into a Set for each node: sources, whose packets are copied there, and sinks, where
// copies from other nodes arrive. A Driver makes one node's Set real.
//
// Runs in: agent | controller | tools
package tap

import (
	"net/netip"
	"time"
)

// Direction is seen from the port's owner, as in Neutron: In is to the machine behind the port, Out from it.
type Direction string

// Directions. Their spelling is that of the API.
const (
	In   Direction = "IN"
	Out  Direction = "OUT"
	Both Direction = "BOTH"

	// Arriving is what comes in at the device, whoever its owner is. Only controllers ask for it.
	Arriving Direction = "ARRIVING"
)

// Encap says how copies travel to another host.
type Encap string

// Encapsulations. VXLAN is what is taken when nobody says.
const (
	VXLAN   Encap = "vxlan"   // RFC 7348; the tunnel id is the VNI, 24 bits
	GRE     Encap = "gre"     // RFC 2784 and 2890 with key, transparent Ethernet bridging; 32 bits
	ERSPAN1 Encap = "erspan1" // type I/II header version 1 without features beyond Neutron's erspanv1: version field 1, session id of 10 bits
	ERSPAN2 Encap = "erspan2" // draft-foschiano-erspan type II with sequence numbers; session id, 10 bits
	Geneve  Encap = "geneve"  // RFC 8926 with our option: direction, truncated, original length; VNI, 24 bits
)

// OnMTU says what becomes of a copy that does not fit into the path to its destination. The original is never touched.
type OnMTU string

// Ways with copies that are too long.
const (
	Truncate OnMTU = "truncate" // cut it to fit, count it, mark it where the encapsulation can; the default
	Drop     OnMTU = "drop"     // drop and count it
)

// Options of a tap are what Neutron lacks. The zero Options copies everything, whole, for ever.
type Options struct {
	Filter   string    `json:"filter,omitempty"`     // pcap-filter expression, tag-transparent; "" = everything
	VLANs    string    `json:"vlans,omitempty"`      // Neutron's vlan_filter: outermost tag within these; "" = tagged and untagged
	SampleN  uint32    `json:"sample_n,omitempty"`   // one in so many of the packets that match, by chance; 0 and 1 = all
	Snap     uint32    `json:"snap,omitempty"`       // octets kept of each frame, after segmentation; 0 = all
	RateBPS  uint64    `json:"rate_bps,omitempty"`   // bits per second of copies, by token bucket; 0 = no limit
	Burst    uint64    `json:"burst,omitempty"`      // octets of the bucket; 0 = what RateBPS carries in 100 ms, and 64 KiB at least
	Priority int       `json:"priority,omitempty"`   // order on one port: higher first; what cannot be held goes from the lowest
	Expires  time.Time `json:"expires_at,omitzero"`  // it is taken away then, by the agent's own clock; zero = never
	Encap    Encap     `json:"encap,omitempty"`      // between nodes; "" = VXLAN
	OnMTU    OnMTU     `json:"on_mtu,omitempty"`     // "" = Truncate
	Device   bool      `json:"tap_device,omitempty"` // of a service: make a tap device of the port's name for the tool
}

// Service is a port that receives copies.
type Service struct {
	ID          string    `json:"id"` // UUID
	Project     string    `json:"project_id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	PortID      string    `json:"port_id"`
	TunnelID    uint32    `json:"tunnel_id"` // 24 bits, unique among services; allotted at creation, free again after deletion
	Options     Options   `json:"options"`   // only Device, Expires and Encap mean something
	Owner       string    `json:"owner,omitempty"`
	Created     time.Time `json:"created_at"`
}

// Flow sends copies of a port's packets to a service.
type Flow struct {
	ID          string    `json:"id"` // UUID
	Project     string    `json:"project_id"`
	Name        string    `json:"name"`
	Description string    `json:"description"`
	ServiceID   string    `json:"tap_service_id"`
	PortID      string    `json:"source_port"`
	Direction   Direction `json:"direction"`
	Options     Options   `json:"options"`
	Owner       string    `json:"owner,omitempty"`
	Created     time.Time `json:"created_at"`
}

// Mirror sends copies of a port's packets in a tunnel to an address, which need not be one of ours.
type Mirror struct {
	ID          string               `json:"id"` // UUID
	Project     string               `json:"project_id"`
	Name        string               `json:"name"`
	Description string               `json:"description"`
	PortID      string               `json:"port_id"`
	Directions  map[Direction]uint32 `json:"directions"`         // tunnel id of each
	Spelling    map[Direction]string `json:"spelling,omitempty"` // tunnel ids that were written as text: Neutron echoes them so
	Remote      netip.Addr           `json:"remote_ip"`
	Type        Encap                `json:"mirror_type"` // GRE or ERSPAN1 through Neutron's door; any through ours
	Options     Options              `json:"options"`
	Owner       string               `json:"owner,omitempty"`
	Created     time.Time            `json:"created_at"`
}

// Port is where packets can be copied from or delivered to: a network device of a node, whatever it is called there.
type Port struct {
	ID      string `json:"id"` // UUID: Neutron's, an iface-id, the caller's, or made of node and device
	Name    string `json:"name"`
	Project string `json:"project_id"` // whose it is; "" = the administrator's
	Network string `json:"network_id,omitempty"`
	MAC     string `json:"mac_address,omitempty"`
	Device  string `json:"device,omitempty"` // its point's name on Node; "" = not bound now
	Node    string `json:"node,omitempty"`   // where it is now; "" = nowhere that we know
}
