package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/tap"
)

// Taps is what the door asks of the controller about taps and ports.
type Taps interface {
	TapServices(ctx context.Context, id auth.Identity) ([]tap.ServiceView, error)
	TapService(ctx context.Context, id auth.Identity, name string) (tap.ServiceView, error)
	CreateTapServices(ctx context.Context, id auth.Identity, list []tap.Service) ([]tap.ServiceView, error)
	UpdateTapService(ctx context.Context, id auth.Identity, name string, ch tap.Change) (tap.ServiceView, error)
	DeleteTapService(ctx context.Context, id auth.Identity, name string) error
	TapFlows(ctx context.Context, id auth.Identity) ([]tap.FlowView, error)
	TapFlow(ctx context.Context, id auth.Identity, name string) (tap.FlowView, error)
	CreateTapFlows(ctx context.Context, id auth.Identity, list []tap.Flow) ([]tap.FlowView, error)
	UpdateTapFlow(ctx context.Context, id auth.Identity, name string, ch tap.Change) (tap.FlowView, error)
	DeleteTapFlow(ctx context.Context, id auth.Identity, name string) error
	TapMirrors(ctx context.Context, id auth.Identity) ([]tap.MirrorView, error)
	TapMirror(ctx context.Context, id auth.Identity, name string) (tap.MirrorView, error)
	CreateTapMirrors(ctx context.Context, id auth.Identity, list []tap.Mirror) ([]tap.MirrorView, error)
	UpdateTapMirror(ctx context.Context, id auth.Identity, name string, ch tap.Change) (tap.MirrorView, error)
	DeleteTapMirror(ctx context.Context, id auth.Identity, name string) error
	TryTapFlow(ctx context.Context, id auth.Identity, name string) (tap.Trial, error)
	EstimateTapFlow(ctx context.Context, id auth.Identity, f tap.Flow) (tap.Estimate, error)
	EstimateTapMirror(ctx context.Context, id auth.Identity, m tap.Mirror) (tap.Estimate, error)
	SettleTap(ctx context.Context, tapID string)
	Ports(ctx context.Context, id auth.Identity) ([]tap.PortView, error)
	Port(ctx context.Context, id auth.Identity, name string) (tap.PortView, error)
	CreatePorts(ctx context.Context, id auth.Identity, list []tap.PortWish) ([]tap.PortView, error)
	UpdatePort(ctx context.Context, id auth.Identity, name string, wish tap.PortWish) (tap.PortView, error)
	DeletePort(ctx context.Context, id auth.Identity, name string) error
}

// The bodies of POST below /v1/taps. Ports and services are named by id, by name, ports also by node/name.
type (
	// TapServiceWish asks for a tap service.
	TapServiceWish struct {
		Name        string      `json:"name"`
		Description string      `json:"description"`
		Project     string      `json:"project_id"` // "" = the caller's
		Port        string      `json:"port"`
		Options     tap.Options `json:"options"`
	}
	// TapFlowWish asks for a tap flow.
	TapFlowWish struct {
		Name        string        `json:"name"`
		Description string        `json:"description"`
		Project     string        `json:"project_id"`
		Service     string        `json:"service"`
		Port        string        `json:"port"`
		Direction   tap.Direction `json:"direction"` // "" = BOTH
		Options     tap.Options   `json:"options"`
	}
	// TapMirrorWish asks for a tap mirror.
	TapMirrorWish struct {
		Name        string                   `json:"name"`
		Description string                   `json:"description"`
		Project     string                   `json:"project_id"`
		Port        string                   `json:"port"`
		Directions  map[tap.Direction]uint32 `json:"directions"`
		Remote      string                   `json:"remote_ip"`
		Type        tap.Encap                `json:"mirror_type"`
		Options     tap.Options              `json:"options"`
	}
)

