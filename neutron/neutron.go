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
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/gophercloud/gophercloud/v2"
	"github.com/gophercloud/gophercloud/v2/openstack"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/extensions/portsbinding"
	"github.com/gophercloud/gophercloud/v2/openstack/networking/v2/ports"

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
}

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
	r.http = http.Client{Timeout: answerIn, Transport: &http.Transport{TLSClientConfig: tlsConfig, Proxy: http.ProxyFromEnvironment}}
	return r, nil
}

// Run looks until ctx ends, and then returns nil. A look that fails changes nothing and is told.
func (r *Reader) Run(ctx context.Context) error {
	defer r.http.CloseIdleConnections()
	tick := time.NewTicker(r.cfg.Every)
	defer tick.Stop()
	var before string
	for {
		err := r.Look(ctx)
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
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
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
	pages, err := ports.List(network, ports.ListOpts{}).AllPages(ctx)
	if err != nil {
		return nil, fmt.Errorf("list ports: %w", err)
	}
	var found []struct {
		ports.Port
		portsbinding.PortsBindingExt
	}
	if err := ports.ExtractPortsInto(pages, &found); err != nil {
		return nil, fmt.Errorf("read the list of ports: %w", err)
	}
	out := make([]tap.Port, 0, len(found))
	for _, p := range found {
		project := p.ProjectID
		if project == "" {
			project = p.TenantID
		}
		// What belongs to nobody in Neutron (ports of routers' gateways) is nobody's to tap.
		if !tap.IsUUID(p.ID) || project == "" {
			continue
		}
		out = append(out, tap.Port{
			ID: strings.ToLower(p.ID), Name: p.Name, Project: project, Network: p.NetworkID, MAC: strings.ToLower(p.MACAddress), Node: p.HostID,
		})
	}
	return out, nil
}

func orDefault(domain string) string {
	if domain == "" {
		return "Default"
	}
	return domain
}
