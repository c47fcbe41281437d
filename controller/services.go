package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/tap"
)

func noService(id string) error {
	return refused(fault.NotFound, &tap.Refusal{Cause: tap.NoService, ID: id}, "no tap service has the id or name "+strconv.Quote(id), "list the services to see their ids")
}

// CreateTapServices makes services, all of them or none. A project left out is the caller's. Their status says DOWN until the
// node of their port has told otherwise.
func (c *Controller) CreateTapServices(ctx context.Context, id auth.Identity, list []tap.Service) ([]tap.ServiceView, error) {
	if !id.May(makeService) {
		return nil, c.deny(ctx, id, "tap.service.create", "", makeService)
	}
	if err := c.refusedForRoom(); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Round(0)
	made := make([]*storedService, len(list))
	for i, s := range list {
		project, err := projectFor(id, s.Project)
		if err != nil {
			return nil, err
		}
		if err := errors.Join(wrong(s.Check()), checkExpiry(s.Options.Expires, now)); err != nil {
			return nil, err
		}
		s.ID, s.Project, s.PortID, s.Owner, s.Created = newUUID(), project, strings.ToLower(s.PortID), id.Name, now.Add(time.Duration(i))
		made[i] = &storedService{Service: s, Admin: id.May(auth.Administer) && project == id.Project}
	}
	acts := make([]act, len(made))
	for i, s := range made {
		acts[i] = act{action: "tap.service.create", object: s.Service.ID, project: s.Service.Project, details: map[string]string{"name": s.Service.Name, "port": s.Service.PortID}}
	}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		var compares []store.Compare
		var ops []store.Op
		next, err := c.tunnelsFor(ctx, made)
		if err != nil {
			return nil, nil, err
		}
		compares = append(compares, next.compare)
		ops = append(ops, next.op)
		for _, s := range made {
			p, err := c.usablePort(id, "port_id", s.Service.PortID, s.Service.Project)
			if err != nil {
				return nil, nil, err
			}
			if err := quota("tap_service", keptServices.of(c, s.Service.Project), len(made), c.cfg.Taps.Services); err != nil {
				return nil, nil, err
			}
			if d := c.taps.declared[p.ID]; s.Service.Options.Device && (d == nil || !d.Bind || d.Port.Node == "" || deviceToMake(&d.Port) == "") {
				return nil, nil, fault.Field("tap_device", "a device is made for a port that was declared with the node where it shall be, and a name that a device can have")
			}
			value, err := json.Marshal(s)
			if err != nil {
				return nil, nil, err
			}
			compares = append(append(compares, c.unchangedPort(p.ID)...), store.Absent(servicePrefix+s.Service.ID), store.Absent(tunnelKey(s.Service.TunnelID)))
			ops = append(ops, store.Put(servicePrefix+s.Service.ID, value), store.Put(tunnelKey(s.Service.TunnelID), []byte(s.Service.ID)))
		}
		compares = distinct(compares)
		return compares, ops, bulkFits(compares, ops)
	})
	if err != nil {
		return nil, err
	}
	return keptServices.made(c, made)
}

func tunnelKey(id uint32) string { return fmt.Sprintf("%s%06x", tunnelPrefix, id) }

// tunnelStep is where the search for free tunnel ids goes on after this change.
type tunnelStep struct {
	compare store.Compare
	op      store.Op
}

// tunnelsFor picks tunnel ids for new services. They are handed out in turn, so that an id which is free again comes to
// another service only after all others: copies that a node away from its controller still sends then meet nobody.
// c.mu is held; it is let go while the store is read.
func (c *Controller) tunnelsFor(ctx context.Context, made []*storedService) (tunnelStep, error) {
	c.mu.Unlock()
	kv, err := c.store.Get(ctx, tunnelNext)
	c.mu.Lock()
	step := tunnelStep{compare: store.Absent(tunnelNext)}
	next := uint64(reservedTunnel) + 1
	switch {
	case err == nil:
		step.compare = store.Unchanged(kv)
		if n, err := strconv.ParseUint(string(kv.Value), 10, 32); err == nil && n > reservedTunnel && n < tunnelsMax {
			next = n
		}
	case !errors.Is(err, store.ErrNotFound):
		return step, storeFault(err)
	}
	if len(c.taps.tunnels)+len(made) > tunnelsMax-1 {
		return step, refused(fault.Exhausted, &tap.Refusal{Cause: tap.NoTunnelLeft}, "all tunnel ids are in use", "delete services that are no longer needed")
	}
	for _, s := range made {
		for c.taps.tunnels[uint32(next)] != "" {
			next = after(next)
		}
		s.Service.TunnelID = uint32(next)
		next = after(next)
	}
	step.op = store.Put(tunnelNext, []byte(strconv.FormatUint(next, 10)))
	return step, nil
}

func after(n uint64) uint64 {
	if n++; n >= tunnelsMax {
		n = reservedTunnel + 1
	}
	return n
}

// distinct drops conditions that are there twice.
func distinct(list []store.Compare) []store.Compare {
	out := list[:0]
	for _, x := range list {
		if !slices.Contains(out, x) {
			out = append(out, x)
		}
	}
	return out
}

