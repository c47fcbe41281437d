package doortest

import (
	"context"
	"net/netip"

	"opentap/auth"
	"opentap/fault"
	"opentap/tap"
)

// Ids of what the controller has of taps.
const (
	ServiceID = "11111111-1111-4111-8111-111111111111"
	FlowID    = "22222222-2222-4222-8222-222222222222"
	MirrorID  = "33333333-3333-4333-8333-333333333333"
	PortID    = "44444444-4444-4444-8444-444444444444"
)

func aReport() tap.Report {
	st := tap.Status{
		ID: FlowID, State: tap.Active, Driver: "ebpf", Device: "eth1", Since: Epoch, Updated: Epoch,
		Counts: tap.Counts{Seen: 10, NotMatched: 4, Mirrored: 6, Octets: 600, Sent: 6},
	}
	return tap.Report{
		Status: tap.Up, Counts: st.Counts, Gaps: []tap.Gap{{From: Epoch, To: Epoch, Reason: "the port moved from node a to node virgo"}},
		Notes: []string{"MTU short by 36"}, Ends: []tap.End{{Role: "source", Node: "virgo", NodeID: "n1", Status: st}},
	}
}

// about answers with v if its name is right.
func about[V any](c *Controller, method, name, id string, v V) (V, error) {
	var none V
	if err := c.Fail[method]; err != nil {
		return none, err
	}
	if name != id && name != "web" {
		return none, &fault.Error{Kind: fault.NotFound, Msg: "there is no " + name, Hint: "list them"}
	}
	return v, nil
}

// change keeps what is changed of the service and the flow.
func (c *Controller) change(ch tap.Change, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.taps = ch
	}
}

func (c *Controller) changed() tap.Change {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taps
}

func (c *Controller) service() tap.ServiceView {
	v := tap.ServiceView{Service: tap.Service{ID: ServiceID, Project: "red", Name: "web", PortID: PortID, TunnelID: 7, Created: Epoch, Owner: "ann"}, Port: "eth1", Flows: 1, Report: aReport()}
	if d := c.changed().Description; d != nil {
		v.Description = *d
	}
	return v
}

func (c *Controller) flow() tap.FlowView {
	v := tap.FlowView{
		Flow: tap.Flow{ID: FlowID, Project: "red", Name: "web", ServiceID: ServiceID, PortID: PortID, Direction: tap.Both, Created: Epoch, Options: tap.Options{Filter: "tcp", Snap: 128, Expires: Epoch}},
		Port: "eth1", Service: "web", Filtering: "TCP", Report: aReport(),
	}
	if o := c.changed().Options; o != nil {
		v.Options = *o
	}
	return v
}

func (c *Controller) mirror() tap.MirrorView {
	return tap.MirrorView{Mirror: tap.Mirror{
		ID: MirrorID, Project: "red", Name: "web", PortID: PortID, Directions: map[tap.Direction]uint32{tap.In: 1}, Remote: netip.MustParseAddr("192.0.2.1"), Type: tap.GRE, Created: Epoch,
	}, Port: "eth1", Report: aReport()}
}

func (c *Controller) port() tap.PortView {
	return tap.PortView{
		Port: tap.Port{ID: PortID, Name: "eth1", Project: "red", MAC: "02:00:00:00:00:01", Device: "eth1", Node: "virgo"}, Origin: tap.Declared, Present: true,
		Nodes: []string{"virgo"}, MTU: 1500, SpeedBPS: 1e9, Services: 1, Flows: 1, Mirrors: 1, Created: Epoch,
	}
}

// TapServices implements the doors' Controller, and so do the methods below: there is one of each, of the name web.
func (c *Controller) TapServices(context.Context, auth.Identity) ([]tap.ServiceView, error) {
	return []tap.ServiceView{c.service()}, c.Fail["TapServices"]
}

func (c *Controller) TapService(_ context.Context, _ auth.Identity, name string) (tap.ServiceView, error) {
	return about(c, "TapService", name, ServiceID, c.service())
}

func (c *Controller) CreateTapServices(_ context.Context, _ auth.Identity, list []tap.Service) ([]tap.ServiceView, error) {
	v := c.service()
	v.Name, v.PortID, v.Options = list[0].Name, list[0].PortID, list[0].Options
	if r := list[0].Check(); r != nil {
		return nil, fault.Field(r.Field, "is wrong")
	}
	return []tap.ServiceView{v}, c.Fail["CreateTapServices"]
}

func (c *Controller) UpdateTapService(_ context.Context, _ auth.Identity, name string, ch tap.Change) (tap.ServiceView, error) {
	_, err := about(c, "UpdateTapService", name, ServiceID, 0)
	c.change(ch, err)
	return c.service(), err
}

func (c *Controller) DeleteTapService(_ context.Context, _ auth.Identity, name string) error {
	_, err := about(c, "DeleteTapService", name, ServiceID, 0)
	return err
}

func (c *Controller) TapFlows(context.Context, auth.Identity) ([]tap.FlowView, error) {
	return []tap.FlowView{c.flow()}, c.Fail["TapFlows"]
}

