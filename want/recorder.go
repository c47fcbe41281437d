package want

import (
	"time"

	"opentap/ledger"
)

// Recorder is somebody's wish that the newest packets of a point be kept at all times, so that captures can reach into the
// past. A point has at most one.
type Recorder struct {
	Point  string   `json:"point"`            // device name on its node
	Node   string   `json:"node,omitempty"`   // whose point it is
	Filter string   `json:"filter,omitempty"` // pcap-filter expression; "" = all
	Snap   int      `json:"snap,omitempty"`   // octets kept of each packet; 0 = all
	Bytes  int64    `json:"bytes"`            // the oldest data goes when it holds more
	Age    Duration `json:"age,omitempty"`    // and when it is older; 0 = any age

	// Compress names how full segments are compressed, in the background: Zstd, or "" = not at all.
	Compress string `json:"compress,omitempty"`

	// Fanout is how many rings share the packets, each read by a thread of its own; 0 = 1. All packets of a flow come by one ring
	// unless it runs full.
	Fanout int `json:"fanout,omitempty"`

	Owner   string    `json:"owner,omitempty"`  // who asked last
	Changed time.Time `json:"changed,omitzero"` // when
}

// MaxFanout bounds Recorder.Fanout.
const MaxFanout = 32

// Zstd is the one way to compress recordings: RFC 8878.
const Zstd = "zstd"

// Origin says who decides about a recorder.
type Origin string

// Origins.
const (
	FromConfiguration Origin = "configuration" // the file of the host; it is changed there
	FromAPI           Origin = "api"           // whoever may administer
)

// RecorderStatus is what became of a recorder: actual state, reported by the agent that has it.
type RecorderStatus struct {
	State  State          `json:"state"`             // Scheduled: not begun; Running; Degraded; Failed: it is tried again
	Reason string         `json:"reason,omitempty"`  // in plain words; never empty when Failed or Degraded
	Since  time.Time      `json:"since,omitzero"`    // of the oldest packet that it holds
	Bytes  int64          `json:"bytes"`             // what it holds on disk
	Ledger ledger.Account `json:"ledger"`            // of all that it met since it was set up or the host's last restart
	ReadBy string         `json:"read_by,omitempty"` // how packets get here
	Gaps   []Gap          `json:"gaps,omitempty"`    // in which nothing could be observed
}

// RecorderView is a recorder as it is shown.
type RecorderView struct {
	Recorder
	Origin Origin         `json:"origin"`
	Status RecorderStatus `json:"status"`
}
