package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"

	"opentap/api/sshapi"
	"opentap/auth"
	"opentap/controller"
)

// sshConfig is the key ssh: the SSH door, which is closed unless it says where to listen.
type sshConfig struct {
	Listen         string   `yaml:"listen"`          // ADDRESS:PORT; "" = no SSH
	HostKey        string   `yaml:"host_key"`        // file; "" = data_dir/ssh/host_ed25519
	AuthorizedKeys string   `yaml:"authorized_keys"` // file of users' public keys; "" = tokens alone
	MaxConnections int      `yaml:"max_connections"`
	MaxPerAddress  int      `yaml:"max_per_address"`
	IdleTimeout    duration `yaml:"idle_timeout"`
}

func defaultSSH() sshConfig {
	d := sshapi.DefaultConfig()
	return sshConfig{MaxConnections: d.Connections, MaxPerAddress: d.PerAddress, IdleTimeout: duration(d.IdleTimeout)}
}

func (c *config) checkSSH() error {
	switch {
	case c.SSH.Listen == "" && (c.SSH.HostKey != "" || c.SSH.AuthorizedKeys != ""):
		return fmt.Errorf("ssh.listen: is missing, so that ssh.host_key and ssh.authorized_keys have no effect; such as 127.0.0.1:2222")
	case c.SSH.Listen == "":
		return nil
	case c.SSH.MaxConnections < 1 || c.SSH.MaxPerAddress < 1:
		return fmt.Errorf("ssh.max_connections and ssh.max_per_address: at least 1")
	case c.SSH.IdleTimeout <= 0:
		return fmt.Errorf("ssh.idle_timeout: must be longer than 0s")
	}
	if _, err := netip.ParseAddrPort(c.SSH.Listen); err != nil {
		return fmt.Errorf("ssh.listen: %q is not ADDRESS:PORT: %w", c.SSH.Listen, err)
	}
	return nil
}

// listenSSH takes the SSH door's address; nil when there is no such door.
func (c *config) listenSSH() (net.Listener, error) {
	if c.SSH.Listen == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", c.SSH.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for ssh on %s: %w", c.SSH.Listen, err)
	}
	return l, nil
}

// sshDoor makes the SSH door, and its host key at the first start; nil when there is no such door.
func (c *config) sshDoor(ctl *controller.Controller, tokens *auth.Authenticator, denied func(context.Context, netip.AddrPort, error), log *slog.Logger) (*sshapi.Server, error) {
	if c.SSH.Listen == "" {
		return nil, nil
	}
	log = log.With("room", "ssh")
	path := c.SSH.HostKey
	if path == "" {
		path = filepath.Join(c.DataDir, "ssh", "host_ed25519")
	}
	out := sshapi.DefaultConfig()
	out.Auth, out.Denied = tokens, denied
	out.Connections, out.PerAddress, out.IdleTimeout = c.SSH.MaxConnections, c.SSH.MaxPerAddress, time.Duration(c.SSH.IdleTimeout)
	var err error
	if out.HostKey, err = sshapi.HostKey(path); err != nil {
		return nil, err
	}
	if c.SSH.AuthorizedKeys != "" {
		if out.Keys, err = sshapi.NewKeyFile(c.SSH.AuthorizedKeys, log); err != nil {
			return nil, err
		}
	}
	log.Info("ssh door", "listen", c.SSH.Listen, "host_key", ssh.FingerprintSHA256(out.HostKey.PublicKey()), "file", path)
	return sshapi.New(ctl, out, log)
}
