package sshapi

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"opentap/auth"
	"opentap/fault"
	"opentap/report"
)

// HostKey reads the private key in the file, or makes one there when there is none: ed25519, OpenSSH's format, mode 0600. A
// key that others could read is refused.
func HostKey(path string) (ssh.Signer, error) {
	st, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeHostKey(path); err != nil {
			return nil, fmt.Errorf("make the ssh host key: %w", err)
		}
		st, err = os.Stat(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read the ssh host key: %w", err)
	}
	if st.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read the ssh host key: %s may be read or written by others (mode %04o): chmod 600 it, or delete it to have a new one", path, st.Mode().Perm())
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read the ssh host key: %w", err)
	}
	key, err := ssh.ParsePrivateKey(b)
	if err != nil {
		return nil, fmt.Errorf("read the ssh host key %s: %w", path, err)
	}
	return key, nil
}

func makeHostKey(path string) error {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(private, "opentap")
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, ".host-key-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// Limits of a file of public keys.
const (
	maxKeyFile  = 1 << 20 // octets
	keyFileCalm = 2 * time.Second
)

// KeyFile is the file of users' public keys: lines as in OpenSSH's authorized_keys, with options of its own. It is read
// again when it has changed. Safe for concurrent use.
type KeyFile struct {
	path string
	log  *slog.Logger

	mu    sync.Mutex
	state fs.FileInfo // of the file when it was read
	read  time.Time
	users map[string]user // by the key's wire form
	err   error           // why nobody comes in
}

// user is one line.
type user struct {
	name, project, role string
	rights              auth.Right
	from                []netip.Prefix // empty = anywhere
}

// NewKeyFile reads the file for the first time. A file that cannot be read is an error; lines that make no sense are logged
// and let nobody in.
func NewKeyFile(path string, log *slog.Logger) (*KeyFile, error) {
	k := &KeyFile{path: path, log: log}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh(time.Now())
	return k, k.err
}

// identity returns whose key it is.
func (k *KeyFile) identity(blob string, remote netip.AddrPort) (auth.Identity, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refresh(time.Now())
	u, ok := k.users[blob]
	if !ok {
		return auth.Identity{}, fault.New(fault.Unauthenticated, "the key is not known")
	}
	near := len(u.from) == 0
	for _, p := range u.from {
		near = near || p.Contains(remote.Addr().Unmap().WithZone(""))
	}
	if !near {
		return auth.Identity{}, fault.New(fault.Unauthenticated, "the key is not accepted from this address")
	}
	return auth.Identity{Name: u.name, Project: u.project, Role: u.role, Rights: u.rights, Via: "ssh-key", Remote: remote.String()}, nil
}

// refresh reads the file when it may have changed. While it cannot be read nobody comes in.
func (k *KeyFile) refresh(now time.Time) {
	st, err := os.Stat(k.path)
	if err == nil && k.state != nil && os.SameFile(st, k.state) && st.Size() == k.state.Size() && st.Mode() == k.state.Mode() &&
		st.ModTime().Equal(k.state.ModTime()) && k.read.Sub(st.ModTime()) > keyFileCalm {
		return
	}
	var users map[string]user
	switch {
	case err != nil:
	case st.Mode().Perm()&0o022 != 0:
		err = fmt.Errorf("%s may be written by others (mode %04o)", k.path, st.Mode().Perm())
	case st.Size() > maxKeyFile:
		err = fmt.Errorf("%s is longer than %d octets", k.path, maxKeyFile)
	default:
		users, err = k.load(k.state == nil || !st.ModTime().Equal(k.state.ModTime()))
	}
	if err != nil {
		err = fmt.Errorf("read the users' public keys: %w", err)
		if k.err == nil && k.state != nil {
			k.log.Error("nobody can log in with a key", "err", err)
		}
		st = nil
	}
	k.users, k.err, k.state, k.read = users, err, st, now
}

func (k *KeyFile) load(tell bool) (map[string]user, error) {
	f, err := os.Open(k.path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxKeyFile))
	if err != nil {
		return nil, err
	}
	users := make(map[string]user)
	n := 0
	for line := range bytes.Lines(b) {
		n++
		line = bytes.TrimSpace(line)
		if len(line) == 0 || line[0] == '#' {
			continue
		}
		key, u, err := parseUser(line)
		if err == nil {
			if _, twice := users[key]; twice {
				err = errors.New("the key is there already")
			}
		}
		if err != nil {
			if tell {
				k.log.Warn("a line of the users' public keys is left out", "file", k.path, "line", n, "err", err)
			}
			continue
		}
		users[key] = u
	}
	return users, nil
}

// parseUser reads one line: OPTIONS KEYTYPE BASE64 COMMENT, as sshd(8) has it. Options that are not known let nobody in: they
// may be meant to restrict.
func parseUser(line []byte) (blob string, u user, err error) {
	key, comment, options, _, err := ssh.ParseAuthorizedKey(line)
	if err != nil {
		return "", u, err
	}
	u = user{name: comment, project: auth.DefaultProject, role: "viewer"}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
			value = value[1 : len(value)-1]
		}
		switch strings.ToLower(name) {
		case "role":
			u.role = value
		case "project":
			u.project = value
		case "name":
			u.name = value
		case "from":
			for text := range strings.SplitSeq(value, ",") {
				p, err := netip.ParsePrefix(text)
				if err != nil {
					a, aerr := netip.ParseAddr(text)
					if aerr != nil {
						return "", u, fmt.Errorf("from: %q is neither an address nor ADDRESS/BITS", text)
					}
					p = netip.PrefixFrom(a, a.BitLen())
				}
				u.from = append(u.from, p.Masked())
			}
		case "restrict", "no-pty", "no-port-forwarding", "no-agent-forwarding", "no-x11-forwarding", "no-user-rc": // always so
		default:
			return "", u, fmt.Errorf("unknown option %q: role, project, name and from are known", name)
		}
	}
	if u.rights, err = auth.RightsOf(u.role); err != nil {
		return "", u, err
	}
	if u.name == "" {
		u.name = ssh.FingerprintSHA256(key)
	}
	if u.project == "" || len(u.name) > 64 || report.Clean(u.name) != u.name || report.Clean(u.project) != u.project || u.name == "anonymous" {
		return "", u, errors.New("name and project are 1 to 64 plain characters, and nobody is called anonymous")
	}
	return string(key.Marshal()), u, nil
}
