package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"

	"opentap/agent"
	"opentap/agentapi"
	"opentap/member"
)

// maxJoinToken bounds the file of a join token. Octets.
const maxJoinToken = 4096

// joinToken reads the token by which this host joins; "" = there is none.
func (c *config) joinToken() (string, error) {
	if c.Fleet.JoinTokenFile == "" {
		return "", nil
	}
	in := os.Stdin
	if c.Fleet.JoinTokenFile != "-" {
		f, err := os.Open(c.Fleet.JoinTokenFile)
		if err != nil {
			return "", fmt.Errorf("fleet.join_token_file: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, maxJoinToken))
	if err != nil {
		return "", fmt.Errorf("fleet.join_token_file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// serveAgent runs the role agent until ctx ends or it cannot go on.
func serveAgent(ctx context.Context, cfg config, log *slog.Logger) error {
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		return err
	}
	mem, err := member.Open(member.Config{Dir: cfg.fleetDir(), Controllers: cfg.Fleet.Controllers}, log.With("room", "member"))
	if err != nil {
		return err
	}
	who, _, joined := mem.Who()
	text, err := cfg.joinToken()
	if err != nil {
		if !joined {
			return err
		}
		log.Info("this host has joined already; the join token is not needed", "err", err)
	}
	node, err := cfg.nodeName()
	if err != nil {
		return err
	}
	if joined && text == "" && node != who.Name {
		log.Warn("the fleet knows this host by another name than its configuration; to change that have it forgotten (opentap node forget NAME), and let it join with a new token", "name", who.Name, "configured", node)
		node = who.Name
	}
	ag, err := agent.New(cfg.agent(programVersion(), node), log.With("room", "agent"))
	if err != nil {
		return err
	}
	id := ag.Identity()
	switch {
	case text != "":
	case !joined:
		return errors.New("this host has not joined a fleet: an administrator makes a token with opentap node join-token; put it into a file and name that with --join-token-file or fleet.join_token_file")
	case who.ID != id.NodeID:
		return fmt.Errorf("the certificate of this host is that of node id %s, and its state is that of %s, as if it had been made anew; let it join with a token made by opentap node join-token --node %s",
			who.ID, id.NodeID, who.Name)
	}
	link := agentapi.NewLink(id, ag, log.With("room", "link"))
	ag.SetLink(link)
	ag.SetDoctor(agent.Doctor(doctorOf(cfg, node, ag, nil)))

	// The agent ends in good order before the session does, so that its last words are heard.
	group, ctx := errgroup.WithContext(ctx)
	inner, stopInner := context.WithCancel(context.WithoutCancel(ctx))
	defer stopInner()
	agentDone := make(chan struct{})
	group.Go(func() error {
		defer close(agentDone)
		return ag.Run(ctx)
	})
	group.Go(func() error { return mem.Run(inner) })
	group.Go(func() error {
		if text != "" {
			if err := join(ctx, mem, ag, text, log); err != nil {
				return err
			}
		}
		return link.RunDialing(inner, mem.Dial)
	})
	group.Go(func() error {
		<-ctx.Done()
		log.Info("stopping")
		tellManager(daemon.SdNotifyStopping, log)
		<-agentDone
		stopInner()
		return nil
	})
	log.Info("opentap agent is running", "version", programVersion(), "data_dir", cfg.DataDir, "node", node, "controllers", strings.Join(cfg.Fleet.Controllers, " "))
	tellManager(daemon.SdNotifyReady, log)
	return group.Wait()
}

// join makes this host a member by a token. One that is refused to a host that is a member already, and still can be, does no
// harm: it was left behind.
func join(ctx context.Context, mem *member.Member, ag *agent.Agent, text string, log *slog.Logger) error {
	id := ag.Identity()
	who, ends, joined := mem.Who()
	fresh, err := mem.Join(ctx, text, id.NodeID, id.NodeName)
	switch {
	case ctx.Err() != nil:
		return nil
	case err != nil && joined && who.ID == id.NodeID && time.Now().Before(ends):
		log.Warn("the join token is of no use, and this host is a member without it", "err", err)
		return nil
	case err != nil:
		return err
	case fresh:
		return ag.ForgetEpoch()
	}
	return nil
}
