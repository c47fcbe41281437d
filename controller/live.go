package controller

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/pcap"
	"opentap/want"
)

// maxPast bounds how far back a live stream may begin.
const maxPast = 24 * time.Hour

// liveNode is what one node has to do for a live stream.
type liveNode struct {
	id, name string
	spec     want.LiveSpec
}

// OpenLive opens a live stream of packets: pcapng, of unknown size, that can be written once. It ends when the request
// says so, or when the context given to Write ends. Nothing is taken before Write is called.
func (c *Controller) OpenLive(ctx context.Context, id auth.Identity, r want.LiveRequest) (*want.Retrieval, error) {
	for _, right := range []auth.Right{auth.ReadPayload, auth.Start} {
		if !id.May(right) {
			return nil, c.refuse(ctx, id, "live.start", strings.Join(r.Points, ","), right)
		}
	}
	nodes, err := c.planLive(id, &r)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, n := range nodes {
		for _, p := range n.spec.Points {
			names = append(names, n.name+"/"+p.Name)
		}
	}
	if err := c.record(ctx, id, "live.start", strings.Join(names, ","), id.Project, map[string]string{
		"filter": r.Filter, "snap": strconv.Itoa(r.Snap), "past": time.Duration(r.Past).String(), "duration": time.Duration(r.Duration).String(),
	}); err != nil {
		return nil, err
	}
	section := pcap.Section{Application: "opentap " + c.cfg.Version, Comment: "live packets of " + strings.Join(names, ", ")}
	if len(nodes) == 1 {
		section.Hardware = nodes[0].name
	}
	return &want.Retrieval{
		Format: want.PcapNG, FileName: "opentap-live.pcapng", Size: -1,
		Write: func(ctx context.Context, w io.Writer, _, _ int64) error {
			ctx, done := c.whileSeen(ctx, id, nodes)
			defer done()
			err := c.live(ctx, nodes, section, w)
			var f *fault.Error
			if errors.As(context.Cause(ctx), &f) {
				return f
			}
			return err
		},
		Close: func() error { return nil },
	}, nil
}

