package controller

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/filter"
	"opentap/store"
	"opentap/tap"
)

// Rights about taps. Who sends copies of traffic somewhere decides who reads them: that takes the right to read.
const (
	seeTaps     = auth.SeeMetadata
	makeService = auth.Start
	makeTap     = auth.Start | auth.ReadPayload
)

// TapQuota bounds what one project has; 0 = no bound.
type TapQuota struct{ Services, Flows, Mirrors, Ports int }

// TapStates implements agentapi.Fleet.
func (c *Controller) TapStates(nodeID string, states []tap.Status) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.nodes[nodeID]; n != nil {
		n.taps = make(map[string]tap.Status, len(states))
		for _, s := range states {
			n.taps[s.ID] = s
		}
		c.tell()
	}
}

// applyTap takes over a change of what has to do with taps. c.mu is held.
func (c *Controller) applyTap(ev store.Event, kick map[string]bool) {
	if err := c.taps.apply(ev, kick); err != nil {
		c.log.Error("the store holds something about taps that cannot be read; it is left alone", "key", ev.Key, "err", err)
	}
	if strings.HasPrefix(ev.Key, placePrefix) {
		c.markRivals() // what they rival may have gone with this
	}
}

func explain(text string) string {
	if text == "" {
		return ""
	}
	e, err := filter.Parse(text)
	if err != nil {
		return ""
	}
	return e.Explain()
}

// refused makes a refusal an error that a door can map.
func refused(k fault.Kind, r *tap.Refusal, msg, hint string) error {
	return &fault.Error{Kind: k, Msg: msg, Field: r.Field, Hint: hint, Err: r}
}

// wrong makes an error of what Check found.
func wrong(r *tap.Refusal) error {
	var f *fault.Error
	switch {
	case r == nil:
		return nil
	case r.Cause == tap.BadFilter && errors.As(filterFault(r.Err), &f):
		f.Err = r
		return f
	}
	f = fault.Field(r.Field, "%s", wrongText(r))
	f.Err = r
	return f
}

func wrongText(r *tap.Refusal) string {
	v := ""
	switch x := r.Value.(type) {
	case string:
		v = strconv.Quote(x)
	case uint32:
		v = strconv.FormatUint(uint64(x), 10)
	case uint64:
		v = strconv.FormatUint(x, 10)
	case int:
		v = strconv.Itoa(x)
	}
	switch r.Cause {
	case tap.Missing:
		return "is missing"
	case tap.NotUUID:
		return v + " is not a UUID"
	case tap.BadName:
		return v + " begins or ends with a blank, or has a character that cannot be shown"
	case tap.TooLong:
		return "is longer than " + r.Detail + " octets"
	case tap.NotOneOf:
		return v + " is none of " + r.Detail
	case tap.BadVLANs:
		return v + " is not a list of VLAN ids and ranges such as 189,279,999-1008"
	case tap.BadAddress:
		return v + " is not an address that packets can be sent to"
	case tap.BadTunnel:
		return v + " is out of range: " + r.Detail
	case tap.SameTunnel:
		return "has the tunnel id " + v + " for two directions; each needs its own"
	}
	if v != "" {
		return v + ": " + r.Detail
	}
	return r.Detail
}

// deny writes down that somebody may not, and returns the refusal as doors know it.
func (c *Controller) deny(ctx context.Context, id auth.Identity, action, object string, right auth.Right) error {
	err := c.refuse(ctx, id, action, object, right)
	var f *fault.Error
	if errors.As(err, &f) {
		f.Err = errors.Join(&tap.Refusal{Cause: tap.NotAllowed, ID: object}, f.Err)
	}
	return err
}

// projectFor decides whose a new thing is: only an administrator acts for another project.
func projectFor(id auth.Identity, asked string) (string, error) {
	if asked == "" || asked == id.Project {
		return id.Project, nil
	}
	if !id.May(auth.Administer) {
		r := &tap.Refusal{Cause: tap.ProjectOfOther, Field: "project_id", Value: asked}
		return "", refused(fault.Invalid, r, "is another project than yours", "only an administrator acts for others")
	}
	return asked, nil
}

// mine reports whether the caller sees what belongs to the project.
func mine(id auth.Identity, project string) bool {
	return id.May(auth.Administer) || project != "" && project == id.Project
}

func noPort(field, id string) error {
	return refused(fault.NotFound, &tap.Refusal{Cause: tap.NoPort, ID: id, Field: field}, "no port has the id or name "+strconv.Quote(id), "list the ports to see their ids and names")
}

