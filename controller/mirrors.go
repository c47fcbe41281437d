package controller

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/store"
	"opentap/tap"
)

func noMirror(id string) error {
	return refused(fault.NotFound, &tap.Refusal{Cause: tap.NoMirror, ID: id}, "no tap mirror has the id or name "+strconv.Quote(id), "list the mirrors to see their ids")
}

func mirrorKey(tunnel uint32) string { return keyPrefix + strconv.FormatUint(uint64(tunnel), 10) }

// CreateTapMirrors makes mirrors, all of them or none. A tunnel id is used by one mirror only, whoever's it is.
func (c *Controller) CreateTapMirrors(ctx context.Context, id auth.Identity, list []tap.Mirror) ([]tap.MirrorView, error) {
	if !id.May(makeTap) {
		return nil, c.deny(ctx, id, "tap.mirror.create", "", makeTap)
	}
	if err := c.refusedForRoom(); err != nil {
		return nil, err
	}
	now := time.Now().UTC().Round(0)
	made := make([]*storedMirror, len(list))
	acts := make([]act, len(list))
	for i, m := range list {
		project, err := projectFor(id, m.Project)
		if err != nil {
			return nil, err
		}
		if err := c.checkMirror(&m, now); err != nil {
			return nil, err
		}
		m.ID, m.Project, m.PortID, m.Owner, m.Created = newUUID(), project, strings.ToLower(m.PortID), id.Name, now.Add(time.Duration(i))
		made[i] = &storedMirror{Mirror: m, Admin: id.May(auth.Administer) && project == id.Project}
		acts[i] = act{action: "tap.mirror.create", object: m.ID, project: project, details: map[string]string{
			"name": m.Name, "port": m.PortID, "remote_ip": m.Remote.String(), "type": string(m.Type), "filter": m.Options.Filter,
		}}
	}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		var compares []store.Compare
		var ops []store.Op
		taken := make(map[uint32]bool)
		for _, m := range c.taps.mirrors {
			for _, t := range m.Mirror.Directions {
				taken[t] = true
			}
		}
		for _, m := range made {
			p, err := c.usablePort(id, "port_id", m.Mirror.PortID, m.Mirror.Project)
			if err != nil {
				return nil, nil, err
			}
			if err := c.mayReach(id, m); err != nil {
				return nil, nil, err
			}
			if err := c.leavesByTunnel(p.ID); err != nil {
				return nil, nil, err
			}
			if err := quota("tap_mirror", keptMirrors.of(c, m.Mirror.Project), len(made), c.cfg.Taps.Mirrors); err != nil {
				return nil, nil, err
			}
			value, err := json.Marshal(m)
			if err != nil {
				return nil, nil, err
			}
			compares = append(append(compares, c.unchangedPort(p.ID)...), store.Absent(mirrorPrefix+m.Mirror.ID))
			ops = append(ops, store.Put(mirrorPrefix+m.Mirror.ID, value))
			for _, d := range sortedDirections(m.Mirror.Directions) {
				t := m.Mirror.Directions[d]
				if taken[t] {
					r := &tap.Refusal{Cause: tap.TunnelTaken, Field: "directions", Value: t}
					return nil, nil, refused(fault.Conflict, r, "a mirror has the tunnel id "+strconv.FormatUint(uint64(t), 10)+" already", "choose another one")
				}
				taken[t] = true
				compares = append(compares, store.Absent(mirrorKey(t)))
				ops = append(ops, store.Put(mirrorKey(t), []byte(m.Mirror.ID)))
			}
		}
		compares = distinct(compares)
		return compares, ops, bulkFits(compares, ops)
	})
	if err != nil {
		return nil, err
	}
	return keptMirrors.made(c, made)
}

// mayReach refuses destinations that a mirror must not have: its packets leave from a node's own address, into networks that
// its project may not be in. c.mu is held.
func (c *Controller) mayReach(id auth.Identity, m *storedMirror) error {
	a := m.Mirror.Remote
	bad := func(why, hint string) error {
		r := &tap.Refusal{Cause: tap.BadAddress, Field: "remote_ip", Value: a.String()}
		return refused(fault.Invalid, r, a.String()+" "+why, hint)
	}
	switch inside := slices.ContainsFunc(c.cfg.MirrorTo, func(p netip.Prefix) bool { return p.Contains(a) }); {
	case a.IsLoopback() || a.IsLinkLocalUnicast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return bad("is not an address of another host", "")
	case id.May(auth.Administer):
		return nil
	case len(c.cfg.MirrorTo) > 0 && !inside:
		return bad("is in none of the networks that mirrors may send to", "an administrator names them in taps.mirror_to")
	}
	if why := c.taps.mirrorRefused(m); why != "" {
		return bad("is refused: "+why, "use a tap service, whose copies a node takes for its own project alone")
	}
	return nil
}

