// Package member keeps a host's membership of a fleet: its certificate, whom it trusts, and the way to the controllers.
//
// Runs in: agent
//
// A host joins once, by a token that also names the fleet's authority; after that its certificate is its identity, and is
// renewed long before it ends. The key never leaves the host, and each certificate has a new one.
package member

import (
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"opentap/agentapi/agentpb"
	"opentap/cert"
)

// Files in Config.Dir.
const (
	memberFile  = "member.pem"  // key, certificate, authority; mode 0600
	joiningFile = "joining.pem" // the key with which the host asked to join, until it was answered
	noteFile    = "member.json" // note
)

// Config says where the membership is kept and where controllers are.
type Config struct {
	Dir         string           // made with mode 0700 when absent
	Controllers []string         // HOST:PORT, at least one: in no order, and before those that the fleet tells of
	Now         func() time.Time // nil = time.Now
}

// note is what a member remembers beside its certificate.
type note struct {
	Token       string   `json:"token"`       // id of the token by which it joined last
	Controllers []string `json:"controllers"` // as the fleet told
}

// Member is safe for concurrent use.
type Member struct {
	cfg Config
	log *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate // nil: it has not joined
	trusted string           // fingerprint of the authority
	note    note
	next    int              // which controller is dialled next
	dialled time.Time        // when the last one was
	cc      *grpc.ClientConn // of the newest session
	fresh   chan struct{}    // closed and replaced when current changes
}

// Open reads the membership, if there is one. It touches no network.
func Open(cfg Config, log *slog.Logger) (*Member, error) {
	if len(cfg.Controllers) == 0 {
		return nil, errors.New("open membership: no controller is named")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open membership: %w", err)
	}
	cfg.Controllers = slices.Clone(cfg.Controllers)
	rand.Shuffle(len(cfg.Controllers), func(i, k int) { cfg.Controllers[i], cfg.Controllers[k] = cfg.Controllers[k], cfg.Controllers[i] })
	m := &Member{cfg: cfg, log: log, fresh: make(chan struct{})}
	c, trusted, err := cert.ReadMember(m.path(memberFile))
	switch {
	case err == nil:
		m.current, m.trusted = c, trusted
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("open membership: %w", err)
	}
	if b, err := os.ReadFile(m.path(noteFile)); err == nil {
		if err := json.Unmarshal(b, &m.note); err != nil {
			log.Warn("what this host knew of its fleet's controllers cannot be read; it is learnt again", "err", err)
		}
	}
	return m, nil
}

func (m *Member) path(name string) string { return filepath.Join(m.cfg.Dir, name) }

// Who says what the certificate names; ok is false when the host has not joined.
func (m *Member) Who() (who cert.Member, ends time.Time, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.current == nil {
		return cert.Member{}, time.Time{}, false
	}
	who, err := cert.MemberOf(m.current.Leaf)
	return who, m.current.Leaf.NotAfter, err == nil
}

// settled is how long a connection lasts that was a good one: after it the controllers of the configuration are tried first
// again.
const settled = 30 * time.Second

// addresses are those of the configuration, then those that the fleet told. m.mu is held.
func (m *Member) addresses() []string {
	out := slices.Clone(m.cfg.Controllers)
	for _, a := range m.note.Controllers {
		if !slices.Contains(out, a) {
			out = append(out, a)
		}
	}
	return out
}

