package want

// LiveRequest asks for packets as they come, in the client's own words. It is the query of GET /v1/live.
type LiveRequest struct {
	Points   []string // names or aliases, "node/name" where several nodes have it; empty or "0" = the default
	Filter   string
	Strict   bool
	Snap     int      // octets; 0 = whole packets
	Past     Duration // begin with what was recorded so long ago; needs recorders at all points
	Duration Duration // end after so long; 0 = until the reader goes
	Packets  uint64   // end after so many; 0 = no limit. Only for points of one node
}

// LiveSpec is what a node is asked to stream: names resolved, everything checked that the controller can check.
type LiveSpec struct {
	Look     *Look       `json:"look,omitempty"` // not packets: all below is empty then
	Points   []LivePoint `json:"points"`
	Filter   string      `json:"filter,omitempty"`
	Strict   bool        `json:"strict,omitempty"`
	Snap     int         `json:"snap,omitempty"`
	Past     Duration    `json:"past,omitempty"`
	Duration Duration    `json:"duration,omitempty"`
	Packets  uint64      `json:"packets,omitempty"`
}

// LivePoint is one point of a live stream.
type LivePoint struct {
	Name  string `json:"name"`
	Label string `json:"label"` // what the stream calls it: with its node where points of several are merged
}
