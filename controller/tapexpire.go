package controller

import (
	"context"
	"time"

	"opentap/fault"
)

// expireTaps deletes services, flows and mirrors whose time is over, and flows whose service went while a controller
// died. Agents end them by their own clocks; this only tidies up after.
func (c *Controller) expireTaps(ctx context.Context) {
	every(ctx, time.Second, func(now time.Time) {
		c.recheckRivals()
		for id, remove := range c.overTaps(now) {
			if err := remove(ctx, id); err != nil && !fault.Is(err, fault.NotFound) && ctx.Err() == nil {
				c.log.Warn("cannot delete a tap whose time is over; it is tried again", "id", id, "err", err)
			}
		}
	})
}

// overTaps finds what is to go, and how.
func (c *Controller) overTaps(now time.Time) map[string]func(context.Context, string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make(map[string]func(context.Context, string) error)
	past := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	for id := range c.taps.mortal {
		switch s, f, m := c.taps.services[id], c.taps.flows[id], c.taps.mirrors[id]; {
		case s != nil && past(s.Service.Options.Expires):
			out[id] = func(ctx context.Context, id string) error {
				return c.removeService(ctx, system, id, "tap.service.expire")
			}
		case f != nil && past(f.Flow.Options.Expires):
			out[id] = func(ctx context.Context, id string) error { return c.removeFlow(ctx, system, id, "tap.flow.expire") }
		case m != nil && past(m.Mirror.Options.Expires):
			out[id] = func(ctx context.Context, id string) error {
				return c.removeMirror(ctx, system, id, "tap.mirror.expire")
			}
		}
	}
	for sid, flows := range c.taps.flowsTo {
		if c.taps.services[sid] == nil {
			for id := range flows {
				out[id] = func(ctx context.Context, id string) error { return c.removeFlow(ctx, system, id, "tap.flow.delete") }
			}
		}
	}
	return out
}
