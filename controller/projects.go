package controller

import (
	"context"
	"maps"
	"slices"

	"opentap/auth"
)

// Projects lists the names of projects: to an administrator all that were declared or that tokens, ports or taps have, to anybody else his own.
func (c *Controller) Projects(ctx context.Context, id auth.Identity) ([]string, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.deny(ctx, id, "project.list", "", auth.SeeMetadata)
	}
	if !id.May(auth.Administer) {
		return []string{id.Project}, nil
	}
	all := map[string]bool{auth.DefaultProject: true, id.Project: true}
	if c.keys != nil {
		tokens, err := c.keys.Tokens(ctx, id)
		if err != nil {
			return nil, err
		}
		for _, t := range tokens {
			if t.Revoked.IsZero() {
				all[t.Project] = true
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.cfg.Projects {
		all[p.Name] = true
	}
	for name := range c.projects {
		all[name] = true
	}
	for _, p := range c.taps.declared {
		all[p.Port.Project] = true
	}
	for _, s := range c.taps.services {
		all[s.Service.Project] = true
	}
	delete(all, "")
	return slices.Sorted(maps.Keys(all)), nil
}
