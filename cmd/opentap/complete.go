package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"opentap/client"
	"opentap/flow/query"
	"opentap/point"
	"opentap/tap"
	"opentap/want"
)

// completePatience is how long a shell waits for the server's names at most.
const completePatience = 2 * time.Second

// names asks the server for what can stand in one place of the command line.
type names func(ctx context.Context, c *client.Client) ([]cobra.Completion, error)

// fixedFlags are options that take one of a few words; those after a slash belong to one command.
var fixedFlags = map[string][]cobra.Completion{
	"output":               {"table", "json", "csv"},
	"opentap meter/output": {"csv", "classic", "ndjson", "parquet", "arrow"},
	"format":               {"pcapng", "pcap", "csv", "classic", "ndjson", "parquet", "arrow"},
	"opentap query/format": {"pcapng", "pcap"},
	"dedup":                {"drop", "mark"},
	"compress":             {"zstd"},
	"metric":               {"bytes", "packets", "flows"},
	"direction":            {"in", "out", "both"},
	"encap":                {"vxlan", "gre", "geneve"},
	"type":                 {"gre", "erspan1", "erspan2", "vxlan", "geneve"},
	"on-mtu":               {"truncate", "drop"},
	"role":                 {"viewer", "operator", "analyst", "owner", "admin"},
}

// askedFlags are options whose words the server knows.
var askedFlags = map[string]names{"point": pointNames, "port": portNames, "service": serviceNames, "project": projectNames, "node": nodeNames}

// askedArgs are the arguments that name something the server has, by command.
var askedArgs = map[string]names{
	"show": captureNames, "retrieve": captureNames, "stop": captureNames, "delete": captureNames, "live": pointNames,
	"node show": nodeNames, "node revoke": nodeNames, "node forget": nodeNames, "node join-token delete": joinTokenNames,
	"ports set": portNames, "ports delete": portNames,
	"project set": projectNames, "project show": projectNames, "project delete": projectNames,
	"recorders set": pointNames, "recorders delete": recorderNames, "token revoke": tokenNames,
	"tap service show": serviceNames, "tap service update": serviceNames, "tap service delete": serviceNames,
	"tap flow show": flowNames, "tap flow update": flowNames, "tap flow delete": flowNames, "tap test": flowNames,
	"tap mirror show": mirrorNames, "tap mirror update": mirrorNames, "tap mirror delete": mirrorNames,
	"fabric show": policyNames, "fabric delete": policyNames, "fabric probe": policyNames,
	"detect top": ruleNames, "detect rules show": ruleNames, "detect rules delete": ruleNames,
}

// completions teaches the shell what can stand where: words that options take, and names that the server has.
func (a *app) completions(root *cobra.Command) {
	for _, cmd := range root.Commands() {
		a.completions(cmd)
	}
	path := root.CommandPath()
	if n := askedArgs[strings.TrimPrefix(path, "opentap ")]; n != nil {
		root.ValidArgsFunction = a.complete(n, strings.Contains(root.Use, "...") || strings.Contains(root.Use, "…"))
	}
	root.NonInheritedFlags().VisitAll(func(f *pflag.Flag) {
		words, ok := fixedFlags[path+"/"+f.Name]
		if !ok {
			words, ok = fixedFlags[f.Name]
		}
		switch n := askedFlags[f.Name]; {
		case ok:
			_ = root.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)) // fails for a flag that has one
		case f.Name == "by":
			_ = root.RegisterFlagCompletionFunc(f.Name, completeKeys)
		case n != nil:
			_ = root.RegisterFlagCompletionFunc(f.Name, a.complete(n, true))
		}
	})
}

// complete gives the shell the server's names but those that stand there already; many = further ones may follow the first.
// Nothing is asked of the person who is typing, and nothing is told: a server that cannot be reached has no names.
func (a *app) complete(n names, many bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !many {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		quiet := *a
		quiet.stdin, quiet.stderr = strings.NewReader(""), io.Discard
		c, err := quiet.connect()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer c.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), completePatience)
		defer cancel()
		list, err := n(ctx, c)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		list = slices.DeleteFunc(list, func(w cobra.Completion) bool {
			name, _, _ := strings.Cut(w, "\t")
			return !plainWord(name) || slices.Contains(args, name)
		})
		slices.Sort(list)
		return slices.Compact(list), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeKeys gives the keys of flows: one after another, with commas between.
