package controller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strconv"
	"sync"
	"time"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Doctor looks at the host that this controller runs on. The zero value looks at nothing.
type Doctor struct {
	Node   string // the host's name
	NodeID string // of the agent in this process, whose host is looked at as well; "" = there is none
	Look   func(ctx context.Context) (want.Examination, error)
}

// SetDoctor gives the way to the doctor; it must be called before a door is opened.
func (c *Controller) SetDoctor(d Doctor) { c.doctor = d }

// Bounds of an examination of the fleet. Each host writes to its disks for a second or so.
const (
	patientPatience = 10 * time.Second // for one host, from when it is asked
	roundPatience   = time.Minute      // for all
	patientsAtOnce  = 256
	maxExamination  = 1 << 20 // octets of what a node tells
)

// patient is a host that is to look at itself.
type patient struct {
	node string
	look func(ctx context.Context) (want.Examination, error)
}

// Doctor tells what the hosts find when they look at themselves: this controller's first, then those of the agents by name; or
// with a node's name or ID that one alone. A host that cannot be asked, or does not answer in time, is a finding.
func (c *Controller) Doctor(ctx context.Context, id auth.Identity, node string) (want.Examination, error) {
	if !id.May(auth.Administer) {
		return want.Examination{}, c.refuse(ctx, id, "node.examine", node, auth.Administer)
	}
	if c.doctor.Look == nil {
		return want.Examination{}, fault.New(fault.Unavailable, "this controller has no doctor")
	}
	nodes, err := c.Nodes(ctx, id)
	if err != nil {
		return want.Examination{}, err
	}
	var patients []patient
	if node == "" || node == c.doctor.Node || node == c.doctor.NodeID {
		patients = append(patients, patient{c.doctor.Node, c.doctor.Look})
	}
	for _, n := range nodes {
		if (node == "" || node == n.Name || node == n.ID) && n.ID != c.doctor.NodeID {
			patients = append(patients, patient{n.Name, func(ctx context.Context) (want.Examination, error) { return c.examine(ctx, &n) }})
		}
	}
	if len(patients) == 0 {
		return want.Examination{}, &fault.Error{Kind: fault.NotFound, Field: "node", Msg: "no node " + strconv.Quote(node), Hint: "list the nodes to see their names"}
	}
	x := round(ctx, patients)
	return x, ctx.Err()
}

// examine has the host of an agent look at itself.
func (c *Controller) examine(ctx context.Context, n *want.Node) (x want.Examination, err error) {
	switch {
	case !n.Revoked.IsZero():
		return x, fault.New(fault.Forbidden, "%s", n.Problems[0])
	case !n.Connected && len(n.Problems) > 0:
		return x, fault.New(fault.Unavailable, "%s", n.Problems[0])
	}
	var b bytes.Buffer
	if err := c.hub.Stream(ctx, c.liveEnd, n.ID, n.Name, want.LiveSpec{Look: &want.Look{Doctor: true}}, &limited{w: &b, left: maxExamination}); err != nil {
		return x, err
	}
	if err := json.Unmarshal(b.Bytes(), &x); err != nil {
		return x, fault.New(fault.Internal, "it answered in a form that is not understood: %v", err)
	}
	return x, nil
}

// round has all patients look at themselves, some at a time, and puts together what they find, in their order. The settings are those of
// the first.
func round(ctx context.Context, patients []patient) want.Examination {
	ctx, cancel := context.WithTimeout(ctx, roundPatience)
	defer cancel()
	answers := make([]want.Examination, len(patients))
	turns := make(chan struct{}, patientsAtOnce)
	var all sync.WaitGroup
	for i, p := range patients {
		select {
		case turns <- struct{}{}:
			all.Go(func() {
				defer func() { <-turns }()
				answers[i] = p.examined(ctx)
			})
		case <-ctx.Done():
			answers[i] = p.unseen(ctx.Err())
		}
	}
	all.Wait()
	x := want.Examination{Node: patients[0].node, Time: answers[0].Time, Settings: answers[0].Settings}
	for _, a := range answers {
		x.Findings = append(x.Findings, a.Findings...)
	}
	return x
}

// examined is what the host finds, or why it cannot be asked.
func (p *patient) examined(ctx context.Context) want.Examination {
	ctx, cancel := context.WithTimeout(ctx, patientPatience)
	defer cancel()
	x, err := p.look(ctx)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return p.unseen(err)
	}
	x.Findings = slices.Clone(x.Findings) // others may have the same answer
	for i := range x.Findings {           // a node speaks for itself alone
		x.Findings[i].Node = p.node
	}
	return x
}

// unseen is the finding that the host cannot be asked.
func (p *patient) unseen(err error) want.Examination {
	f := want.Finding{Node: p.node, Check: "node", Severity: want.Bad, Text: "it cannot be asked: " + err.Error(), Fix: "see the log of opentapd on that host"}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		f.Text = "it was asked, and did not answer in time"
		f.Fix = "ask it alone (opentap doctor --node " + p.node + "); if it stays silent, see its disks and the log of opentapd there"
	case fault.Is(err, fault.Unsupported):
		f.Severity, f.Fix = want.Warn, "install the controller's version of opentapd there"
	case fault.Is(err, fault.Forbidden): // it was shut out on purpose
		f.Severity, f.Fix = want.Warn, "opentap node forget "+p.node+", or let it join again"
	case fault.Is(err, fault.Unavailable):
		f.Fix = "see whether opentapd runs on that host and reaches a controller; if it is gone for good: opentap node forget " + p.node
	}
	return want.Examination{Time: time.Now().UTC(), Findings: []want.Finding{f}}
}
