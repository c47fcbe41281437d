package sshapi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"opentap/auth"
	"opentap/fault"
)

// Server is the door. Run may be called once.
type Server struct {
	ctl Controller
	cfg Config
	log *slog.Logger

	mu        sync.Mutex
	open      map[netip.Addr]int // connections by address
	count     int                // of all
	halfOpen  chan struct{}
	transfers chan struct{}
	sizes     *sizes
}

// Run serves the listener until ctx ends, and closes it. It returns when all connections have ended.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	pause := time.Duration(0)
	for {
		nc, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accept ssh connections: %w", err)
		default: // out of descriptors, most likely: it passes
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.log.Warn("an ssh connection could not be accepted", "err", err)
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
			continue
		}
		remote := addrOf(nc)
		if err := s.admit(remote); err != nil {
			s.log.Debug("ssh connection refused", "remote", remote, "reason", err)
			_ = nc.Close()
			continue
		}
		wg.Go(func() {
			defer s.leave(remote)
			defer nc.Close()
			s.handle(ctx, nc, remote)
		})
	}
}

// addrOf is the peer's address.
func addrOf(nc net.Conn) netip.AddrPort {
	if a, ok := nc.RemoteAddr().(*net.TCPAddr); ok {
		p := a.AddrPort()
		return netip.AddrPortFrom(p.Addr().Unmap(), p.Port())
	}
	return netip.AddrPort{}
}

// group is what counts as one address: of IPv6 a /64, what one subscriber has.
func group(a netip.Addr) netip.Addr {
	a = a.WithZone("")
	if a.Is6() {
		if p, err := a.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// admit takes a place for a connection, and one among those that have not logged in.
func (s *Server) admit(remote netip.AddrPort) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := group(remote.Addr())
	switch {
	case s.count >= s.cfg.Connections:
		return errors.New("too many connections")
	case s.open[g] >= s.cfg.PerAddress:
		return errors.New("too many connections from this address")
	}
	select {
	case s.halfOpen <- struct{}{}:
	default:
		return errors.New("too many connections that have not logged in")
	}
	s.count++
	s.open[g]++
	return nil
}

func (s *Server) leave(remote netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := group(remote.Addr())
	s.count--
	if s.open[g]--; s.open[g] == 0 {
		delete(s.open, g)
	}
}

// who asks anew who a connection's user is, and what it may do: tokens are revoked, and keys taken away.
type who func(ctx context.Context) (auth.Identity, error)

type whoKey struct{}

// login is the configuration of one connection's handshake.
func (s *Server) login(ctx context.Context, remote netip.AddrPort) *ssh.ServerConfig {
	byToken := func(token string) (*ssh.Permissions, error) {
		ask := func(ctx context.Context) (auth.Identity, error) { return s.cfg.Auth.Authenticate(ctx, token, remote) }
		if _, err := ask(ctx); err != nil {
			if token != "" && fault.Is(err, fault.Unauthenticated) && s.cfg.Denied != nil {
				s.cfg.Denied(ctx, remote, err)
			}
			return nil, err
		}
		return &ssh.Permissions{ExtraData: map[any]any{whoKey{}: who(ask)}}, nil
	}
	c := &ssh.ServerConfig{
		ServerVersion: "SSH-2.0-OpenTap",
		MaxAuthTries:  6,
		// Clients try "none" first whatever they have, so only a user who says so is let in without a name.
		NoClientAuth: true,
		NoClientAuthCallback: func(m ssh.ConnMetadata) (*ssh.Permissions, error) {
			if m.User() != "anonymous" {
				return nil, errors.New("no credentials yet")
			}
			return byToken("")
		},
		PasswordCallback: func(_ ssh.ConnMetadata, password []byte) (*ssh.Permissions, error) {
			if len(password) == 0 { // it would ask for an anonymous caller's rights
				return nil, fault.New(fault.Unauthenticated, "the password is a token, and this one is empty")
			}
			return byToken(string(password))
		},
	}
	if s.cfg.Keys != nil {
		c.PublicKeyCallback = func(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			blob := string(key.Marshal())
			ask := func(context.Context) (auth.Identity, error) { return s.cfg.Keys.identity(blob, remote) }
			if _, err := ask(ctx); err != nil {
				return nil, err
			}
			return &ssh.Permissions{ExtraData: map[any]any{whoKey{}: who(ask)}}, nil
		}
	}
	c.AddHostKey(s.cfg.HostKey)
	return c
}

// handle serves one connection to its end.
func (s *Server) handle(ctx context.Context, nc net.Conn, remote netip.AddrPort) {
	wire := &deadlineConn{Conn: nc, stall: s.cfg.StallTimeout}
	_ = nc.SetDeadline(time.Now().Add(s.cfg.LoginTimeout))
	cut := context.AfterFunc(ctx, func() { _ = nc.Close() })
	sc, channels, requests, err := ssh.NewServerConn(wire, s.login(ctx, remote))
	<-s.halfOpen
	if !cut() && err == nil {
		err = context.Cause(ctx)
		_ = sc.Close()
	}
	if err != nil {
		var failed *ssh.ServerAuthError
		if errors.As(err, &failed) {
			s.log.Info("ssh login refused", "remote", remote, "attempts", len(failed.Errors))
		} else {
			s.log.Debug("ssh handshake failed", "remote", remote, "err", err)
		}
		return
	}
	_ = nc.SetDeadline(time.Time{})
	wire.on.Store(true)
	ask, _ := sc.Permissions.ExtraData[whoKey{}].(who)
	id, err := ask(ctx)
	if err != nil {
		_ = sc.Close()
		return
	}
	s.log.Info("ssh login", "who", id.Name, "role", id.Role, "project", id.Project, "via", id.Via, "remote", remote)
	c := &conn{s: s, sc: sc, ask: ask, remote: remote}
	c.serve(ctx, channels, requests)
}

// deadlineConn breaks a connection whose peer takes nothing for too long.
type deadlineConn struct {
	net.Conn
	stall time.Duration
	on    atomic.Bool
}

func (d *deadlineConn) Write(p []byte) (int, error) {
	if d.on.Load() {
		_ = d.Conn.SetWriteDeadline(time.Now().Add(d.stall))
	}
	return d.Conn.Write(p)
}