func sortedDirections(m map[tap.Direction]uint32) []tap.Direction {
	var out []tap.Direction
	for _, d := range []tap.Direction{tap.In, tap.Out, tap.Both} {
		if _, ok := m[d]; ok {
			out = append(out, d)
		}
	}
	return out
}

func (c *Controller) checkMirror(m *tap.Mirror, now time.Time) error {
	if err := errors.Join(wrong(m.Check()), checkExpiry(m.Options.Expires, now)); err != nil {
		return err
	}
	return compilable(m.Options.Filter)
}

// TapMirrors lists the mirrors that the caller may see, the oldest first.
func (c *Controller) TapMirrors(ctx context.Context, id auth.Identity) ([]tap.MirrorView, error) {
	return keptMirrors.list(ctx, c, id)
}

// TapMirror shows one mirror.
func (c *Controller) TapMirror(ctx context.Context, id auth.Identity, name string) (tap.MirrorView, error) {
	return keptMirrors.one(ctx, c, id, name)
}

// UpdateTapMirror changes a mirror.
func (c *Controller) UpdateTapMirror(ctx context.Context, id auth.Identity, name string, ch tap.Change) (tap.MirrorView, error) {
	if !id.May(makeTap) {
		return tap.MirrorView{}, c.deny(ctx, id, "tap.mirror.update", name, makeTap)
	}
	var mid string
	acts := []act{{action: "tap.mirror.update"}}
	err := c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		m, err := keptMirrors.find(c, id, name)
		if err != nil {
			return nil, nil, err
		}
		mid = m.Mirror.ID
		if err := c.mayChange(ctx, id, m.Admin, ch, acts, mid, m.Mirror.Project); err != nil {
			return nil, nil, err
		}
		n := storedMirror{Mirror: m.Mirror, Admin: m.Admin}
		changeTexts(ch, &n.Mirror.Name, &n.Mirror.Description)
		now := time.Time{}
		if ch.Options != nil {
			if n.Mirror.Options = *ch.Options; !ch.Options.Expires.Equal(m.Mirror.Options.Expires) {
				now = time.Now()
			}
		}
		if err := c.checkMirror(&n.Mirror, now); err != nil {
			return nil, nil, err
		}
		if reflect.DeepEqual(n.Mirror, m.Mirror) {
			return nil, nil, nil
		}
		value, err := json.Marshal(&n)
		return []store.Compare{{Key: mirrorPrefix + mid, ModRevision: m.rev}}, []store.Op{store.Put(mirrorPrefix+mid, value)}, err
	})
	if err != nil {
		return tap.MirrorView{}, err
	}
	return c.TapMirror(ctx, id, mid)
}

// DeleteTapMirror deletes a mirror; its tunnel ids are free then.
func (c *Controller) DeleteTapMirror(ctx context.Context, id auth.Identity, name string) error {
	const action = "tap.mirror.delete"
	found, err := keptMirrors.idOf(ctx, c, id, action, name)
	if err != nil {
		return err
	}
	return c.removeMirror(ctx, id, found, action)
}

func (c *Controller) removeMirror(ctx context.Context, id auth.Identity, mid, action string) error {
	acts := []act{{action: action, object: mid}}
	return c.transact(ctx, id, &acts, func() ([]store.Compare, []store.Op, error) {
		m := c.taps.mirrors[mid]
		if m == nil {
			if len(acts) == 0 {
				return nil, nil, nil
			}
			return nil, nil, noMirror(mid)
		}
		about(acts, mid, m.Mirror.Project)
		ops := []store.Op{store.Delete(mirrorPrefix + mid)}
		for _, t := range m.Mirror.Directions {
			ops = append(ops, store.Delete(mirrorKey(t)))
		}
		return []store.Compare{{Key: mirrorPrefix + mid, ModRevision: m.rev}}, ops, nil
	})
}
