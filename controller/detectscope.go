package controller

import (
	"context"

	"opentap/audit"
	"opentap/auth"
	"opentap/fault"
)

// mayWatch refuses rules, and what they found, to a project that sees some points alone: a rule looks at the traffic of all
// nodes, and what it finds does not say whose port it came from.
func (c *Controller) mayWatch(ctx context.Context, id auth.Identity, action, object string) error {
	if c.watchesAll(id) {
		return nil
	}
	e := audit.Entry{
		Actor: audit.ActorOf(id), Action: action, Object: object, Project: id.Project, Outcome: audit.Denied,
		Details: map[string]string{"needs": "all points"},
	}
	err := &fault.Error{
		Kind: fault.Forbidden, Msg: narrowed(id.Project),
		Hint: "an administrator can make the rule",
	}
	if aerr := c.audit.Append(ctx, e); aerr != nil {
		err.Err = aerr
	}
	return err
}

// narrowed says why a project may have no rules.
func narrowed(project string) string {
	return "the project " + project + " does not see all points, and rules look at the traffic of all"
}