// planLive resolves the points and checks the rest, as for a capture.
func (c *Controller) planLive(id auth.Identity, r *want.LiveRequest) ([]liveNode, error) {
	switch {
	case r.Duration < 0:
		return nil, fault.Field("duration", "is negative")
	case r.Past < 0 || time.Duration(r.Past) > maxPast:
		return nil, fault.Field("past", "is %s; it can be up to %s", time.Duration(r.Past), maxPast)
	}
	if most := c.cfg.DurationMax; most > 0 {
		if r.Duration == 0 {
			r.Duration = want.Duration(most)
		} else if time.Duration(r.Duration) > most {
			return nil, fault.Field("duration", "is %s, the longest allowed here is %s", time.Duration(r.Duration), most)
		}
	}
	k := want.Capture{Kind: want.Packets}
	if err := planPackets(&k, want.Request{Filter: r.Filter, Strict: r.Strict, Snap: r.Snap}); err != nil {
		return nil, err
	}
	names := r.Points
	if len(names) == 0 {
		names = []string{""}
	}
	if len(names) > maxPoints {
		return nil, fault.Field("point", "names %d points, a stream has at most %d", len(names), maxPoints)
	}
	set := c.setFor(id)
	var nodes []liveNode
	for _, name := range names {
		p, err := set.Resolve(name)
		if err == nil {
			err = usable(&k, p)
		}
		if err != nil {
			var f *fault.Error
			if errors.As(err, &f) && (f.Field == "" || f.Field == "points") {
				f.Field = "point"
			}
			return nil, err
		}
		i := slices.IndexFunc(nodes, func(n liveNode) bool { return n.name == p.Node })
		if i < 0 {
			i = len(nodes)
			nodes = append(nodes, liveNode{name: p.Node, spec: want.LiveSpec{
				Filter: r.Filter, Strict: r.Strict, Snap: r.Snap,
				Past: r.Past, Duration: r.Duration, Packets: r.Packets,
			}})
		}
		points := &nodes[i].spec.Points
		if slices.ContainsFunc(*points, func(have want.LivePoint) bool { return have.Name == p.Name }) {
			return nil, fault.Field("point", "%q names %s, which is there already", name, p.Name)
		}
		*points = append(*points, want.LivePoint{Name: p.Name, Label: p.Name})
	}
	if len(nodes) > 1 && r.Packets > 0 {
		return nil, &fault.Error{
			Kind: fault.Invalid, Field: "packets", Msg: "counts the packets of one node, and the points are on several",
			Hint: "end the stream by its duration",
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range nodes {
		if err := c.reachable(&nodes[i], r.Past > 0); err != nil {
			return nil, err
		}
		if len(nodes) > 1 {
			for j := range nodes[i].spec.Points {
				nodes[i].spec.Points[j].Label = nodes[i].name + "/" + nodes[i].spec.Points[j].Name
			}
		}
	}
	return nodes, nil
}

// reachable finds the node that is to stream. c.mu is held.
func (c *Controller) reachable(l *liveNode, past bool) error {
	for nodeID, n := range c.nodes {
		if n.id.NodeName != l.name {
			continue
		}
		l.id = nodeID
		if !n.connected {
			break
		}
		if why := n.facts.Missing[string(want.Packets)]; why != "" {
			return fault.New(fault.Unsupported, "packets cannot be captured on node %s: %s", l.name, why)
		}
		for _, p := range l.spec.Points {
			if _, ok := n.facts.Recorders[p.Name]; past && !ok {
				return &fault.Error{
					Kind: fault.Invalid, Field: "past", Msg: "nothing is recorded at " + p.Name,
					Hint: "leave past out, or configure a recorder for the point",
				}
			}
		}
		return nil
	}
	return &fault.Error{Kind: fault.Unavailable, Msg: "node " + l.name + " is not connected", RetryAfter: 5 * time.Second}
}

// EndLive has all live streams end in good order: their readers get the last accounts. New ones end at once.
func (c *Controller) EndLive() { c.endLive.Do(func() { close(c.liveEnd) }) }

// live merges the nodes' streams as they come, until all have ended.
func (c *Controller) live(ctx context.Context, nodes []liveNode, section pcap.Section, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m := &liveMerge{w: w, waiting: len(nodes), all: make(chan struct{}), head: pcap.AppendSectionHeader(nil, section)}
	errs := make(chan error, len(nodes))
	for _, n := range nodes {
		go func() {
			in := &liveInput{m: m, ctx: ctx}
			err := c.hub.Stream(ctx, c.liveEnd, n.id, n.name, n.spec, in)
			in.ready() // it may have ended without a word
			if err == nil && len(in.part) > 0 {
				err = fault.New(fault.Internal, "node %s sent half a block", n.name)
			}
			errs <- err
		}()
	}
	var first error
	for range nodes {
		if err := <-errs; err != nil && first == nil {
			first = err
			cancel()
		}
	}
	return first
}

// liveMerge writes the blocks of several pcapng sections as one section.
type liveMerge struct {
	mu      sync.Mutex
	w       io.Writer
	head    []byte // of the section; nil once it is written
	faces   uint32
	waiting int           // nodes that have not begun
	all     chan struct{} // closed when all have, so that one that cannot begin is told before anything is written
}

// liveInput is one node's part; its Write takes octets cut anywhere.
type liveInput struct {
	m     *liveMerge
	ctx   context.Context
	begun bool
	part  []byte   // of a block that has not come whole
	out   []byte   // blocks to write
	faces []uint32 // the node's interface → ours
}

// ready notes that the node has begun.
func (in *liveInput) ready() {
	if in.begun {
		return
	}
	in.begun = true
	in.m.mu.Lock()
	defer in.m.mu.Unlock()
	if in.m.waiting--; in.m.waiting == 0 {
		close(in.m.all)
	}
}

// maxLiveBlock bounds what is kept of a block that has not come whole, octets.
const maxLiveBlock = 1 << 20

// Write implements io.Writer.
func (in *liveInput) Write(p []byte) (int, error) {
	in.ready()
	select {
	case <-in.m.all:
	case <-in.ctx.Done():
		return 0, in.ctx.Err()
	}
	n := len(p)
	if len(in.part) > 0 {
		in.part = append(in.part, p...)
		p = in.part
	}
	in.m.mu.Lock()
	defer in.m.mu.Unlock()
	in.out = in.out[:0]
	if in.m.head != nil {
		in.out = append(in.out, in.m.head...)
		in.m.head = nil
	}
	for len(p) >= 12 {
		total := binary.LittleEndian.Uint32(p[4:])
		if total < 12 || total%4 != 0 || total > maxLiveBlock {
			return 0, fault.New(fault.Internal, "a node sent a block of %d octets", total)
		}
		if uint32(len(p)) < total {
			break
		}
		if err := in.block(p[:total]); err != nil {
			return 0, err
		}
		p = p[total:]
	}
	in.part = append(in.part[:0], p...) // p may lie behind in part's own array: append moves as copy does
	if len(in.out) > 0 {
		if _, err := in.m.w.Write(in.out); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// block takes over one block, with our number of its interface.
func (in *liveInput) block(b []byte) error {
	switch binary.LittleEndian.Uint32(b) {
	case pcap.BlockInterface:
		in.faces = append(in.faces, in.m.faces)
		in.m.faces++
	case pcap.BlockPacket, pcap.BlockStatistics:
		if len(b) < 24 {
			return fault.New(fault.Internal, "a node sent a block that is too short")
		}
		face := binary.LittleEndian.Uint32(b[8:])
		if face >= uint32(len(in.faces)) {
			return fault.New(fault.Internal, "a node sent a packet of interface %d of %d", face, len(in.faces))
		}
		in.out = append(in.out, b...)
		binary.LittleEndian.PutUint32(in.out[len(in.out)-len(b)+8:], in.faces[face])
		return nil
	default: // its section header, and what else may come
		return nil
	}
	in.out = append(in.out, b...)
	return nil
}
