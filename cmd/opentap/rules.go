package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/detect"
	"opentap/want"
)

func (a *app) rulesCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "rules", Short: "List, show, apply and delete rules", Args: cobra.NoArgs,
		Example: "  opentap detect rules\n  opentap detect rules apply -f rules.yaml",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			list, err := c.Rules(ctx)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, r := range list {
				then := ruleActs(r.Then)
				if r.Suspended != "" {
					then = "suspended: " + r.Suspended
				}
				if r.Disabled {
					then = "disabled"
				}
				rows = append(rows, []string{r.Name, strings.Join(r.Flow.Keys, ","), r.Flow.Filter, r.Threshold.Above, then, r.Owner, when(r.Changed)})
			}
			return a.table([]string{"NAME", "KEYS", "FILTER", "ABOVE", "THEN", "OWNER", "CHANGED"}, rows, map[string]any{"rules": list})
		}),
	}
	cmd.AddCommand(a.ruleShowCmd(), a.rulesApplyCmd(), a.rulesDeleteCmd())
	return a.listing(cmd)
}

// ruleActs says what a rule does.
func ruleActs(a *want.RuleAction) string {
	if a == nil {
		return "tell"
	}
	var does []string
	for _, act := range []struct {
		on   bool
		text string
	}{{a.Capture != nil, "capture"}, {a.Tap != nil, "tap"}, {a.Policy != nil, "policy"}, {a.Webhook != "", "webhook " + a.Webhook}} {
		if act.on {
			does = append(does, act.text)
		}
	}
	if len(does) == 0 {
		return "tell"
	}
	if a.Confirm {
		does = append(does, "if confirmed")
	}
	return strings.Join(does, ", ")
}

func (a *app) ruleShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Show a rule as JSON", Args: cobra.ExactArgs(1), Example: "  opentap detect rules show big-tcp",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			r, err := c.Rule(ctx, args[0])
			if err != nil {
				return err
			}
			return a.json(r)
		}),
	}
}

func (a *app) rulesApplyCmd() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use: "apply -f FILE", Short: "Make the rules of a file, or change them", Args: cobra.NoArgs,
		Long:    "apply reads YAML or JSON: rules: and a list, as docs/howto/triggers.md describes them. Rules that the file does not name stay.",
		Example: "  opentap detect rules apply -f rules.yaml",
		RunE: a.ask(func(ctx context.Context, c *client.Client, _ []string) error {
			rules, err := a.readRules(file)
			if err != nil {
				return err
			}
			for _, r := range rules {
				_, created, err := c.SetRule(ctx, r)
				if err != nil {
					return fmt.Errorf("rule %s: %w", r.Name, err)
				}
				verb := "changed"
				if created {
					verb = "made"
				}
				a.tell("rule %s %s", r.Name, verb)
			}
			return nil
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "file with rules; - is standard input")
	_ = cmd.MarkFlagRequired("file") // only a flag that is not there fails
	return cmd
}

func (a *app) rulesDeleteCmd() *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME...", Short: "Take rules away; what they started ends", Args: cobra.MinimumNArgs(1), Example: "  opentap detect rules delete big-tcp",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			for _, name := range args {
				if err := c.DeleteRule(ctx, name); err != nil {
					return fmt.Errorf("delete the rule %s: %w", name, err)
				}
			}
			return nil
		}),
	}
}

// maxRules bounds a file of rules. Octets.
const maxRules = 1 << 20

// readRules reads a file of rules and checks them as far as that can be done here.
func (a *app) readRules(path string) ([]want.Rule, error) {
	in := a.stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxRules+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxRules {
		return nil, usagef("%s: more than %d octets", path, maxRules)
	}
	j, err := yaml.YAMLToJSON(b)
	if err != nil {
		return nil, usagef("%s: %s", path, yaml.FormatError(err, false, true))
	}
	var all struct {
		Rules []want.Rule `json:"rules"`
	}
	dec := json.NewDecoder(strings.NewReader(string(j)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&all); err != nil {
		return nil, usagef("%s: %w", path, err)
	}
	if len(all.Rules) == 0 {
		return nil, usagef("%s: no rules: it has a list under rules", path)
	}
	for i := range all.Rules {
		if _, err := detect.Compile(&all.Rules[i]); err != nil {
			return nil, usagef("%s: rules[%d]: %w", path, i, err)
		}
	}
	return all.Rules, nil
}
