package want

import (
	"encoding/json"
	"time"
)

// Event is one of a stream that tells what there is and then what changes: who has heard all of a stream knows all that is
// so now. Its Data is one of the forms below, as JSON.
type Event struct {
	Name string
	Data json.RawMessage
}

// Names of events.
const (
	EventBegin    = "begin"    // Begin: forget what was known, the rest of it follows
	EventPoints   = "points"   // {"points": […]}: all of them, when one has changed
	EventNodes    = "nodes"    // NodesChanged
	EventRates    = "rates"    // Rates
	EventCaptures = "captures" // CapturesChanged
	EventBeat     = "beat"     // {}: nothing has happened for a while, and the stream is alive
)

// Begin is what a stream of events begins with.
type Begin struct {
	Time    time.Time `json:"time"` // of the server
	Name    string    `json:"name"` // of the installation
	Version string    `json:"version"`
}

// NodesChanged are all nodes, when one has changed.
type NodesChanged struct {
	Nodes []Node `json:"nodes"`
}

// CapturesChanged are captures that are new or not as they were, and the UIDs of those that are gone.
type CapturesChanged struct {
	Captures []json.RawMessage `json:"captures"` // View
	Gone     []string          `json:"gone"`
}
