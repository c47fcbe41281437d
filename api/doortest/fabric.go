package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

func aPolicy(name string) want.FabricPolicyView {
	return want.FabricPolicyView{
		FabricPolicy: want.FabricPolicy{Name: name, From: []string{"h1"}, To: []string{"h11"}, Filter: "tcp", Owner: "ann", Changed: Epoch},
		State:        want.PolicyActive, Rules: 6, Packets: 7,
		Hops: []want.FabricHop{{Switch: "s1", What: "web at s1/1", Packets: 7, Octets: 700}},
	}
}

// Fabric implements the doors' Controller.
func (c *Controller) Fabric(context.Context, auth.Identity, bool) (want.FabricView, error) {
	return want.FabricView{
		Fabric: want.Fabric{
			Switches: map[string]want.FabricSwitch{"s1": {DPID: 1}},
			Pairs:    []want.FabricPair{{"s1/1", "s1/2"}},
			Ports:    map[string]want.FabricPort{"h1": {At: "s1/1", Role: want.RoleFilter}, "h11": {At: "s1/3", Role: want.RoleDelivery}},
			Policies: []want.FabricPolicy{aPolicy("web").FabricPolicy},
		},
		Switches: []want.FabricSwitchView{{
			Name: "s1", DPID: 1, Connected: true, Since: Epoch, Software: "3.1.0", Role: "master", Rules: 9, InSync: true, Checked: Epoch,
			Ports: []want.SwitchPort{{Number: 1, Name: "s1-eth1", Up: true, SpeedKbps: 1e7, Use: "filter h1"}},
		}},
		Links:    []want.FabricLinkView{{A: "s1/6", B: "s3/1", Up: true, Confirmed: true, Seen: Epoch}},
		Policies: []want.FabricPolicyView{aPolicy("web")},
	}, c.Fail["Fabric"]
}

// SetFabric implements the doors' Controller.
func (c *Controller) SetFabric(ctx context.Context, id auth.Identity, f want.Fabric, _ bool) (want.FabricView, error) {
	if !id.May(auth.Administer) {
		return want.FabricView{}, fault.New(fault.Forbidden, "only an administrator changes the fabric")
	}
	v, err := c.Fabric(ctx, id, false)
	v.Fabric = f
	return v, err
}

// DeleteFabric implements the doors' Controller.
func (c *Controller) DeleteFabric(context.Context, auth.Identity) error {
	return c.Fail["DeleteFabric"]
}

// PlanFabric implements the doors' Controller.
func (c *Controller) PlanFabric(context.Context, auth.Identity, want.Fabric, bool) (want.FabricPlan, error) {
	return want.FabricPlan{
		Switches: []want.FabricSwitchPlan{{Switch: "s1", Old: 1, New: 2, Changes: []want.RuleChange{{Verb: "add", What: "rule", Text: "priority=1 any → drop", Why: "a reason"}}}},
		Policies: []want.FabricPolicyView{aPolicy("web")},
	}, c.Fail["PlanFabric"]
}

// VerifyFabric implements the doors' Controller: something was found if the doctor is to find something.
func (c *Controller) VerifyFabric(context.Context, auth.Identity) (want.FabricReport, error) {
	r := want.FabricReport{OK: !c.Sick, Checked: Epoch, Switches: 3, Rules: 40, Findings: []want.FabricFinding{}}
	if c.Sick {
		r.Findings = append(r.Findings, want.FabricFinding{Kind: want.FindingMissing, Switch: "s1", Text: "the rule is not there: web at s1/1", Intended: "priority=30001 in_port=1 → output:2"})
	}
	return r, c.Fail["VerifyFabric"]
}

// FabricDrift implements the doors' Controller.
func (c *Controller) FabricDrift(context.Context, auth.Identity) ([]want.FabricDrift, error) {
	return []want.FabricDrift{{Time: Epoch, Switch: "s1", Kind: want.FindingMissing, Text: "the rule is not there", Done: "repaired"}}, c.Fail["FabricDrift"]
}

// FabricPolicy implements the doors' Controller: web is there.
func (c *Controller) FabricPolicy(_ context.Context, _ auth.Identity, name string) (want.FabricPolicyView, error) {
	if name != "web" {
		return want.FabricPolicyView{}, fault.New(fault.NotFound, "there is no policy %q", name)
	}
	return aPolicy(name), c.Fail["FabricPolicy"]
}

// SetFabricPolicy implements the doors' Controller.
func (c *Controller) SetFabricPolicy(_ context.Context, _ auth.Identity, name string, p want.FabricPolicy) (want.FabricPolicyView, bool, error) {
	v := aPolicy(name)
	p.Name = name
	v.FabricPolicy = p
	return v, name != "web", c.Fail["SetFabricPolicy"]
}

// DeleteFabricPolicy implements the doors' Controller.
func (c *Controller) DeleteFabricPolicy(ctx context.Context, id auth.Identity, name string) error {
	_, err := c.FabricPolicy(ctx, id, name)
	return err
}

// ProbeFabric implements the doors' Controller.
func (c *Controller) ProbeFabric(context.Context, auth.Identity, string) ([]want.ProbeResult, error) {
	return []want.ProbeResult{{Policy: "web", From: "s1/1", To: "h11", Result: "delivered", Hops: []string{"s1", "s3"}, Micros: 900}}, c.Fail["ProbeFabric"]
}
