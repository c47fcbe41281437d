package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Fleet is what the door asks of the controller about the hosts of the fleet.
type Fleet interface {
	Nodes(ctx context.Context, id auth.Identity) ([]want.Node, error)
	Node(ctx context.Context, id auth.Identity, name string) (want.Node, error)
	RevokeNode(ctx context.Context, id auth.Identity, name string) (want.Node, error)
	ForgetNode(ctx context.Context, id auth.Identity, name string) error
	CreateJoinToken(ctx context.Context, id auth.Identity, r want.JoinTokenRequest) (want.JoinToken, error)
	JoinTokens(ctx context.Context, id auth.Identity) ([]want.JoinToken, error)
	DeleteJoinToken(ctx context.Context, id auth.Identity, tokenID string) error
	AcceptStore(ctx context.Context, id auth.Identity) (want.Epoch, error)
}

func fleetRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/nodes", Serve: s.nodes},
		{Method: "GET", Path: "/v1/nodes/{name}", Serve: s.node},
		{Method: "DELETE", Path: "/v1/nodes/{name}", Serve: s.forgetNode},
		{Method: "POST", Path: "/v1/nodes/{name}/revoke", Serve: s.revokeNode},
		{Method: "POST", Path: "/v1/nodes/join-tokens", Serve: s.createJoinToken},
		{Method: "GET", Path: "/v1/nodes/join-tokens", Serve: s.joinTokens},
		{Method: "DELETE", Path: "/v1/nodes/join-tokens/{id}", Serve: s.deleteJoinToken},
		{Method: "POST", Path: "/v1/store/accept", Serve: s.acceptStore},
	}
}

func (s *server) nodes(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.Nodes(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"nodes": notNil(list)})
}

func (s *server) node(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	n, err := s.ctl.Node(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, n)
}

func (s *server) revokeNode(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	n, err := s.ctl.RevokeNode(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name"))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, n)
}

func (s *server) forgetNode(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	if err := s.ctl.ForgetNode(r.Context(), httpapi.Identity(r.Context()), r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) createJoinToken(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	var body want.JoinTokenRequest
	if err := httpapi.DecodeJSON(w, r, &body); err != nil {
		return err
	}
	t, err := s.ctl.CreateJoinToken(r.Context(), httpapi.Identity(r.Context()), body)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusCreated, t)
}

func (s *server) joinTokens(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	list, err := s.ctl.JoinTokens(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"join_tokens": notNil(list)})
}

func (s *server) deleteJoinToken(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	if err := s.ctl.DeleteJoinToken(r.Context(), httpapi.Identity(r.Context()), r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) acceptStore(w http.ResponseWriter, r *http.Request) error {
	if err := noQuery(r); err != nil {
		return err
	}
	e, err := s.ctl.AcceptStore(r.Context(), httpapi.Identity(r.Context()))
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, e)
}
