package controller

import (
	"context"
	"slices"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/tap"
)

// label is what services, flows and mirrors are found, filtered and ordered by.
type label struct {
	id, name, project string
	created           time.Time
}

func (s *storedService) label() label {
	return label{s.Service.ID, s.Service.Name, s.Service.Project, s.Service.Created}
}

func (f *storedFlow) label() label {
	return label{f.Flow.ID, f.Flow.Name, f.Flow.Project, f.Flow.Created}
}

func (m *storedMirror) label() label {
	return label{m.Mirror.ID, m.Mirror.Name, m.Mirror.Project, m.Mirror.Created}
}

// kept is one noun of taps: where it is kept, and how it is shown. Its functions are called with c.mu held.
type kept[S interface{ label() label }, V any] struct {
	noun   string                      // as actions have it: tap.flow
	prefix string                      // of its keys in the store
	all    func(w *world) map[string]S // by id
	show   func(c *Controller, s S) V  //
	none   func(name string) error     // nothing is called so, or nothing that the caller may see
}

// The three nouns.
var (
	keptServices = kept[*storedService, tap.ServiceView]{
		"tap.service", servicePrefix, func(w *world) map[string]*storedService { return w.services }, (*Controller).serviceView, noService,
	}
	keptFlows = kept[*storedFlow, tap.FlowView]{
		"tap.flow", flowPrefix, func(w *world) map[string]*storedFlow { return w.flows }, (*Controller).flowView, noFlow,
	}
	keptMirrors = kept[*storedMirror, tap.MirrorView]{
		"tap.mirror", mirrorPrefix, func(w *world) map[string]*storedMirror { return w.mirrors }, (*Controller).mirrorView, noMirror,
	}
)

// list shows what the caller may see, the oldest first.
func (k *kept[S, V]) list(ctx context.Context, c *Controller, id auth.Identity) ([]V, error) {
	if !id.May(seeTaps) {
		return nil, c.deny(ctx, id, k.noun+".list", "", seeTaps)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	all := k.all(c.taps)
	seen := make([]S, 0, len(all))
	for _, s := range all {
		if mine(id, s.label().project) {
			seen = append(seen, s)
		}
	}
	slices.SortFunc(seen, func(a, b S) int {
		x, y := a.label(), b.label()
		return byAge(x.created, y.created, x.id, y.id)
	})
	out := make([]V, len(seen))
	for i, s := range seen {
		out[i] = k.show(c, s)
	}
	return out, nil
}

// one shows what has an id or a name.
func (k *kept[S, V]) one(ctx context.Context, c *Controller, id auth.Identity, name string) (v V, err error) {
	if !id.May(seeTaps) {
		return v, c.deny(ctx, id, k.noun+".show", name, seeTaps)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := k.find(c, id, name)
	if err != nil {
		return v, err
	}
	return k.show(c, s), nil
}

// find finds what an id or a name means among what the caller may see; an id always means itself. c.mu is held.
func (k *kept[S, V]) find(c *Controller, id auth.Identity, name string) (found S, err error) {
	all := k.all(c.taps)
	if s, ok := all[strings.ToLower(name)]; ok && mine(id, s.label().project) {
		return s, nil
	}
	several := 0
	for _, s := range all {
		if l := s.label(); name != "" && l.name == name && mine(id, l.project) {
			found = s
			several++
		}
	}
	switch several {
	case 0:
		return found, k.none(name)
	case 1:
		return found, nil
	}
	return found, fault.Field("id", "several have the name %q; use the id", name)
}

// idOf is find for whoever may make and end taps.
func (k *kept[S, V]) idOf(ctx context.Context, c *Controller, id auth.Identity, action, name string) (string, error) {
	if !id.May(makeService) {
		return "", c.deny(ctx, id, action, name, makeService)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s, err := k.find(c, id, name)
	if err != nil {
		return "", err
	}
	return s.label().id, nil
}

// made shows what was just stored.
func (k *kept[S, V]) made(c *Controller, list []S) ([]V, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]V, 0, len(list))
	for _, s := range list {
		if now, ok := k.all(c.taps)[s.label().id]; ok {
			out = append(out, k.show(c, now))
		}
	}
	if len(out) != len(list) {
		return nil, fault.New(fault.Conflict, "somebody deleted it at once")
	}
	return out, nil
}

// of counts a project's. c.mu is held.
func (k *kept[S, V]) of(c *Controller, project string) int {
	return c.taps.counts[counted{k.prefix, project}]
}

func byAge(a, b time.Time, ida, idb string) int {
	if c := a.Compare(b); c != 0 {
		return c
	}
	return strings.Compare(ida, idb)
}
