package controller

import (
	"time"

	"opentap/fault"
)

// SetFull has everything new refused for this reason, or with "" taken again. What is there can still be stopped, read and
// deleted. It may be called from anywhere.
func (c *Controller) SetFull(reason string) {
	if reason == "" {
		c.full.Store(nil)
		return
	}
	c.full.Store(&reason)
}

// refusedForRoom is the refusal of something new while there is no room for it.
func (c *Controller) refusedForRoom() error {
	reason := c.full.Load()
	if reason == nil {
		return nil
	}
	return &fault.Error{Kind: fault.Exhausted, Msg: *reason, Hint: "delete captures, or make room on the server's disk", RetryAfter: 30 * time.Second}
}
