package controller

import (
	"bytes"
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
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// estimateFor bounds how long a node's rates are looked at: they come once a second.
const estimateFor = 2500 * time.Millisecond

// ethernetHeader is what a frame has beside its payload, octets.
const ethernetHeader = 14

// EstimateTapFlow says what a flow would mean, without making it: all is checked as if it were made.
func (c *Controller) EstimateTapFlow(ctx context.Context, id auth.Identity, f tap.Flow) (tap.Estimate, error) {
	if !id.May(makeTap) {
		return tap.Estimate{}, c.deny(ctx, id, "tap.flow.estimate", "", makeTap)
	}
	project, err := projectFor(id, f.Project)
	if err != nil {
		return tap.Estimate{}, err
	}
	f.ID, f.Project, f.PortID, f.ServiceID = newUUID(), project, strings.ToLower(f.PortID), strings.ToLower(f.ServiceID)
	if err := c.checkFlow(&f, time.Now()); err != nil {
		return tap.Estimate{}, err
	}
	c.mu.Lock()
	_, err = c.mayFlow(id, &f)
	var at place
	var to tap.Target
	var why string
	if places := c.taps.places[f.PortID]; err == nil && len(places) > 0 {
		at = places[len(places)-1]
		var s tap.Source
		s, why = c.taps.source(&storedFlow{Flow: f, Admin: id.May(auth.Administer) && project == id.Project}, at)
		to = s.To
	} else if err == nil {
		why = "the source port is on no node now"
	}
	c.mu.Unlock()
	if err != nil {
		return tap.Estimate{}, err
	}
	if why != "" {
		return tap.Estimate{}, &fault.Error{Kind: fault.Unavailable, Msg: why, RetryAfter: 5 * time.Second}
	}
	return c.estimate(ctx, at, f.Direction, to, f.Options)
}

// EstimateTapMirror does the same for a mirror.
func (c *Controller) EstimateTapMirror(ctx context.Context, id auth.Identity, m tap.Mirror) (tap.Estimate, error) {
	if !id.May(makeTap) {
		return tap.Estimate{}, c.deny(ctx, id, "tap.mirror.estimate", "", makeTap)
	}
	project, err := projectFor(id, m.Project)
	if err != nil {
		return tap.Estimate{}, err
	}
	m.ID, m.Project, m.PortID = newUUID(), project, strings.ToLower(m.PortID)
	if err := c.checkMirror(&m, time.Now()); err != nil {
		return tap.Estimate{}, err
	}
	c.mu.Lock()
	_, err = c.usablePort(id, "port_id", m.PortID, project)
	places := slices.Clone(c.taps.places[m.PortID])
	c.mu.Unlock()
	if err != nil {
		return tap.Estimate{}, err
	}
	if len(places) == 0 {
		return tap.Estimate{}, &fault.Error{Kind: fault.Unavailable, Msg: "the source port is on no node now", RetryAfter: 5 * time.Second}
	}
	d := tap.Both
	if len(m.Directions) == 1 {
		d = sortedDirections(m.Directions)[0]
	}
	return c.estimate(ctx, places[len(places)-1], d, tap.Target{Remote: m.Remote, Encap: m.Type}, m.Options)
}

func (c *Controller) estimate(ctx context.Context, at place, d tap.Direction, to tap.Target, o tap.Options) (tap.Estimate, error) {
	if at.nodeID == fabricNode {
		return tap.Estimate{}, &fault.Error{Kind: fault.Unsupported, Msg: "what passes a switch's port is not known beforehand", Hint: "make the flow: its counters tell"}
	}
	c.mu.Lock()
	n := c.nodes[at.nodeID]
	var source, path, sink point.Point
	name := at.nodeID
	if n != nil {
		name = n.id.NodeName
		for _, p := range n.points {
			switch {
			case p.Name == at.device:
				source = p
			case p.Name == to.Device.Name:
				sink = p
			}
			if p.Default {
				path = p
			}
		}
	}
	c.mu.Unlock()
	if n == nil {
		return tap.Estimate{}, &fault.Error{Kind: fault.Unavailable, Msg: "the node of the source port has not been heard of", RetryAfter: 5 * time.Second}
	}
	e := tap.Estimate{Node: name, Device: at.device, Local: !to.Remote.IsValid(), Encap: to.Encap}
	rate, err := c.rateOf(ctx, at.nodeID, name, at.device)
	if err != nil {
		return e, err
	}
	in, out := d != tap.Out, d != tap.In
	if hostsEnd(source.Driver) { // what goes out of the host's end comes in at the port's owner
		in, out = out, in
	}
	if in {
		e.PPS, e.BPS = e.PPS+rate.RxPackets, e.BPS+8*rate.RxOctets
	}
	if out {
		e.PPS, e.BPS = e.PPS+rate.TxPackets, e.BPS+8*rate.TxOctets
	}
	e.MirrorPPS, e.MirrorBPS = e.PPS, e.BPS
	if o.SampleN > 1 {
		e.MirrorPPS, e.MirrorBPS = e.MirrorPPS/float64(o.SampleN), e.MirrorBPS/float64(o.SampleN)
	}
	if o.Snap > 0 {
		e.MirrorBPS = min(e.MirrorBPS, 8*float64(o.Snap)*e.MirrorPPS)
	}
	if o.RateBPS > 0 {
		e.MirrorBPS = min(e.MirrorBPS, float64(o.RateBPS))
	}
	longest := source.MTU + ethernetHeader
	if o.Snap > 0 {
		longest = min(longest, int(o.Snap))
	}
	room := sink.MTU + ethernetHeader
	if !e.Local {
		e.Overhead = to.Encap.Overhead(to.Remote.Is6())
		e.MirrorBPS += 8 * float64(e.Overhead) * e.MirrorPPS
		longest, room = longest+e.Overhead, path.MTU
	}
	e.MTUShort = max(0, longest-room)
	switch {
	case source.MTU == 0 || !e.Local && path.MTU == 0 || e.Local && sink.MTU == 0:
		e.MTUShort = 0
		e.Notes = append(e.Notes, "the MTU of the path is not known here")
	case e.MTUShort > 0 && o.OnMTU == tap.Drop:
		e.Notes = append(e.Notes, "MTU short by "+strconv.Itoa(e.MTUShort)+": copies of the longest frames would be dropped, and counted")
	case e.MTUShort > 0:
		e.Notes = append(e.Notes, "MTU short by "+strconv.Itoa(e.MTUShort)+": copies of the longest frames would be cut, and counted")
	}
	if o.Filter != "" || o.VLANs != "" {
		e.Notes = append(e.Notes, "the filter is not counted in: it can only be less")
	}
	if free := float64(path.SpeedBPS); !e.Local && free > 0 && e.MirrorBPS > free/2 {
		e.Notes = append(e.Notes, fmt.Sprintf("the copies would take %.0f %% of what %s carries", 100*e.MirrorBPS/free, path.Name))
	}
	return e, nil
}

// hostsEnd reports whether a device is the host's end of somebody's port, so that its directions are the other way round.
func hostsEnd(driver string) bool { return driver == "veth" || driver == "tun" || driver == "netkit" }

// errLooked ends a look at rates that has seen enough.
var errLooked = errors.New("looked")

// rateOf looks for a second at what passes a device.
func (c *Controller) rateOf(ctx context.Context, nodeID, node, device string) (want.Rate, error) {
	ctx, cancel := context.WithTimeout(ctx, estimateFor)
	defer cancel()
	l := &oneRate{device: device}
	err := c.hub.Stream(ctx, nil, nodeID, node, want.LiveSpec{Look: &want.Look{Rates: true}}, l)
	if l.lines > 0 || errors.Is(err, errLooked) || ctx.Err() != nil && !errors.Is(ctx.Err(), context.Canceled) {
		return l.rate, nil // a device of which nothing is told is idle
	}
	return l.rate, err
}

// oneRate waits for the second line of rates: the first may be of a part of a second.
type oneRate struct {
	device string
	rate   want.Rate
	part   []byte
	lines  int
}

// Write implements io.Writer.
func (o *oneRate) Write(p []byte) (int, error) {
	o.part = append(o.part, p...)
	for {
		line, rest, ok := bytes.Cut(o.part, []byte{'\n'})
		if !ok {
			break
		}
		o.part = rest
		var rates want.Rates
		if err := json.Unmarshal(line, &rates); err != nil {
			return 0, err
		}
		for _, r := range rates.Rates {
			if r.Point == o.device {
				o.rate = r
			}
		}
		if o.lines++; o.lines >= 2 {
			return 0, errLooked
		}
	}
	if len(o.part) > maxRateLine {
		return 0, errLooked
	}
	return len(p), nil
}
