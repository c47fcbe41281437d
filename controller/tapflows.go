package controller

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/tap"
)

func noFlow(id string) error {
	return refused(fault.NotFound, &tap.Refusal{Cause: tap.NoFlow, ID: id}, "no tap flow has the id or name "+strconv.Quote(id), "list the flows to see their ids")
}

// CreateTapFlows makes flows, all of them or none. Both ends must be of the flow's project.
func (c *Controller) CreateTapFlows(ctx context.Context, id auth.Identity, list []tap.Flow) ([]tap.FlowView, error) {
	if !id.May(makeTap) {
		return nil, c.deny(ctx, id, "tap.flow.create", "", makeTap)
	}
	if err := c.refusedForRoom(); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Round(0)
	made := make([]*storedFlow, len(list))
	acts := make([]act, len(list))
	for i, f := range list {
		project, err := projectFor(id, f.Project)
		if err != nil {
			return nil, err
		}
		if err := c.checkFlow(&f, now); err != nil {
			return nil, err
		}
		f.ID, f.Project, f.Owner, f.Created = newUUID(), project, id.Name, now.Add(time.Duration(i))
		f.PortID, f.ServiceID = strings.ToLower(f.PortID), strings.ToLower(f.ServiceID)
		made[i] = &storedFlow{Flow: f, Admin: id.May(auth.Administer) && project == id.Project}
		acts[i] = act{action: "tap.flow.create", object: f.ID, project: project, details: map[string]string{
			"name": f.Name, "source_port": f.PortID, "service": f.ServiceID, "direction": string(f.Direction), "filter": f.Options.Filter, "vlans": f.Options.VLANs,
		}}
	}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		var compares []store.Compare
		var ops []store.Op
		for _, f := range made {
			need, err := c.mayFlow(id, &f.Flow)
			if err != nil {
				return nil, nil, err
			}
			if err := quota("tap_flow", keptFlows.of(c, f.Flow.Project), len(made), c.cfg.Taps.Flows); err != nil {
				return nil, nil, err
			}
			value, err := json.Marshal(f)
			if err != nil {
				return nil, nil, err
			}
			compares = append(append(compares, need...), store.Absent(flowPrefix+f.Flow.ID))
			ops = append(ops, store.Put(flowPrefix+f.Flow.ID, value))
		}
		compares = distinct(compares)
		return compares, ops, bulkFits(compares, ops)
	})
	if err != nil {
		return nil, err
	}
	return keptFlows.made(c, made)
}

func (c *Controller) checkFlow(f *tap.Flow, now time.Time) error {
	if err := errors.Join(wrong(f.Check()), checkExpiry(f.Options.Expires, now)); err != nil {
		return err
	}
	return compilable(f.Options.Filter)
}

// compilable refuses a filter that can be read and not be made a program.
func compilable(text string) error {
	if text == "" {
		return nil
	}
	_, err := parseFilter(text, false)
	return err
}

// mayFlow authorises both ends of a flow, and returns the conditions under which that stays true. c.mu is held.
func (c *Controller) mayFlow(id auth.Identity, f *tap.Flow) ([]store.Compare, error) {
	s := c.taps.services[f.ServiceID]
	if s == nil || !mine(id, s.Service.Project) {
		return nil, noService(f.ServiceID)
	}
	src, err := c.usablePort(id, "source_port", f.PortID, f.Project)
	if err != nil {
		return nil, err
	}
	if s.Service.Project != f.Project {
		r := &tap.Refusal{Cause: tap.ServiceOfOther, ID: s.Service.ID, Field: "tap_service_id"}
		return nil, refused(fault.Forbidden, r, "the service belongs to another project than the flow", "make the flow for the project "+s.Service.Project)
	}
	if why := c.taps.serviceRefused(s); c.taps.port(s.Service.PortID) != nil && (why != "" || c.taps.port(s.Service.PortID).Project != src.Project) {
		r := &tap.Refusal{Cause: tap.PortOfOther, ID: s.Service.PortID, Field: "tap_service_id"}
		return nil, refused(fault.Forbidden, r, "the source port and the service's port belong to different projects", "")
	}
	if s.Service.PortID == src.ID {
		return nil, fault.Field("source_port", "is the service's own port: its copies would be copied")
	}
	if err := c.carriable(f, id.May(auth.Administer) && f.Project == id.Project); err != nil {
		return nil, err
	}
	need := append(c.unchangedPort(src.ID), c.unchangedPort(s.Service.PortID)...)
	return append(need, store.Compare{Key: servicePrefix + s.Service.ID, ModRevision: s.rev}), nil
}

// TapFlows lists the flows that the caller may see, the oldest first.
func (c *Controller) TapFlows(ctx context.Context, id auth.Identity) ([]tap.FlowView, error) {
	return keptFlows.list(ctx, c, id)
}

// TapFlow shows one flow.
func (c *Controller) TapFlow(ctx context.Context, id auth.Identity, name string) (tap.FlowView, error) {
	return keptFlows.one(ctx, c, id, name)
}

// UpdateTapFlow changes a flow.
func (c *Controller) UpdateTapFlow(ctx context.Context, id auth.Identity, name string, ch tap.Change) (tap.FlowView, error) {
	if !id.May(makeTap) {
		return tap.FlowView{}, c.deny(ctx, id, "tap.flow.update", name, makeTap)
	}
	var fid string
	acts := []act{{action: "tap.flow.update"}}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		f, err := keptFlows.find(c, id, name)
		if err != nil {
			return nil, nil, err
		}
		fid = f.Flow.ID
		if err := c.mayChange(ctx, id, f.Admin, ch, acts, fid, f.Flow.Project); err != nil {
			return nil, nil, err
		}
		n := storedFlow{Flow: f.Flow, Admin: f.Admin}
		changeTexts(ch, &n.Flow.Name, &n.Flow.Description)
		now := time.Time{}
		if ch.Options != nil {
			if n.Flow.Options = *ch.Options; !ch.Options.Expires.Equal(f.Flow.Options.Expires) {
				now = time.Now()
			}
		}
		if err := c.checkFlow(&n.Flow, now); err != nil {
			return nil, nil, err
		}
		if n.Flow == f.Flow {
			return nil, nil, nil
		}
		if err := c.carriable(&n.Flow, n.Admin); err != nil {
			return nil, nil, err
		}
		value, err := json.Marshal(&n)
		return []store.Compare{{Key: flowPrefix + fid, ModRevision: f.rev}}, []store.Op{store.Put(flowPrefix+fid, value)}, err
	})
	if err != nil {
		return tap.FlowView{}, err
	}
	return c.TapFlow(ctx, id, fid)
}

// DeleteTapFlow deletes a flow.
func (c *Controller) DeleteTapFlow(ctx context.Context, id auth.Identity, name string) error {
	const action = "tap.flow.delete"
	found, err := keptFlows.idOf(ctx, c, id, action, name)
	if err != nil {
		return err
	}
	return c.removeFlow(ctx, id, found, action)
}

func (c *Controller) removeFlow(ctx context.Context, id auth.Identity, fid, action string) error {
	acts := []act{{action: action, object: fid}}
	return c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		f := c.taps.flows[fid]
		if f == nil {
			if len(acts) == 0 {
				return nil, nil, nil
			}
			return nil, nil, noFlow(fid)
		}
		about(acts, fid, f.Flow.Project)
		return []store.Compare{{Key: flowPrefix + fid, ModRevision: f.rev}}, []store.Op{store.Delete(flowPrefix + fid)}, nil
	})
}
