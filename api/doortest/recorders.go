package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/ledger"
	"opentap/want"
)

// Recorders implements the doors' Controller: eth0 has one of the configuration.
func (c *Controller) Recorders(context.Context, auth.Identity) ([]want.RecorderView, error) {
	return []want.RecorderView{{
		Recorder: want.Recorder{Point: "eth0", Node: "n1", Bytes: 1 << 30}, Origin: want.FromConfiguration,
		Status: want.RecorderStatus{
			State: want.Running, Since: Epoch, Bytes: 4096, Ledger: ledger.Account{Seen: 10, Captured: 10, Octets: 640, StoredOctets: 640},
			ReadBy: "packet socket ring", Gaps: []want.Gap{{From: Epoch, To: Epoch, Reason: "device eth0 is down"}},
		},
	}}, c.Fail["Recorders"]
}

// Recorder implements the doors' Controller.
func (c *Controller) Recorder(ctx context.Context, id auth.Identity, name string) (want.RecorderView, error) {
	if name != "eth0" {
		return want.RecorderView{}, fault.New(fault.NotFound, "nothing is recorded at %q", name)
	}
	list, err := c.Recorders(ctx, id)
	return list[0], err
}

// SetRecorder implements the doors' Controller: eth1 can have one.
func (c *Controller) SetRecorder(_ context.Context, id auth.Identity, name string, r want.Recorder) (want.RecorderView, bool, error) {
	switch {
	case !id.May(auth.Administer):
		return want.RecorderView{}, false, fault.New(fault.Forbidden, "only an administrator sets recorders")
	case name == "eth0":
		return want.RecorderView{}, false, fault.New(fault.Conflict, "the recorder of eth0 is that of the configuration file")
	case r.Bytes == 0:
		return want.RecorderView{}, false, fault.Field("bytes", "say how much")
	}
	r.Point, r.Node, r.Owner, r.Changed = name, "n1", id.Name, Epoch
	return want.RecorderView{Recorder: r, Origin: want.FromAPI, Status: want.RecorderStatus{State: want.Scheduled, Reason: "it has not begun"}}, true, c.Fail["SetRecorder"]
}

// DeleteRecorder implements the doors' Controller.
func (c *Controller) DeleteRecorder(_ context.Context, _ auth.Identity, name string) error {
	if name != "eth1" {
		return fault.New(fault.NotFound, "nothing is recorded at %q", name)
	}
	return c.Fail["DeleteRecorder"]
}
