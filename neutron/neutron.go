// Package neutron reads from an OpenStack which ports there are, and whose.
//
// Runs in: controller
//
// It only reads. What it finds are ports for taps: a device whose iface-id or name has a port's id, or whose MAC a port has on
// that host, belongs to the port's project.
package neutron

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/portsbinding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"
	"github.com/gophercloud/gophercloud/v2/pagination"

	"opentap/tap"
)

// Config says where the OpenStack is, and who asks. Either an application credential or a user with a project.
type Config struct {
	AuthURL          string // of Keystone, "https://keystone.example/v3"; "" = no OpenStack
	Region           string // "" = the only one
	CredentialID     string
	CredentialSecret string
	Username         string
	Password         string
	UserDomain       string // "" = Default
	Project          string
	ProjectDomain    string        // "" = Default
	CAFile           string        // PEM of the authorities that may vouch for it; "" = the system's
	Every            time.Duration // between two looks
}

// DefaultEvery is how often it looks when nobody says.
const DefaultEvery = 30 * time.Second

// answerIn bounds how long one look may take.
const answerIn = 2 * time.Minute

// Keeper takes over what there is; the controller does.
type Keeper interface {
	SyncPorts(ctx context.Context, list []tap.Port) error
	// Disputed tells when a host says that it has a port which Neutron had on another one: it may have moved.
	Disputed() <-chan struct{}
}

// Bounds of what is believed to be a Neutron's.
const (
	mostPorts  = 1 << 20
	mostAnswer = 64 << 20 // octets of one answer
	mostText   = 255      // of a name or project
)

// soonest is how soon it looks again when a port may have moved; then less and less often, until it is as usual.
const soonest = time.Second

// Reader looks again and again.
type Reader struct {
	cfg    Config
	keeper Keeper
	log    *slog.Logger
	http   http.Client
}

// New checks cfg. It connects to nothing.
func New(cfg Config, k Keeper, log *slog.Logger) (*Reader, error) {
	if cfg.Every <= 0 {
		cfg.Every = DefaultEvery
	}
	switch {
	case !strings.HasPrefix(cfg.AuthURL, "http://") && !strings.HasPrefix(cfg.AuthURL, "https://"):
		return nil, fmt.Errorf("auth_url %q is not like https://keystone.example/v3", cfg.AuthURL)
	case (cfg.CredentialID == "") == (cfg.Username == ""):
		return nil, errors.New("either an application credential or a user is needed")
	case cfg.Username != "" && cfg.Project == "":
		return nil, errors.New("a user needs a project")
	}
	r := &Reader{cfg: cfg, keeper: k, log: log}
	tlsConfig := &tls.Config{MinVersion: tls.VersionTLS12}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, err
		}
		tlsConfig.RootCAs = x509.NewCertPool()
		if !tlsConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", cfg.CAFile)
		}
	}
	r.http = http.Client{
		Timeout: answerIn, Transport: bounded{&http.Transport{TLSClientConfig: tlsConfig, Proxy: http.ProxyFromEnvironment}}, CheckRedirect: sameHost,
	}
	return r, nil
}

// sameHost follows no redirection to another host: the token goes along in a header that net/http would not take away.
func sameHost(req *http.Request, via []*http.Request) error {
	if was := via[0].URL; req.URL.Host != was.Host || req.URL.Scheme != was.Scheme || len(via) > 5 {
		return fmt.Errorf("%s redirects to %s", was.Host, req.URL.Host)
	}
	return nil
}

// bounded ends answers that are too long to be one.
type bounded struct{ *http.Transport }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	a, err := b.Transport.RoundTrip(r)
	if err == nil {
		a.Body = http.MaxBytesReader(nil, a.Body, mostAnswer)
	}
	return a, err
}