func completeKeys(_ *cobra.Command, _ []string, so string) ([]cobra.Completion, cobra.ShellCompDirective) {
	before := so[:strings.LastIndexByte(so, ',')+1]
	var out []cobra.Completion
	for _, k := range query.Keys {
		if !slices.Contains(strings.Split(before, ","), k) {
			out = append(out, before+k)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

// plainWord reports whether a shell takes the name as one word that means nothing else: names come from other people.
func plainWord(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("._:/@+-,", r)
	})
}

// completed makes a completion of each of what the server answered.
func completed[T any](list []T, err error, name func(*T) (name, about string)) ([]cobra.Completion, error) {
	var out []cobra.Completion
	for i := range list {
		word, about := name(&list[i])
		out = append(out, cobra.CompletionWithDesc(word, clean(about)))
	}
	return out, err
}

func pointNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Points(ctx)
	nodes := make(map[string]int)
	for i := range list {
		nodes[list[i].Name]++
	}
	return completed(list, err, func(p *point.Point) (string, string) {
		if nodes[p.Name] > 1 {
			return p.Node + "/" + p.Name, string(p.Kind)
		}
		return p.Name, string(p.Kind) + " of " + p.Node
	})
}

func portNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Ports(ctx)
	same := make(map[string]int)
	for i := range list {
		same[list[i].Name]++
	}
	return completed(list, err, func(p *tap.PortView) (string, string) {
		switch {
		case same[p.Name] == 1:
			return p.Name, p.Node
		case p.Node != "" && p.Name != "":
			return p.Node + "/" + p.Name, p.ID
		}
		return p.ID, p.Name
	})
}

func captureNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Captures(ctx)
	return completed(list, err, func(v *want.View) (string, string) { return v.ID, string(v.Kind) + ", " + string(v.Status.State) })
}

func nodeNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Nodes(ctx)
	return completed(list, err, func(n *want.Node) (string, string) { return n.Name, n.Version })
}

func joinTokenNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.JoinTokens(ctx)
	return completed(list, err, func(t *want.JoinToken) (string, string) { return t.ID, t.Node })
}

func tokenNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Tokens(ctx)
	list = slices.DeleteFunc(list, func(t want.Token) bool { return !t.Revoked.IsZero() })
	return completed(list, err, func(t *want.Token) (string, string) { return t.Name, t.Role })
}

func projectNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Projects(ctx)
	return completed(list, err, func(p *want.Project) (string, string) { return p.Name, p.Description })
}

func recorderNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Recorders(ctx)
	return completed(list, err, func(r *want.RecorderView) (string, string) { return r.Point, r.Filter })
}

func serviceNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	all, err := c.Taps(ctx)
	return completed(all.Services, err, func(s *tap.ServiceView) (string, string) { return nameOrID(s.Name, s.ID), s.Port })
}

func flowNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	all, err := c.Taps(ctx)
	return completed(all.Flows, err, func(f *tap.FlowView) (string, string) { return nameOrID(f.Name, f.ID), f.Port + " to " + f.Service })
}

func mirrorNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	all, err := c.Taps(ctx)
	return completed(all.Mirrors, err, func(m *tap.MirrorView) (string, string) {
		return nameOrID(m.Name, m.ID), m.Port + " to " + m.Remote.String()
	})
}

// nameOrID is what a tap is called by: its id when it has no name, or one that a shell would not take as a word.
func nameOrID(name, id string) string {
	if plainWord(name) {
		return name
	}
	return id
}

func policyNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	v, err := c.Fabric(ctx, false)
	return completed(v.Policies, err, func(p *want.FabricPolicyView) (string, string) { return p.Name, string(p.State) })
}

func ruleNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	list, err := c.Rules(ctx)
	return completed(list, err, func(r *want.Rule) (string, string) { return r.Name, r.Flow.Filter })
}
