package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"opentap/client"
	"opentap/fault"
	"opentap/report"
)

// version is set when a release is built.
var version = ""

// usageError is a mistake in the command line.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// app is one run of the program.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	url, token     string
	tokenFile      string
	ca             string
	fingerprint    string
	output         string
	quiet          bool
	limit          int  // of a list; see listing
	began          bool // the command's own function was reached: errors are no longer about its arguments
	signals        chan os.Signal
}

// run is the program without its process. It returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr, signals: make(chan os.Signal, 2)}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	signal.Notify(a.signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(a.signals)
	cmd, err := root.ExecuteContextC(context.Background())
	if err == nil {
		return report.ExitOK
	}
	code := a.exitCode(err)
	a.explain(cmd, err, code)
	return code
}

func (a *app) exitCode(err error) int {
	var usage usageError
	var connect *client.ConnectError
	var mistrust *client.Mistrust
	switch {
	case errors.As(err, &usage) || !a.began:
		return report.ExitUsage
	case errors.Is(err, context.Canceled):
		return report.ExitInterrupted
	case errors.As(err, &mistrust):
		return report.ExitRefused
	case errors.As(err, &connect):
		return report.ExitUnavailable
	}
	return report.Exit(err)
}

// explain tells the error on stderr, with what to do about it.
func (a *app) explain(cmd *cobra.Command, err error, code int) {
	if code == report.ExitInterrupted {
		a.say("interrupted")
		return
	}
	a.say("opentap: %s", err)
	var f *fault.Error
	if errors.As(err, &f) && f.Hint != "" {
		a.say("  %s", f.Hint)
	}
	var connect *client.ConnectError
	var mistrust *client.Mistrust
	switch {
	case errors.As(err, &mistrust):
		a.say("  %s", mistrust.Hint())
	case errors.As(err, &connect):
		a.say("  is opentapd running there? --url or OPENTAP_URL names another address")
	case fault.Is(err, fault.Unauthenticated):
		a.say("  give a token with OPENTAP_TOKEN or --token-file")
	case code == report.ExitUsage:
		a.say("  see %s --help", cmd.CommandPath())
	}
}

// say writes a line to stderr, made safe for a terminal.
func (a *app) say(format string, args ...any) {
	for line := range strings.SplitSeq(fmt.Sprintf(format, args...), "\n") {
		fmt.Fprintln(a.stderr, clean(line))
	}
}

// root builds the command tree. It reads nothing and connects to nothing.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "opentap",
		Short: "See what happens on a network",
		Long: `opentap captures packets, flow records, interface counters and sensor readings with an OpenTap server,
and retrieves them.

Exit codes: 0 done; 1 error; 2 wrong usage; 3 refused (who you are, what you may do, or a server that is not trusted);
4 not found; 5 the server cannot be reached or is not ready; 6 loss, with --fail-on-loss; 130 interrupted.

The server is http://127.0.0.1:2020 unless --url or OPENTAP_URL says otherwise. A token comes from --token,
OPENTAP_TOKEN or --token-file. For a server on this machine the token that it made at its first start is
found by itself, in $OPENTAP_DATA, ./opentap-data, /var/lib/opentap or /opt/opentap/log, if you may read it.

A server beyond this machine is https://. Its self-made certificate is shown to you the first time, by its fingerprint,
and known from then on (opentap/known_hosts in your configuration directory); when it changes, nothing is sent.`,
		Example: `  opentap points
  opentap capture pcap --point eth0 --duration 10s --filter 'tcp port 443' -w https.pcapng
  opentap retrieve ID -w flows.csv`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	f := root.PersistentFlags()
	f.StringVar(&a.url, "url", "", "server (default OPENTAP_URL or http://127.0.0.1:2020)")
	f.StringVar(&a.token, "token", "", "token; others on this machine can see it, OPENTAP_TOKEN is better")
	f.StringVar(&a.tokenFile, "token-file", "", "file that holds the token")
	f.StringVar(&a.ca, "ca", "", "PEM file of the authorities that may vouch for the server, and no other (default OPENTAP_CA)")
	f.StringVar(&a.fingerprint, "fingerprint", "", "trust the server whose self-made certificate has this fingerprint, SHA256:…, from now on")
	f.StringVarP(&a.output, "output", "o", "table", "table, json or csv")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "no progress and no summary on stderr; warnings stay")
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		switch a.output {
		case "table", "json", "csv":
			return nil
		}
		return usagef("-o %s: table, json or csv", a.output)
	}
	root.AddCommand(a.pointsCmd(), a.captureCmd(), a.capturesCmd(), a.showCmd(), a.retrieveCmd(), a.liveCmd(), a.extcapCmd(), a.stopCmd(), a.deleteCmd(),
		a.capabilitiesCmd(), a.nodesCmd(), a.doctorCmd(), a.sensorsCmd(), a.tokensCmd(), a.filterCmd(), a.meterCmd(), a.flowsCmd(), a.versionCmd(),
		a.queryCmd(), a.importCmd(), a.verifyCmd(), a.repairCmd(), a.compressCmd())
	root.InitDefaultCompletionCmd()
	root.AddCommand(a.recordersCmd(), a.detectCmd(), a.probeCmd(), a.fabricCmd(), a.labCmd(), a.storeCmd(), a.projectsCmd(), a.dashboardCmd(), a.topCmd(), a.tapCmd(), a.portsCmd(), a.auditCmd())
	groups(root)
	a.completions(root)
	return root
}

// groups has commands that only hold others show their help, and refuse a word that is none of them.
func groups(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		if !sub.Runnable() {
			sub.Args, sub.RunE = cobra.NoArgs, func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
		}
		groups(sub)
	}
}

// do wraps a command's function: it marks that the arguments were right, and interrupts it when a signal comes.
func (a *app) do(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		a.began = true
		ctx, cancel := context.WithCancel(cmd.Context())
		defer cancel()
		go func() {
			select {
			case <-a.signals:
				cancel()
			case <-ctx.Done():
			}
		}()
		return fn(ctx, args)
	}
}

func (a *app) versionCmd() *cobra.Command {
	var short bool
	cmd := &cobra.Command{
		Use: "version", Short: "Show the version of this program and of the server", Args: cobra.NoArgs,
		Example: "  opentap version\n  opentap version --client",
		RunE: a.do(func(ctx context.Context, _ []string) error {
			if short {
				fmt.Fprintln(a.stdout, programVersion())
				return nil
			}
			server := "unreachable"
			var detail client.Version
			c, err := a.connect()
			if err == nil {
				defer c.Close()
				if detail, err = c.Version(ctx); err == nil {
					server = detail.Version
				}
			}
			if perr := a.fields([][2]string{{"client", programVersion()}, {"server", server}},
				map[string]any{"client": programVersion(), "server": server}); perr != nil {
				return perr
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&short, "client", false, "only this program; asks no server")
	return cmd
}

func programVersion() string {
	if version != "" {
		return version
	}
	if b, ok := debug.ReadBuildInfo(); ok && b.Main.Version != "" {
		return b.Main.Version
	}
	return "(devel)"
}
