package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	"opentap/agent"
	"opentap/agentapi"
	"opentap/api/classic"
	"opentap/api/httpapi"
	"opentap/api/taas"
	v1 "opentap/api/v1"
	"opentap/audit"
	"opentap/auth"
	"opentap/controller"
	"opentap/fault"
	"opentap/store/etcd"
	dashboard "opentap/web"
)

// shutdownPatience is how long running requests may take to end when we are asked to go.
const shutdownPatience = 10 * time.Second

// tokenFile is where the administrator's token is kept.
const tokenFile = "admin.token"

func auditDir(cfg config) string { return filepath.Join(cfg.DataDir, "audit") }

// openState opens what is wanted and who did what. Both are to be closed, the audit log first.
func openState(ctx context.Context, cfg config, log *slog.Logger) (*etcd.Store, *audit.Log, error) {
	storeCfg, err := cfg.store()
	if err != nil {
		return nil, nil, err
	}
	st, err := etcd.Open(ctx, storeCfg, log)
	if err != nil {
		return nil, nil, err
	}
	trail, recovered, err := audit.Open(audit.Config{Dir: auditDir(cfg)}, log)
	if err != nil {
		return nil, nil, errors.Join(err, st.Close())
	}
	if recovered.CutBytes > 0 {
		log.Warn("the audit log ended in an unfinished line, which was cut off", "octets", recovered.CutBytes)
	}
	return st, trail, nil
}

