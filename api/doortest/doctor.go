package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Doctor implements the doors' Controller.
func (c *Controller) Doctor(_ context.Context, id auth.Identity) (want.Examination, error) {
	if !id.May(auth.Administer) {
		return want.Examination{}, fault.New(fault.Forbidden, "only an administrator asks the doctor")
	}
	x := want.Examination{
		Node: "here", Time: Epoch,
		Findings: []want.Finding{
			{Check: "kernel", Severity: want.Fine, Text: "Linux 6.12"},
			{Check: "clock", Severity: want.Warn, Text: "the clock is not synchronised", Fix: "run chrony"},
		},
		Settings: []want.Setting{{Key: "listen", Value: "127.0.0.1:2020", Origin: "default"}},
	}
	if c.Sick {
		x.Findings = append(x.Findings, want.Finding{Check: "space", Severity: want.Bad, Text: "the disk is full", Fix: "make room"})
	}
	return x, c.Fail["Doctor"]
}
