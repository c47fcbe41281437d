package v1

import (
	"context"
	"net/http"

	"opentap/api/httpapi"
	"opentap/auth"
	"opentap/want"
)

// Auditing is what the door asks of the controller about the audit log.
type Auditing interface {
	AuditEntries(ctx context.Context, id auth.Identity, q want.AuditQuery) ([]want.AuditEntry, error)
	VerifyAudit(ctx context.Context, id auth.Identity) (want.AuditReport, error)
}

func auditRoutes(s *server) []httpapi.Route {
	return []httpapi.Route{
		{Method: "GET", Path: "/v1/audit", Serve: s.audit},
		{Method: "GET", Path: "/v1/audit/verify", Serve: look(s.ctl.VerifyAudit)},
	}
}

func (s *server) audit(w http.ResponseWriter, r *http.Request) error {
	a := ask(r, "limit", "before", "actor", "action", "object", "denied")
	q := want.AuditQuery{Limit: a.int("limit", 100, 1000), Before: a.uint("before"), Actor: a.text("actor"), Action: a.text("action"), Object: a.text("object"), Denied: a.bool("denied")}
	if a.err != nil {
		return a.err
	}
	list, err := s.ctl.AuditEntries(r.Context(), httpapi.Identity(r.Context()), q)
	if err != nil {
		return err
	}
	return httpapi.WriteJSON(w, http.StatusOK, map[string]any{"entries": notNil(list)})
}
