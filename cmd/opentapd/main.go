// Command opentapd is the OpenTap daemon: controller, agent and doors in one process.
//
// Runs in: agent | controller
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
)

// version is set by the build: -ldflags "-X main.version=…".
var version = ""

func programVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "development"
}

const usage = `opentapd — the OpenTap daemon: captures packets, flow records, interface counters and sensors, and serves them.

Usage:
  opentapd [all] [--config FILE] [--data-dir DIR] [--listen ADDR:PORT] [options]
  opentapd controller [options]                   # doors and desired state, for agents on other hosts
  opentapd agent --controllers HOST:PORT,… [--join-token-file FILE] [options]
  opentapd convert-config [FILE]                  # a configuration of the first OpenTap as YAML

Examples:
  opentapd                                        # /etc/opentap/opentap.yaml, or else opentap.conf, or else the defaults
  opentapd --data-dir ./data --listen 127.0.0.1:2020
  opentapd --check-config --config opentap.yaml   # say what is wrong with it, start nothing
  opentapd --verify-audit --data-dir ./data       # check the chain of the audit log
  opentapd --show-fingerprint --data-dir ./data   # what clients are shown when they first come
  opentapd --reset-admin-token --data-dir ./data  # a new administrator's token, when the old one is lost

The administrator's token is made at the first start, printed once, and kept in DATA-DIR/admin.token (mode 0600).
Capturing needs the capabilities CAP_NET_RAW and CAP_NET_ADMIN (and CAP_BPF to count filtered packets), or root.

Options:
`

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if len(args) > 0 && args[0] == "convert-config" {
		return convertConfig(args[1:], stdout, stderr)
	}
	command := ""
	if len(args) > 0 && (args[0] == "controller" || args[0] == "agent" || args[0] == "all") {
		command, args = args[0], args[1:]
	}
	fs := flag.NewFlagSet("opentapd", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = func() {
		fmt.Fprint(stderr, usage)
		fs.PrintDefaults()
	}
	configFile := fs.String("config", "", "configuration `FILE` (default "+defaultConfigFile+" if it exists)")
	dataDir := fs.String("data-dir", "", "`DIR` for state, audit log, token and captures (default /var/lib/opentap)")
	listen := fs.String("listen", "", "`ADDR:PORT` of the HTTP doors (default 127.0.0.1:2020)")
	tlsCert := fs.String("tls-cert", "", "PEM `FILE` with the certificate chain of the HTTP doors (default: self-made beyond loopback)")
	tlsKey := fs.String("tls-key", "", "PEM `FILE` with its key")
	fingerprint := fs.Bool("show-fingerprint", false, "print the fingerprint of the self-made certificate authority and exit")
	openflow := fs.String("openflow", "", "`ADDR:PORT` that OpenFlow switches connect to (default: none)")
	role := fs.String("role", command, "all, controller or agent (default all)")
	controllers := fs.String("controllers", "", "`HOST:PORT,…` at which the role agent reaches its controllers")
	joinToken := fs.String("join-token-file", "", "`FILE` with the token by which the role agent joins the fleet; - = standard input")
	check := fs.Bool("check-config", false, "check the configuration and exit")
	verify := fs.Bool("verify-audit", false, "check the chain of the audit log and exit")
	reset := fs.Bool("reset-admin-token", false, "replace the administrator's token and exit; the daemon must not be running")
	showVersion := fs.Bool("version", false, "print the version and exit")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(stderr, "opentapd: unexpected argument %q; see opentapd --help\n", fs.Arg(0))
		return 2
	}
	if *showVersion {
		fmt.Fprintln(stdout, "opentapd", programVersion())
		return 0
	}
	fail := func(err error) int {
		fmt.Fprintln(stderr, "opentapd:", err)
		return 1
	}
	cfg, err := loadConfig(*configFile)
	if err != nil {
		return fail(err)
	}
	flags := map[string]bool{}
	read := cfg
	for _, f := range []struct {
		flag, key *string
		name      string
	}{
		{dataDir, &cfg.DataDir, "data_dir"},
		{listen, &cfg.Listen, "listen"},
		{role, &cfg.Role, "role"},
		{openflow, &cfg.Fabric.Listen, "fabric.listen"},
		{tlsCert, &cfg.TLS.Cert, "tls.cert"},
		{tlsKey, &cfg.TLS.Key, "tls.key"},
		{joinToken, &cfg.Fleet.JoinTokenFile, "fleet.join_token_file"},
	} {
		if *f.flag != "" {
			*f.key = *f.flag
			flags[f.name] = true
		}
	}
	if *controllers != "" {
		cfg.Fleet.Controllers = strings.FieldsFunc(*controllers, func(r rune) bool { return r == ',' || r == ' ' })
		flags["fleet.controllers"] = true
	}
	cfg.origins = originsOf(read, flags)
	if err := cfg.check(); err != nil {
		return fail(err)
	}
	if *check {
		fmt.Fprintln(stdout, "the configuration is good")
		return 0
	}
	if *fingerprint {
		if err := showFingerprint(cfg, stdout); err != nil {
			return fail(err)
		}
		return 0
	}
	if *verify {
		return verifyAudit(cfg, stdout, stderr)
	}
	log, err := newLogger(cfg, stderr)
	if err != nil {
		return fail(err)
	}
	if cfg.classic != nil {
		for _, p := range cfg.classic.problems {
			log.Warn("the configuration is not followed in full", "file", cfg.classic.path, "problem", p)
		}
	}
	terminal := hasTerminal()
	ctx, stop := signal.NotifyContext(context.Background(), endings(terminal)...)
	defer stop()
	if !terminal {
		defer hangups(log)()
	}
	if *reset {
		if err := resetAdmin(ctx, cfg, stdout, log); err != nil {
			return fail(err)
		}
		return 0
	}
	run := func() error { return serve(ctx, cfg, stdout, log) }
	if cfg.Role == "agent" {
		run = func() error { return serveAgent(ctx, cfg, log) }
	}
	if err := run(); err != nil {
		return fail(err)
	}
	return 0
}

func newLogger(cfg config, w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Log.Level)); err != nil {
		return nil, fmt.Errorf("log.level: %q is none of debug, info, warn, error", cfg.Log.Level)
	}
	o := &slog.HandlerOptions{Level: level}
	switch cfg.Log.Format {
	case "text":
		return slog.New(slog.NewTextHandler(w, o)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, o)), nil
	}
	return nil, fmt.Errorf("log.format: %q is none of text, json", cfg.Log.Format)
}
