package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/tap"
)

// errTrial says that a self-test found a fault, which was told.
var errTrial = errors.New("the tap does not do what it should")

func (a *app) tapTestCmd() *cobra.Command {
	return &cobra.Command{
		Use: "test ID-OR-NAME", Short: "Test a tap flow: send marked frames past its source, and listen at its tool", Args: cobra.ExactArgs(1),
		Long: `test puts marked frames (canaries) on the device of a tap flow's source, in both directions, tagged and untagged, short and
as long as the device takes (at most 3584 octets), and listens for their copies at the tool's device. It says how many came, came twice or came
otherwise than they were sent, how long they took, and what the tap counted. Copies that the flow cuts, or that are cut or dropped because the path does not carry
them, are what they should be, and are told. The frames have an address that bridges keep to themselves
and a type for experiments; the port's owner sees those of the direction IN. The exit code is 1 if something is wrong.`,
		Example: "  opentap tap test web",
		RunE: a.ask(func(ctx context.Context, c *client.Client, args []string) error {
			t, err := c.TryTapFlow(ctx, args[0])
			if err != nil {
				return err
			}
			if err := a.showTrial(&t); err != nil {
				return err
			}
			if !t.OK {
				return errTrial
			}
			return nil
		}),
	}
}

// showTrial writes a table of the sorts of frames, and what is to be said beside it.
func (a *app) showTrial(t *tap.Trial) error {
	rows := make([][]string, 0, len(t.Sorts))
	for _, s := range t.Sorts {
		tag, wanted := "-", "no"
		if s.VLAN != 0 {
			tag = strconv.Itoa(int(s.VLAN))
		}
		if s.Expected {
			wanted = "yes"
		}
		row := []string{string(s.Direction), tag}
		for _, n := range []int{s.Length, s.Sent} {
			row = append(row, strconv.Itoa(n))
		}
		row = append(row, wanted)
		for _, n := range []int{s.Heard, s.Twice, s.Changed, s.Cut, s.TooLong} {
			row = append(row, strconv.Itoa(n))
		}
		rows = append(rows, row)
	}
	if err := a.table([]string{"DIRECTION", "VLAN", "OCTETS", "SENT", "WANTED", "HEARD", "TWICE", "CHANGED", "CUT", "TOO LONG"}, rows, t); err != nil || a.output != "table" {
		return err
	}
	fmt.Fprintf(a.stdout, "\n%s to %s\n", clean(t.From), clean(t.To))
	if d := t.DelayUS; d != nil {
		fmt.Fprintf(a.stdout, "delay: %.0f µs in the median, %.0f µs at most\n", d.Median, d.Most)
	}
	for _, why := range slices.Sorted(maps.Keys(t.Counted)) {
		fmt.Fprintf(a.stdout, "counted: %s %d\n", clean(why), t.Counted[why])
	}
	for _, n := range t.Notes {
		fmt.Fprintf(a.stdout, "note: %s\n", clean(n))
	}
	for _, f := range t.Faults {
		fmt.Fprintf(a.stdout, "wrong: %s\n", clean(f))
	}
	if t.OK {
		fmt.Fprintln(a.stdout, "the tap does what it should")
	}
	return nil
}
