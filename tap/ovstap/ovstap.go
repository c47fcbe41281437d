// Package ovstap taps the ports of Open vSwitch, with or without a kernel device behind them.
//
// Runs in: agent
//
// A mirror of Open vSwitch only copies a port's packets to another port. So it is given a port of ours, the feed, and at that the eBPF
// driver does what a tap asks for: filter, sampling, rate, cutting, tunnels (docs/adr/0013). Where copies go to a port that no kernel
// device stands for, the mirror leads there itself. Every row of ours carries our mark in its external_ids, and every device in its
// alias; by these they are found again, and nothing else is ever changed.
package ovstap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"opentap/tap"
	"opentap/wire/ovsdb"
)

// DefaultSocket is where Open vSwitch's database server listens (ovsdb-server(1)).
const DefaultSocket = "/var/run/openvswitch/db.sock"

// Config says which Open vSwitch, and who copies.
type Config struct {
	Socket   string // of its database server; "" = DefaultSocket
	Control  string // control socket of ovs-vswitchd; "" = the one beside Socket
	Instance string // tells agents of one host apart: each leaves what another one made alone. "" = "agent"
	// Copier taps feeds. What it has under the ids it is given is this driver's alone, but for Close. nil = there is none: taps are mirrors only.
	Copier tap.Driver
}

// Driver asks the database anew for each call; it holds no connection.
type Driver struct {
	cfg Config

	mu     sync.Mutex
	seen   *view // for Counts and Takes, which are called for each tap
	seenAt time.Time
}

// fresh is how long what Counts and Takes saw is good for. Open vSwitch counts more seldom.
const fresh = 500 * time.Millisecond

var _ tap.Driver = (*Driver)(nil)

// New makes a Driver. It is inert: where there is no Open vSwitch it takes no device.
func New(cfg Config) *Driver {
	if cfg.Socket == "" {
		cfg.Socket = DefaultSocket
	}
	if cfg.Instance == "" {
		cfg.Instance = "agent"
	}
	return &Driver{cfg: cfg}
}

// Present reports whether a database server's socket is there.
func (d *Driver) Present() bool {
	_, err := os.Stat(d.cfg.Socket)
	return err == nil
}

// Name implements tap.Driver.
func (d *Driver) Name() string { return "ovs" }

// Close implements tap.Driver. The copier is closed by whoever opened it.
func (d *Driver) Close() error { return nil }

// Takes implements tap.Driver: ports of a bridge of Open vSwitch, as they were half a second ago at the latest.
func (d *Driver) Takes(dev tap.Device) error {
	if v := d.glance(); v != nil && v.ports[dev.Name] != nil {
		return nil
	}
	v, err := d.look(context.Background())
	if err != nil {
		return err
	}
	if v.ports[dev.Name] == nil {
		return fmt.Errorf("%w: %s is no port of Open vSwitch", tap.ErrUnsupported, dev.Name)
	}
	return nil
}

func errAbsent(socket string) error {
	return fmt.Errorf("%w: there is no Open vSwitch here (%s)", tap.ErrUnsupported, socket)
}

// UpdateSource implements tap.Driver.
func (d *Driver) UpdateSource(ctx context.Context, s tap.Source) (note string, err error) {
	v, err := d.look(ctx)
	if err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	src, ok := v.ports[s.Device.Name]
	if !ok {
		return "", fmt.Errorf("tap %s: %w: %s is on no bridge of Open vSwitch", s.ID, tap.ErrNoDevice, s.Device.Name)
	}
	plain, err := d.plainly(v, src, s)
	if err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	var needs []string // mirrors of the tap, by feed
	if plain {
		note, err = d.updateMirror(ctx, v, src, s)
		needs = []string{""}
	} else {
		note, needs, err = d.updateFeeds(ctx, v, src, s)
	}
	if err == nil {
		err = d.leave(ctx, v, s.ID, needs)
	}
	if err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	return note, nil
}

// plainly reports whether a mirror of Open vSwitch is to lead to the destination itself: that is for ports of the same bridge for which
// there is no other way.
func (d *Driver) plainly(v *view, src *port, s tap.Source) (bool, error) {
	switch {
	case d.cfg.Copier == nil && s.To.Remote.IsValid():
		return false, fmt.Errorf("%w: tunnels are eBPF's here, which does not work", tap.ErrUnsupported)
	case s.To.Remote.IsValid():
		return false, nil
	}
	why := fmt.Errorf("%w: %s", tap.ErrNoDevice, s.To.Device.Name)
	if d.cfg.Copier != nil {
		if why = d.cfg.Copier.Takes(s.To.Device); why == nil {
			return false, nil
		}
	}
	to, ok := v.ports[s.To.Device.Name]
	switch {
	case !ok:
		return false, fmt.Errorf("the destination: %w", why)
	case to.bridge != src.bridge:
		return false, fmt.Errorf("%w: no kernel device stands for %s, and a mirror of Open vSwitch stays in its bridge: %s is in %s, %s in %s",
			tap.ErrUnsupported, s.To.Device.Name, s.Device.Name, src.of, s.To.Device.Name, to.of)
	}
	return true, nil
}

// leave takes a tap out of the mirrors that it needs no more, by their feeds, and the mirrors away that nobody needs then. v is how it
// was before.
func (d *Driver) leave(ctx context.Context, v *view, id string, needs []string) error {
	var err error
	if d.cfg.Copier != nil {
		for _, dir := range []tap.Direction{tap.In, tap.Out} {
			if !slices.ContainsFunc(needs, func(feed string) bool { return feed != "" && directionOf(feed) == dir }) {
				err = errors.Join(err, d.cfg.Copier.Delete(ctx, part(id, dir)))
			}
		}
	}
	return errors.Join(err, d.release(ctx, v, func(m *mirror, tapID string) bool { return tapID != id || slices.Contains(needs, m.feed) }))
}

