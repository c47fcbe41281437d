package controller

import (
	"context"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// system is the actor of what the controller does by itself.
var system = auth.Identity{Name: "system", Role: "system", Rights: auth.SeeMetadata | auth.Delete | auth.Administer, Via: "retention"}

// expire deletes captures whose retention has passed.
func (c *Controller) expire(ctx context.Context) {
	every(ctx, time.Second, func(now time.Time) {
		for _, e := range c.expired(now) {
			if _, err := c.remove(ctx, system, e, "capture.expire"); err != nil && !fault.Is(err, fault.NotFound) && ctx.Err() == nil {
				c.log.Warn("cannot delete an expired capture; it is tried again", "capture", e.Capture.ID, "err", err)
			}
		}
	})
}

func (c *Controller) expired(now time.Time) []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*entry
	for _, e := range c.captures {
		if e.Final != nil && !e.Final.Ended.IsZero() && now.After(e.Final.Ended.Add(time.Duration(e.Capture.Retain))) {
			out = append(out, e)
		}
	}
	return out
}

// keepFinals stores the last word of each capture that has ended, so that it is known when its node is away.
func (c *Controller) keepFinals(ctx context.Context) {
	for ctx.Err() == nil {
		var ended []want.Status
		pick := func() bool {
			ended = ended[:0]
			for uid := range c.ended {
				if e := c.captures[uid]; e == nil || e.Final != nil {
					delete(c.ended, uid) // it is stored, or nobody wants to know any more
					continue
				}
				ended = append(ended, c.status[uid])
			}
			return len(ended) > 0
		}
		if c.await(ctx, pick) != nil {
			return
		}
		for _, st := range ended {
			err := c.update(ctx, st.UID, func(s *stored) bool {
				if s.Final != nil {
					return false
				}
				s.Final = &st
				return true
			})
			if err != nil && !fault.Is(err, fault.NotFound) && ctx.Err() == nil {
				c.log.Warn("cannot store the end of a capture; it is tried again", "uid", st.UID, "err", err)
				select {
				case <-ctx.Done():
				case <-time.After(time.Second):
				}
			}
		}
	}
}
