// Package cert makes, keeps and renews the certificate that this server shows, and names it by its fingerprint.
//
// Runs in: controller | tools
//
// A self-made certificate authority signs the server's certificate and no other. Clients trust the authority's public key,
// so that renewed certificates, and a renewed authority, are known to them.
package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// How long certificates are valid, and how long before their end they are renewed.
const (
	authorityLife  = 10 * 365 * 24 * time.Hour
	authorityEarly = 2 * 365 * 24 * time.Hour // longer than serverLife, so that no server's certificate is cut short
	serverLife     = 365 * 24 * time.Hour
	serverEarly    = 30 * 24 * time.Hour
	backdate       = time.Hour // clients' clocks may be late
	retryEvery     = time.Minute
)

// Files in Config.Dir. Keys are readable by their owner alone.
const (
	AuthorityFile    = "ca.pem"
	authorityKeyFile = "ca.key"
	serverFile       = "server.pem"
	serverKeyFile    = "server.key"
)

// maxNames bounds the addresses that are learnt from connections.
const maxNames = 256

// Fingerprint names a certificate by its public key: "SHA256:" and the SHA-256 of its SubjectPublicKeyInfo (RFC 5280
// section 4.1.2.7) in base64 without padding, as SSH writes key fingerprints.
func Fingerprint(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// Config says where the certificates are kept and what they are for.
type Config struct {
	Dir   string           // made with mode 0700 when absent
	Names []string         // DNS names and addresses that clients use
	Now   func() time.Time // nil = time.Now
}

// Keeper shows a self-made certificate. It is safe for concurrent use.
type Keeper struct {
	dir string
	now func() time.Time
	log *slog.Logger

	current atomic.Pointer[tls.Certificate] // its Leaf is set

	mu        sync.Mutex // held while one is made
	names     []string   // sorted
	authority *x509.Certificate
	key       *ecdsa.PrivateKey // of the authority
	tried     time.Time         // when a renewal last failed
}

// Open reads the certificates in cfg.Dir, and makes what is not there. fresh says that the authority was made now: its
// fingerprint is new to everybody.
func Open(cfg Config, log *slog.Logger) (k *Keeper, fresh bool, err error) {
	k = &Keeper{dir: cfg.Dir, now: cfg.Now, log: log}
	if k.now == nil {
		k.now = time.Now
	}
	for _, n := range cfg.Names {
		k.addName(n)
	}
	if err := os.MkdirAll(k.dir, 0o700); err != nil {
		return nil, false, fmt.Errorf("keep certificates: %w", err)
	}
	if fresh, err = k.openAuthority(); err != nil {
		return nil, false, err
	}
	if c, err := tls.LoadX509KeyPair(k.path(serverFile), k.path(serverKeyFile)); err == nil && c.Leaf.CheckSignatureFrom(k.authority) == nil {
		k.current.Store(&c)
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.Warn("the server's certificate cannot be read and is made anew", "dir", k.dir, "err", err)
	}
	if why := k.due(k.now()); why != "" {
		err = k.renew(why)
	}
	return k, fresh, err
}

func (k *Keeper) path(name string) string { return filepath.Join(k.dir, name) }

// Fingerprint is the authority's.
func (k *Keeper) Fingerprint() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return Fingerprint(k.authority)
}

// Expires returns when the certificate that is shown ends.
func (k *Keeper) Expires() time.Time { return k.current.Load().Leaf.NotAfter }

// GetCertificate suits tls.Config. It renews the certificate when it is about to end, and when a client reaches this host
// by an address of it that the certificate does not name. When that fails it shows the old one.
func (k *Keeper) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	now := k.now()
	c := k.current.Load()
	reached := localAddr(hello)
	if now.Before(c.Leaf.NotAfter.Add(-serverEarly)) && named(c.Leaf, reached) {
		return c, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if reached.IsValid() && len(k.names) < maxNames {
		k.addName(reached.String())
	}
	if why := k.due(now); why != "" && now.Sub(k.tried).Abs() >= retryEvery {
		if err := k.renew(why); err != nil {
			k.tried = now
			k.log.Error("the server's certificate cannot be renewed; the old one is shown, and it is tried again", "err", err, "ends", c.Leaf.NotAfter)
		}
	}
	return k.current.Load(), nil
}

// localAddr is this host's end of the connection.
func localAddr(hello *tls.ClientHelloInfo) netip.Addr {
	if hello == nil || hello.Conn == nil {
		return netip.Addr{}
	}
	a, ok := hello.Conn.LocalAddr().(*net.TCPAddr)
	if !ok {
		return netip.Addr{}
	}
	return a.AddrPort().Addr().Unmap().WithZone("")
}

