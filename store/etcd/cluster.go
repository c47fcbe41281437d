package etcd

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/namespace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
)

// soonAgain is how a member that went away is sought: grpc's own way is to wait for up to two minutes between two tries.
var soonAgain = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 5 * time.Second,
}

// dial connects to a cluster and proves with one read that it answers.
func dial(ctx context.Context, cfg Config, log *slog.Logger) (*Store, error) {
	where := strings.Join(cfg.Endpoints, ", ")
	tc, err := cfg.TLS.config(cfg.Endpoints)
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", where, err)
	}
	if cfg.Username != "" && tc == nil && !allLocal(cfg.Endpoints) {
		return nil, fmt.Errorf("open store %s: refusing to send a password without TLS: configure store.tls", where)
	}
	timeout := cfg.StartTimeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	c, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		Username:             cfg.Username,
		Password:             cfg.Password,
		TLS:                  tc,
		DialTimeout:          timeout,
		DialKeepAliveTime:    10 * time.Second,
		DialKeepAliveTimeout: 5 * time.Second,
		Logger:               zapTo(log, nil),
		DialOptions:          []grpc.DialOption{grpc.WithConnectParams(soonAgain)},
	})
	if err != nil {
		return nil, fmt.Errorf("open store %s: %w", where, err)
	}
	prefix := cfg.Prefix
	if prefix == "" {
		prefix = "opentap/"
	}
	s := &Store{
		log: log, client: c, remote: true, patience: cmp.Or(cfg.Patience, 10*time.Second), closing: make(chan struct{}),
		kv:    namespace.NewKV(c.KV, prefix),
		watch: namespace.NewWatcher(c.Watcher, prefix),
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	if _, _, err := s.List(ctx, "\x00"); err != nil {
		s.Close()
		if errors.Is(err, context.DeadlineExceeded) {
			return nil, fmt.Errorf("open store %s: no answer within %v", where, timeout)
		}
		return nil, fmt.Errorf("open store %s: %w", where, err)
	}
	return s, nil
}

// allLocal reports whether no endpoint leaves this host.
func allLocal(endpoints []string) bool {
	for _, e := range endpoints {
		e = strings.TrimPrefix(e, "http://")
		if !strings.HasPrefix(e, "127.") && !strings.HasPrefix(e, "[::1]") && !strings.HasPrefix(e, "localhost:") && !strings.HasPrefix(e, "unix:") {
			return false
		}
	}
	return true
}

// config returns nil for a plain connection.
func (t TLS) config(endpoints []string) (*tls.Config, error) {
	on := t.Enable || t.CAFile != "" || t.CertFile != "" || t.ServerName != ""
	for _, e := range endpoints {
		on = on || strings.HasPrefix(e, "https://")
	}
	if !on {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: t.ServerName}
	if t.CAFile != "" {
		pem, err := os.ReadFile(t.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read authorities %s: no PEM certificate in it", t.CAFile)
		}
	}
	if (t.CertFile == "") != (t.KeyFile == "") {
		return nil, errors.New("a client certificate needs both its file and its key's file")
	}
	if t.CertFile != "" {
		if _, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile); err != nil {
			return nil, fmt.Errorf("read client certificate: %w", err)
		}
		// Read at each handshake, so that a renewed certificate is used without a restart.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(t.CertFile, t.KeyFile)
			return &pair, err
		}
	}
	return c, nil
}
