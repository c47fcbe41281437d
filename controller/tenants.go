package controller

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode"

	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/store"
	"opentap/want"
)

// projectPrefix is where projects are stored: <name, in hexadecimal>.
const projectPrefix = "project/"

// Bounds of a project.
const (
	maxProjects      = 10_000
	maxProjectPoints = 1000
)

func projectKey(name string) string { return projectPrefix + hex.EncodeToString([]byte(name)) }

// followProjects keeps the projects known until ctx ends.
func (c *Controller) followProjects(ctx context.Context) {
	for ctx.Err() == nil {
		if err := c.followProjectsOnce(ctx); err != nil && ctx.Err() == nil {
			c.log.Warn("lost the changes of projects; listing again", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
			}
		}
	}
}

func (c *Controller) followProjectsOnce(ctx context.Context) error {
	kvs, rev, err := c.store.List(ctx, projectPrefix)
	if err != nil {
		return err
	}
	fresh := make(map[string]want.Project, len(kvs))
	for _, kv := range kvs {
		c.applyProject(fresh, store.Event{KV: kv})
	}
	c.mu.Lock()
	c.projects = fresh
	c.tell()
	c.mu.Unlock()
	c.projectsChanged()
	for b := range c.store.Watch(ctx, projectPrefix, rev+1) {
		if b.Err != nil {
			return b.Err
		}
		c.mu.Lock()
		for _, e := range b.Events {
			c.applyProject(c.projects, e)
		}
		c.tell()
		c.mu.Unlock()
		c.projectsChanged()
	}
	return ctx.Err()
}

// applyProject takes over a change. One that cannot be read sees nothing, rather than more than it should.
func (c *Controller) applyProject(all map[string]want.Project, e store.Event) {
	b, err := hex.DecodeString(strings.TrimPrefix(e.Key, projectPrefix))
	if err != nil {
		c.log.Error("the store holds a project whose name cannot be read", "key", e.Key)
		return
	}
	name := string(b)
	if e.Deleted {
		delete(all, name)
		return
	}
	var p want.Project
	if err := json.Unmarshal(e.Value, &p); err != nil || p.Name != name {
		c.log.Error("the store holds a project that cannot be read; it sees nothing", "project", name, "err", err)
		p = want.Project{Name: name}
	}
	p.Origin = want.FromAPI
	all[name] = p
}

// project returns what was declared about a project; the configuration's word counts before that of the API. c.mu is held.
func (c *Controller) project(name string) (want.Project, bool) {
	for _, p := range c.cfg.Projects {
		if p.Name == name {
			p.Origin = want.FromConfiguration
			return p, true
		}
	}
	p, ok := c.projects[name]
	return p, ok
}

// restricted returns what a caller may see, or ok = false when that is everything: an administrator, and the default project
// unless something was declared about it; and all others as long as no project was declared at all. c.mu is held.
func (c *Controller) restricted(id auth.Identity) (p want.Project, ok bool) {
	if id.May(auth.Administer) {
		return p, false
	}
	p, ok = c.project(id.Project)
	switch {
	case ok && id.Project == auth.DefaultProject && len(p.Points) == 0:
		return p, false // it has quotas, and sees all
	case ok:
		return p, true
	case id.Project == auth.DefaultProject:
		return p, false
	}
	return want.Project{Name: id.Project}, len(c.cfg.Projects)+len(c.projects) > 0
}

// matchPoint reports whether a pattern means a text: * is any run of characters, and everything else is itself.
func matchPoint(pattern, s string) bool {
	head, rest, star := strings.Cut(pattern, "*")
	if !star {
		return pattern == s
	}
	if !strings.HasPrefix(s, head) {
		return false
	}
	s = s[len(head):]
	for {
		part, more, star := strings.Cut(rest, "*")
		if !star {
			return strings.HasSuffix(s, part)
		}
		i := strings.Index(s, part)
		if i < 0 {
			return false
		}
		s, rest = s[i+len(part):], more
	}
}

// seesPoint reports whether a restricted project sees a point: by its patterns, or because the device is a port of its own.
// c.mu is held.
func (c *Controller) seesPoint(p *want.Project, nodeID string, at *point.Point) bool {
	name := at.Node + "/" + at.Name
	if slices.ContainsFunc(p.Points, func(pattern string) bool { return matchPoint(pattern, name) }) {
		return true
	}
	if at.Kind != point.Netdev {
		return false
	}
	port := c.taps.port(c.taps.owners[nodeID][at.Name])
	return port != nil && port.Project != "" && port.Project == p.Name
}

// setFor resolves names among the points that a caller sees.
func (c *Controller) setFor(id auth.Identity) *point.Set {
	c.mu.Lock()
	p, narrow := c.restricted(id)
	if !narrow {
		c.mu.Unlock()
		return c.set()
	}
	defer c.mu.Unlock()
	var out []point.Point
	for nodeID, n := range c.nodes {
		for _, at := range n.points {
			if c.seesPoint(&p, nodeID, &at) {
				at.Present = at.Present && n.connected
				out = append(out, at)
			}
		}
	}
	sortPoints(out)
	return point.NewSet(out, c.cfg.Aliases, c.cfg.DefaultPoint)
}