func tapRoutes(s *server) []httpapi.Route {
	routes := []httpapi.Route{
		{Method: "GET", Path: "/v1/taps", Serve: s.taps},
		{Method: "POST", Path: "/v1/taps/services", Serve: s.createTapService},
		{Method: "POST", Path: "/v1/taps/flows", Serve: s.createTapFlow},
		{Method: "POST", Path: "/v1/taps/flows/estimate", Serve: s.estimateTapFlow},
		{Method: "POST", Path: "/v1/taps/flows/{name}/test", Serve: show("name", s.ctl.TryTapFlow)},
		{Method: "POST", Path: "/v1/taps/mirrors", Serve: s.createTapMirror},
		{Method: "POST", Path: "/v1/taps/mirrors/estimate", Serve: s.estimateTapMirror},
		{Method: "POST", Path: "/v1/ports", Serve: s.createPort},
	}
	c := s.ctl
	routes = append(routes, things("/v1/taps/services", "services", serviceKey, c.TapServices, c.TapService, c.DeleteTapService, change("name", settling(s, c.UpdateTapService, serviceID, c.TapService)))...)
	routes = append(routes, things("/v1/taps/flows", "flows", flowKey, c.TapFlows, c.TapFlow, c.DeleteTapFlow, change("name", settling(s, c.UpdateTapFlow, flowID, c.TapFlow)))...)
	routes = append(routes, things("/v1/taps/mirrors", "mirrors", mirrorKey, c.TapMirrors, c.TapMirror, c.DeleteTapMirror, change("name", settling(s, c.UpdateTapMirror, mirrorID, c.TapMirror)))...)
	return append(routes, things("/v1/ports", "ports", portKey, c.Ports, c.Port, c.DeletePort, change("name", c.UpdatePort))...)
}

// things are the routes that look at one sort of things, change and delete them. A name is one segment: node%2Fname.
func things[V any](path, plural string, key func(*V) string, all func(context.Context, auth.Identity) ([]V, error),
	one func(context.Context, auth.Identity, string) (V, error), end func(context.Context, auth.Identity, string) error, update serve,
) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: path, Serve: list(plural, key, all)},
		{Method: "GET", Path: path + "/{name}", Serve: show("name", one)},
		{Method: "DELETE", Path: path + "/{name}", Serve: remove("name", end)},
		{Method: "PATCH", Path: path + "/{name}", Serve: update},
	}
}

// taps shows all services, flows and mirrors together.
func (s *server) taps(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	ctx, id := r.Context(), httpapi.Identity(r.Context())
	services, err := s.ctl.TapServices(ctx, id)
	if err != nil {
		return err
	}
	flows, err := s.ctl.TapFlows(ctx, id)
	if err != nil {
		return err
	}
	mirrors, err := s.ctl.TapMirrors(ctx, id)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"services": notNil(services), "flows": notNil(flows), "mirrors": notNil(mirrors)})
}

// portID finds the id of a port that was named.
func (s *server) portID(r *http.Request, name string) (string, error) {
	if name == "" {
		return "", fault.Field("port", "is missing: name the port by its id, its name, or node/name")
	}
	p, err := s.ctl.Port(r.Context(), httpapi.Identity(r.Context()), name)
	return p.ID, err
}

func (s *server) createTapService(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var b TapServiceWish
	if err := httpapi.DecodeJSON(w, r, &b); err != nil {
		return err
	}
	port, err := s.portID(r, b.Port)
	if err != nil {
		return err
	}
	made, err := s.ctl.CreateTapServices(r.Context(), httpapi.Identity(r.Context()), []tap.Service{{Name: b.Name, Description: b.Description, Project: b.Project, PortID: port, Options: b.Options}})
	return madeTap(s, w, r, made, err, serviceID, s.ctl.TapService)
}

// madeTap answers with the one tap that was made, as it is once it is known what became of it.
func madeTap[V any](s *server, w http.ResponseWriter, r *http.Request, made []V, err error, idOf func(*V) string, show func(context.Context, auth.Identity, string) (V, error)) error {
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, settled(r.Context(), s, httpapi.Identity(r.Context()), made[0], idOf, show))
}

// settling changes a tap, and shows it as it is once it is known what became of that.
func settling[V any](s *server, do func(context.Context, auth.Identity, string, tap.Change) (V, error), idOf func(*V) string, show func(context.Context, auth.Identity, string) (V, error)) func(context.Context, auth.Identity, string, tap.Change) (V, error) {
	return func(ctx context.Context, id auth.Identity, name string, ch tap.Change) (V, error) {
		v, err := do(ctx, id, name, ch)
		if err != nil {
			return v, err
		}
		return settled(ctx, s, id, v, idOf, show), nil
	}
}

