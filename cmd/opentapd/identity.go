package main

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"opentap/auth"
	"opentap/auth/keystone"
	"opentap/auth/openid"
	"opentap/controller"
)

// oidcConfig is an element of the key auth.oidc: an OpenID Connect provider that is believed.
type oidcConfig struct {
	Name       string   `yaml:"name"`
	Issuer     string   `yaml:"issuer"`
	ClientID   string   `yaml:"client_id"`
	SecretFile string   `yaml:"client_secret_file"`
	Audiences  []string `yaml:"audiences"`
	NameClaim  string   `yaml:"name_claim"`
	Scopes     []string `yaml:"scopes"`
	CA         string   `yaml:"ca"`
	Rules      []struct {
		Claim        string `yaml:"claim"`
		Value        string `yaml:"value"`
		Role         string `yaml:"role"`
		Project      string `yaml:"project"`
		ProjectClaim string `yaml:"project_claim"`
	} `yaml:"rules"`
}

// keystoneConfig is the key auth.keystone: an OpenStack Keystone that is believed.
type keystoneConfig struct {
	URL   string            `yaml:"url"`   // "" = none
	Roles map[string]string `yaml:"roles"` // Keystone's role → ours
	CA    string            `yaml:"ca"`
}

// roots reads a file of authorities; nil = the system's.
func roots(key, path string) (*x509.CertPool, error) {
	if path == "" {
		return nil, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", key, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("%s: %s holds no certificate", key, path)
	}
	return pool, nil
}

// strangers are those who are believed about callers, and where people sign in.
func (c *config) strangers(log *slog.Logger) (verifiers []auth.Verifier, providers []controller.Provider, err error) {
	names := make(map[string]bool)
	for i, x := range c.Auth.OIDC {
		key := fmt.Sprintf("auth.oidc[%d]", i)
		cfg := openid.Config{
			Name: x.Name, Issuer: x.Issuer, ClientID: x.ClientID, Audiences: x.Audiences, NameClaim: x.NameClaim, Scopes: x.Scopes,
		}
		if cfg.Roots, err = roots(key+": ca", x.CA); err != nil {
			return nil, nil, err
		}
		if x.SecretFile != "" {
			b, err := os.ReadFile(x.SecretFile)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: client_secret_file: %w", key, err)
			}
			cfg.ClientSecret = strings.TrimSpace(string(b))
		}
		for _, r := range x.Rules {
			cfg.Rules = append(cfg.Rules, openid.Rule{Claim: r.Claim, Value: r.Value, Role: r.Role, Project: r.Project, ProjectClaim: r.ProjectClaim})
		}
		p, err := openid.New(cfg, log)
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
		if names[p.Name()] {
			return nil, nil, fmt.Errorf("%s: there is a provider %s already; give it a name", key, p.Name())
		}
		names[p.Name()] = true
		verifiers, providers = append(verifiers, p), append(providers, p)
	}
	if k := c.Auth.Keystone; k.URL != "" { // last: it recognises whatever might be a token
		pool, err := roots("auth.keystone: ca", k.CA)
		if err != nil {
			return nil, nil, err
		}
		v, err := keystone.New(keystone.Config{URL: k.URL, Roles: k.Roles, Roots: pool})
		if err != nil {
			return nil, nil, fmt.Errorf("auth.keystone: %w", err)
		}
		verifiers = append(verifiers, v)
	}
	return verifiers, providers, nil
}
