package controller

import (
	"context"
	"slices"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
)

// narrowEvery is how often it is looked whether what runs may run on: a project sees some points alone from some moment on, and
// ports are given away.
const narrowEvery = time.Second

// keepNarrow ends what projects have at points that they see no more, until ctx ends.
func (c *Controller) keepNarrow(ctx context.Context) {
	every(ctx, narrowEvery, func(time.Time) {
		for _, e := range c.lostCaptures() {
			if err := c.endLost(ctx, e); err != nil && !fault.Is(err, fault.NotFound) && ctx.Err() == nil {
				c.log.Warn("cannot end a capture at a point that its project sees no more; it is tried again", "capture", e.Capture.ID, "err", err)
			}
		}
	})
}

// lostCaptures are those that go on at points which their projects see no more. What administrators began is theirs to end.
func (c *Controller) lostCaptures() []*entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.cfg.Projects)+len(c.projects) == 0 {
		return nil
	}
	var out []*entry
	for _, e := range c.captures {
		if e.Final != nil || !e.Capture.StopAt.IsZero() || e.Admin {
			continue
		}
		if p, narrow := c.restricted(auth.Identity{Project: e.Capture.Project}); narrow {
			if slices.ContainsFunc(e.Capture.Query.Points, func(name string) bool { return c.lostPoint(&p, e.NodeID, name) }) {
				out = append(out, e)
			}
		}
	}
	return out
}

// lostPoint reports whether a point is there, and the project does not see it. c.mu is held.
func (c *Controller) lostPoint(p *want.Project, nodeID, name string) bool {
	n := c.nodes[nodeID]
	if n == nil || c.moved[nodeID] { // it is not known yet whose ports its devices are
		return false
	}
	i := slices.IndexFunc(n.points, func(at point.Point) bool { return at.Name == name && at.Present })
	return i >= 0 && !c.seesPoint(p, nodeID, &n.points[i])
}

// endLost stops a capture. Its data stays: it is of a time when the project saw the point.
func (c *Controller) endLost(ctx context.Context, e *entry) error {
	err := c.record(ctx, system, "capture.stop", e.Capture.ID, e.Capture.Project, map[string]string{
		"uid": e.Capture.UID, "reason": "the project does not see its points any more",
	})
	if err != nil {
		return err
	}
	now := time.Now().UTC()
	return c.update(ctx, e.Capture.UID, func(s *stored) bool {
		if !s.Capture.StopAt.IsZero() || s.Final != nil {
			return false
		}
		s.Capture.StopAt = now
		return true
	})
}

// whileSeen is a context that ends when the caller sees one of the points no more; the cause says so.
func (c *Controller) whileSeen(ctx context.Context, id auth.Identity, nodes []liveNode) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		every(ctx, narrowEvery, func(time.Time) {
			if c.lostLive(id, nodes) {
				cancel(fault.New(fault.Forbidden, "the project %s does not see these points any more", id.Project))
			}
		})
	}()
	return ctx, func() { cancel(nil); <-done }
}

func (c *Controller) lostLive(id auth.Identity, nodes []liveNode) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, narrow := c.restricted(id)
	return narrow && slices.ContainsFunc(nodes, func(n liveNode) bool {
		return slices.ContainsFunc(n.spec.Points, func(at want.LivePoint) bool { return c.lostPoint(&p, n.id, at.Name) })
	})
}

// watchesAll reports whether rules of a project may look at the traffic of all nodes.
func (c *Controller) watchesAll(id auth.Identity) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, narrow := c.restricted(id)
	return !narrow || slices.Contains(p.Points, "*") || slices.Contains(p.Points, "*/*")
}

// blindRules are the names of rules that find nothing any more, because their projects see some points alone.
func (c *Controller) blindRules() map[string]bool {
	d := c.detection
	d.mu.Lock()
	owners := make(map[string]auth.Identity, len(d.rules))
	for name, r := range d.rules {
		if !r.Admin {
			owners[name] = auth.Identity{Project: r.Project}
		}
	}
	d.mu.Unlock()
	out := make(map[string]bool)
	for name, id := range owners {
		if !c.watchesAll(id) {
			out[name] = true
		}
	}
	return out
}

// projectsChanged has the rules looked at anew.
func (c *Controller) projectsChanged() {
	d := c.detection
	d.mu.Lock()
	defer d.mu.Unlock()
	d.version++
	d.tell()
}