// nodesFor shows the nodes that a caller sees: to a restricted one those with a point of his, and of these no more than that
// they are there. c.mu is held.
func (c *Controller) nodesFor(id auth.Identity) []want.Node {
	p, narrow := c.restricted(id)
	if !narrow {
		return c.nodeList()
	}
	out := []want.Node{}
	for nodeID, n := range c.nodes {
		if slices.ContainsFunc(n.points, func(at point.Point) bool { return c.seesPoint(&p, nodeID, &at) }) {
			out = append(out, want.Node{Name: n.id.NodeName, ID: nodeID, Version: n.id.Version, Connected: n.connected, Since: n.since, Revision: n.revision})
		}
	}
	slices.SortFunc(out, byName)
	return out
}

// eventsFor are the next events of which a caller sees something.
func (c *Controller) eventsFor(ctx context.Context, id auth.Identity, l *listener) ([]want.Event, error) {
	for {
		events, err := c.nextEvents(ctx, id, l)
		if err != nil || len(events) == 0 {
			return events, err
		}
		if events = c.narrow(id, events); len(events) > 0 {
			return events, nil
		}
	}
}

// narrow leaves in events what a caller sees of points, nodes and rates.
func (c *Controller) narrow(id auth.Identity, events []want.Event) []want.Event {
	c.mu.Lock()
	_, narrow := c.restricted(id)
	nodes := []want.Node(nil)
	if narrow {
		nodes = c.nodesFor(id)
	}
	c.mu.Unlock()
	if !narrow {
		return events
	}
	points := c.setFor(id).Points()
	sees := make(map[[2]string]bool, len(points))
	for _, p := range points {
		sees[[2]string{p.Node, p.Name}] = true
	}
	out := make([]want.Event, 0, len(events))
	for _, e := range events {
		switch e.Name {
		case want.EventBegin, want.EventCaptures: // cut for the project already
		case want.EventPoints:
			e.Data = marshal(map[string]any{"points": append([]point.Point{}, points...)})
		case want.EventNodes:
			e.Data = marshal(want.NodesChanged{Nodes: nodes})
		case want.EventRates:
			var r want.Rates
			if json.Unmarshal(e.Data, &r) != nil {
				continue
			}
			r.Rates = slices.DeleteFunc(r.Rates, func(x want.Rate) bool { return !sees[[2]string{x.Node, x.Point}] })
			e.Data = marshal(r)
		default: // what was added without a thought of tenants is not for them
			continue
		}
		out = append(out, e)
	}
	return out
}

// limits are what holds for a project.
func (c *Controller) limits(project string) (l want.ProjectRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, _ := c.project(project)
	l = p.ProjectRequest
	if l.Captures == 0 {
		l.Captures = c.cfg.CapturesMax
	}
	l.MaxDuration = tighter(l.MaxDuration, c.cfg.DurationMax)
	l.MaxRetain = tighter(l.MaxRetain, c.cfg.RetentionMax)
	return l
}

// tighter is the lesser of two bounds; 0 = none.
func tighter(own want.Duration, all time.Duration) want.Duration {
	if own == 0 || all > 0 && time.Duration(own) > all {
		return want.Duration(all)
	}
	return own
}

// used counts what a project has. c.mu is held.
func (c *Controller) used(project string) (u want.Usage) {
	for uid, e := range c.captures {
		if e.Capture.Project != project {
			continue
		}
		u.Captures++
		st := c.status[uid]
		if e.Final != nil {
			st = *e.Final
		}
		u.Bytes += int64(st.Bytes)
	}
	return u
}

