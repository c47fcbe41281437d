package controller

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"

	"opentap/audit"
	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// AuditReader reads the audit log back; audit.Log does.
type AuditReader interface {
	Last(n int, before uint64, keep func(*audit.Entry) bool) ([]audit.Entry, error)
	Verify() (audit.Report, error)
}

func (c *Controller) trail(ctx context.Context, id auth.Identity, action string) (AuditReader, error) {
	if !id.May(auth.Administer) {
		return nil, c.refuse(ctx, id, action, "", auth.Administer)
	}
	r, ok := c.audit.(AuditReader)
	if !ok {
		return nil, fault.New(fault.Unsupported, "the audit log cannot be read here")
	}
	return r, nil
}

// AuditEntries shows who did what, the newest first.
func (c *Controller) AuditEntries(ctx context.Context, id auth.Identity, q want.AuditQuery) ([]want.AuditEntry, error) {
	r, err := c.trail(ctx, id, "audit.list")
	if err != nil {
		return nil, err
	}
	list, err := r.Last(q.Limit, q.Before, func(e *audit.Entry) bool {
		return (q.Actor == "" || e.Actor.Name == q.Actor) && strings.HasPrefix(e.Action, q.Action) && (q.Object == "" || e.Object == q.Object) &&
			(!q.Denied || e.Outcome == audit.Denied)
	})
	if err != nil {
		return nil, err
	}
	out := make([]want.AuditEntry, len(list))
	for i, e := range list {
		out[i] = want.AuditEntry{
			Seq: e.Seq, Time: e.Time, Actor: e.Actor.Name, Role: e.Actor.Role, Via: e.Actor.Via, Remote: e.Actor.Remote, Action: e.Action,
			Object: e.Object, Project: e.Project, Outcome: string(e.Outcome), Details: e.Details, Hash: e.Hash,
		}
	}
	return out, nil
}

// VerifyAudit proves the chain of the audit log.
func (c *Controller) VerifyAudit(ctx context.Context, id auth.Identity) (want.AuditReport, error) {
	r, err := c.trail(ctx, id, "audit.verify")
	if err != nil {
		return want.AuditReport{}, err
	}
	found, err := r.Verify()
	out := want.AuditReport{Whole: err == nil, Files: found.Files, First: found.First, Last: found.Head.Seq, Head: hex.EncodeToString(found.Head.Hash[:])}
	var broken *audit.ChainError
	if errors.As(err, &broken) {
		out.Problem = broken.Msg
		return out, nil
	}
	return out, err
}
