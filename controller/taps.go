package controller

import "opentap/tap"

// TapStates implements agentapi.Fleet.
func (c *Controller) TapStates(nodeID string, states []tap.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[nodeID]; n != nil {
		n.taps = states
		c.tell()
	}
}