func (c *Controller) TapFlow(_ context.Context, _ auth.Identity, name string) (tap.FlowView, error) {
	return about(c, "TapFlow", name, FlowID, c.flow())
}

func (c *Controller) CreateTapFlows(_ context.Context, _ auth.Identity, list []tap.Flow) ([]tap.FlowView, error) {
	v := c.flow()
	v.Flow.Name, v.Flow.Direction, v.Flow.Options = list[0].Name, list[0].Direction, list[0].Options
	if r := list[0].Check(); r != nil {
		return nil, fault.Field(r.Field, "is wrong")
	}
	return []tap.FlowView{v}, c.Fail["CreateTapFlows"]
}

func (c *Controller) UpdateTapFlow(_ context.Context, _ auth.Identity, name string, ch tap.Change) (tap.FlowView, error) {
	_, err := about(c, "UpdateTapFlow", name, FlowID, 0)
	c.change(ch, err)
	return c.flow(), err
}

func (c *Controller) DeleteTapFlow(_ context.Context, _ auth.Identity, name string) error {
	_, err := about(c, "DeleteTapFlow", name, FlowID, 0)
	return err
}

func (c *Controller) TapMirrors(context.Context, auth.Identity) ([]tap.MirrorView, error) {
	return []tap.MirrorView{c.mirror()}, c.Fail["TapMirrors"]
}

func (c *Controller) TapMirror(_ context.Context, _ auth.Identity, name string) (tap.MirrorView, error) {
	return about(c, "TapMirror", name, MirrorID, c.mirror())
}

func (c *Controller) CreateTapMirrors(_ context.Context, _ auth.Identity, list []tap.Mirror) ([]tap.MirrorView, error) {
	v := c.mirror()
	v.Mirror.Name, v.Directions, v.Remote, v.Type = list[0].Name, list[0].Directions, list[0].Remote, list[0].Type
	if r := list[0].Check(); r != nil {
		return nil, fault.Field(r.Field, "is wrong")
	}
	return []tap.MirrorView{v}, c.Fail["CreateTapMirrors"]
}

func (c *Controller) UpdateTapMirror(_ context.Context, _ auth.Identity, name string, _ tap.Change) (tap.MirrorView, error) {
	return about(c, "UpdateTapMirror", name, MirrorID, c.mirror())
}

func (c *Controller) DeleteTapMirror(_ context.Context, _ auth.Identity, name string) error {
	_, err := about(c, "DeleteTapMirror", name, MirrorID, 0)
	return err
}

func (c *Controller) TryTapFlow(context.Context, auth.Identity, string) (tap.Trial, error) {
	return tap.Trial{
		Flow: "f", OK: true, From: "virgo/eth1", To: "virgo/eth2", Counted: map[string]uint64{"seen": 4}, Expected: 4, Heard: 4,
		Sorts: []tap.TrialSort{{Direction: tap.Out, Length: 100, Sent: 4, Expected: true, Heard: 4}}, DelayUS: &tap.TrialDelay{Median: 20, Most: 40},
	}, c.Fail["TryTapFlow"]
}

func (c *Controller) EstimateTapFlow(context.Context, auth.Identity, tap.Flow) (tap.Estimate, error) {
	return tap.Estimate{Node: "virgo", Device: "eth1", PPS: 10, BPS: 1e6, MirrorPPS: 10, MirrorBPS: 1.1e6, Encap: tap.VXLAN, Overhead: 36, MTUShort: 50, Notes: []string{"MTU short by 50"}}, c.Fail["EstimateTapFlow"]
}

func (c *Controller) EstimateTapMirror(ctx context.Context, id auth.Identity, _ tap.Mirror) (tap.Estimate, error) {
	return c.EstimateTapFlow(ctx, id, tap.Flow{})
}

func (c *Controller) SettleTap(context.Context, string) {}

func (c *Controller) Ports(context.Context, auth.Identity) ([]tap.PortView, error) {
	return []tap.PortView{c.port()}, c.Fail["Ports"]
}

func (c *Controller) Port(_ context.Context, _ auth.Identity, name string) (tap.PortView, error) {
	if name == "eth1" || name == "virgo/eth1" {
		name = PortID
	}
	return about(c, "Port", name, PortID, c.port())
}

func (c *Controller) CreatePorts(_ context.Context, _ auth.Identity, list []tap.PortWish) ([]tap.PortView, error) {
	v := c.port()
	if list[0].Name != nil {
		v.Name = *list[0].Name
	}
	return []tap.PortView{v}, c.Fail["CreatePorts"]
}

func (c *Controller) UpdatePort(ctx context.Context, id auth.Identity, name string, w tap.PortWish) (tap.PortView, error) {
	v, err := c.Port(ctx, id, name)
	if w.Project != nil {
		v.Project = *w.Project
	}
	return v, err
}

func (c *Controller) DeletePort(ctx context.Context, id auth.Identity, name string) error {
	_, err := c.Port(ctx, id, name)
	return err
}