func named(c *x509.Certificate, a netip.Addr) bool {
	return !a.IsValid() || slices.ContainsFunc(c.IPAddresses, func(ip net.IP) bool { return ip.Equal(a.AsSlice()) })
}

func (k *Keeper) addName(n string) {
	n = strings.ToLower(strings.TrimSuffix(n, "."))
	if i, have := slices.BinarySearch(k.names, n); !have && n != "" {
		k.names = slices.Insert(k.names, i, n)
	}
}

// due says why the certificate must be made anew; "" = it need not.
func (k *Keeper) due(now time.Time) string {
	c := k.current.Load()
	switch {
	case c == nil:
		return "there is none"
	case now.After(c.Leaf.NotAfter.Add(-serverEarly)):
		return "it ends"
	case now.Before(c.Leaf.NotBefore):
		return "it is not valid yet: the clock was set back"
	}
	for _, n := range k.names {
		if c.Leaf.VerifyHostname(n) != nil {
			return "it does not name " + n
		}
	}
	return ""
}

// openAuthority reads or makes the authority, and renews its certificate, with the same key, when it is about to end.
func (k *Keeper) openAuthority() (fresh bool, err error) {
	_, keyErr := os.Stat(k.path(authorityKeyFile))
	_, certErr := os.Stat(k.path(AuthorityFile))
	switch {
	case errors.Is(keyErr, fs.ErrNotExist) && certErr == nil:
		return false, fmt.Errorf("read the certificate authority: %s is there and its key %s is not: put it back, or remove both for a new authority that clients must learn anew",
			k.path(AuthorityFile), k.path(authorityKeyFile))
	case errors.Is(keyErr, fs.ErrNotExist): // the key is written first: with neither there never was one
		if k.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return false, fmt.Errorf("make a key: %w", err)
		}
		if err := writeKey(k.path(authorityKeyFile), k.key); err != nil {
			return false, err
		}
		return true, k.signAuthority()
	}
	if k.key, err = readKey(k.path(authorityKeyFile)); err != nil {
		return false, err
	}
	if errors.Is(certErr, fs.ErrNotExist) { // a crash between the two
		return true, k.signAuthority()
	}
	if k.authority, err = readCert(k.path(AuthorityFile)); err != nil {
		return false, err
	}
	if !k.key.PublicKey.Equal(k.authority.PublicKey) {
		return false, fmt.Errorf("read the certificate authority: %s is not the key of %s", k.path(authorityKeyFile), k.path(AuthorityFile))
	}
	if k.now().After(k.authority.NotAfter.Add(-authorityEarly)) {
		return false, k.signAuthority()
	}
	return false, nil
}

// signAuthority makes the authority's certificate for its key.
func (k *Keeper) signAuthority() error {
	host, _ := os.Hostname()
	now := k.now()
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"OpenTap"}, CommonName: clip("OpenTap CA of " + host)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &k.key.PublicKey, k.key)
	if err != nil {
		return fmt.Errorf("make the authority's certificate: %w", err)
	}
	if k.authority, err = x509.ParseCertificate(der); err != nil {
		return err
	}
	return writePEM(k.path(AuthorityFile), 0o644, certBlock, der)
}

// renew makes a server's certificate and shows it from now on. k.mu is held, or nobody else knows k.
func (k *Keeper) renew(why string) error {
	now := k.now()
	if now.After(k.authority.NotAfter.Add(-authorityEarly)) {
		if err := k.signAuthority(); err != nil {
			return err
		}
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make a key: %w", err)
	}
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	host, _ := os.Hostname()
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"OpenTap"}, CommonName: clip("opentapd on " + host)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(serverLife), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, n := range k.names {
		if a, err := netip.ParseAddr(n); err == nil {
			t.IPAddresses = append(t.IPAddresses, a.Unmap().AsSlice())
		} else {
			t.DNSNames = append(t.DNSNames, n)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, k.authority, &key.PublicKey, k.key)
	if err != nil {
		return fmt.Errorf("make the server's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	if err := writeKey(k.path(serverKeyFile), key); err != nil {
		return err
	}
	if err := writePEM(k.path(serverFile), 0o644, certBlock, der, k.authority.Raw); err != nil {
		return err
	}
	k.current.Store(&tls.Certificate{Certificate: [][]byte{der, k.authority.Raw}, PrivateKey: key, Leaf: leaf})
	k.log.Info("a certificate for this server was made", "because", why, "names", k.names, "ends", leaf.NotAfter)
	return nil
}

func serialNumber() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return n.Add(n, big.NewInt(1)), nil
}

// clip holds a common name within its 64 characters (RFC 5280 appendix A.1, ub-common-name).
func clip(s string) string { return s[:min(len(s), 64)] }
