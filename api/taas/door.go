// Package taas is the REST interface of Neutron's Tap-as-a-Service, so that the openstack client drives OpenTap unchanged.
//
// It serves tap services, flows and mirrors under /v2.0, of ports, networks and extensions as much as clients ask for, and
// the part of Keystone's v3 by which they come in. Attributes, errors and their texts are those of neutron-lib; what Neutron
// leaves out (who may tap a source port, a status that is true) is done right here.
//
// Runs in: controller
package taas

import (
	"context"
	"net/http"
	"net/netip"
	"time"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/tap"
)

// Controller is what the door asks of the controller. Rights are decided there. Errors are *fault.Error, with a
// *tap.Refusal in their chain where there is one.
type Controller interface {
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
	Ports(ctx context.Context, id auth.Identity) ([]tap.PortView, error)
	Port(ctx context.Context, id auth.Identity, name string) (tap.PortView, error)
	CreatePorts(ctx context.Context, id auth.Identity, list []tap.PortWish) ([]tap.PortView, error)
	UpdatePort(ctx context.Context, id auth.Identity, name string, wish tap.PortWish) (tap.PortView, error)
	DeletePort(ctx context.Context, id auth.Identity, name string) error
	Networks(ctx context.Context, id auth.Identity) ([]tap.Network, error)
	CreateNetworks(ctx context.Context, id auth.Identity, list []tap.Network) ([]tap.Network, error)
	DeleteNetwork(ctx context.Context, id auth.Identity, id2 string) error
	Projects(ctx context.Context, id auth.Identity) ([]string, error)
}

// Keys says who holds a token, and until when it is valid; zero = until it is revoked.
type Keys interface {
	Authenticate(ctx context.Context, token string, remote netip.AddrPort) (auth.Identity, error)
	Expiry(token string) time.Time
}

type server struct {
	ctl  Controller
	keys Keys
}

// New returns the doors: Neutron's and Keystone's.
func New(ctl Controller, keys Keys) []httpapi.Door {
	s := &server{ctl, keys}
	neutron := httpapi.Door{Name: "taas", Prefix: "/v2.0", Fail: fail, Credential: credential}
	for _, base := range []string{"/v2.0", "/v2.0/v2.0"} { // clients that were told /v2.0 put theirs behind it
		s.neutron(&neutron, base)
	}
	doors := []httpapi.Door{neutron}
	for _, base := range []string{"/identity", "/identity/v3", "/v3", "/projects"} {
		d := httpapi.Door{Name: "identity", Prefix: base, Fail: failIdentity, Credential: credential}
		switch base {
		case "/identity":
			d.Routes = []httpapi.Route{
				{Method: "GET", Path: "/identity", Open: true, Serve: s.identityVersions},
				{Method: "GET", Path: "/identity/{$}", Open: true, Serve: s.identityVersions},
			}
		case "/projects": // a client without a catalogue takes the endpoint for Keystone's too
			d.Routes = projectRoutes(s, "")
		default:
			d.Routes = append([]httpapi.Route{
				{Method: "GET", Path: base, Open: true, Serve: s.identityVersion},
				{Method: "GET", Path: base + "/{$}", Open: true, Serve: s.identityVersion},
				{Method: "POST", Path: base + "/auth/tokens", Open: true, Serve: s.issueToken},
				{Method: "GET", Path: base + "/auth/tokens", Serve: s.named(s.showToken)},
				{Method: "GET", Path: base + "/auth/catalog", Serve: s.named(s.showCatalog)},
				{Method: "GET", Path: base + "/auth/projects", Serve: s.named(s.projects)},
			}, projectRoutes(s, base)...)
		}
		doors = append(doors, d)
	}
	return doors
}

func projectRoutes(s *server, base string) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: base + "/projects", Serve: s.named(s.projects)},
		{Method: "GET", Path: base + "/projects/{id}", Serve: s.named(s.project)},
	}
}

// neutron adds Neutron's routes under a base.
func (s *server) neutron(d *httpapi.Door, base string) {
	add := func(method, path string, serve func(http.ResponseWriter, *http.Request) error) {
		d.Routes = append(d.Routes, httpapi.Route{Method: method, Path: base + path, Serve: s.named(serve)})
	}
	d.Routes = append(d.Routes, httpapi.Route{Method: "GET", Path: base, Open: true, Serve: s.version})
	add("GET", "/{$}", s.resources)
	add("GET", "/extensions", s.extensions)
	add("GET", "/extensions/{id}", s.extension)
	for _, k := range s.kinds() {
		paths := []string{"/" + k.plural}
		if k.taas {
			paths = append(paths, "/taas/"+k.plural)
		}
		for _, p := range paths {
			if k.list != nil {
				add("GET", p, s.list(k))
				add("GET", p+"/{id}", s.show(k))
			}
			if k.create != nil {
				add("POST", p, s.create(k))
			}
			if k.update != nil {
				add("PUT", p+"/{id}", s.update(k))
			}
			if k.remove != nil {
				add("DELETE", p+"/{id}", s.remove(k))
			}
		}
	}
}

// endpoint is how the client reaches us, without a path.
func endpoint(r *http.Request) string {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	if p := r.Header.Get("X-Forwarded-Proto"); p == "http" || p == "https" {
		scheme = p
	}
	return scheme + "://" + r.Host
}