// Join makes this host a member with a token's text, unless the token is the one by which it has become one. joined says
// that it is one now and was not before: whatever it obeyed then is of the past. It tries all controllers until one has
// answered, or ctx ends; a refusal is an error at once.
func (m *Member) Join(ctx context.Context, text, nodeID, nodeName string) (joined bool, err error) {
	t, err := ParseToken(text)
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	done := m.current != nil && m.note.Token == t.ID
	m.mu.Unlock()
	if done {
		return false, nil
	}
	key, request, err := m.joiningKey()
	if err != nil {
		return false, err
	}
	dial := &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: cert.VerifyController(t.Authority, m.cfg.Now)} // VerifyConnection decides
	for pause := time.Second; ; pause = min(2*pause, 15*time.Second) {
		var answer *agentpb.Membership
		cc, address, err := m.dial(dial)
		if err == nil {
			answer, err = agentpb.NewEnrolmentClient(cc).Join(ctx, &agentpb.JoinRequest{Token: text, Request: request, NodeId: nodeID, NodeName: nodeName})
			_ = cc.Close() // what was asked is answered
		}
		if err == nil {
			if err = m.take(key, answer, t.Authority, t.ID); err == nil {
				m.log.Info("this host has joined the fleet", "node", nodeName, "controller", address, "authority", t.Authority)
				return true, os.Remove(m.path(joiningFile))
			}
		}
		switch status.Code(err) {
		case codes.Unauthenticated, codes.PermissionDenied, codes.InvalidArgument, codes.AlreadyExists:
			return false, fmt.Errorf("join the fleet at %s: %s", address, status.Convert(err).Message())
		}
		wait := pause/2 + rand.N(pause)
		m.log.Warn("the fleet was not joined; trying again", "controller", address, "err", err, "retry_in", wait)
		select {
		case <-ctx.Done():
			return false, ctx.Err()
		case <-time.After(wait):
		}
	}
}

// joiningKey is the key with which this host asks to join. It is kept until the answer has come: when that is lost, the same
// token is answered again for the same key.
func (m *Member) joiningKey() (*ecdsa.PrivateKey, []byte, error) {
	if key, request, err := cert.ReadRequest(m.path(joiningFile)); err == nil {
		return key, request, nil
	}
	key, request, err := cert.Request()
	if err != nil {
		return nil, nil, err
	}
	return key, request, cert.WriteRequest(m.path(joiningFile), key, request)
}

// take keeps a new certificate. trusted is the authority that it must be of; token is the id of the one it was given for.
func (m *Member) take(key *ecdsa.PrivateKey, a *agentpb.Membership, trusted, token string) error {
	c, err := cert.Bind(key, a.Certificates, trusted)
	if err != nil {
		return fmt.Errorf("the controller's answer: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cert.WriteMember(m.path(memberFile), c); err != nil {
		return err
	}
	m.current, m.trusted = c, trusted
	n := note{Token: m.note.Token, Controllers: a.Controllers}
	if token != "" {
		n.Token, m.next = token, 0 // the session begins where the configuration says
	}
	if n.Token != m.note.Token || !slices.Equal(n.Controllers, m.note.Controllers) {
		m.note = n
		b, err := json.Marshal(n)
		if err == nil {
			err = os.WriteFile(m.path(noteFile), b, 0o600)
		}
		if err != nil {
			m.log.Warn("what the fleet told of its controllers cannot be kept", "err", err)
		}
	}
	close(m.fresh)
	m.fresh = make(chan struct{})
	return nil
}

// dial makes a connection to the next controller. It is made when it is used.
func (m *Member) dial(cfg *tls.Config) (*grpc.ClientConn, string, error) {
	m.mu.Lock()
	all := m.addresses()
	now := m.cfg.Now()
	if now.Sub(m.dialled) > settled {
		m.next = 0
	}
	m.dialled = now
	address := all[m.next%len(all)]
	m.next++
	m.mu.Unlock()
	cc, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { // no proxy of the environment
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.DefaultConfig, MinConnectTimeout: 10 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: true}),
		grpc.WithReadBufferSize(8<<10), grpc.WithWriteBufferSize(32<<10),
	)
	return cc, address, err
}

// Dial makes a connection for a session: to another controller each time, where there are several. It suits
// agentapi.Dialer.
func (m *Member) Dial(context.Context) (*grpc.ClientConn, error) {
	m.mu.Lock()
	if m.current == nil {
		m.mu.Unlock()
		return nil, errors.New("this host has not joined a fleet")
	}
	ends, trusted := m.current.Leaf.NotAfter, m.trusted
	m.mu.Unlock()
	if !m.cfg.Now().Before(ends) {
		return nil, fmt.Errorf("the certificate of this host ended on %s; let it join again with a token made by opentap node join-token --node NAME", ends.UTC().Format(time.RFC3339))
	}
	cc, address, err := m.dial(&tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: cert.VerifyController(trusted, m.cfg.Now), // VerifyConnection decides
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.current, nil
		},
	})
	if err != nil {
		return nil, err
	}
	m.log.Debug("dialling a controller", "controller", address)
	m.mu.Lock()
	m.cc = cc
	m.mu.Unlock()
	return cc, nil
}
