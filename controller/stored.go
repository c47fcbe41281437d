package controller

import (
	"slices"

	"opentap/fault"
	"opentap/filter"
	"opentap/want"
)

// storesFlows reports whether the flow records of all points of a capture are kept at all times.
func (c *Controller) storesFlows(s *stored) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[s.NodeID]
	if n == nil {
		return false
	}
	for _, name := range s.Capture.Query.Points {
		if !slices.ContainsFunc(n.facts.FlowStores, func(f want.FlowStore) bool { return f.Point == name }) {
			return false
		}
	}
	return true
}

// planStored refuses what flow records that were made elsewhere or before cannot give.
func planStored(k *want.Capture) error {
	if !k.Stored {
		return nil
	}
	if k.Query.Limits != (filter.Limits{}) {
		return fault.Field("limits", "mean nothing for flow records that are there already")
	}
	if k.Query.Strict {
		return fault.Field("strict", "means nothing for flow records: they have one VLAN tag at most")
	}
	return nil
}
