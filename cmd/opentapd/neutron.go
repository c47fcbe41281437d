package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"opentap/neutron"
)

// neutronConfig is the section about an OpenStack whose ports are read.
type neutronConfig struct {
	AuthURL              string   `yaml:"auth_url"` // of Keystone; "" = there is none
	Region               string   `yaml:"region"`
	CredentialID         string   `yaml:"application_credential_id"`
	CredentialSecretFile string   `yaml:"application_credential_secret_file"`
	Username             string   `yaml:"username"`
	PasswordFile         string   `yaml:"password_file"`
	UserDomain           string   `yaml:"user_domain"`
	Project              string   `yaml:"project"`
	ProjectDomain        string   `yaml:"project_domain"`
	CA                   string   `yaml:"ca"`
	Every                duration `yaml:"every"`
}

// reader makes what reads the ports; nil = nothing is configured.
func (n *neutronConfig) reader(k neutron.Keeper, log *slog.Logger) (*neutron.Reader, error) {
	if n.AuthURL == "" {
		if *n != (neutronConfig{Every: n.Every}) {
			return nil, errors.New("neutron: auth_url is missing")
		}
		return nil, nil
	}
	cfg := neutron.Config{
		AuthURL: n.AuthURL, Region: n.Region, CredentialID: n.CredentialID, Username: n.Username, UserDomain: n.UserDomain,
		Project: n.Project, ProjectDomain: n.ProjectDomain, CAFile: n.CA, Every: time.Duration(n.Every),
	}
	for file, to := range map[string]*string{n.CredentialSecretFile: &cfg.CredentialSecret, n.PasswordFile: &cfg.Password} {
		if file == "" {
			continue
		}
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("neutron: %w", err)
		}
		*to = strings.TrimSpace(string(b))
	}
	r, err := neutron.New(cfg, k, log)
	if err != nil {
		return nil, fmt.Errorf("neutron: %w", err)
	}
	return r, nil
}
