package main

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/want"
)

// auditPage is how many entries the server gives at once.
const auditPage = 1000

// errBroken says that the audit log is not what was written; what is wrong was told.
var errBroken = errors.New("the audit log is not whole")

func (a *app) auditCmd() *cobra.Command {
	var q want.AuditQuery
	cmd := &cobra.Command{
		Use: "audit", Short: "Show who did what", Args: cobra.NoArgs,
		Long: `audit shows the newest entries of the server's audit log, the newest first: who did what, to what, and whether it was allowed.
It takes an administrator's token. Each controller has a log of its own.`,
		Example: "  opentap audit\n  opentap audit --action tap. --actor alice\n  opentap audit --denied --limit 1000 -o csv\n  opentap audit verify",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			if q.Limit < 1 {
				return usagef("--limit %d: at least 1", q.Limit)
			}
			list, err := auditEntries(ctx, c, q)
			if err != nil {
				return err
			}
			rows := make([][]string, 0, len(list))
			for i := range list {
				e := &list[i]
				rows = append(rows, []string{strconv.FormatUint(e.Seq, 10), when(e.Time), e.Actor, e.Remote, e.Action, e.Object, e.Project, e.Outcome, details(e.Details)})
			}
			return a.table([]string{"ENTRY", "TIME", "WHO", "FROM", "ACTION", "OBJECT", "PROJECT", "OUTCOME", "DETAILS"}, rows, map[string]any{"entries": list})
		}),
	}
	f := cmd.Flags()
	f.IntVar(&q.Limit, "limit", 100, "how many at most")
	f.Uint64Var(&q.Before, "before", 0, "only entries older than the one with this number")
	f.StringVar(&q.Actor, "actor", "", "only what this one did")
	f.StringVar(&q.Action, "action", "", "only this action, or those that begin so, such as capture.")
	f.StringVar(&q.Object, "object", "", "only what was done to this")
	f.BoolVar(&q.Denied, "denied", false, "only what was refused")
	cmd.AddCommand(a.auditVerifyCmd())
	return cmd
}

// auditEntries asks as often as it takes for as many entries as are wished for.
func auditEntries(ctx context.Context, c *client.Client, q want.AuditQuery) ([]want.AuditEntry, error) {
	list := []want.AuditEntry{}
	for left := q.Limit; left > 0; left = q.Limit - len(list) {
		q := q
		if q.Limit = min(left, auditPage); len(list) > 0 {
			q.Before = list[len(list)-1].Seq
		}
		page, err := c.Audit(ctx, q)
		if list = append(list, page...); err != nil || len(page) < q.Limit {
			return list, err
		}
	}
	return list, nil
}

func (a *app) auditVerifyCmd() *cobra.Command {
	return &cobra.Command{
		Use: "verify", Short: "Prove that no line of the audit log was changed, left out, added or moved", Args: cobra.NoArgs,
		Long: `verify has the server go through its whole audit log, each line of which holds the hash of the one before. It exits with 1 when a
line is not as it was written. That the end was cut off, or all of it made anew, no chain can show: note the head elsewhere, and compare.`,
		Example: "  opentap audit verify\n  opentap audit verify -o json",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			r, err := c.VerifyAudit(ctx)
			if err != nil {
				return err
			}
			found := "every line is as it was written, where it was written"
			if !r.Whole {
				found = r.Problem
			}
			err = a.fields([][2]string{
				{"found", found},
				{"entries", strconv.FormatUint(r.First, 10) + " to " + strconv.FormatUint(r.Last, 10)},
				{"files", strconv.Itoa(r.Files)},
				{"head", r.Head},
			}, r)
			if err == nil && !r.Whole {
				err = errBroken
			}
			return err
		}),
	}
}

// details writes what an entry tells besides, by name.
func details(m map[string]string) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+"="+m[k])
	}
	return strings.Join(out, " ")
}
