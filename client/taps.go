package client

import (
	"context"
	"net/url"

	"opentap/tap"
)

// Taps are all services, flows and mirrors that one may see.
type Taps struct {
	Services []tap.ServiceView `json:"services"`
	Flows    []tap.FlowView    `json:"flows"`
	Mirrors  []tap.MirrorView  `json:"mirrors"`
}

// TapServiceWish asks for a tap service. Port is an id, a name or node/name.
type TapServiceWish struct {
	Name        string      `json:"name,omitempty"`
	Description string      `json:"description,omitempty"`
	Project     string      `json:"project_id,omitempty"`
	Port        string      `json:"port"`
	Options     tap.Options `json:"options"`
}

// TapFlowWish asks for a tap flow. Service is an id or a name.
type TapFlowWish struct {
	Name        string        `json:"name,omitempty"`
	Description string        `json:"description,omitempty"`
	Project     string        `json:"project_id,omitempty"`
	Service     string        `json:"service"`
	Port        string        `json:"port"`
	Direction   tap.Direction `json:"direction,omitempty"`
	Options     tap.Options   `json:"options"`
}

// TapMirrorWish asks for a tap mirror.
type TapMirrorWish struct {
	Name        string                   `json:"name,omitempty"`
	Description string                   `json:"description,omitempty"`
	Project     string                   `json:"project_id,omitempty"`
	Port        string                   `json:"port"`
	Directions  map[tap.Direction]uint32 `json:"directions"`
	Remote      string                   `json:"remote_ip"`
	Type        tap.Encap                `json:"mirror_type"`
	Options     tap.Options              `json:"options"`
}

// Taps lists all services, flows and mirrors.
func (c *Client) Taps(ctx context.Context) (v Taps, err error) {
	_, err = c.do(ctx, "GET", "/v1/taps", nil, &v)
	return v, err
}

// TapServices lists tap services, the oldest first.
func (c *Client) TapServices(ctx context.Context) ([]tap.ServiceView, error) {
	return listOf[tap.ServiceView](ctx, c, "/v1/taps/services", "services", nil)
}

// TapFlows lists tap flows, the oldest first.
func (c *Client) TapFlows(ctx context.Context) ([]tap.FlowView, error) {
	return listOf[tap.FlowView](ctx, c, "/v1/taps/flows", "flows", nil)
}

// TapMirrors lists tap mirrors, the oldest first.
func (c *Client) TapMirrors(ctx context.Context) ([]tap.MirrorView, error) {
	return listOf[tap.MirrorView](ctx, c, "/v1/taps/mirrors", "mirrors", nil)
}

// CreateTapService makes a tap service.
func (c *Client) CreateTapService(ctx context.Context, q TapServiceWish) (v tap.ServiceView, err error) {
	_, err = c.do(ctx, "POST", "/v1/taps/services", q, &v)
	return v, err
}

// CreateTapFlow makes a tap flow.
func (c *Client) CreateTapFlow(ctx context.Context, q TapFlowWish) (v tap.FlowView, err error) {
	_, err = c.do(ctx, "POST", "/v1/taps/flows", q, &v)
	return v, err
}

// EstimateTapFlow says what a flow would mean, without making it.
func (c *Client) EstimateTapFlow(ctx context.Context, q TapFlowWish) (v tap.Estimate, err error) {
	_, err = c.do(ctx, "POST", "/v1/taps/flows/estimate", q, &v)
	return v, err
}

// TryTapFlow puts canaries on a flow's source, and says what came of them at its tool.
func (c *Client) TryTapFlow(ctx context.Context, name string) (v tap.Trial, err error) {
	_, err = c.do(ctx, "POST", "/v1/taps/flows/"+url.PathEscape(name)+"/test", nil, &v)
	return v, err
}

// CreateTapMirror makes a tap mirror.
func (c *Client) CreateTapMirror(ctx context.Context, q TapMirrorWish) (v tap.MirrorView, err error) {
	_, err = c.do(ctx, "POST", "/v1/taps/mirrors", q, &v)
	return v, err
}

// EstimateTapMirror says what a mirror would mean, without making it.
func (c *Client) EstimateTapMirror(ctx context.Context, q TapMirrorWish) (v tap.Estimate, err error) {
	_, err = c.do(ctx, "POST", "/v1/taps/mirrors/estimate", q, &v)
	return v, err
}

// TapService shows a tap service, by id or name.
func (c *Client) TapService(ctx context.Context, name string) (v tap.ServiceView, err error) {
	_, err = c.do(ctx, "GET", "/v1/taps/services/"+escape(name), nil, &v)
	return v, err
}

// TapFlow shows a tap flow, by id or name.
func (c *Client) TapFlow(ctx context.Context, name string) (v tap.FlowView, err error) {
	_, err = c.do(ctx, "GET", "/v1/taps/flows/"+escape(name), nil, &v)
	return v, err
}

// TapMirror shows a tap mirror, by id or name.
func (c *Client) TapMirror(ctx context.Context, name string) (v tap.MirrorView, err error) {
	_, err = c.do(ctx, "GET", "/v1/taps/mirrors/"+escape(name), nil, &v)
	return v, err
}

// UpdateTapService changes a tap service.
func (c *Client) UpdateTapService(ctx context.Context, name string, ch tap.Change) (v tap.ServiceView, err error) {
	_, err = c.do(ctx, "PATCH", "/v1/taps/services/"+escape(name), ch, &v)
	return v, err
}

// UpdateTapFlow changes a tap flow.
func (c *Client) UpdateTapFlow(ctx context.Context, name string, ch tap.Change) (v tap.FlowView, err error) {
	_, err = c.do(ctx, "PATCH", "/v1/taps/flows/"+escape(name), ch, &v)
	return v, err
}

// UpdateTapMirror changes a tap mirror.
func (c *Client) UpdateTapMirror(ctx context.Context, name string, ch tap.Change) (v tap.MirrorView, err error) {
	_, err = c.do(ctx, "PATCH", "/v1/taps/mirrors/"+escape(name), ch, &v)
	return v, err
}

// DeleteTapService deletes a tap service with its flows.
func (c *Client) DeleteTapService(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/taps/services/"+escape(name), nil, nil)
	return err
}

// DeleteTapFlow deletes a tap flow.
func (c *Client) DeleteTapFlow(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/taps/flows/"+escape(name), nil, nil)
	return err
}

// DeleteTapMirror deletes a tap mirror.
func (c *Client) DeleteTapMirror(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/taps/mirrors/"+escape(name), nil, nil)
	return err
}

// Ports lists the ports that one may tap.
func (c *Client) Ports(ctx context.Context) ([]tap.PortView, error) {
	return listOf[tap.PortView](ctx, c, "/v1/ports", "ports", nil)
}

// CreatePort declares a port.
func (c *Client) CreatePort(ctx context.Context, w tap.PortWish) (v tap.PortView, err error) {
	_, err = c.do(ctx, "POST", "/v1/ports", w, &v)
	return v, err
}

// UpdatePort changes what is known of a port, by id, name or node/name.
func (c *Client) UpdatePort(ctx context.Context, name string, w tap.PortWish) (v tap.PortView, err error) {
	_, err = c.do(ctx, "PATCH", "/v1/ports/"+escape(name), w, &v)
	return v, err
}

// DeletePort forgets a declared port, and deletes its taps.
func (c *Client) DeletePort(ctx context.Context, name string) error {
	_, err := c.do(ctx, "DELETE", "/v1/ports/"+escape(name), nil, nil)
	return err
}
