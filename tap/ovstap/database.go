package ovstap

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"opentap/tap"
	"opentap/wire/ovsdb"
)

const (
	database = "Open_vSwitch"
	timeout  = 5 * time.Second
)

// Keys of the external_ids of what is ours.
const (
	markKey  = "opentap"       // whose: the instance
	tapsKey  = "opentap-taps"  // of a mirror: ids of its taps, with blanks between
	feedKey  = "opentap-feed"  // of a mirror to a feed: the feed's name
	dirKey   = "opentap-way"   // of a mirror to a feed: IN or OUT
	printKey = "opentap-print" // of a mirror: what it was made from
)

// transact has steps done.
func (d *Driver) transact(ctx context.Context, steps ...ovsdb.Operation) ([]ovsdb.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", d.cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("reach Open vSwitch's database: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	return ovsdb.NewConn(conn).Transact(database, steps...)
}

// change has steps done, and waits until Open vSwitch has them in effect, as ovs-vsctl does: next_cfg is counted up, and
// ovs-vswitchd writes to cur_cfg what it has reached (ovs-vswitchd.conf.db(5)).
func (d *Driver) change(ctx context.Context, steps ...ovsdb.Operation) error {
	d.forget()
	if err := d.settle(ctx, steps); err != nil {
		return err
	}
	if err := d.forgetFlows(); err != nil {
		return fmt.Errorf("have running flows looked at anew: %w", err)
	}
	return nil
}

