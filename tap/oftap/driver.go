package oftap

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/fabric"
	"opentap/tap"
	"opentap/want"
)

// Fabric is who has the switches hold what they should. It outlives drivers, and is safe for concurrent use.
type Fabric interface {
	// Layout is the description, without taps; nil = there is none.
	Layout() *fabric.Layout
	// Carried are the taps that it carries now.
	Carried() []Wish
	// Carry has it carry these taps and no others.
	Carry(list []Wish)
	// Settle waits until the switches have been told, or ctx ends.
	Settle(ctx context.Context) error
	// View is what became of it; with fresh the counters of the switches are read first.
	View(ctx context.Context, fresh bool) (want.FabricView, error)
}

// Driver is a tap.Driver over the ports of switches. It is safe for concurrent use.
type Driver struct {
	fabric Fabric

	mu       sync.Mutex
	wishes   map[string]Wish
	sinks    map[string]tap.Sink
	statuses map[string]*tap.Status // as last told
}

var _ tap.Driver = (*Driver)(nil)

// New makes a Driver of what the fabric carries already.
func New(f Fabric) *Driver {
	d := &Driver{fabric: f, wishes: make(map[string]Wish), sinks: make(map[string]tap.Sink), statuses: make(map[string]*tap.Status)}
	for _, w := range f.Carried() {
		d.wishes[w.ID] = w
	}
	return d
}

// Name implements tap.Driver.
func (d *Driver) Name() string { return "fabric" }

// Close implements tap.Driver.
func (d *Driver) Close() error { return nil }

// Takes implements tap.Driver.
func (d *Driver) Takes(dev tap.Device) error {
	if l := d.fabric.Layout(); l != nil {
		if name, _ := l.PortAt(dev.Name); name != "" {
			return nil
		}
	}
	return fmt.Errorf("%w: the fabric does not name the port %s", tap.ErrNoDevice, dev.Name)
}

// Replace has the fabric carry these taps and no others. It waits for nothing; Statuses tells what becomes of them.
func (d *Driver) Replace(list []Wish, sinks []tap.Sink) {
	d.mu.Lock()
	defer d.mu.Unlock()
	clear(d.wishes)
	clear(d.sinks)
	for _, w := range list {
		d.wishes[w.ID] = w
	}
	for _, s := range sinks {
		d.sinks[s.ID] = s
	}
	d.carry()
}

// carry tells the fabric. d.mu is held.
func (d *Driver) carry() {
	list := make([]Wish, 0, len(d.wishes))
	for _, w := range d.wishes {
		list = append(list, w)
	}
	// When switches have no room for all, the last ones go first.
	slices.SortFunc(list, func(a, b Wish) int {
		if c := b.Options.Priority - a.Options.Priority; c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	d.fabric.Carry(list)
}

// UpdateSource implements tap.Driver. It returns when the switches have it, or refuse it.
func (d *Driver) UpdateSource(ctx context.Context, s tap.Source) (note string, err error) {
	w := Wish{Source: s}
	if _, err := Policy(d.fabric.Layout(), w); err != nil {
		return "", err
	}
	v, err := d.fabric.View(ctx, false)
	if err != nil {
		return "", err
	}
	for _, dev := range []tap.Device{s.Device, s.To.Device} {
		if !present(&v, dev.Name) {
			return "", fmt.Errorf("%w: no switch that is connected has the port %s", tap.ErrNoDevice, dev.Name)
		}
	}
	d.mu.Lock()
	if have, ok := d.wishes[s.ID]; !ok || have != w {
		d.wishes[s.ID] = w
		d.carry()
	}
	d.mu.Unlock()
	if err := d.fabric.Settle(ctx); err != nil {
		return "", err
	}
	if v, err = d.fabric.View(ctx, false); err != nil {
		return "", err
	}
	st := status(s.ID, &v)
	if st.State != tap.Active {
		return "", errors.New(st.Reason)
	}
	return st.Note, nil
}

// UpdateSink implements tap.Driver. A delivery port takes copies as it is.
func (d *Driver) UpdateSink(ctx context.Context, s tap.Sink) (note string, err error) {
	v, err := d.fabric.View(ctx, false)
	if err != nil {
		return "", err
	}
	return "", d.checkSink(s, &v)
}

func (d *Driver) checkSink(s tap.Sink, v *want.FabricView) error {
	if s.Make {
		return cannot("tap_device", "a port of a switch cannot be made", "")
	}
	if _, err := port(d.fabric.Layout(), s.Device.Name, want.RoleDelivery, "destination"); err != nil {
		return err
	}
	if !present(v, s.Device.Name) {
		return fmt.Errorf("%w: no switch that is connected has the port %s", tap.ErrNoDevice, s.Device.Name)
	}
	return nil
}

// present reports whether a switch that is connected has the port, SWITCH/PORT.
func present(v *want.FabricView, at string) bool {
	sw, number, _ := strings.Cut(at, "/")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return false
	}
	for i := range v.Switches {
		if s := &v.Switches[i]; s.Name == sw && s.Connected {
			return slices.ContainsFunc(s.Ports, func(p want.SwitchPort) bool { return uint64(p.Number) == n })
		}
	}
	return false
}

// Delete implements tap.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	d.mu.Lock()
	_, ok := d.wishes[id]
	delete(d.wishes, id)
	delete(d.sinks, id)
	delete(d.statuses, id)
	if ok {
		d.carry()
	}
	d.mu.Unlock()
	if !ok {
		return nil
	}
	return d.fabric.Settle(ctx)
}

