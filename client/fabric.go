package client

import (
	"context"
	"strconv"

	"opentap/want"
)

// Fabric shows the fabric; with fresh the switches are read first.
func (c *Client) Fabric(ctx context.Context, fresh bool) (v want.FabricView, err error) {
	_, err = c.do(ctx, "GET", "/v1/fabric?fresh="+strconv.FormatBool(fresh), nil, &v)
	return v, err
}

// SetFabric has the switches be what f says. With prune policies that f does not name end.
func (c *Client) SetFabric(ctx context.Context, f want.Fabric, prune bool) (v want.FabricView, err error) {
	_, err = c.do(ctx, "PUT", "/v1/fabric?prune="+strconv.FormatBool(prune), f, &v)
	return v, err
}

// PlanFabric says what SetFabric would change.
func (c *Client) PlanFabric(ctx context.Context, f want.Fabric, prune bool) (p want.FabricPlan, err error) {
	_, err = c.do(ctx, "POST", "/v1/fabric/plan?prune="+strconv.FormatBool(prune), f, &p)
	return p, err
}

// DeleteFabric takes everything of OpenTap's out of the switches.
func (c *Client) DeleteFabric(ctx context.Context) error {
	_, err := c.do(ctx, "DELETE", "/v1/fabric", nil, nil)
	return err
}

// VerifyFabric compares what switches have with what they should have.
func (c *Client) VerifyFabric(ctx context.Context) (r want.FabricReport, err error) {
	_, err = c.do(ctx, "GET", "/v1/fabric/verify", nil, &r)
	return r, err
}

// FabricDrift returns the drift log, oldest first.
func (c *Client) FabricDrift(ctx context.Context) ([]want.FabricDrift, error) {
	return listOf[want.FabricDrift](ctx, c, "/v1/fabric/drift", "drift", nil)
}

// FabricPolicy shows a policy with counters read now.
func (c *Client) FabricPolicy(ctx context.Context, name string) (v want.FabricPolicyView, err error) {
	_, err = c.do(ctx, "GET", "/v1/fabric/policies/"+escape(name), nil, &v)
	return v, err
}

// SetFabricPolicy makes or changes a policy.
func (c *Client) SetFabricPolicy(ctx context.Context, p want.FabricPolicy) (v want.FabricPolicyView, err error) {
	_, err = c.do(ctx, "PUT", "/v1/fabric/policies/"+escape(p.Name), p, &v)
	return v, err
}

// DeleteFabricPolicy ends a policy.
func (c *Client) DeleteFabricPolicy(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/fabric/policies/"+escape(name), nil, nil)
	return err
}

// ProbeFabric sends marked frames along a policy's paths.
func (c *Client) ProbeFabric(ctx context.Context, policy string) ([]want.ProbeResult, error) {
	var a struct {
		Probes []want.ProbeResult `json:"probes"`
	}
	_, err := c.do(ctx, "POST", "/v1/fabric/policies/"+escape(policy)+"/probe", nil, &a)
	return a.Probes, err
}
