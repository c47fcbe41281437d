package doortest

import (
	"context"

	"opentap/auth"
	"opentap/fault"
	"opentap/want"
)

// AuditEntries implements the doors' Controller.
func (c *Controller) AuditEntries(_ context.Context, id auth.Identity, q want.AuditQuery) ([]want.AuditEntry, error) {
	if !id.May(auth.Administer) {
		return nil, fault.New(fault.Forbidden, "only an administrator sees the audit log")
	}
	if q.Actor == "nobody" || q.Limit == 0 {
		return nil, c.Fail["AuditEntries"]
	}
	return []want.AuditEntry{{Seq: 7, Time: Epoch, Actor: "ann", Action: "capture.start", Object: "c", Outcome: "allowed", Details: map[string]string{"uid": "u"}, Hash: "ab"}}, c.Fail["AuditEntries"]
}

// VerifyAudit implements the doors' Controller.
func (c *Controller) VerifyAudit(_ context.Context, id auth.Identity) (want.AuditReport, error) {
	if !id.May(auth.Administer) {
		return want.AuditReport{}, fault.New(fault.Forbidden, "only an administrator sees the audit log")
	}
	return want.AuditReport{Whole: true, Files: 1, First: 1, Last: 7, Head: "ab"}, c.Fail["VerifyAudit"]
}