// usablePort finds the port for a new service, flow or mirror of the project. c.mu is held.
func (c *Controller) usablePort(id auth.Identity, field, portID, project string) (*tap.Port, error) {
	p := c.taps.port(strings.ToLower(portID))
	if p == nil || !mine(id, p.Project) {
		return nil, noPort(field, portID)
	}
	// What belongs to nobody is the administrator's; it is not lent to another project by naming that.
	if !fits(p, project, id.May(auth.Administer) && project == id.Project) {
		hint := "give the port to the project, or name the project whose port it is"
		return nil, refused(fault.Forbidden, &tap.Refusal{Cause: tap.PortOfOther, ID: p.ID, Field: field}, "the port "+p.Name+" does not belong to the project "+project, hint)
	}
	return p, nil
}

// unchangedPort is the condition that what is known of a declared port is as it was. c.mu is held.
func (c *Controller) unchangedPort(id string) []store.Compare {
	if d := c.taps.declared[id]; d != nil {
		return []store.Compare{{Key: portPrefix + id, ModRevision: d.rev}}
	}
	return []store.Compare{store.Absent(portPrefix + id)}
}

// checkExpiry refuses a time that is over.
func checkExpiry(t time.Time, now time.Time) error {
	if !t.IsZero() && !t.After(now) {
		return fault.Field("expires_at", "%s is in the past", t.Format(time.RFC3339))
	}
	return nil
}

// tapTries bounds how often a change is tried anew because somebody else was quicker.
const tapTries = 100

// act is what is written down before it is done.
type act struct {
	action, object, project string
	details                 map[string]string
}

// about says what the acts that are not written down yet concern.
func about(acts []act, object, project string) {
	for i := range acts {
		acts[i].object, acts[i].project = object, project
	}
}

// transact tries a change until it goes through or cannot: plan reads what is there under c.mu and says what to write. The
// acts are written down once, before the first try, and are none from then on. It returns when this controller knows the
// change.
func (c *Controller) transact(ctx context.Context, id auth.Identity, acts *[]act, plan func() ([]store.Compare, []store.Op, error)) error {
	for range tapTries {
		c.mu.Lock()
		seen := c.revision
		compares, ops, err := plan()
		c.mu.Unlock()
		if err != nil {
			return err
		}
		if len(ops) == 0 {
			return nil
		}
		for _, a := range *acts {
			if err := c.record(ctx, id, a.action, a.object, a.project, a.details); err != nil {
				return err
			}
		}
		*acts = nil
		rev, err := c.store.Txn(ctx, compares, ops)
		if errors.Is(err, store.ErrConflict) {
			// Somebody was quicker: we hear of it, or our own list is a moment old.
			wait, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			_ = c.await(wait, func() bool { return c.revision > seen })
			cancel()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			continue
		}
		if err != nil {
			return storeFault(err)
		}
		return c.await(ctx, func() bool { return c.revision >= rev })
	}
	return &fault.Error{Kind: fault.Unavailable, Msg: "too many change taps at the same time", RetryAfter: time.Second}
}

// mayChange refuses to change what an administrator's service, flow or mirror does: it may have to do with ports that are
// nobody's, which are not for the others of his project. It says in the acts what is to be otherwise. c.mu is held.
func (c *Controller) mayChange(ctx context.Context, id auth.Identity, byAdmin bool, ch tap.Change, acts []act, object, project string) error {
	if ch.Options == nil {
		about(acts, object, project)
		return nil
	}
	if byAdmin && !id.May(auth.Administer) {
		return &fault.Error{Kind: fault.Forbidden, Msg: "an administrator made it, and it does what he said", Hint: "make one of your own; name and description can be changed", Err: &tap.Refusal{Cause: tap.NotAllowed, ID: object}}
	}
	about(acts, object, project)
	for i := range acts {
		acts[i].details = map[string]string{
			"filter": ch.Options.Filter, "vlans": ch.Options.VLANs, "expires_at": timeOrNone(ch.Options.Expires), "encap": string(ch.Options.Encap),
			"snap": strconv.FormatUint(uint64(ch.Options.Snap), 10),
		}
	}
	return nil
}

// quota refuses one thing too many. have is what the project has, more what it is about to have.
func quota(what string, have, more, most int) error {
	if most <= 0 || have+more <= most {
		return nil
	}
	r := &tap.Refusal{Cause: tap.OverQuota, Field: what, Value: most}
	return &fault.Error{
		Kind: fault.Exhausted, Msg: "the project has " + strconv.Itoa(have) + " of what it may have " + strconv.Itoa(most) + " of: " + strings.ReplaceAll(what, "_", " ") + "s",
		Hint: "delete what is no longer needed", Err: r,
	}
}

// underlayOf are the addresses that a node says others reach it at, without what cannot be one.
func underlayOf(list []netip.Addr) []netip.Addr {
	var out []netip.Addr
	for _, a := range list {
		if a = a.Unmap().WithZone(""); a.IsValid() && !a.IsUnspecified() && !a.IsLoopback() && !a.IsMulticast() && !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}