func (d *Driver) settle(ctx context.Context, steps []ovsdb.Operation) error {
	r, err := d.transact(ctx, append(steps,
		ovsdb.Operation{"op": "mutate", "table": database, "where": []any{}, "mutations": []any{[]any{"next_cfg", "+=", 1}}},
		ovsdb.Operation{"op": "select", "table": database, "where": []any{}, "columns": []string{"next_cfg"}})...)
	if err != nil {
		return err
	}
	number := func(r []ovsdb.Result, column string) (n int64) {
		if rows := r[len(r)-1].Rows; len(rows) > 0 {
			n, _ = rows[0].Int(column) // 0 if there is none: it is waited for
		}
		return n
	}
	next := number(r, "next_cfg")
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		r, err := d.transact(ctx, ovsdb.Operation{"op": "select", "table": database, "where": []any{}, "columns": []string{"cur_cfg"}})
		if err != nil {
			return err
		}
		if number(r, "cur_cfg") >= next {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.New("ovs-vswitchd does not act: is it running?")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// forgetFlows has ovs-vswitchd forget what it cached of flows that run: it keeps using what it found before there was a
// mirror (seen with 3.1). It finds all of it anew with the next packets; no rule is touched.
func (d *Driver) forgetFlows() error {
	conn, err := d.control()
	if err != nil {
		return err
	}
	defer conn.Close()
	var said any
	return ovsdb.NewConn(conn).Call("revalidator/purge", []string{}, &said)
}

// control opens the control socket of ovs-vswitchd.
func (d *Driver) control() (net.Conn, error) {
	path := d.cfg.Control
	if path == "" {
		dir := filepath.Dir(d.cfg.Socket)
		pid, err := os.ReadFile(filepath.Join(dir, "ovs-vswitchd.pid"))
		if err != nil {
			return nil, fmt.Errorf("find the control socket of ovs-vswitchd: %w", err)
		}
		path = filepath.Join(dir, "ovs-vswitchd."+strings.TrimSpace(string(pid))+".ctl")
	}
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return nil, fmt.Errorf("reach ovs-vswitchd: %w", err)
	}
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// Examine asks both daemons of Open vSwitch whether they let taps be made, and which version it is. Nothing is changed.
func (d *Driver) Examine(ctx context.Context) (version string, err error) {
	if !d.Present() {
		return "", errAbsent(d.cfg.Socket)
	}
	r, err := d.transact(ctx, ovsdb.Operation{"op": "select", "table": database, "where": []any{}, "columns": []string{"ovs_version"}})
	if err != nil {
		return "", err
	}
	conn, err := d.control()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	var said any
	if err := ovsdb.NewConn(conn).Call("version", []string{}, &said); err != nil {
		return "", err
	}
	if len(r[0].Rows) == 0 {
		return "", errors.New("the database of Open vSwitch was never set up")
	}
	return r[0].Rows[0].String("ovs_version"), nil
}

// view is what the database has of bridges.
type view struct {
	ports   map[string]*port // by name, without feeds of ours or others
	feeds   map[string]*port // of ours, by name
	mirrors []*mirror        // ours
	count   map[ovsdb.UUID]int
}

// port is a port of a bridge.
type port struct {
	uuid, bridge ovsdb.UUID
	of           string    // the bridge's name
	mtu          int       // octets; 0 = Open vSwitch does not say
	tags         ovsdb.Row // how it treats VLAN tags
}

// tagColumns of the table Port are how a port treats VLAN tags (ovs-vswitchd.conf.db(5), "VLAN Configuration").
var tagColumns = []string{"vlan_mode", "tag", "trunks", "cvlans"}

// tagOptions of the column other_config are the rest of it.
var tagOptions = []string{"qinq-ethtype", "priority-tags"}

// mirror is one of ours.
type mirror struct {
	uuid, bridge ovsdb.UUID
	feed         string // "" = it leads to a port of others
	dir          tap.Direction
	taps         []string
	print        string
	statistics   map[string]string
}

// of returns the mirrors of a tap.
func (v *view) of(id string) (out []*mirror) {
	for _, m := range v.mirrors {
		if slices.Contains(m.taps, id) {
			out = append(out, m)
		}
	}
	return out
}

// fed returns the mirror that leads to a feed; nil if there is none.
func (v *view) fed(feed string) *mirror {
	for _, m := range v.mirrors {
		if m.feed == feed {
			return m
		}
	}
	return nil
}

// forget has the next one who asks look anew.
func (d *Driver) forget() {
	d.mu.Lock()
	d.seen = nil
	d.mu.Unlock()
}

// glance returns what was seen a moment ago; nil if nobody has looked.
func (d *Driver) glance() *view {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.seenAt) > fresh {
		return nil
	}
	return d.seen
}

func selectAll(table string, columns ...string) ovsdb.Operation {
	return ovsdb.Operation{"op": "select", "table": table, "where": []any{}, "columns": append(columns, "_uuid")}
}

// look reads the bridges, their ports, and what is ours.
func (d *Driver) look(ctx context.Context) (*view, error) {
	if !d.Present() {
		return nil, errAbsent(d.cfg.Socket)
	}
	r, err := d.transact(ctx, selectAll("Bridge", "name", "ports", "mirrors"),
		selectAll("Port", append([]string{"name", "external_ids", "other_config", "interfaces"}, tagColumns...)...),
		selectAll("Mirror", "external_ids", "statistics"), selectAll("Interface", "mtu"))
	if err != nil {
		return nil, err
	}
	v := &view{ports: make(map[string]*port), feeds: make(map[string]*port), count: make(map[ovsdb.UUID]int)}
	bridgeOf := make(map[ovsdb.UUID]ovsdb.Row)
	for _, b := range r[0].Rows {
		mirrors := b.UUIDs("mirrors")
		v.count[own(b)] = len(mirrors)
		for _, u := range append(b.UUIDs("ports"), mirrors...) {
			bridgeOf[u] = b
		}
	}
	ifaces := make(map[ovsdb.UUID]ovsdb.Row)
	for _, i := range r[3].Rows {
		ifaces[own(i)] = i
	}
	for _, p := range r[1].Rows {
		b, used := bridgeOf[own(p)]
		if !used {
			continue
		}
		x := &port{uuid: own(p), bridge: own(b), of: b.String("name"), tags: tagsOf(p)}
		if list := p.UUIDs("interfaces"); len(list) > 0 { // of a bond the first stands for all
			if n, ok := ifaces[list[0]].Int("mtu"); ok {
				x.mtu = int(n)
			}
		}
		switch whose, isFeed := p.Map("external_ids")[markKey]; {
		case !isFeed:
			v.ports[p.String("name")] = x
		case whose == d.cfg.Instance:
			v.feeds[p.String("name")] = x
		}
	}
	for _, m := range r[2].Rows {
		ids := m.Map("external_ids")
		b, used := bridgeOf[own(m)]
		if !used || ids[markKey] != d.cfg.Instance {
			continue
		}
		v.mirrors = append(v.mirrors, &mirror{
			uuid: own(m), bridge: own(b), feed: ids[feedKey], dir: tap.Direction(ids[dirKey]),
			taps: strings.Fields(ids[tapsKey]), print: ids[printKey], statistics: m.Map("statistics"),
		})
	}
	d.mu.Lock()
	d.seen, d.seenAt = v, time.Now()
	d.mu.Unlock()
	return v, nil
}

// tagsOf takes from a row of Port how it treats VLAN tags, to be written to another one.
func tagsOf(p ovsdb.Row) ovsdb.Row {
	out := make(ovsdb.Row, len(tagColumns)+1)
	for _, c := range tagColumns {
		out[c] = p[c]
	}
	other := make(map[string]string)
	for _, o := range tagOptions {
		if x, ok := p.Map("other_config")[o]; ok {
			other[o] = x
		}
	}
	out["other_config"], _ = json.Marshal(ovsdb.Map(other)) // of strings: it cannot fail
	return out
}

// own is a row's own UUID.
func own(r ovsdb.Row) ovsdb.UUID {
	if u := r.UUIDs("_uuid"); len(u) == 1 {
		return u[0]
	}
	return ""
}

func at(u ovsdb.UUID) any { return []any{[]any{"_uuid", "==", u}} }

// bridgeSet is a step that puts a row into a set of a bridge, or takes it out (verb: insert, delete).
func bridgeSet(bridge ovsdb.UUID, column, verb string, row any) ovsdb.Operation {
	return ovsdb.Operation{"op": "mutate", "table": "Bridge", "where": at(bridge), "mutations": []any{[]any{column, verb, ovsdb.Set(row)}}}
}

// ids are the external_ids of a mirror.
func (d *Driver) ids(feed, print string, taps []string) map[string]string {
	m := map[string]string{markKey: d.cfg.Instance, printKey: print, tapsKey: strings.Join(taps, " ")}
	if feed != "" {
		m[feedKey], m[dirKey] = feed, string(directionOf(feed))
	}
	return m
}

// noteTaps is a step that says whose a mirror is.
func noteTaps(mirror ovsdb.UUID, ids map[string]string) ovsdb.Operation {
	return ovsdb.Operation{"op": "update", "table": "Mirror", "where": at(mirror), "row": map[string]any{"external_ids": ovsdb.Map(ids)}}
}

// removeRows is what takes a mirror away, with its feed's port. The database drops rows that nothing refers to.
func removeRows(v *view, m *mirror) []ovsdb.Operation {
	steps := []ovsdb.Operation{bridgeSet(m.bridge, "mirrors", "delete", m.uuid)}
	if p := v.feeds[m.feed]; p != nil {
		steps = append(steps, bridgeSet(p.bridge, "ports", "delete", p.uuid))
	}
	return steps
}

// counts are what Open vSwitch counted.
func (m *mirror) counts() (tap.Counts, error) {
	number := func(key string) (uint64, error) {
		if m.statistics[key] == "" {
			return 0, nil
		}
		return strconv.ParseUint(m.statistics[key], 10, 64)
	}
	n, err1 := number("tx_packets")
	octets, err2 := number("tx_bytes")
	if err := errors.Join(err1, err2); err != nil {
		return tap.Counts{}, fmt.Errorf("counters of a mirror: %w", err)
	}
	return tap.Counts{Seen: n, Mirrored: n, Sent: n, Octets: octets}, nil
}
