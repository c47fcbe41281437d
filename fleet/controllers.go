package fleet

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"

	"opentap/agentapi"
	"opentap/cert"
	"opentap/store"
)

// announce says in the store that this controller is here.
func (r *Registry) announce(ctx context.Context) error {
	if r.cfg.Advertise == "" {
		return nil
	}
	c := Controller{ID: r.cfg.ID, Name: r.cfg.Name, Address: r.cfg.Advertise, Version: r.cfg.Version, Started: r.started}
	r.mu.Lock()
	same := r.controllers[c.ID] == c
	r.mu.Unlock()
	if same {
		return nil
	}
	rev, err := r.store.Txn(ctx, nil, []store.Op{store.Put(controllerKeys+c.ID, encode(c))})
	if err != nil {
		return err
	}
	r.learn(controllerKeys+c.ID, encode(c), rev)
	return nil
}

// withdraw takes that back.
func (r *Registry) withdraw() error {
	if r.cfg.Advertise == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	if err := r.DropController(ctx, r.cfg.ID); err != nil && !errors.Is(err, store.ErrClosed) {
		r.log.Warn("other controllers are not told that this one stops; they find out", "err", err)
	}
	return nil
}

// DropController forgets a controller that is gone. If it is not, it says so again.
func (r *Registry) DropController(ctx context.Context, id string) error {
	_, err := r.store.Txn(ctx, nil, []store.Op{store.Delete(controllerKeys + id)})
	return err
}

// Others returns the other controllers.
func (r *Registry) Others() []agentapi.Peer {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []agentapi.Peer
	for _, c := range r.controllers {
		if c.ID != r.cfg.ID {
			out = append(out, agentapi.Peer{ID: c.ID, Name: c.Name, Address: c.Address})
		}
	}
	return out
}

// addresses are those of all controllers.
func (r *Registry) addresses() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, c := range r.controllers {
		out = append(out, c.Address)
	}
	slices.Sort(out)
	return out
}

// ownCert is what this controller shows to agents and to other controllers.
type ownCert struct{ *tls.Certificate }

// certificate returns this controller's certificate, and makes a new one when half of its life has passed.
func (r *Registry) certificate() (*tls.Certificate, error) {
	now := r.now()
	if c := r.own.Load(); c != nil && now.Before(c.Leaf.NotAfter.Add(-r.cfg.Life/2)) && now.After(c.Leaf.NotBefore) {
		return c.Certificate, nil
	}
	c, err := r.authority.Issue(cert.Member{Kind: cert.ControllerMember, ID: r.cfg.ID, Name: r.cfg.Name}, r.cfg.Life, now)
	if err != nil {
		return nil, err
	}
	r.own.Store(&ownCert{c})
	return c, nil
}

// Dial makes a connection to another controller. It is made when it is used.
func (r *Registry) Dial(p agentapi.Peer) (*grpc.ClientConn, error) {
	verify := cert.VerifyController(r.Authority(), r.now)
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // VerifyConnection decides
		VerifyConnection: func(s tls.ConnectionState) error {
			if err := verify(s); err != nil {
				return err
			}
			if m, err := cert.MemberOf(s.PeerCertificates[0]); err != nil || m.ID != p.ID {
				return fmt.Errorf("at %s is another controller than %s", p.Address, p.Name)
			}
			return nil
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return r.certificate() },
	}
	return grpc.NewClient("passthrough:///"+p.Address,
		grpc.WithTransportCredentials(credentials.NewTLS(cfg)),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) { // no proxy of the environment
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 200 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 5 * time.Second}, MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveTime, Timeout: keepaliveTimeout, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(agentapi.CallOptions()...),
	)
}
