package doortest

import (
	"context"
	"slices"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Doctor implements the doors' Controller.
func (c *Controller) Doctor(_ context.Context, id auth.Identity, node string) (want.Examination, error) {
	if !id.May(auth.Administer) {
		return want.Examination{}, fault.New(fault.Forbidden, "only an administrator asks the doctor")
	}
	x := want.Examination{
		Node: "here", Time: Epoch,
		Findings: []want.Finding{
			{Node: "here", Check: "kernel", Severity: want.Fine, Text: "Linux 6.12"},
			{Node: "there", Check: "clock", Severity: want.Warn, Text: "the clock is not synchronised", Fix: "run chrony"},
		},
		Settings: []want.Setting{{Key: "listen", Value: "127.0.0.1:2020", Origin: "default"}},
	}
	if c.Sick {
		x.Findings = append(x.Findings, want.Finding{Node: "there", Check: "space", Severity: want.Bad, Text: "the disk is full", Fix: "make room"})
	}
	if node != "" {
		x.Node = node
		x.Findings = slices.DeleteFunc(x.Findings, func(f want.Finding) bool { return f.Node != node })
		if len(x.Findings) == 0 {
			return want.Examination{}, &fault.Error{Kind: fault.NotFound, Field: "node", Msg: "no such node"}
		}
	}
	return x, c.Fail["Doctor"]
}
