// Package want says what somebody asked to be captured, and what became of it.
//
// Runs in: agent | controller | tools
package want

import (
	"time"

	"opentap/filter"
	"opentap/ledger"
)

// Kind is the kind of data a capture gives.
type Kind string

// Kinds of captures.
const (
	Packets  Kind = "pcap"
	Flows    Kind = "netflow"
	Counters Kind = "ethernet"
	Sensor   Kind = "sensor"
)

// Capture is somebody's request for data. It is desired state: stored by the controller, obeyed by an agent.
type Capture struct {
	UID      string       `json:"uid"`                // made by the controller; names the data on disk; [0-9a-f]{32}
	ID       string       `json:"id"`                 // the client's or a made one; opaque text, never a path
	Project  string       `json:"project"`            // whose it is
	Owner    string       `json:"owner"`              // who asked
	Kind     Kind         `json:"kind"`               //
	Quantity string       `json:"quantity,omitempty"` // of Sensor: temperature, motion, vibration …; "" = whatever the point gives
	Query    filter.Query `json:"query"`
	Period   Duration     `json:"period,omitempty"`   // between samples; of Counters and Sensor
	Recorded bool         `json:"recorded,omitempty"` // answered from the point's recording: the past can be had
	Stored   bool         `json:"stored,omitempty"`   // of Flows: answered from the points' flow stores
	Created  time.Time    `json:"created"`
	StopAt   time.Time    `json:"stop_at,omitzero"` // somebody asked it to stop then; zero = nobody
	Retain   Duration     `json:"retain"`           // how long the data is kept after the end
	Note     string       `json:"note,omitempty"`   // what was changed or assumed when it was accepted, in plain words
}

// Past reports whether the capture is answered from what is kept at all times, so that its window may lie in the past.
func (c *Capture) Past() bool { return c.Recorded || c.Stored }

// End is when the capture ends at the latest; zero = when it is stopped or a limit is reached.
func (c *Capture) End() time.Time {
	if c.StopAt.IsZero() || (!c.Query.To.IsZero() && c.Query.To.Before(c.StopAt)) {
		return c.Query.To
	}
	return c.StopAt
}

// State is where a capture is in its life.
type State string

// States. Scheduled → Running → Done | Stopped | Failed. Degraded is Running with a reason to worry.
const (
	Scheduled State = "scheduled" // its window has not begun
	Running   State = "running"   //
	Degraded  State = "degraded"  // running, and Reason says what is wrong with it
	Done      State = "done"      // its window or a limit ended it
	Stopped   State = "stopped"   // somebody stopped it
	Failed    State = "failed"    // Reason says why; what was captured before is kept
)

// Final reports whether the state can change no more.
func (s State) Final() bool { return s == Done || s == Stopped || s == Failed }

// Gap is a stretch of a capture's window in which nothing could be observed.
type Gap struct {
	From   time.Time `json:"from"`
	To     time.Time `json:"to,omitzero"` // zero = still open
	Reason string    `json:"reason"`
}

// Status is what became of a capture: actual state, reported by the agent that has it.
type Status struct {
	UID     string         `json:"uid"`
	State   State          `json:"state"`
	Reason  string         `json:"reason,omitempty"`  // why it is in this state, in plain words; never empty when Failed or Degraded
	Started time.Time      `json:"started,omitzero"`  // when data began to be taken
	Ended   time.Time      `json:"ended,omitzero"`    // when it ended
	Ledger  ledger.Account `json:"ledger"`            // packet accounts (pcap and netflow)
	Records uint64         `json:"records,omitempty"` // flow records or samples kept
	Bytes   uint64         `json:"bytes"`             // what it holds on disk
	Gaps    []Gap          `json:"gaps,omitempty"`
	Search  *Search        `json:"search,omitempty"` // of a capture from recordings that has ended
	Updated time.Time      `json:"updated"`
}

// Search is what was looked at to find the packets of a capture in recordings: query.Explain, as it is told.
type Search struct {
	Segments       uint64 `json:"segments"`         // of the recordings
	Catalogued     uint64 `json:"catalogued"`       // of those: known without reading them
	Chunks         uint64 `json:"chunks"`           // in the segments
	SkippedByTime  uint64 `json:"skipped_by_time"`  // of those: outside of the window
	SkippedByIndex uint64 `json:"skipped_by_index"` // without a match, as their index says
	NotIndexed     uint64 `json:"not_indexed"`      // that no index speaks of
	Read           uint64 `json:"read"`             // wholly or in part
	OctetsRead     uint64 `json:"octets_read"`
	Packets        uint64 `json:"packets"` // that were looked at
}
