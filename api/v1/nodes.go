package v1

import (
	"context"

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
		{Method: "GET", Path: "/v1/nodes", Serve: list("nodes", nodeKey, s.ctl.Nodes)},
		{Method: "GET", Path: "/v1/nodes/{name}", Serve: show("name", s.ctl.Node)},
		{Method: "DELETE", Path: "/v1/nodes/{name}", Serve: remove("name", s.ctl.ForgetNode)},
		{Method: "POST", Path: "/v1/nodes/{name}/revoke", Serve: show("name", s.ctl.RevokeNode)},
		{Method: "POST", Path: "/v1/nodes/join-tokens", Serve: create(s.ctl.CreateJoinToken)},
		{Method: "GET", Path: "/v1/nodes/join-tokens", Serve: list("join_tokens", joinTokenKey, s.ctl.JoinTokens)},
		{Method: "DELETE", Path: "/v1/nodes/join-tokens/{id}", Serve: remove("id", s.ctl.DeleteJoinToken)},
		{Method: "POST", Path: "/v1/store/accept", Serve: look(s.ctl.AcceptStore)},
	}
}
