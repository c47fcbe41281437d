// Package point names observation points and resolves the names people use for them.
//
// Runs in: agent | controller | tools
package point

import "time"

// Kind says what gives the data at a point.
type Kind string

// Kinds of points.
const (
	Netdev   Kind = "netdev"   // a network device of a node
	Sensor   Kind = "sensor"   // a physical sensor of a node
	Exporter Kind = "exporter" // a device elsewhere that sends flow records or samples to a node; its name is its address
)

// Point is one observation point: a named place where data can be had (RFC 7011 section 2: Observation Point).
type Point struct {
	Name    string   `json:"name"`              // unique on its node: device name, or the sensor's stable name
	Node    string   `json:"node"`              // the node's name
	Kind    Kind     `json:"kind"`              //
	Aliases []string `json:"aliases,omitempty"` // the administrator's names; the first is the one to show
	Default bool     `json:"default,omitempty"` // used when a request names no point
	Present bool     `json:"present"`           // false: known from the configuration or a capture, not there now

	// Netdev only.
	IfIndex  int    `json:"ifindex,omitempty"`
	MAC      string `json:"mac,omitempty"`
	MTU      int    `json:"mtu,omitempty"`
	Up       bool   `json:"up"`                   // operational state
	SpeedBPS uint64 `json:"speed_bps,omitempty"`  // 0 = the kernel does not say
	LinkType uint16 `json:"link_type,omitempty"`  // packet.LinkType
	Driver   string `json:"driver,omitempty"`     // veth, bridge, virtio_net …
	NoPcap   string `json:"no_packets,omitempty"` // why no packets can be had here; "" = they can
	IfAlias  string `json:"if_alias,omitempty"`   // what the host's administrator noted of it (ip link set … alias)
	IfaceID  string `json:"iface_id,omitempty"`   // external_ids:iface-id of Open vSwitch: whose port it is

	Dedicated bool   `json:"dedicated,omitempty"` // receives only mirrored traffic: its packets are taken from the host while anybody captures
	ReadBy    string `json:"read_by,omitempty"`   // how its packets got here when somebody last captured, in plain words

	Restraint string `json:"restraint,omitempty"` // what of its packets the governor has given up now, and why; "" = nothing

	// Sensor only.
	Quantity string `json:"quantity,omitempty"` // temperature, motion, vibration, voltage …
	Unit     string `json:"unit,omitempty"`     // UCUM: Cel, m/s2, V, 1 …

	Since time.Time `json:"since"` // when it was first found
}
