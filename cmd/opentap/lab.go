package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"opentap/lab"
)

func (a *app) labCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "lab", Short: "Try things on a small network of this machine's own", Args: cobra.NoArgs,
		Example: "  sudo opentap lab demon",
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.labDemonCmd())
	return cmd
}

func (a *app) labDemonCmd() *cobra.Command {
	var keep bool
	var daemon string
	cmd := &cobra.Command{
		Use: "demon", Short: "Mirror traffic of ten hosts with three OpenFlow switches, and see that it is right", Args: cobra.NoArgs,
		Long: `demon builds three Open vSwitch bridges and eleven hosts in network namespaces, starts opentapd among them, applies
docs/examples/pytapdemon.yaml, sends frames, cuts a cable, meddles with a switch, and shows what became of it. When it ends
everything is gone again. It exits with 1 when anything is not as it should be. It needs root and Open vSwitch (package
openvswitch-switch); no kernel module, and nothing of this machine's own network is touched.`,
		Example: "  sudo opentap lab demon\n  sudo opentap lab demon --keep",
		RunE: a.do(func(ctx context.Context, _ []string) error {
			self, err := os.Executable()
			if err != nil {
				return err
			}
			if daemon == "" {
				daemon = filepath.Join(filepath.Dir(self), "opentapd")
				if _, err := os.Stat(daemon); err != nil {
					if p, err := exec.LookPath("opentapd"); err == nil {
						daemon = p
					}
				}
			}
			if daemon, err = filepath.Abs(daemon); err != nil {
				return err
			}
			return lab.Demon(ctx, lab.Config{Out: a.stdout, Opentap: self, Opentapd: daemon, Keep: keep})
		}),
	}
	cmd.Flags().BoolVar(&keep, "keep", false, "stay until interrupted, for own experiments")
	cmd.Flags().StringVar(&daemon, "opentapd", "", "the daemon's program (default: beside this one, or as the shell finds it)")
	return cmd
}
