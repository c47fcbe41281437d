package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"opentap/capture/segment"
)

func (a *app) compressCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "compress DIR",
		Short: "Compress a recording with zstd",
		Long: `compress puts a compressed file in the place of each segment that is sealed, once every chunk has been read back from it.
query, verify, repair and opentapd read it as before, as fast as it decompresses; zstd -d makes the pcapng file of a segment. It
may run beside opentapd. Segments that are damaged, or would not get smaller, stay as they are.`,
		Args:    cobra.ExactArgs(1),
		Example: "  opentap compress rec",
		RunE: a.do(func(ctx context.Context, args []string) error {
			c, err := segment.Compress(ctx, args[0], nil)
			if c.Segments > 0 {
				fmt.Fprintf(a.stdout, "%d segments compressed, %s to %s (%d %%)\n", c.Segments, octets(c.Before), octets(c.After), c.After*100/c.Before)
			} else if err == nil {
				fmt.Fprintln(a.stdout, "nothing to compress")
			}
			if c.Kept > 0 {
				a.say("%d segments stay as they are: opentap verify %s says whether they are damaged", c.Kept, args[0])
			}
			return err
		}),
	}
}
