package ovstap

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"opentap/tap"
	"opentap/wire/ovsdb"
)

// mostMirrors of one bridge are in effect: MAX_MIRRORS of Open vSwitch, ofproto/ofproto-dpif-mirror.h.
const mostMirrors = 32

// refuse says what mirrors of Open vSwitch cannot do.
func refuse(s tap.Source) error {
	o := s.Options
	var lacks []string
	for _, f := range []struct {
		asked bool
		what  string
	}{
		{o.Filter != "", "filter"},
		{o.SampleN > 1, "sampling"},
		{o.RateBPS > 0, "rate limit"},
		{o.OnMTU == tap.Drop, "dropping by length"},
		{o.Snap > 0 && (o.Snap < 14 || o.Snap > 65535), "snap length but 14 to 65535"},
	} {
		if f.asked {
			lacks = append(lacks, f.what)
		}
	}
	if len(lacks) > 0 {
		return fmt.Errorf("%w: no kernel device stands for %s, and a mirror of Open vSwitch that leads there has no %s", tap.ErrUnsupported, s.To.Device.Name, strings.Join(lacks, ", no "))
	}
	return nil
}

// updateMirror makes a mirror that leads to a port of the same bridge.
func (d *Driver) updateMirror(ctx context.Context, v *view, src *port, s tap.Source) (note string, err error) {
	if err := refuse(s); err != nil {
		return "", err
	}
	note = s.To.Device.Name + " carries copies only: Open vSwitch forwards nothing else to the port of a mirror"
	to := v.ports[s.To.Device.Name]
	print := fmt.Sprint(src.uuid, to.uuid, s.Direction, s.Options.VLANs, s.Options.Snap)
	var old *mirror
	for _, m := range v.of(s.ID) {
		if m.feed == "" {
			old = m
		}
	}
	if old != nil && old.print == print {
		return note, nil
	}
	row := map[string]any{"name": "opentap-" + s.ID, "output_port": to.uuid, "external_ids": ovsdb.Map(d.ids("", print, []string{s.ID}))}
	selectPort(row, src, s.Direction)
	if s.Options.Snap > 0 {
		row["snaplen"] = s.Options.Snap
	}
	if s.Options.VLANs != "" {
		list, err := vlans(s.Options.VLANs)
		if err != nil {
			return "", err
		}
		row["select_vlan"] = ovsdb.Set(list...)
	}
	var steps []ovsdb.Operation
	if old != nil {
		steps = removeRows(v, old)
	} else if err := room(v, src, 1); err != nil {
		return "", err
	}
	return note, d.change(ctx, append(steps, insertMirror(src.bridge, "mirror", row)...)...)
}

// selectPort says in a row of Mirror whose packets are copied.
func selectPort(row map[string]any, src *port, dir tap.Direction) {
	if dir != tap.In {
		row["select_src_port"] = ovsdb.Set(src.uuid) // what comes into the bridge here, the owner sent
	}
	if dir != tap.Out {
		row["select_dst_port"] = ovsdb.Set(src.uuid)
	}
}

// insertMirror are the steps that make a row of Mirror, called name within the transaction.
func insertMirror(bridge ovsdb.UUID, name string, row map[string]any) []ovsdb.Operation {
	return []ovsdb.Operation{
		{"op": "insert", "table": "Mirror", "uuid-name": name, "row": row},
		bridgeSet(bridge, "mirrors", "insert", ovsdb.Named(name)),
	}
}

// room says so when there can be no n mirrors more.
func room(v *view, src *port, n int) error {
	if v.count[src.bridge]+n > mostMirrors {
		return fmt.Errorf("%w: %s has %d mirrors, and Open vSwitch lets a bridge have %d", tap.ErrUnsupported, src.of, v.count[src.bridge], mostMirrors)
	}
	return nil
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