// Tenants lists the projects that were declared; who may not administer sees his own.
func (c *Controller) Tenants(ctx context.Context, id auth.Identity) ([]want.Project, error) {
	if !id.May(auth.SeeMetadata) {
		return nil, c.refuse(ctx, id, "project.list", "", auth.SeeMetadata)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	names := make(map[string]bool)
	for _, p := range c.cfg.Projects {
		names[p.Name] = true
	}
	for name := range c.projects {
		names[name] = true
	}
	names[auth.DefaultProject] = true
	out := []want.Project{}
	for name := range names {
		if id.Project == name || id.May(auth.Administer) {
			out = append(out, c.projectView(name))
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// projectView shows a project. c.mu is held.
func (c *Controller) projectView(name string) want.Project {
	p, ok := c.project(name)
	if !ok {
		p = want.Project{Name: name, Origin: want.FromConfiguration}
	}
	p.Used = c.used(name)
	return p
}

// Tenant shows a project.
func (c *Controller) Tenant(ctx context.Context, id auth.Identity, name string) (want.Project, error) {
	list, err := c.Tenants(ctx, id)
	if err != nil {
		return want.Project{}, err
	}
	for _, p := range list {
		if p.Name == name {
			return p, nil
		}
	}
	return want.Project{}, noProject(name)
}

func noProject(name string) error {
	return &fault.Error{Kind: fault.NotFound, Msg: "no project " + strconv.Quote(name), Hint: "list the projects to see their names"}
}

// CheckProject finds what makes no sense in a project.
func CheckProject(name string, r *want.ProjectRequest) error {
	if name == "" || len(name) > 64 || strings.TrimSpace(name) != name {
		return fault.Field("name", "a project's name has 1 to 64 octets and no space around")
	}
	for _, ch := range name {
		if !unicode.IsPrint(ch) || ch == unicode.ReplacementChar || ch == '/' {
			return fault.Field("name", "character %U is not allowed in a project's name", ch)
		}
	}
	if len(r.Points) > maxProjectPoints {
		return fault.Field("points", "names %d points, at most %d are taken; use patterns", len(r.Points), maxProjectPoints)
	}
	for _, p := range r.Points {
		if !strings.Contains(p, "/") || len(p) > point.MaxName {
			return fault.Field("points", "%.80q is not node/name; * stands for any characters, as in */tap-*", p)
		}
	}
	if len(r.Description) > 1000 {
		return fault.Field("description", "is longer than 1000 octets")
	}
	if r.Captures < 0 || r.Bytes < 0 || r.MaxDuration < 0 || r.MaxRetain < 0 {
		return fault.New(fault.Invalid, "a bound cannot be negative")
	}
	return nil
}

// SetTenant declares a project, or declares it otherwise. created says which.
func (c *Controller) SetTenant(ctx context.Context, id auth.Identity, name string, r want.ProjectRequest) (v want.Project, created bool, err error) {
	if !id.May(auth.Administer) {
		return v, false, c.refuse(ctx, id, "project.set", name, auth.Administer)
	}
	if err := CheckProject(name, &r); err != nil {
		return v, false, err
	}
	if err := c.refusedForRoom(); err != nil {
		return v, false, err
	}
	c.mu.Lock()
	old, have := c.project(name)
	many := len(c.projects) >= maxProjects
	c.mu.Unlock()
	switch {
	case have && old.Origin == want.FromConfiguration:
		return v, false, ofTheFile(name)
	case !have && many:
		return v, false, fault.New(fault.Exhausted, "there are %d projects, as many as there may be", maxProjects)
	}
	if err := c.record(ctx, id, "project.set", name, name, map[string]string{
		"points": strings.Join(r.Points, ","), "captures": strconv.Itoa(r.Captures), "bytes": strconv.FormatInt(r.Bytes, 10),
	}); err != nil {
		return v, false, err
	}
	p := want.Project{Name: name, ProjectRequest: r, Changed: time.Now().UTC().Round(0), By: id.Name}
	value, err := json.Marshal(p)
	if err != nil {
		return v, false, err
	}
	if _, err := c.store.Txn(ctx, nil, []store.Op{store.Put(projectKey(name), value)}); err != nil {
		return v, false, storeFault(err)
	}
	err = c.await(ctx, func() bool { got, ok := c.projects[name]; return ok && got.Changed.Equal(p.Changed) && got.By == p.By })
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.projectView(name), !have, err
}

func ofTheFile(name string) error {
	return &fault.Error{Kind: fault.Conflict, Msg: "the project " + name + " is that of the configuration file", Hint: "change it there"}
}

// DeleteTenant forgets a project that has nothing any more.
func (c *Controller) DeleteTenant(ctx context.Context, id auth.Identity, name string) error {
	if !id.May(auth.Administer) {
		return c.refuse(ctx, id, "project.delete", name, auth.Administer)
	}
	c.mu.Lock()
	p, ok := c.project(name)
	has := c.used(name).Captures
	for _, s := range c.taps.services {
		if s.Service.Project == name {
			has++
		}
	}
	c.mu.Unlock()
	switch {
	case !ok:
		return noProject(name)
	case p.Origin == want.FromConfiguration:
		return ofTheFile(name)
	case has > 0:
		return &fault.Error{Kind: fault.Conflict, Msg: "the project has " + strconv.Itoa(has) + " captures and tap services", Hint: "delete them first"}
	}
	if c.keys != nil {
		tokens, err := c.keys.Tokens(ctx, id)
		if err != nil {
			return err
		}
		for _, t := range tokens {
			if t.Project == name && t.Revoked.IsZero() && (t.Expires.IsZero() || time.Now().Before(t.Expires)) {
				return &fault.Error{Kind: fault.Conflict, Msg: "the token " + t.Name + " is of this project", Hint: "revoke its tokens first"}
			}
		}
	}
	if err := c.record(ctx, id, "project.delete", name, name, nil); err != nil {
		return err
	}
	rev, err := c.store.Txn(ctx, nil, []store.Op{store.Delete(projectKey(name))})
	if errors.Is(err, store.ErrNotFound) || rev == 0 && err == nil {
		return noProject(name)
	}
	if err != nil {
		return storeFault(err)
	}
	return c.await(ctx, func() bool { _, ok := c.projects[name]; return !ok })
}
