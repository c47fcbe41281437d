package ovstap

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"

	"opentap/tap"
	"opentap/wire/ovsdb"
)

// A feed is a port of ours that Open vSwitch mirrors one direction of one port to, for all taps of these. It is one end of a cable whose other
// end is down: packets pass the eBPF hook on their way out of it, and go nowhere.

// aliasMark begins the alias of a feed's devices; the instance follows it.
const aliasMark = "OpenTap: copies out of Open vSwitch for "

// OwnAlias reports whether an alias is of a device that carries copies on their way: nobody's port, and not to be captured from.
func OwnAlias(alias string) bool { return strings.HasPrefix(alias, aliasMark) }

// feedName is the name of a feed: at most 15 octets, and its last says the direction. The cable's other end has an x behind it.
func (d *Driver) feedName(port string, dir tap.Direction) string {
	h := fnv.New64a()
	fmt.Fprintf(h, "%s\x00%s", d.cfg.Instance, port)
	end := "o"
	if dir == tap.In {
		end = "i"
	}
	return fmt.Sprintf("ot%010x%s", h.Sum64()&(1<<40-1), end)
}

// directionOf undoes feedName.
func directionOf(feed string) tap.Direction {
	if strings.HasSuffix(feed, "i") {
		return tap.In
	}
	return tap.Out
}

// defaultMTU is what a feed takes when Open vSwitch does not say how long a port's packets are. Octets.
const defaultMTU = 1500

// updateFeeds has a port's packets come to feeds, and the tap there.
func (d *Driver) updateFeeds(ctx context.Context, v *view, src *port, s tap.Source) (note string, feeds []string, err error) {
	ways := []tap.Direction{s.Direction}
	if s.Direction == tap.Both {
		ways = []tap.Direction{tap.In, tap.Out}
	}
	var steps, notes []ovsdb.Operation
	fresh := 0
	for _, dir := range ways {
		feed := d.feedName(s.Device.Name, dir)
		feeds = append(feeds, feed)
		mtu := src.mtu
		if mtu == 0 {
			mtu = defaultMTU
		}
		if err := layFeed(feed, aliasMark+d.cfg.Instance, mtu); err != nil {
			return "", feeds, err
		}
		print := fmt.Sprintf("%s %s %s", src.uuid, src.bridge, src.tags)
		old := v.fed(feed)
		switch {
		case old == nil:
			fresh++
			steps = append(steps, d.feedRows(src, feed, print, []string{s.ID})...)
		case old.print != print || v.feeds[feed] == nil || v.feeds[feed].bridge != src.bridge:
			taps := old.taps
			if !slices.Contains(taps, s.ID) {
				taps = append(slices.Clone(taps), s.ID)
			}
			steps = append(append(steps, removeRows(v, old)...), d.feedRows(src, feed, print, taps)...)
		case !slices.Contains(old.taps, s.ID):
			notes = append(notes, noteTaps(old.uuid, d.ids(feed, print, append(slices.Clone(old.taps), s.ID))))
		}
	}
	if err := room(v, src, fresh); err != nil {
		return "", feeds, errors.Join(err, d.sweep(ctx, v))
	}
	if len(steps) > 0 {
		if err := d.change(ctx, append(notes, steps...)...); err != nil {
			return "", feeds, err
		}
		if err := d.inEffect(ctx, feeds); err != nil {
			return "", feeds, err
		}
	} else if len(notes) > 0 {
		if _, err := d.transact(ctx, notes...); err != nil {
			return "", feeds, err
		}
		d.forget()
	}
	for i, dir := range ways {
		at := s
		at.ID, at.Device, at.Direction, at.Feed = part(s.ID, dir), tap.Device{Name: feeds[i]}, tap.Out, dir
		n, err := d.cfg.Copier.UpdateSource(ctx, at)
		if err != nil {
			return "", feeds, err
		}
		note = n // both say the same
	}
	return note, feeds, nil
}

// feedRows are the steps that make a feed's rows. The feed treats VLAN tags as the port does, so copies look as packets do there.
func (d *Driver) feedRows(src *port, feed, print string, taps []string) []ovsdb.Operation {
	ours := ovsdb.Map(map[string]string{markKey: d.cfg.Instance})
	row := map[string]any{"name": feed, "interfaces": ovsdb.Named(feed + "iface"), "external_ids": ours}
	for column, value := range src.tags {
		if len(value) > 0 {
			row[column] = value
		}
	}
	mirror := map[string]any{
		"name": "opentap-" + feed, "output_port": ovsdb.Named(feed + "port"),
		"external_ids": ovsdb.Map(d.ids(feed, print, taps)),
	}
	selectPort(mirror, src, directionOf(feed))
	return append([]ovsdb.Operation{
		{"op": "insert", "table": "Interface", "uuid-name": feed + "iface", "row": map[string]any{"name": feed, "external_ids": ours}},
		{"op": "insert", "table": "Port", "uuid-name": feed + "port", "row": row},
		bridgeSet(src.bridge, "ports", "insert", ovsdb.Named(feed+"port")),
	}, insertMirror(src.bridge, feed+"mirror", mirror)...)
}

// inEffect asks whether Open vSwitch could take the feeds.
func (d *Driver) inEffect(ctx context.Context, feeds []string) error {
	for _, f := range feeds {
		r, err := d.transact(ctx, ovsdb.Operation{"op": "select", "table": "Interface", "where": []any{[]any{"name", "==", f}}, "columns": []string{"error"}})
		if err != nil {
			return err
		}
		if len(r[0].Rows) == 0 {
			return fmt.Errorf("%w: the port's bridge is gone", tap.ErrNoDevice)
		}
		if why := r[0].Rows[0].String("error"); why != "" {
			return fmt.Errorf("Open vSwitch does not take the device %s: %s", f, why)
		}
	}
	return nil
}

// sweep takes away feeds to which nothing leads: rows, and devices that a crash left.
func (d *Driver) sweep(ctx context.Context, v *view) error {
	laid, err := feedsLaid(aliasMark + d.cfg.Instance)
	if err != nil {
		return err
	}
	var steps []ovsdb.Operation
	for name, p := range v.feeds {
		if v.fed(name) == nil {
			steps = append(steps, bridgeSet(p.bridge, "ports", "delete", p.uuid))
		}
	}
	if len(steps) > 0 {
		if err := d.change(ctx, steps...); err != nil {
			return err
		}
	}
	for _, name := range laid {
		if v.fed(name) == nil {
			err = errors.Join(err, liftFeed(name))
		}
	}
	return err
}