// Run looks until ctx ends, and then returns nil. A look that fails changes nothing and is told.
func (r *Reader) Run(ctx context.Context) error {
	defer r.http.CloseIdleConnections()
	var before string
	for pause := r.cfg.Every; ; pause = min(2*pause, r.cfg.Every) {
		began := time.Now()
		err := r.Look(ctx)
		took := time.Since(began)
		switch text := fmt.Sprint(err); {
		case ctx.Err() != nil:
			return nil
		case err != nil && text != before:
			r.log.Warn("Neutron's ports cannot be read; what is known of them stays", "err", err)
			before = text
		case err == nil && before != "":
			r.log.Info("Neutron's ports are read again")
			before = ""
		}
		wait := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-wait.C:
		case <-r.keeper.Disputed():
			pause = min(max(soonest, 4*took), r.cfg.Every) // and not more often, whatever hosts say
			wait.Reset(pause)
			select {
			case <-ctx.Done():
			case <-wait.C:
			}
		}
		if wait.Stop(); ctx.Err() != nil {
			return nil
		}
	}
}

// Look reads all ports once and hands them over.
func (r *Reader) Look(ctx context.Context) error {
	list, err := r.read(ctx)
	if err != nil {
		return err
	}
	return r.keeper.SyncPorts(ctx, list)
}

func (r *Reader) read(ctx context.Context) ([]tap.Port, error) {
	provider, err := openstack.NewClient(r.cfg.AuthURL)
	if err != nil {
		return nil, fmt.Errorf("reach Keystone: %w", err)
	}
	provider.HTTPClient = r.http
	provider.UserAgent.Prepend("opentap")
	o := gophercloud.AuthOptions{IdentityEndpoint: r.cfg.AuthURL}
	if r.cfg.CredentialID != "" {
		o.ApplicationCredentialID, o.ApplicationCredentialSecret = r.cfg.CredentialID, r.cfg.CredentialSecret
	} else {
		o.Username, o.Password, o.DomainName = r.cfg.Username, r.cfg.Password, orDefault(r.cfg.UserDomain)
		o.Scope = &gophercloud.AuthScope{ProjectName: r.cfg.Project, DomainName: orDefault(r.cfg.ProjectDomain)}
	}
	if err := openstack.AuthenticateV3(ctx, provider, &o, gophercloud.EndpointOpts{}); err != nil {
		return nil, fmt.Errorf("come in at Keystone: %w", err)
	}
	network, err := openstack.NewNetworkV2(provider, gophercloud.EndpointOpts{Region: r.cfg.Region})
	if err != nil {
		return nil, fmt.Errorf("find Neutron: %w", err)
	}
	var out []tap.Port
	err = ports.List(network, ports.ListOpts{}).EachPage(ctx, func(_ context.Context, page pagination.Page) (bool, error) {
		var found []foundPort
		if err := ports.ExtractPortsInto(page, &found); err != nil {
			return false, fmt.Errorf("read the list of ports: %w", err)
		}
		for i := range found {
			if p, ok := found[i].port(); ok {
				out = append(out, p)
			}
		}
		if len(out) > mostPorts {
			return false, fmt.Errorf("there are more than %d", mostPorts)
		}
		return true, nil
	})
	if err != nil {
		return nil, fmt.Errorf("list ports: %w", err)
	}
	return out, nil
}

// foundPort is a port as Neutron lists it.
type foundPort struct {
	ports.Port
	portsbinding.PortsBindingExt
}

// port is what of it means something here; not ok: nothing does.
func (f *foundPort) port() (p tap.Port, ok bool) {
	project := f.ProjectID
	if project == "" {
		project = f.TenantID
	}
	// What belongs to nobody in Neutron (ports of routers' gateways) is nobody's to tap.
	if !tap.IsUUID(f.ID) || project == "" || max(len(project), len(f.Name), len(f.HostID)) > mostText {
		return p, false
	}
	p = tap.Port{ID: strings.ToLower(f.ID), Name: f.Name, Project: project, Node: f.HostID}
	if tap.IsUUID(f.NetworkID) {
		p.Network = f.NetworkID
	}
	if m, err := net.ParseMAC(f.MACAddress); err == nil && len(m) == 6 {
		p.MAC = m.String()
	}
	return p, true
}

func orDefault(domain string) string {
	if domain == "" {
		return "Default"
	}
	return domain
}
