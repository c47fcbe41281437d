package v1

import (
	"context"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Tenants is what the door asks of the controller about projects.
type Tenants interface {
	Tenants(ctx context.Context, id auth.Identity) ([]want.Project, error)
	Tenant(ctx context.Context, id auth.Identity, name string) (want.Project, error)
	SetTenant(ctx context.Context, id auth.Identity, name string, r want.ProjectRequest) (v want.Project, created bool, err error)
	DeleteTenant(ctx context.Context, id auth.Identity, name string) error
}

func tenantRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/projects", Serve: list("projects", projectKey, s.ctl.Tenants)},
		{Method: "GET", Path: "/v1/projects/{name}", Serve: show("name", s.ctl.Tenant)},
		{Method: "PUT", Path: "/v1/projects/{name}", Serve: set("name", s.ctl.SetTenant)},
		{Method: "DELETE", Path: "/v1/projects/{name}", Serve: remove("name", s.ctl.DeleteTenant)},
	}
}
