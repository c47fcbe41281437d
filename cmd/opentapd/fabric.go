package main

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// fabricConfig is the key fabric: where OpenFlow switches connect to.
type fabricConfig struct {
	Listen     string   `yaml:"listen"`      // ADDRESS:PORT; "" = no switches
	Every      duration `yaml:"every"`       // between comparisons of what switches have and what they should
	ProbeEvery duration `yaml:"probe_every"` // between probes of all policies; 0 = only when somebody asks
	Cert       string   `yaml:"cert"`        // PEM file; with it switches speak TLS
	Key        string   `yaml:"key"`         // PEM file
	CA         string   `yaml:"ca"`          // PEM file: whose switches are taken
}

func defaultFabric() fabricConfig { return fabricConfig{Every: duration(30 * time.Second)} }

func (c *config) checkFabric() error {
	f := &c.Fabric
	if f.Listen == "" {
		if f.Cert != "" || f.Key != "" || f.CA != "" {
			return errors.New("fabric.listen: is missing, so that the other keys of fabric have no effect; such as 0.0.0.0:6653")
		}
		return nil
	}
	if c.Role == "agent" {
		return errors.New("fabric.listen: switches connect to a controller, and this is an agent")
	}
	if err := checkHostPort("fabric.listen", f.Listen, false); err != nil {
		return err
	}
	if f.Every < duration(time.Second) {
		return fmt.Errorf("fabric.every: is %s; at least 1s", time.Duration(f.Every))
	}
	if f.ProbeEvery != 0 && f.ProbeEvery < duration(time.Second) {
		return fmt.Errorf("fabric.probe_every: is %s; at least 1s, or 0 for none", time.Duration(f.ProbeEvery))
	}
	if (f.Cert == "") != (f.Key == "") || (f.CA == "") != (f.Cert == "") {
		return errors.New("fabric: cert, key and ca are given together or not at all: switches and this server prove to each other who they are")
	}
	return nil
}

// listenFabric takes the address that switches connect to; nil when there is none.
func (c *config) listenFabric() (net.Listener, error) {
	f := &c.Fabric
	if f.Listen == "" {
		return nil, nil
	}
	var secure *tls.Config
	if f.Cert != "" {
		cert, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			return nil, fmt.Errorf("fabric.cert, fabric.key: %w", err)
		}
		pem, err := os.ReadFile(f.CA)
		if err != nil {
			return nil, fmt.Errorf("fabric.ca: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("fabric.ca: %s holds no certificate", f.CA)
		}
		secure = &tls.Config{Certificates: []tls.Certificate{cert}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12}
	}
	l, err := net.Listen("tcp", f.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for OpenFlow switches on %s: %w", f.Listen, err)
	}
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	return l, nil
}

// fabricID tells this controller from others of the same store, over restarts.
func fabricID(cfg config, node string) string {
	dir, err := filepath.Abs(cfg.DataDir)
	if err != nil {
		dir = cfg.DataDir
	}
	return node + ":" + dir
}