// Prune implements tap.Driver.
func (d *Driver) Prune(ctx context.Context, keep func(id string) bool) (removed []string, err error) {
	d.mu.Lock()
	for id := range d.wishes {
		if !keep(id) {
			delete(d.wishes, id)
			delete(d.statuses, id)
			removed = append(removed, id)
		}
	}
	if len(removed) > 0 {
		d.carry()
	}
	d.mu.Unlock()
	if len(removed) == 0 {
		return nil, nil
	}
	slices.Sort(removed)
	return removed, d.fabric.Settle(ctx)
}

// Counts implements tap.Driver.
func (d *Driver) Counts(id string) (tap.Counts, error) {
	v, err := d.fabric.View(context.Background(), true)
	if err != nil {
		return tap.Counts{}, err
	}
	for i := range v.Policies {
		if v.Policies[i].Tap == id {
			return counts(&v.Policies[i]), nil
		}
	}
	return tap.Counts{}, fmt.Errorf("the fabric carries no tap %s", id)
}

// counts are a policy's in terms of taps. What a limit drops is counted as mirrored: it is dropped where copies are delivered.
func counts(p *want.FabricPolicyView) tap.Counts {
	return tap.Counts{Seen: max(p.Seen, p.Packets), NotMatched: p.Seen - min(p.Seen, p.Packets), Mirrored: p.Packets, Octets: p.Octets, Sent: p.Packets}
}

// status says in terms of taps what became of the policy of a tap.
func status(id string, v *want.FabricView) tap.Status {
	s := tap.Status{ID: id, Driver: "fabric", State: tap.Pending, Reason: "the switches have not been told yet"}
	at := slices.IndexFunc(v.Policies, func(p want.FabricPolicyView) bool { return p.Tap == id })
	if at < 0 {
		return s
	}
	p := &v.Policies[at]
	s.Counts = counts(p)
	s.State, s.Reason = tap.Pending, p.Reason
	switch p.State {
	case want.PolicyActive:
		s.State, s.Note = tap.Active, p.Split
	case want.PolicyDegraded:
		s.State, s.Reason, s.Note = tap.Active, "", strings.Join(slices.DeleteFunc([]string{p.Reason, p.Split}, func(t string) bool { return t == "" }), "; ")
	case want.PolicyInfeasible:
		s.State = tap.Failed
	case want.PolicyPending:
	}
	return s
}

// maxGaps bounds how many gaps of one tap are remembered.
const maxGaps = 32

// Statuses tells what became of all that was last wished for, in the order of the ids. refused are taps that cannot be: why.
func (d *Driver) Statuses(ctx context.Context, fresh bool, refused map[string]error) ([]tap.Status, error) {
	v, err := d.fabric.View(ctx, fresh)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now().UTC()
	all := make(map[string]tap.Status, len(d.wishes)+len(d.sinks))
	failed := func(s tap.Status, err error) tap.Status {
		if s.State, s.Reason = tap.Failed, err.Error(); errors.Is(err, tap.ErrNoDevice) {
			s.State = tap.Pending
		}
		return s
	}
	for id, w := range d.wishes {
		s := status(id, &v)
		s.Device = w.Device.Name
		if err := refused[id]; err != nil {
			s = failed(s, err)
		}
		all[id] = s
	}
	for id, k := range d.sinks {
		s := tap.Status{ID: id, Driver: "fabric", Device: k.Device.Name, State: tap.Active}
		if err := d.checkSink(k, &v); err != nil {
			s = failed(s, err)
		}
		all[id] = s
	}
	out := make([]tap.Status, 0, len(all))
	for id, s := range all {
		out = append(out, d.turn(id, s, now))
	}
	for id := range d.statuses {
		if _, ok := all[id]; !ok {
			delete(d.statuses, id)
		}
	}
	slices.SortFunc(out, func(a, b tap.Status) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

// turn notes when a state began, and the gaps between times in which it was active. d.mu is held.
func (d *Driver) turn(id string, s tap.Status, now time.Time) tap.Status {
	old := d.statuses[id]
	if old == nil {
		old = &tap.Status{Since: now, State: s.State}
		d.statuses[id] = old
	}
	s.Gaps, s.Since, s.Updated = old.Gaps, old.Since, now
	if s.State != old.State {
		s.Since = now
		n := len(s.Gaps)
		switch {
		case old.State == tap.Active:
			s.Gaps = append(s.Gaps, tap.Gap{From: now, Reason: s.Reason})
		case s.State == tap.Active && n > 0 && s.Gaps[n-1].To.IsZero():
			s.Gaps[n-1].To = now
		}
		s.Gaps = s.Gaps[max(0, len(s.Gaps)-maxGaps):]
	}
	*old = s
	s.Gaps = slices.Clone(s.Gaps)
	return s
}