// bulkFits refuses more at once than one transaction holds.
func bulkFits(compares []store.Compare, ops []store.Op) error {
	if len(compares) > store.MaxTxnOps || len(ops) > store.MaxTxnOps {
		return fault.New(fault.Invalid, "so many cannot be made at once, all of them or none; make fewer than %d at a time", store.MaxTxnOps/3)
	}
	return nil
}

// TapServices lists the services that the caller may see, the oldest first.
func (c *Controller) TapServices(ctx context.Context, id auth.Identity) ([]tap.ServiceView, error) {
	return keptServices.list(ctx, c, id)
}

// TapService shows one service, by id; with names, also by a name that only one has.
func (c *Controller) TapService(ctx context.Context, id auth.Identity, name string) (tap.ServiceView, error) {
	return keptServices.one(ctx, c, id, name)
}

// UpdateTapService changes a service.
func (c *Controller) UpdateTapService(ctx context.Context, id auth.Identity, name string, ch tap.Change) (tap.ServiceView, error) {
	if !id.May(makeService) {
		return tap.ServiceView{}, c.deny(ctx, id, "tap.service.update", name, makeService)
	}
	var sid string
	acts := []act{{action: "tap.service.update"}}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		s, err := keptServices.find(c, id, name)
		if err != nil {
			return nil, nil, err
		}
		sid = s.Service.ID
		if err := c.mayChange(ctx, id, s.Admin, ch, acts, sid, s.Service.Project); err != nil {
			return nil, nil, err
		}
		n := *s
		changeTexts(ch, &n.Service.Name, &n.Service.Description)
		if ch.Options != nil {
			if n.Service.Options = *ch.Options; !ch.Options.Expires.Equal(s.Service.Options.Expires) {
				if err := checkExpiry(ch.Options.Expires, time.Now()); err != nil {
					return nil, nil, err
				}
			}
			if ch.Options.Device != s.Service.Options.Device {
				return nil, nil, fault.Field("tap_device", "cannot be changed; make another service")
			}
		}
		if err := wrong(n.Service.Check()); err != nil {
			return nil, nil, err
		}
		if n.Service == s.Service {
			return nil, nil, nil
		}
		value, err := json.Marshal(&n)
		return []store.Compare{{Key: servicePrefix + sid, ModRevision: s.rev}}, []store.Op{store.Put(servicePrefix+sid, value)}, err
	})
	if err != nil {
		return tap.ServiceView{}, err
	}
	return c.TapService(ctx, id, sid)
}

func changeTexts(ch tap.Change, name, description *string) {
	if ch.Name != nil {
		*name = *ch.Name
	}
	if ch.Description != nil {
		*description = *ch.Description
	}
}

// DeleteTapService deletes a service together with its flows.
func (c *Controller) DeleteTapService(ctx context.Context, id auth.Identity, name string) error {
	const action = "tap.service.delete"
	found, err := keptServices.idOf(ctx, c, id, action, name)
	if err != nil {
		return err
	}
	return c.removeService(ctx, id, found, action)
}

// removeService deletes a service and then its flows. No flow can be made for it once it is gone, so that those which are
// known then are all.
func (c *Controller) removeService(ctx context.Context, id auth.Identity, sid, action string) error {
	acts := []act{{action: action, object: sid}}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		s := c.taps.services[sid]
		if s == nil {
			if len(acts) == 0 {
				return nil, nil, nil // somebody else was quicker
			}
			return nil, nil, noService(sid)
		}
		if len(acts) > 0 {
			acts[0].project, acts[0].details = s.Service.Project, map[string]string{"name": s.Service.Name, "flows": strconv.Itoa(len(c.taps.flowsTo[sid]))}
		}
		ops := []store.Op{store.Delete(servicePrefix + sid), store.Delete(tunnelKey(s.Service.TunnelID))}
		for f := range c.taps.flowsTo[sid] {
			if len(ops) < store.MaxTxnOps {
				ops = append(ops, store.Delete(flowPrefix+f))
			}
		}
		return []store.Compare{{Key: servicePrefix + sid, ModRevision: s.rev}}, ops, nil
	})
	if err != nil {
		return err
	}
	return c.removeOrphans(ctx, func() []string { return keysOf(c.taps.flowsTo[sid], flowPrefix) })
}

func keysOf(m ids, prefix string) []string {
	var out []string
	for id := range m {
		if len(out) < store.MaxTxnOps {
			out = append(out, prefix+id)
		}
	}
	return out
}

// removeOrphans deletes keys until list, which is called with c.mu held, names no more.
func (c *Controller) removeOrphans(ctx context.Context, list func() []string) error {
	for {
		c.mu.Lock()
		keys := list()
		c.mu.Unlock()
		if len(keys) == 0 {
			return nil
		}
		ops := make([]store.Op, len(keys))
		for i, k := range keys {
			ops[i] = store.Delete(k)
		}
		rev, err := c.store.Txn(ctx, nil, ops)
		if err != nil {
			return storeFault(err)
		}
		if err := c.await(ctx, func() bool { return c.revision >= rev }); err != nil {
			return err
		}
	}
}
