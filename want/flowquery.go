package want

import "time"

// FlowQuery asks for flow records that are kept at all times, of all nodes or of some points. A flow that touches the time
// between From and To counts whole.
type FlowQuery struct {
	Points []string  `json:"points,omitempty"` // names, aliases or node/name; none: all that keep flow records
	From   time.Time `json:"from,omitzero"`    // zero = from the earliest on
	To     time.Time `json:"to,omitzero"`      // exclusive; zero = up to now
	Filter string    `json:"filter,omitempty"` // of what a record can answer
	Format Format    `json:"format,omitempty"` // of records: csv or ndjson

	// Of groups instead of records.
	By     []string `json:"by,omitempty"`
	Metric string   `json:"metric,omitempty"` // bytes, packets or flows
	Top    int      `json:"top,omitempty"`    // 0 = all
	Group  bool     `json:"group,omitempty"`  // groups are asked for, also with no key
}

// FlowGroup is what the records with the same keys have together. Counts of sampled records are multiplied.
type FlowGroup struct {
	Key     []string `json:"key"` // in the order of the keys asked for
	Bytes   uint64   `json:"bytes"`
	Packets uint64   `json:"packets"`
	Flows   uint64   `json:"flows"`
}

// FlowTop is the answer to a question for groups.
type FlowTop struct {
	By      []string    `json:"by"`
	Groups  []FlowGroup `json:"groups"` // the largest first
	Total   FlowGroup   `json:"total"`
	Records uint64      `json:"records"`           // that were counted
	Points  []string    `json:"points"`            // node/name, of which records were read
	Since   time.Time   `json:"since,omitzero"`    // of the earliest record that is kept of them
	Missing []string    `json:"missing,omitempty"` // nodes that could not be asked, and why
}

// By is the count that a metric names: bytes, packets or flows.
func (g *FlowGroup) By(metric string) uint64 {
	switch metric {
	case "packets":
		return g.Packets
	case "flows":
		return g.Flows
	}
	return g.Bytes
}

// Add adds the counts of another group.
func (g *FlowGroup) Add(o *FlowGroup) {
	g.Bytes += o.Bytes
	g.Packets += o.Packets
	g.Flows += o.Flows
}
