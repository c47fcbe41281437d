package client

import (
	"context"
	"net/url"
	"strconv"

	"opentap/want"
)

// Audit shows entries of the audit log, the newest first.
func (c *Client) Audit(ctx context.Context, q want.AuditQuery) ([]want.AuditEntry, error) {
	v := url.Values{"limit": {strconv.Itoa(q.Limit)}}
	for name, text := range map[string]string{"actor": q.Actor, "action": q.Action, "object": q.Object} {
		if text != "" {
			v.Set(name, text)
		}
	}
	if q.Before > 0 {
		v.Set("before", strconv.FormatUint(q.Before, 10))
	}
	if q.Denied {
		v.Set("denied", "true")
	}
	var a struct {
		Entries []want.AuditEntry `json:"entries"`
	}
	_, err := c.do(ctx, "GET", "/v1/audit?"+v.Encode(), nil, &a)
	return a.Entries, err
}

// VerifyAudit has the server prove the chain of its audit log.
func (c *Client) VerifyAudit(ctx context.Context) (r want.AuditReport, err error) {
	_, err = c.do(ctx, "GET", "/v1/audit/verify", nil, &r)
	return r, err
}
