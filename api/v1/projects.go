package v1

import (
	"context"
	"net/http"

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
		{Method: "GET", Path: "/v1/projects", Serve: s.projects},
		{Method: "GET", Path: "/v1/projects/{name}", Serve: s.project},
		{Method: "PUT", Path: "/v1/projects/{name}", Serve: s.setProject},
		{Method: "DELETE", Path: "/v1/projects/{name}", Serve: s.deleteProject},
	}
}

func (s *server) projects(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Tenants(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"projects": notNil(list)})
}

func (s *server) project(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	p, err := s.ctl.Tenant(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, p)
}

func (s *server) setProject(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body want.ProjectRequest
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	p, created, err := s.ctl.SetTenant(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name"), body)
	if err != nil {
		return err
	}
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return httpapi.WriteJSON(w, status, p)
}

func (s *server) deleteProject(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	if err := s.ctl.DeleteTenant(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
