package filter

import "time"

// Query says which packets somebody wants: at which points, in which window, through which filter, up to which limits.
type Query struct {
	Points []string  `json:"points"`         // resolved point names, at least one
	From   time.Time `json:"from"`           // inclusive
	To     time.Time `json:"to,omitzero"`    // exclusive; zero = until stopped or a limit is reached
	Filter string    `json:"filter"`         // pcap-filter expression; "" = everything
	Strict bool      `json:"strict"`         // libpcap's meaning of offsets behind VLAN tags instead of tag-transparent matching
	Limits Limits    `json:"limits"`         // zero = none
	Snap   int       `json:"snap,omitempty"` // octets kept of each packet; 0 = all
}

// Limits end a capture before its window does. Zero fields are no limit.
type Limits struct {
	Packets uint64 `json:"packets,omitempty"`
	Octets  uint64 `json:"octets,omitempty"` // stored octets of packets (after the snap length)
}
