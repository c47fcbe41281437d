// Package sshapi is the SSH door: the verbs of the command line, and captures as files by SFTP.
//
// Runs in: controller
package sshapi

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"opentap/auth"
	"opentap/point"
	"opentap/want"
)

// Controller is what the door asks of the controller. Rights are decided there. Errors are *fault.Error.
type Controller interface {
	Points(ctx context.Context, id auth.Identity) ([]point.Point, error)
	Capabilities(ctx context.Context, id auth.Identity) (want.Capabilities, error)
	CreateCapture(ctx context.Context, id auth.Identity, r want.Request) (v want.View, created bool, err error)
	Captures(ctx context.Context, id auth.Identity) ([]want.View, error)
	Capture(ctx context.Context, id auth.Identity, captureID string) (want.View, error)
	StopCapture(ctx context.Context, id auth.Identity, captureID string) (want.View, error)
	DeleteCapture(ctx context.Context, id auth.Identity, captureID string) error
	OpenCapture(ctx context.Context, id auth.Identity, captureID string, o want.OpenOptions) (*want.Retrieval, error)
	OpenLive(ctx context.Context, id auth.Identity, r want.LiveRequest) (*want.Retrieval, error)
}

// Authenticator says who holds a token. The empty token asks for what an anonymous caller at that address may do.
type Authenticator interface {
	Authenticate(ctx context.Context, token string, remote netip.AddrPort) (auth.Identity, error)
}

// Config is what the door needs besides the controller.
type Config struct {
	Auth    Authenticator // of tokens, which are the passwords
	Keys    *KeyFile      // of users' public keys; nil = nobody comes in by key
	HostKey ssh.Signer
	// Denied is told of each token that was refused, so that it can be written down; nil = nobody is. Callers that are held
	// off because they tried too often are not reported, lest they fill the log.
	Denied func(ctx context.Context, remote netip.AddrPort, err error)

	Connections int // at one time
	PerAddress  int // connections of one address; of IPv6, of one /64
	HalfOpen    int // connections that have not logged in
	Channels    int // sessions of one connection
	Transfers   int // SFTP sessions of all connections

	LoginTimeout time.Duration // from the connection to the login
	IdleTimeout  time.Duration // of a connection on which nothing goes on
	StallTimeout time.Duration // how long a client may take nothing of what it asked for
	EndTimeout   time.Duration // how long running commands may take to end when the server does
}

// DefaultConfig has the limits; Auth and HostKey are the caller's to set.
func DefaultConfig() Config {
	return Config{
		Connections: 64, PerAddress: 16, HalfOpen: 16, Channels: 8, Transfers: 32,
		LoginTimeout: 30 * time.Second, IdleTimeout: 10 * time.Minute, StallTimeout: time.Minute, EndTimeout: 5 * time.Second,
	}
}

// New checks cfg. It starts nothing.
func New(ctl Controller, cfg Config, log *slog.Logger) (*Server, error) {
	switch {
	case cfg.Auth == nil:
		return nil, errors.New("make ssh server: no authenticator")
	case cfg.HostKey == nil:
		return nil, errors.New("make ssh server: no host key")
	case cfg.Connections < 1 || cfg.PerAddress < 1 || cfg.HalfOpen < 1 || cfg.Channels < 1 || cfg.Transfers < 1:
		return nil, errors.New("make ssh server: each limit must be at least 1")
	case cfg.LoginTimeout <= 0 || cfg.IdleTimeout <= 0 || cfg.StallTimeout <= 0 || cfg.EndTimeout < 0:
		return nil, errors.New("make ssh server: timeouts must be longer than 0s")
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Server{
		ctl: ctl, cfg: cfg, log: log, open: map[netip.Addr]int{}, halfOpen: make(chan struct{}, cfg.HalfOpen),
		transfers: make(chan struct{}, cfg.Transfers), sizes: newSizes(),
	}, nil
}
