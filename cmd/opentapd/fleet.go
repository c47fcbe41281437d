package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"opentap/audit"
	"opentap/controller"
	"opentap/fleet"
	"opentap/store/etcd"
	"opentap/want"
)

// fleetConfig is the key fleet: how agents on other hosts and further controllers are reached, and reach this one.
type fleetConfig struct {
	Listen          string   `yaml:"listen"`           // ADDRESS:PORT for agents and other controllers; "" = role's default
	Advertise       string   `yaml:"advertise"`        // HOST:PORT at which they reach it; "" = node and the port of listen
	CertificateLife duration `yaml:"certificate_life"` // of a member
	Controllers     []string `yaml:"controllers"`      // of an agent: whom to dial
	JoinTokenFile   string   `yaml:"join_token_file"`  // of an agent: how it joins
}

// projectConfig is an element of the key projects: a tenant.
type projectConfig struct {
	Name        string   `yaml:"name"`
	Description string   `yaml:"description"`
	Points      []string `yaml:"points"`
	Captures    int      `yaml:"captures"`
	Bytes       size     `yaml:"bytes"`
	MaxDuration duration `yaml:"max_duration"`
	MaxRetain   duration `yaml:"max_retention"`
	Probe       bool     `yaml:"probe"`
}

// projects are those of the configuration.
func (c *config) projects() ([]want.Project, error) {
	var out []want.Project
	seen := make(map[string]bool)
	for i, p := range c.Projects {
		w := want.Project{Name: p.Name, ProjectRequest: want.ProjectRequest{
			Description: p.Description, Points: p.Points, Captures: p.Captures, Bytes: int64(p.Bytes),
			MaxDuration: want.Duration(p.MaxDuration), MaxRetain: want.Duration(p.MaxRetain), Probe: p.Probe,
		}}
		if err := controller.CheckProject(w.Name, &w.ProjectRequest); err != nil {
			return nil, fmt.Errorf("projects[%d]: %w", i, err)
		}
		if seen[p.Name] {
			return nil, fmt.Errorf("projects[%d]: %s is declared already", i, p.Name)
		}
		seen[p.Name] = true
		out = append(out, w)
	}
	return out, nil
}

// defaultFleetListen is where a controller waits for agents; role all waits for nobody unless it is told to.
const defaultFleetListen = ":2021"

func defaultFleet() fleetConfig { return fleetConfig{CertificateLife: duration(fleet.DefaultLife)} }

func (c *config) fleetListen() string {
	if c.Fleet.Listen == "" && c.Role == "controller" {
		return defaultFleetListen
	}
	return c.Fleet.Listen
}

func checkHostPort(key, s string, hostNeeded bool) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil || port == "" || hostNeeded && host == "" {
		return fmt.Errorf("%s: %q is not HOST:PORT", key, s)
	}
	return nil
}

// checkFleet finds what makes no sense in the key fleet.
func (c *config) checkFleet() error {
	f := &c.Fleet
	if f.Listen != "" {
		if err := checkHostPort("fleet.listen", f.Listen, false); err != nil {
			return err
		}
	}
	if f.Advertise != "" {
		if err := checkHostPort("fleet.advertise", f.Advertise, true); err != nil {
			return err
		}
	}
	if time.Duration(f.CertificateLife) < fleet.MinLife {
		return fmt.Errorf("fleet.certificate_life: %s is too short, at least %s", time.Duration(f.CertificateLife), fleet.MinLife)
	}
	for i, a := range f.Controllers {
		if err := checkHostPort(fmt.Sprintf("fleet.controllers[%d]", i), a, true); err != nil {
			return err
		}
	}
	switch {
	case c.Role == "agent" && len(f.Controllers) == 0:
		return errors.New("fleet.controllers: is missing: say at which HOST:PORT an agent reaches its controllers, such as controller.example:2021")
	case c.Role != "agent" && (len(f.Controllers) > 0 || f.JoinTokenFile != ""):
		return errors.New("fleet.controllers and fleet.join_token_file are for role agent: controllers find each other in the store")
	case c.Role == "agent" && f.Listen != "":
		return errors.New("fleet.listen is for controllers: an agent dials")
	}
	return nil
}

func (c *config) fleetDir() string { return filepath.Join(c.DataDir, "fleet") }

// controllerID is the id of this controller, which it keeps.
func (c *config) controllerID() (string, error) {
	path := filepath.Join(c.fleetDir(), "controller.id")
	b, err := os.ReadFile(path)
	if err == nil && len(strings.TrimSpace(string(b))) == 16 {
		return strings.TrimSpace(string(b)), nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := os.MkdirAll(c.fleetDir(), 0o700); err != nil {
		return "", err
	}
	var id [8]byte
	rand.Read(id[:]) // never fails, crypto/rand
	text := hex.EncodeToString(id[:])
	return text, os.WriteFile(path, []byte(text+"\n"), 0o600)
}

// nodeName is the name of this host.
func (c *config) nodeName() (string, error) {
	if c.Node != "" {
		return c.Node, nil
	}
	name, err := os.Hostname()
	if err != nil {
		return "", fmt.Errorf("this host has no name; set node in the configuration: %w", err)
	}
	return name, nil
}

// listenFleet takes the address for agents; nil when there is none.
func (c *config) listenFleet() (net.Listener, error) {
	if c.fleetListen() == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", c.fleetListen())
	if err != nil {
		return nil, fmt.Errorf("listen for agents on %s: %w", c.fleetListen(), err)
	}
	return l, nil
}

// openFleet opens the fleet's registry. With a listener, others are told how this controller is reached.
func openFleet(ctx context.Context, cfg config, node string, listener net.Listener, st *etcd.Store, trail *audit.Log, log *slog.Logger) (*fleet.Registry, error) {
	id, err := cfg.controllerID()
	if err != nil {
		return nil, fmt.Errorf("keep this controller's id: %w", err)
	}
	out := fleet.Config{ID: id, Name: node, Version: programVersion(), Life: time.Duration(cfg.Fleet.CertificateLife), Advertise: cfg.Fleet.Advertise}
	if listener == nil {
		out.Advertise = ""
	} else if out.Advertise == "" {
		host, port, err := net.SplitHostPort(listener.Addr().String())
		if err != nil {
			return nil, err
		}
		if ip := net.ParseIP(host); ip == nil || ip.IsUnspecified() {
			host = node
		}
		out.Advertise = net.JoinHostPort(host, port)
	}
	reg, err := fleet.Open(ctx, out, st, trail, log)
	if err == nil && listener != nil {
		log.Info("agents and controllers are awaited", "listen", listener.Addr(), "advertise", out.Advertise, "authority", reg.Authority())
	}
	return reg, err
}
