package v1

import (
	"context"
	"net/http"
	"strconv"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// Fabric is what the door asks of the controller about OpenFlow switches.
type Fabric interface {
	Fabric(ctx context.Context, id auth.Identity, fresh bool) (want.FabricView, error)
	SetFabric(ctx context.Context, id auth.Identity, f want.Fabric, prune bool) (want.FabricView, error)
	DeleteFabric(ctx context.Context, id auth.Identity) error
	PlanFabric(ctx context.Context, id auth.Identity, f want.Fabric, prune bool) (want.FabricPlan, error)
	VerifyFabric(ctx context.Context, id auth.Identity) (want.FabricReport, error)
	FabricDrift(ctx context.Context, id auth.Identity) ([]want.FabricDrift, error)
	FabricPolicy(ctx context.Context, id auth.Identity, name string) (want.FabricPolicyView, error)
	SetFabricPolicy(ctx context.Context, id auth.Identity, name string, p want.FabricPolicy) (v want.FabricPolicyView, created bool, err error)
	DeleteFabricPolicy(ctx context.Context, id auth.Identity, name string) error
	ProbeFabric(ctx context.Context, id auth.Identity, policy string) ([]want.ProbeResult, error)
}

// fabricRoutes are the routes below /v1/fabric.
func fabricRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/fabric", Serve: s.fabric},
		{Method: "PUT", Path: "/v1/fabric", Serve: s.setFabric},
		{Method: "DELETE", Path: "/v1/fabric", Serve: s.deleteFabric},
		{Method: "POST", Path: "/v1/fabric/plan", Serve: s.planFabric},
		{Method: "GET", Path: "/v1/fabric/verify", Serve: look(s.ctl.VerifyFabric)},
		{Method: "GET", Path: "/v1/fabric/drift", Serve: list("drift", driftKey, s.ctl.FabricDrift)},
		{Method: "GET", Path: "/v1/fabric/policies/{name}", Serve: show("name", s.ctl.FabricPolicy)},
		{Method: "PUT", Path: "/v1/fabric/policies/{name}", Serve: set("name", s.ctl.SetFabricPolicy)},
		{Method: "DELETE", Path: "/v1/fabric/policies/{name}", Serve: remove("name", s.ctl.DeleteFabricPolicy)},
		{Method: "POST", Path: "/v1/fabric/policies/{name}/probe", Serve: s.probeFabric},
	}
}

// flag reads a query parameter that is true or false; absent = false.
func flag(r *http.Request, name string) (bool, error) {
	if err := noQuery(r, name); err != nil {
		return false, err
	}
	text := r.URL.Query().Get(name)
	if text == "" {
		return false, nil
	}
	v, err := strconv.ParseBool(text)
	if err != nil {
		return false, fault.Field(name, "%q is neither true nor false", text)
	}
	return v, nil
}

func (s *server) fabric(w http.ResponseWriter, r *http.Request) error {
	fresh, err := flag(r, "fresh")
	if err != nil {
		return err
	}
	v, err := s.ctl.Fabric(r.Context(), httpapi.Identity(r.Context()), fresh)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

func (s *server) setFabric(w http.ResponseWriter, r *http.Request) error {
	prune, err := flag(r, "prune")
	if err != nil {
		return err
	}
	var f want.Fabric
	if err := httpapi.DecodeJSON(w, r, &f); err != nil {
		return err
	}
	v, err := s.ctl.SetFabric(r.Context(), httpapi.Identity(r.Context()), f, prune)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, v)
}

func (s *server) deleteFabric(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	if err := s.ctl.DeleteFabric(r.Context(), httpapi.Identity(r.Context())); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) planFabric(w http.ResponseWriter, r *http.Request) error {
	prune, err := flag(r, "prune")
	if err != nil {
		return err
	}
	var f want.Fabric
	if err := httpapi.DecodeJSON(w, r, &f); err != nil {
		return err
	}
	p, err := s.ctl.PlanFabric(r.Context(), httpapi.Identity(r.Context()), f, prune)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, p)
}

func (s *server) probeFabric(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.ProbeFabric(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"probes": notNil(list)})
}
