package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"opentap/audit"
	"opentap/auth"
	"opentap/fault"
	"opentap/point"
	"opentap/want"
	"opentap/wire/probe"
)

// Frames that one caller may have sent in a time.
const (
	probeBudget = 6000
	probeTerm   = time.Minute
	maxReport   = 1 << 20 // octets of what a node tells of a probe
)

// probers remembers how many frames callers had sent. The zero value is ready.
type probers struct {
	mu   sync.Mutex
	used map[prober]spentFrames
}

type prober struct{ name, project string }

type spentFrames struct {
	since  time.Time
	frames int
}

// take books frames, or says when there is room for them.
func (b *probers) take(who prober, frames int, now time.Time) (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for k, s := range b.used {
		if now.Sub(s.since) >= probeTerm {
			delete(b.used, k)
		}
	}
	s, known := b.used[who]
	if !known {
		s.since = now
	}
	if s.frames+frames > probeBudget {
		return s.since.Add(probeTerm).Sub(now), false
	}
	if s.frames += frames; b.used == nil {
		b.used = make(map[prober]spentFrames)
	}
	b.used[who] = s
	return 0, true
}

// Probe sends frames out of a device, and tells what answered. Frames that nobody on the network has sent are a power over it: they take an
// administrator, or somebody who may start captures in a project whose members an administrator lets probe; who then sees the device, and
// sends from its own addresses alone.
func (c *Controller) Probe(ctx context.Context, id auth.Identity, p want.Probe) (want.ProbeReport, error) {
	if err := c.mayProbe(ctx, id, &p); err != nil {
		return want.ProbeReport{}, err
	}
	if err := probe.Fill(&p); err != nil {
		return want.ProbeReport{}, err
	}
	at, err := c.setFor(id).Resolve(p.Point)
	if err != nil {
		var f *fault.Error
		if errors.As(err, &f) && f.Field == "" {
			f.Field = "point"
		}
		return want.ProbeReport{}, err
	}
	if at.Kind != point.Netdev {
		return want.ProbeReport{}, fault.Field("point", "%s is a %s; frames leave by network devices", at.Name, at.Kind)
	}
	to := liveNode{name: at.Node}
	c.mu.Lock()
	for nodeID, n := range c.nodes {
		if n.id.NodeName == at.Node && n.connected {
			to.id = nodeID
		}
	}
	c.mu.Unlock()
	if to.id == "" || !at.Present {
		return want.ProbeReport{}, &fault.Error{Kind: fault.Unavailable, Field: "point", Msg: at.Node + "/" + at.Name + " is not there now", RetryAfter: 5 * time.Second}
	}
	if wait, ok := c.probers.take(prober{id.Name, id.Project}, p.Count, time.Now()); !ok {
		return want.ProbeReport{}, &fault.Error{
			Kind: fault.Exhausted, Msg: fmt.Sprintf("%d frames a minute are as many as one caller may have sent", probeBudget), RetryAfter: wait,
		}
	}
	if err := c.record(ctx, id, "probe", at.Node+"/"+at.Name, id.Project, probeDetails(&p)); err != nil {
		return want.ProbeReport{}, err
	}
	var b bytes.Buffer
	q := want.ProbeRun{Probe: p, Device: at.Name, OwnOnly: !id.May(auth.Administer)}
	if err := c.hub.Stream(ctx, c.liveEnd, to.id, to.name, want.LiveSpec{Look: &want.Look{Probe: &q}}, &limited{w: &b, left: maxReport}); err != nil {
		return want.ProbeReport{}, err
	}
	var r want.ProbeReport
	if err := json.Unmarshal(b.Bytes(), &r); err != nil {
		return r, fault.New(fault.Internal, "node %s tells of a probe what is not understood: %v", to.name, err)
	}
	return r, nil
}

// mayProbe refuses who may not.
func (c *Controller) mayProbe(ctx context.Context, id auth.Identity, p *want.Probe) error {
	if id.May(auth.Administer) {
		return nil
	}
	c.mu.Lock()
	project, _ := c.project(id.Project)
	c.mu.Unlock()
	if !project.Probe || !id.May(auth.Start) {
		err := c.refuse(ctx, id, "probe", p.Point, auth.Administer)
		var f *fault.Error
		if errors.As(err, &f) && id.May(auth.Start) {
			f.Hint += ", or that an administrator lets the project probe (opentap projects set " + id.Project + " --probe)"
		}
		return err
	}
	if p.AllowGroup {
		e := audit.Entry{Actor: audit.ActorOf(id), Action: "probe", Object: p.Point, Project: id.Project, Outcome: audit.Denied, Details: map[string]string{"needs": "administer, for a group"}}
		return errors.Join(c.audit.Append(ctx, e), &fault.Error{Kind: fault.Forbidden, Field: "allow_group", Msg: "only an administrator may have frames sent that many answer"})
	}
	return nil
}

// probeDetails are what the audit log says of a probe.
func probeDetails(p *want.Probe) map[string]string {
	d := map[string]string{"kind": p.Kind, "target": p.Target.String(), "frames": strconv.Itoa(p.Count)}
	for name, v := range map[string]string{"source_mac": p.SourceMAC, "target_mac": p.TargetMAC} {
		if v != "" {
			d[name] = v
		}
	}
	if p.Source.IsValid() {
		d["source"] = p.Source.String()
	}
	if p.Port != 0 {
		d["port"] = strconv.Itoa(int(p.Port))
	}
	if p.VLAN != 0 {
		d["vlan"] = strconv.Itoa(int(p.VLAN))
	}
	return d
}
