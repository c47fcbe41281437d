package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

var red = want.Project{
	Name: "red", ProjectRequest: want.ProjectRequest{Points: []string{"*/tap-red-*"}, Captures: 10, MaxDuration: want.Duration(3600e9)},
	Origin: want.FromAPI, Changed: Epoch, By: "admin", Used: want.Usage{Captures: 1, Bytes: 4096},
}

// Tenants implements the doors' Controller: there is red.
func (c *Controller) Tenants(context.Context, auth.Identity) ([]want.Project, error) {
	return []want.Project{red}, nil
}

// Tenant implements the doors' Controller.
func (c *Controller) Tenant(_ context.Context, _ auth.Identity, name string) (want.Project, error) {
	if name != red.Name {
		return want.Project{}, fault.New(fault.NotFound, "no project %q", name)
	}
	return red, nil
}

// SetTenant implements the doors' Controller.
func (c *Controller) SetTenant(_ context.Context, id auth.Identity, name string, r want.ProjectRequest) (want.Project, bool, error) {
	switch {
	case !id.May(auth.Administer):
		return want.Project{}, false, fault.New(fault.Forbidden, "only an administrator sets projects")
	case r.Captures < 0:
		return want.Project{}, false, fault.Field("captures", "is negative")
	}
	return want.Project{Name: name, ProjectRequest: r, Origin: want.FromAPI, Changed: Epoch, By: id.Name}, name != red.Name, nil
}

// DeleteTenant implements the doors' Controller.
func (c *Controller) DeleteTenant(_ context.Context, _ auth.Identity, name string) error {
	if name != red.Name {
		return fault.New(fault.NotFound, "no project %q", name)
	}
	return nil
}
