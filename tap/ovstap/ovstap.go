// Package ovstap mirrors the ports of Open vSwitch by its own mirrors.
//
// Runs in: agent
//
// A tap is a row of the table Mirror, and a tunnel port where copies go to another host. Both carry our mark in their external_ids; by that
// they are found again, and nothing else is ever changed.
package ovstap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/tap"
	"opentap/wire/ovsdb"
)

// DefaultSocket is where Open vSwitch's database server listens (ovsdb-server(1)).
const DefaultSocket = "/var/run/openvswitch/db.sock"

const (
	database = "Open_vSwitch"
	timeout  = 5 * time.Second
	// Keys of external_ids.
	markKey = "opentap"
	idKey   = "opentap-tap"
)

// Config says which Open vSwitch.
type Config struct {
	Socket   string // of its database server; "" = DefaultSocket
	Control  string // control socket of ovs-vswitchd; "" = the one beside Socket
	Instance string // tells agents of one host apart: each leaves what another one made alone. "" = "agent"
}

// Driver asks the database anew for each call; it holds no connection.
type Driver struct {
	cfg Config

	mu     sync.Mutex
	seen   *view // for Counts, which is called for each tap
	seenAt time.Time
}

// fresh is how long what Counts saw is good for. Open vSwitch counts more seldom.
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
	d.mu.Lock()
	d.seen = nil
	d.mu.Unlock()
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
	path := d.cfg.Control
	if path == "" {
		dir := filepath.Dir(d.cfg.Socket)
		pid, err := os.ReadFile(filepath.Join(dir, "ovs-vswitchd.pid"))
		if err != nil {
			return fmt.Errorf("find the control socket of ovs-vswitchd: %w", err)
		}
		path = filepath.Join(dir, "ovs-vswitchd."+strings.TrimSpace(string(pid))+".ctl")
	}
	conn, err := net.DialTimeout("unix", path, timeout)
	if err != nil {
		return fmt.Errorf("reach ovs-vswitchd: %w", err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	var said any
	return ovsdb.NewConn(conn).Call("revalidator/purge", []string{}, &said)
}

// Name implements tap.Driver.
func (d *Driver) Name() string { return "ovs" }

// Close implements tap.Driver.
func (d *Driver) Close() error { return nil }

// Takes implements tap.Driver: ports of a bridge of Open vSwitch.
func (d *Driver) Takes(dev tap.Device) error {
	v, err := d.look(context.Background())
	if err != nil {
		return err
	}
	if _, ok := v.ports[dev.Name]; !ok {
		return fmt.Errorf("%w: %s is no port of Open vSwitch", tap.ErrUnsupported, dev.Name)
	}
	return nil
}

// view is what the database has of bridges.
type view struct {
	ports   map[string]port // by name
	mirrors map[string]row  // ours, by the tap's id
	tunnels map[string]row  // our ports, by the tap's id
}

type port struct {
	uuid, bridge ovsdb.UUID
	of           string // the bridge's name
}

// row is one of ours.
type row struct {
	uuid, bridge ovsdb.UUID
	print        string // of what it was made from
	statistics   map[string]string
}

// printKey is the key in external_ids of what a mirror was made from.
const printKey = "opentap-print"

func selectAll(table string, columns ...string) ovsdb.Operation {
	return ovsdb.Operation{"op": "select", "table": table, "where": []any{}, "columns": append(columns, "_uuid")}
}

// look reads the bridges, their ports, and what is ours.
func (d *Driver) look(ctx context.Context) (*view, error) {
	if !d.Present() {
		return nil, fmt.Errorf("%w: there is no Open vSwitch here (%s)", tap.ErrUnsupported, d.cfg.Socket)
	}
	r, err := d.transact(ctx, selectAll("Bridge", "name", "ports", "mirrors"), selectAll("Port", "name", "external_ids"),
		selectAll("Mirror", "external_ids", "statistics"))
	if err != nil {
		return nil, err
	}
	v := &view{ports: make(map[string]port), mirrors: make(map[string]row), tunnels: make(map[string]row)}
	bridgeOf := make(map[ovsdb.UUID]ovsdb.Row)
	for _, b := range r[0].Rows {
		for _, u := range append(b.UUIDs("ports"), b.UUIDs("mirrors")...) {
			bridgeOf[u] = b
		}
	}
	ours := func(x ovsdb.Row) (id string, out row, ok bool) {
		ids := x.Map("external_ids")
		b, used := bridgeOf[own(x)]
		return ids[idKey], row{uuid: own(x), bridge: own(b), print: ids[printKey], statistics: x.Map("statistics")}, used && ids[markKey] == d.cfg.Instance
	}
	for _, p := range r[1].Rows {
		if b, used := bridgeOf[own(p)]; used {
			v.ports[p.String("name")] = port{uuid: own(p), bridge: own(b), of: b.String("name")}
		}
		if id, x, ok := ours(p); ok {
			v.tunnels[id] = x
		}
	}
	for _, m := range r[2].Rows {
		if id, x, ok := ours(m); ok {
			v.mirrors[id] = x
		}
	}
	return v, nil
}

// own is a row's own UUID.
func own(r ovsdb.Row) ovsdb.UUID {
	if u := r.UUIDs("_uuid"); len(u) == 1 {
		return u[0]
	}
	return ""
}

// refuse says what mirrors of Open vSwitch cannot do.
func refuse(s tap.Source) error {
	o := s.Options
	var lacks []string
	for _, f := range []struct {
		asked bool
		what  string
	}{
		{o.Filter != "", "a filter"},
		{o.SampleN > 1, "sampling"},
		{o.RateBPS > 0, "a rate limit"},
		{o.OnMTU == tap.Drop, "dropping by length"},
		{o.Snap > 0 && (o.Snap < 14 || o.Snap > 65535), "this snap length (14 to 65535)"},
	} {
		if f.asked {
			lacks = append(lacks, f.what)
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("%w: a mirror of Open vSwitch has no %s", tap.ErrUnsupported, strings.Join(lacks, ", no "))
	}
	return nil
}

// UpdateSource implements tap.Driver.
func (d *Driver) UpdateSource(ctx context.Context, s tap.Source) (note string, err error) {
	if err := refuse(s); err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	v, err := d.look(ctx)
	if err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	src, ok := v.ports[s.Device.Name]
	if !ok {
		return "", fmt.Errorf("tap %s: %w: %s is on no bridge of Open vSwitch", s.ID, tap.ErrNoDevice, s.Device.Name)
	}
	steps, print, err := d.make(v, s, src)
	if err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	if !s.To.Remote.IsValid() {
		note = s.To.Device.Name + " carries copies only: Open vSwitch forwards nothing else to the port of a mirror"
	}
	if m, ok := v.mirrors[s.ID]; ok && m.print == print {
		return note, nil
	}
	if err := d.change(ctx, append(d.undo(v, s.ID), steps...)...); err != nil {
		return "", fmt.Errorf("tap %s: %w", s.ID, err)
	}
	return note, nil
}

// make is what makes a mirror, and its print.
func (d *Driver) make(v *view, s tap.Source, src port) (steps []ovsdb.Operation, print string, err error) {
	print = fmt.Sprintf("%s %s %s %s %d", src.uuid, src.bridge, s.Direction, s.Options.VLANs, s.Options.Snap)
	ids := func() map[string]string { return map[string]string{markKey: d.cfg.Instance, idKey: s.ID} }
	mirror := map[string]any{"name": "opentap-" + s.ID}
	if s.Direction != tap.In {
		mirror["select_src_port"] = ovsdb.Set(src.uuid) // what comes into the bridge here, the owner sent
	}
	if s.Direction != tap.Out {
		mirror["select_dst_port"] = ovsdb.Set(src.uuid)
	}
	if s.Options.Snap > 0 {
		mirror["snaplen"] = s.Options.Snap
	}
	if s.Options.VLANs != "" {
		list, err := vlans(s.Options.VLANs)
		if err != nil {
			return nil, "", err
		}
		mirror["select_vlan"] = ovsdb.Set(list...)
	}
	if s.To.Remote.IsValid() {
		iface, err := tunnel(s)
		if err != nil {
			return nil, "", err
		}
		print += fmt.Sprint(" ", iface["type"], slices.Sorted(maps.Keys(iface)), s.To)
		steps = append(steps,
			ovsdb.Operation{"op": "insert", "table": "Interface", "uuid-name": "iface", "row": iface},
			ovsdb.Operation{"op": "insert", "table": "Port", "uuid-name": "way", "row": map[string]any{
				"name": iface["name"], "interfaces": ovsdb.Named("iface"), "external_ids": ovsdb.Map(ids()),
			}},
			ovsdb.Operation{
				"op": "mutate", "table": "Bridge", "where": at(src.bridge),
				"mutations": []any{[]any{"ports", "insert", ovsdb.Set(ovsdb.Named("way"))}},
			})
		mirror["output_port"] = ovsdb.Named("way")
	} else {
		to, ok := v.ports[s.To.Device.Name]
		if !ok {
			return nil, "", fmt.Errorf("%w: the destination %s is on no bridge of Open vSwitch", tap.ErrNoDevice, s.To.Device.Name)
		}
		if to.bridge != src.bridge {
			return nil, "", fmt.Errorf("%w: a mirror of Open vSwitch stays in its bridge, and %s is in %s, %s in %s", tap.ErrUnsupported, s.Device.Name, src.of, s.To.Device.Name, to.of)
		}
		print += " to " + string(to.uuid)
		mirror["output_port"] = to.uuid
	}
	m := ids()
	m[printKey] = print
	mirror["external_ids"] = ovsdb.Map(m)
	return append(steps,
		ovsdb.Operation{"op": "insert", "table": "Mirror", "uuid-name": "mirror", "row": mirror},
		ovsdb.Operation{
			"op": "mutate", "table": "Bridge", "where": at(src.bridge),
			"mutations": []any{[]any{"mirrors", "insert", ovsdb.Set(ovsdb.Named("mirror"))}},
		}), print, nil
}

func at(u ovsdb.UUID) any { return []any{[]any{"_uuid", "==", u}} }

// tunnel is the interface that leads to another host.
func tunnel(s tap.Source) (map[string]any, error) {
	types := map[tap.Encap]string{tap.VXLAN: "vxlan", "": "vxlan", tap.GRE: "gre", tap.ERSPAN1: "erspan", tap.ERSPAN2: "erspan", tap.Geneve: "geneve"}
	t, ok := types[s.To.Encap]
	if !ok {
		return nil, fmt.Errorf("%w: encapsulation %q", tap.ErrUnsupported, s.To.Encap)
	}
	o := map[string]string{"remote_ip": s.To.Remote.String(), "key": strconv.FormatUint(uint64(s.To.TunnelID), 10)}
	if t == "erspan" {
		o["key"], o["erspan_ver"], o["erspan_idx"] = strconv.FormatUint(uint64(s.To.TunnelID&tap.MaxSession), 10), "1", "0"
	}
	if s.To.UDPPort != 0 && (t == "vxlan" || t == "geneve") {
		o["dst_port"] = strconv.Itoa(int(s.To.UDPPort))
	}
	return map[string]any{"name": tunnelName(s.ID), "type": t, "options": ovsdb.Map(o)}, nil
}

// tunnelName is a name for a port that is no kernel device: 15 octets at most.
func tunnelName(id string) string {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(id) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return fmt.Sprintf("ot%012x", h&(1<<48-1))
}

// vlans reads a list of VLAN ids and ranges, such as 1,10-20.
func vlans(list string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(list, ",") {
		a, b, isRange := strings.Cut(strings.TrimSpace(part), "-")
		if !isRange {
			b = a
		}
		lo, err1 := strconv.ParseUint(strings.TrimSpace(a), 10, 12)
		hi, err2 := strconv.ParseUint(strings.TrimSpace(b), 10, 12)
		if err := errors.Join(err1, err2); err != nil || hi < lo {
			return nil, fmt.Errorf("VLAN list: %q is no range of VLAN ids", part)
		}
		for v := lo; v <= hi; v++ {
			out = append(out, int(v))
		}
	}
	return out, nil
}

// undo is what takes a tap away.
func (d *Driver) undo(v *view, id string) (steps []ovsdb.Operation) {
	if m, ok := v.mirrors[id]; ok {
		steps = append(steps, ovsdb.Operation{
			"op": "mutate", "table": "Bridge", "where": at(m.bridge),
			"mutations": []any{[]any{"mirrors", "delete", ovsdb.Set(m.uuid)}},
		})
	}
	if t, ok := v.tunnels[id]; ok {
		steps = append(steps, ovsdb.Operation{
			"op": "mutate", "table": "Bridge", "where": at(t.bridge),
			"mutations": []any{[]any{"ports", "delete", ovsdb.Set(t.uuid)}},
		})
	}
	return steps
}

// UpdateSink implements tap.Driver: mirrors only copy.
func (d *Driver) UpdateSink(_ context.Context, s tap.Sink) (string, error) {
	if len(s.From) == 0 && !s.Make {
		return "", nil // all its sources are on this node
	}
	return "", fmt.Errorf("sink %s: %w: Open vSwitch's mirrors do not take copies out of tunnels; give the tool a device outside of its bridges", s.ID, tap.ErrUnsupported)
}

// Delete implements tap.Driver.
func (d *Driver) Delete(ctx context.Context, id string) error {
	if !d.Present() {
		return nil
	}
	v, err := d.look(ctx)
	if err != nil {
		return fmt.Errorf("take %s away: %w", id, err)
	}
	if steps := d.undo(v, id); len(steps) > 0 {
		if err := d.change(ctx, steps...); err != nil {
			return fmt.Errorf("take %s away: %w", id, err)
		}
	}
	return nil
}

// Prune implements tap.Driver.
func (d *Driver) Prune(ctx context.Context, keep func(id string) bool) (removed []string, err error) {
	if !d.Present() {
		return nil, nil
	}
	v, err := d.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("prune mirrors: %w", err)
	}
	var steps []ovsdb.Operation
	ids := make(map[string]bool)
	for id := range v.mirrors {
		ids[id] = true
	}
	for id := range v.tunnels {
		ids[id] = true
	}
	for id := range ids {
		if !keep(id) {
			removed = append(removed, id)
			steps = append(steps, d.undo(v, id)...)
		}
	}
	if len(steps) == 0 {
		return nil, nil
	}
	if err := d.change(ctx, steps...); err != nil {
		return nil, fmt.Errorf("prune mirrors: %w", err)
	}
	return removed, nil
}

// Stands reports whether a tap's mirror is there.
func (d *Driver) Stands(id string) bool {
	v, err := d.look(context.Background())
	if err != nil {
		return false
	}
	_, ok := v.mirrors[id]
	return ok
}

// Counts implements tap.Driver. Open vSwitch counts what it copied, and refreshes that each few seconds.
func (d *Driver) Counts(id string) (tap.Counts, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v := d.seen
	if v == nil || time.Since(d.seenAt) > fresh {
		var err error
		if v, err = d.look(context.Background()); err != nil {
			return tap.Counts{}, err
		}
		d.seen, d.seenAt = v, time.Now()
	}
	m, ok := v.mirrors[id]
	if !ok {
		return tap.Counts{}, fmt.Errorf("counters of %s: %w", id, os.ErrNotExist)
	}
	n, err1 := strconv.ParseUint(zero(m.statistics["tx_packets"]), 10, 64)
	octets, err2 := strconv.ParseUint(zero(m.statistics["tx_bytes"]), 10, 64)
	if err := errors.Join(err1, err2); err != nil {
		return tap.Counts{}, fmt.Errorf("counters of %s: %w", id, err)
	}
	return tap.Counts{Seen: n, Mirrored: n, Sent: n, Octets: octets}, nil
}

func zero(s string) string {
	if s == "" {
		return "0"
	}
	return s
}
