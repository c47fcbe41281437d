package want

import "time"

// CanarySend asks a node to put canaries on the device of a source, in both directions, and to say what its tap counted
// meanwhile. The answer is a CanarySent.
type CanarySend struct {
	Tap     string   `json:"tap"`     // id of the source
	Token   [8]byte  `json:"token"`   // marks the canaries of this test
	Each    int      `json:"each"`    // so many of each sort
	Lengths []int    `json:"lengths"` // octets of frames; 0 = the longest that the device takes
	VLANs   []uint16 `json:"vlans"`   // tags; 0 = untagged
}

// CanarySent says what was put on the device.
type CanarySent struct {
	Device  string            `json:"device"`
	Sorts   []CanarySort      `json:"sorts"`   // numbered in this order, Each of each
	Counted map[string]uint64 `json:"counted"` // what the tap's counters grew by
}

// CanarySort are canaries that are alike.
type CanarySort struct {
	Direction string `json:"direction"` // IN or OUT
	VLAN      uint16 `json:"vlan,omitempty"`
	Length    int    `json:"length"`
	Sent      int    `json:"sent"`
}

// CanaryHear asks a node to listen at a device for the canaries of a test. It says a line with CanaryHeard at once, with no
// canary, when it listens, and then one for each until the stream is ended.
type CanaryHear struct {
	Device string  `json:"device"`
	Token  [8]byte `json:"token"`
}

// CanaryHeard is a copy of a canary.
type CanaryHeard struct {
	Number int64     `json:"number"` // -1 = none: it listens now
	VLAN   uint16    `json:"vlan,omitempty"`
	Length int       `json:"length,omitempty"`
	Sent   time.Time `json:"sent,omitzero"` // by the sender's clock
	At     time.Time `json:"at,omitzero"`   // by this node's
}
