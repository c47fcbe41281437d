package controller

import (
	"maps"

	"opentap/ledger"
	"opentap/want"
)

// Tally is what this controller knows about the whole installation, for those who watch it. Sums are of what agents have
// reported since this controller started; a capture that goes away takes nothing from them.
type Tally struct {
	Captures map[want.Kind]map[want.State]int
	Packets  ledger.Account       // of all captures together: a packet that two of them saw counts twice
	Records  map[want.Kind]uint64 // flow records and samples
	Nodes    []want.Node          // sorted by name
	Revision int64                // of what is wanted
}

// Tally returns the sums as of now. It asks nobody.
func (c *Controller) Tally() Tally {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := Tally{
		Captures: make(map[want.Kind]map[want.State]int), Packets: c.packets, Records: maps.Clone(c.records),
		Nodes: c.nodeList(), Revision: c.revision,
	}
	for i := range t.Nodes {
		if n := c.nodes[t.Nodes[i].ID]; n != nil {
			t.Nodes[i].Recordings = n.facts.Recordings
		}
	}
	for uid, e := range c.captures {
		state := want.Scheduled
		if e.Final != nil {
			state = e.Final.State
		} else if st, ok := c.status[uid]; ok {
			state = st.State
		}
		if t.Captures[e.Capture.Kind] == nil {
			t.Captures[e.Capture.Kind] = make(map[want.State]int)
		}
		t.Captures[e.Capture.Kind][state]++
	}
	return t
}

// count adds what a report tells beyond the one before. c.mu is held.
func (c *Controller) count(kind want.Kind, before, now *want.Status) {
	a, b, sum := &now.Ledger, &before.Ledger, &c.packets
	add := func(to *uint64, now, before uint64) {
		if now > before { // a crash may take some back: sums go up all the same
			*to += now - before
		}
	}
	add(&sum.Seen, a.Seen, b.Seen)
	add(&sum.Captured, a.Captured, b.Captured)
	add(&sum.Filtered, a.Filtered, b.Filtered)
	add(&sum.SampledOut, a.SampledOut, b.SampledOut)
	add(&sum.RateLimited, a.RateLimited, b.RateLimited)
	for r := range a.Dropped {
		add(&sum.Dropped[r], a.Dropped[r], b.Dropped[r])
	}
	add(&sum.Octets, a.Octets, b.Octets)
	add(&sum.StoredOctets, a.StoredOctets, b.StoredOctets)
	records := c.records[kind]
	add(&records, now.Records, before.Records)
	c.records[kind] = records
}