// serve runs all rooms of the roles all and controller until ctx ends or one of them fails.
func serve(ctx context.Context, cfg config, stdout io.Writer, log *slog.Logger) (err error) {
	// The address is taken first: a port in use is the commonest mistake, and nothing is touched then.
	listener, err := net.Listen("tcp", cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen on %s (is another opentapd running?): %w", cfg.Listen, err)
	}
	defer listener.Close()
	sshListener, err := cfg.listenSSH()
	if err != nil {
		return err
	}
	if sshListener != nil {
		defer sshListener.Close()
	}
	switches, err := cfg.listenFabric()
	if err != nil {
		return err
	}
	if switches != nil {
		defer switches.Close()
	}
	fleetListener, err := cfg.listenFleet()
	if err != nil {
		return err
	}
	if fleetListener != nil {
		defer fleetListener.Close()
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return err
	}
	shown, err := openCertificate(cfg, stdout, log)
	if err != nil {
		return err
	}
	st, trail, err := openState(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trail.Close(), st.Close()) }()
	grants, err := cfg.grants()
	if err != nil {
		return err
	}
	verifiers, providers, err := cfg.strangers(log.With("room", "identity"))
	if err != nil {
		return err
	}
	keys, err := auth.New(st, auth.Config{Anonymous: grants, Verifiers: verifiers}, log)
	if err != nil {
		return err
	}
	path := filepath.Join(cfg.DataDir, tokenFile)
	token, err := keys.FirstStart(ctx, path)
	if err != nil {
		return err
	}
	if token != "" {
		fmt.Fprintf(stdout, "The administrator's token, shown this once and kept in %s:\n\n  %s\n\n", path, token)
		if err := showDashboard(stdout, keys, token, listener.Addr(), shown != nil); err != nil {
			return err
		}
	}
	node, err := cfg.nodeName()
	if err != nil {
		return err
	}
	reg, err := openFleet(ctx, cfg, node, fleetListener, st, trail, log.With("room", "fleet"))
	if err != nil {
		return err
	}
	ctl := controller.New(cfg.controller(programVersion()), st, trail, log.With("room", "controller"))
	board := agentapi.NewBoard(ctl, log.With("room", "board"))
	hub := agentapi.NewHub(board, log.With("room", "hub"))
	board.SetHub(hub)
	ctl.SetHub(board)
	ctl.SetKeys(keys)
	openstack, err := cfg.Neutron.reader(ctl, log.With("room", "neutron"))
	if err != nil {
		return err
	}
	if switches != nil {
		ctl.ServeFabric(switches, time.Duration(cfg.Fabric.Every), time.Duration(cfg.Fabric.ProbeEvery), fabricID(cfg, node))
	}
	ctl.SetMembership(reg)
	ctl.SetProviders(providers)
	var here *resident // nil: agents are on other hosts
	var ag *agent.Agent
	if cfg.Role == "all" {
		if here, err = newResident(cfg, node, hub, log); err != nil {
			return err
		}
		defer here.close()
		ag = here.ag
	}
	look, agentID := doctorOf(cfg, node, ag, shown), ""
	if ag != nil {
		ag.SetDoctor(agent.Doctor(look)) // another controller may ask it
		agentID = ag.Identity().NodeID
	}
	ctl.SetDoctor(controller.Doctor{Node: node, NodeID: agentID, Look: look})
	afar := reg.Server()
	hub.Register(afar)
	board.Register(afar)
	othersHeard := make(chan struct{}) // closed when the other controllers have told of their agents
	watch := newMetrics(ctl, trail, shown)
	scrapers, err := cfg.scrapers()
	if err != nil {
		return err
	}
	denied := func(ctx context.Context, remote netip.AddrPort, err error) {
		e := audit.Entry{
			Actor: audit.Actor{Name: "unknown", Via: "token", Remote: remote.String()}, Action: "auth.denied",
			Outcome: audit.Denied, Details: map[string]string{"reason": err.Error()},
		}
		if err := trail.Append(context.WithoutCancel(ctx), e); err != nil {
			log.Error("a refused token could not be written to the audit log", "err", err)
		}
	}
	gate, err := httpapi.NewGate(httpapi.Config{Auth: keys, Sessions: keys, Observe: observe(watch), Log: log.With("room", "http"), Hosts: cfg.Auth.Hosts, Denied: denied})
	if err != nil {
		return err
	}
	ready := func(ctx context.Context) error {
		select {
		case <-keys.Ready():
		default:
			return fault.New(fault.Unavailable, "the tokens are not known yet")
		}
		if ag != nil && !ctl.Reached(ag.Identity().NodeID) {
			return fault.New(fault.Unavailable, "the points of this host are not known yet")
		}
		select {
		case <-othersHeard:
		default:
			return fault.New(fault.Unavailable, "the agents of other controllers are not known yet")
		}
		return ctl.Ready(ctx)
	}
	site := dashboard.New()
	doors := []httpapi.Door{v1.New(ctl, v1.Config{Version: programVersion(), Ready: ready}), taas.WithVersions(classic.New(ctl, site.Page)), site.Door(v1.Fail), metricsDoor(watch, scrapers)}
	web := gate.Server(gate.Handler(append(doors, taas.New(ctl, keys)...)...))

	sshDoor, err := cfg.sshDoor(ctl, keys, denied, log)
	if err != nil {
		return err
	}

	// Doors close first, then the agent in good order, then what it reports to.
	group, ctx := errgroup.WithContext(ctx)
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	agentCtx, stopAgent := context.WithCancel(inner)
	defer stopAgent()
	group.Go(func() error { return keys.Run(inner) })
	group.Go(func() error { return ctl.Run(inner) })
	if openstack != nil {
		group.Go(func() error { return openstack.Run(inner) })
	}
	group.Go(func() error { return newBallast(cfg.DataDir, ctl.SetFull, log).Run(inner) })
	group.Go(func() error { return reg.Run(inner) })
	agentDone := make(chan struct{})
	if here != nil {
		group.Go(here.serve)
		group.Go(func() error { return here.link.Run(inner, here.cc) })
		group.Go(func() error {
			defer close(agentDone)
			return ag.Run(agentCtx)
		})
	} else {
		close(agentDone)
	}
	if fleetListener == nil {
		close(othersHeard)
	} else {
		group.Go(func() error { return board.Run(inner, reg, func() { close(othersHeard) }) })
		group.Go(func() error {
			if err := afar.Serve(fleetListener); !errors.Is(err, grpc.ErrServerStopped) {
				return named("fleet", err)
			}
			return nil
		})
	}
	group.Go(func() error {
		select {
		case <-st.Failed():
			return fmt.Errorf("the state store failed: %w", st.Err())
		case <-ctx.Done():
			return nil
		}
	})
	group.Go(func() error {
		select { // callers that came early wait in the listener's queue, instead of hearing that nobody is known yet
		case <-keys.Ready():
		case <-ctx.Done():
			return nil
		}
		var err error
		if shown != nil {
			web.TLSConfig = tlsConfig(shown)
			err = web.ServeTLS(listener, "", "")
		} else {
			err = web.Serve(listener)
		}
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return named("http", err)
	})
	sshDone := make(chan struct{})
	group.Go(func() error {
		defer close(sshDone)
		if sshDoor == nil {
			return nil
		}
		return named("ssh", sshDoor.Run(ctx, sshListener))
	})
	group.Go(func() error {
		<-ctx.Done()
		log.Info("stopping")
		tellManager(daemon.SdNotifyStopping, log)
		patient, cancel := context.WithTimeout(context.Background(), shutdownPatience)
		defer cancel()
		ctl.EndLive()
		if err := web.Shutdown(patient); err != nil {
			log.Warn("some requests did not end in time and are cut off", "err", web.Close())
		}
		<-sshDone
		stopAgent()
		<-agentDone
		stopInner()
		if here != nil {
			here.stop()
		}
		afar.Stop()
		hub.Wait()
		return nil
	})
	group.Go(func() error {
		for ready(ctx) != nil { // said when it is true: scripts wait for this line
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(20 * time.Millisecond):
			}
		}
		log.Info("opentapd is running", "version", programVersion(), "listen", listener.Addr(), "data_dir", cfg.DataDir, "node", node)
		tellManager(daemon.SdNotifyReady, log)
		return nil
	})
	if len(grants) > 0 {
		log.Warn("callers without a token are let in", "grants", len(grants))
	}
	return group.Wait()
}

func named(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// resetAdmin replaces the administrator's token.
func resetAdmin(ctx context.Context, cfg config, stdout io.Writer, log *slog.Logger) (err error) {
	st, trail, err := openState(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, trail.Close(), st.Close()) }()
	keys, err := auth.New(st, auth.Config{}, log)
	if err != nil {
		return err
	}
	who := audit.Entry{Actor: audit.Actor{Name: "uid " + fmt.Sprint(os.Getuid()), Via: "local"}, Action: "token.reset", Object: "admin", Outcome: audit.Allowed}
	if err := trail.Append(ctx, who); err != nil {
		return err
	}
	path := filepath.Join(cfg.DataDir, tokenFile)
	token, err := keys.ResetAdmin(ctx, path)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "The administrator's new token, kept in %s; the old one is revoked:\n\n  %s\n", path, token)
	return nil
}

// verifyAudit checks the chain.
func verifyAudit(cfg config, stdout, stderr io.Writer) int {
	r, err := audit.Verify(auditDir(cfg))
	if err != nil {
		fmt.Fprintln(stderr, "opentapd: the audit log is not as it was written:", err)
		return 1
	}
	fmt.Fprintf(stdout, "the audit log is whole: entries %d to %d in %d files, head %s\n", r.First, r.Head.Seq, r.Files, r.Head)
	return 0
}