// settled is a tap as it is once it is known what became of it, or else as it was.
func settled[V any](ctx context.Context, s *server, id auth.Identity, v V, idOf func(*V) string, show func(context.Context, auth.Identity, string) (V, error)) V {
	tapID := idOf(&v)
	s.ctl.SettleTap(ctx, tapID)
	if now, err := show(ctx, id, tapID); err == nil {
		return now
	}
	return v
}

func serviceID(v *tap.ServiceView) string { return v.ID }
func flowID(v *tap.FlowView) string       { return v.ID }
func mirrorID(v *tap.MirrorView) string   { return v.ID }

func (s *server) flowWish(w http.ResponseWriter, r *http.Request) (f tap.Flow, err error) {
	if err := noQuery(r); err != nil {
		return f, err
	}
	var b TapFlowWish
	if err := httpapi.DecodeJSON(w, r, &b); err != nil {
		return f, err
	}
	if b.Service == "" {
		return f, fault.Field("service", "is missing: name the tap service by its id or its name")
	}
	svc, err := s.ctl.TapService(r.Context(), httpapi.Identity(r.Context()), b.Service)
	if err != nil {
		return f, err
	}
	if b.Direction == "" {
		b.Direction = tap.Both
	}
	port, err := s.portID(r, b.Port)
	return tap.Flow{
		Name: b.Name, Description: b.Description, Project: b.Project, ServiceID: svc.ID, PortID: port, Direction: b.Direction, Options: b.Options,
	}, err
}

func (s *server) createTapFlow(w http.ResponseWriter, r *http.Request) error {
	f, err := s.flowWish(w, r)
	if err != nil {
		return err
	}
	made, err := s.ctl.CreateTapFlows(r.Context(), httpapi.Identity(r.Context()), []tap.Flow{f})
	return madeTap(s, w, r, made, err, flowID, s.ctl.TapFlow)
}

func (s *server) estimateTapFlow(w http.ResponseWriter, r *http.Request) error {
	f, err := s.flowWish(w, r)
	if err != nil {
		return err
	}
	e, err := s.ctl.EstimateTapFlow(r.Context(), httpapi.Identity(r.Context()), f)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, e)
}

func (s *server) mirrorWish(w http.ResponseWriter, r *http.Request) (m tap.Mirror, err error) {
	if err := noQuery(r); err != nil {
		return m, err
	}
	var b TapMirrorWish
	if err := httpapi.DecodeJSON(w, r, &b); err != nil {
		return m, err
	}
	remote, ok := tap.ParseAddress(b.Remote)
	if !ok {
		return m, fault.Field("remote_ip", "%q is not an address that packets can be sent to", b.Remote)
	}
	port, err := s.portID(r, b.Port)
	return tap.Mirror{
		Name: b.Name, Description: b.Description, Project: b.Project, PortID: port, Directions: b.Directions, Remote: remote, Type: b.Type, Options: b.Options,
	}, err
}

func (s *server) createTapMirror(w http.ResponseWriter, r *http.Request) error {
	m, err := s.mirrorWish(w, r)
	if err != nil {
		return err
	}
	made, err := s.ctl.CreateTapMirrors(r.Context(), httpapi.Identity(r.Context()), []tap.Mirror{m})
	return madeTap(s, w, r, made, err, mirrorID, s.ctl.TapMirror)
}

func (s *server) estimateTapMirror(w http.ResponseWriter, r *http.Request) error {
	m, err := s.mirrorWish(w, r)
	if err != nil {
		return err
	}
	e, err := s.ctl.EstimateTapMirror(r.Context(), httpapi.Identity(r.Context()), m)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, e)
}

func (s *server) createPort(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var b tap.PortWish
	if err := httpapi.DecodeJSON(w, r, &b); err != nil {
		return err
	}
	made, err := s.ctl.CreatePorts(r.Context(), httpapi.Identity(r.Context()), []tap.PortWish{b})
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, made[0])
}