// part is what the copier knows one direction of a tap by.
func part(id string, dir tap.Direction) string { return id + "/" + string(dir) }

// whole undoes part.
func whole(part string) string {
	id, _, _ := strings.Cut(part, "/")
	return id
}

// release takes those taps out of mirrors for which keep is false, and away what nobody needs then.
func (d *Driver) release(ctx context.Context, v *view, keep func(m *mirror, id string) bool) error {
	var away, notes []ovsdb.Operation
	var feeds []string
	for _, m := range v.mirrors {
		left := slices.DeleteFunc(slices.Clone(m.taps), func(id string) bool { return !keep(m, id) })
		switch {
		case len(left) == 0:
			away = append(away, removeRows(v, m)...)
			if m.feed != "" {
				feeds = append(feeds, m.feed)
			}
		case len(left) < len(m.taps):
			notes = append(notes, noteTaps(m.uuid, d.ids(m.feed, m.print, left)))
		}
	}
	if len(away) > 0 {
		if err := d.change(ctx, append(notes, away...)...); err != nil {
			return err
		}
	} else if len(notes) > 0 {
		if _, err := d.transact(ctx, notes...); err != nil {
			return err
		}
		d.forget()
	}
	var err error
	for _, f := range feeds {
		err = errors.Join(err, liftFeed(f))
	}
	return err
}

// UpdateSink implements tap.Driver: mirrors only copy.
func (d *Driver) UpdateSink(_ context.Context, s tap.Sink) (string, error) {
	if len(s.From) == 0 && !s.Make {
		return "", nil // all its sources are on this node
	}
	return "", fmt.Errorf("sink %s: %w: Open vSwitch's mirrors do not take copies out of tunnels; give the tool a port that a kernel device stands for", s.ID, tap.ErrUnsupported)
}

// Delete implements tap.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	if !d.Present() {
		return d.deleteCopies(ctx, id)
	}
	v, err := d.look(ctx)
	if err != nil {
		return fmt.Errorf("take %s away: %w", id, errors.Join(err, d.deleteCopies(ctx, id)))
	}
	if err := d.leave(ctx, v, id, nil); err != nil {
		return fmt.Errorf("take %s away: %w", id, err)
	}
	return nil
}

// deleteCopies ends a tap's copies though Open vSwitch is away. Prune finds the rest of it later.
func (d *Driver) deleteCopies(ctx context.Context, id string) error {
	if d.cfg.Copier == nil {
		return nil
	}
	return errors.Join(d.cfg.Copier.Delete(ctx, part(id, tap.In)), d.cfg.Copier.Delete(ctx, part(id, tap.Out)))
}

// Prune implements tap.Driver.
func (d *Driver) Prune(ctx context.Context, keep func(id string) bool) (removed []string, err error) {
	gone := make(map[string]bool)
	if d.cfg.Copier != nil {
		parts, e := d.cfg.Copier.Prune(ctx, func(p string) bool { return keep(whole(p)) })
		for _, p := range parts {
			gone[whole(p)] = true
		}
		err = e
	}
	if d.Present() {
		err = errors.Join(err, d.pruneMirrors(ctx, keep, gone))
	}
	for id := range gone {
		removed = append(removed, id)
	}
	slices.Sort(removed)
	if err != nil {
		return removed, fmt.Errorf("prune mirrors: %w", err)
	}
	return removed, nil
}

func (d *Driver) pruneMirrors(ctx context.Context, keep func(id string) bool, gone map[string]bool) error {
	v, err := d.look(ctx)
	if err != nil {
		return err
	}
	if err := d.release(ctx, v, func(_ *mirror, id string) bool {
		if !keep(id) {
			gone[id] = true
		}
		return keep(id)
	}); err != nil {
		return err
	}
	return d.sweep(ctx, v)
}

// Stands reports whether all that a tap consists of is there.
func (d *Driver) Stands(id string) bool {
	v, err := d.look(context.Background())
	if err != nil {
		return false
	}
	mirrors := v.of(id)
	for _, m := range mirrors {
		if m.feed == "" {
			continue
		}
		if _, ok := v.ports[m.feed]; !ok || !feedLaid(m.feed) {
			return false
		}
		if s, ok := d.cfg.Copier.(interface{ Stands(id string) bool }); ok && !s.Stands(part(id, m.dir)) {
			return false
		}
	}
	return len(mirrors) > 0
}

// Counts implements tap.Driver. Of taps at feeds the copier counts; of mirrors Open vSwitch, which refreshes that each few seconds.
func (d *Driver) Counts(id string) (tap.Counts, error) {
	if d.cfg.Copier != nil {
		var sum tap.Counts
		found := false
		for _, dir := range []tap.Direction{tap.In, tap.Out} {
			c, err := d.cfg.Copier.Counts(part(id, dir))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return tap.Counts{}, err
			}
			sum.Add(&c)
			found = true
		}
		if found {
			return sum, nil
		}
	}
	v := d.glance()
	if v == nil {
		var err error
		if v, err = d.look(context.Background()); err != nil {
			return tap.Counts{}, err
		}
	}
	for _, m := range v.of(id) {
		if m.feed == "" {
			return m.counts()
		}
	}
	return tap.Counts{}, fmt.Errorf("counters of %s: %w", id, os.ErrNotExist)
}
