package cert

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY"

	requestBlock = "CERTIFICATE REQUEST"
)

func writePEM(path string, mode os.FileMode, typ string, ders ...[]byte) error {
	var b []byte
	for _, der := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: typ, Bytes: der})...)
	}
	return writeFile(path, mode, b)
}

// writeFile replaces a file, so that a reader, or a crash, finds the old or the new one.
func writeFile(path string, mode os.FileMode, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".new-*") // mode 0600
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return writePEM(path, 0o600, keyBlock, der)
}

func readBlock(path, typ string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != typ {
		return nil, fmt.Errorf("read %s: holds no PEM block %q", path, typ)
	}
	return block.Bytes, nil
}

func readKey(path string) (*ecdsa.PrivateKey, error) {
	der, err := readBlock(path, keyBlock)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	k, ok := key.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read %s: is a %T, want an ECDSA key", path, key)
	}
	return k, nil
}

func readCert(path string) (*x509.Certificate, error) {
	der, err := readBlock(path, certBlock)
	if err != nil {
		return nil, err
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return c, nil
}

// FileFingerprint is the fingerprint of the first certificate in a PEM file.
func FileFingerprint(path string) (string, error) {
	c, err := readCert(path)
	if err != nil {
		return "", err
	}
	return Fingerprint(c), nil
}

// Files shows a certificate that somebody else renews: it is read again when its file changes. Safe for concurrent use.
type Files struct {
	cert, key string
	log       *slog.Logger

	mu      sync.Mutex
	current *tls.Certificate
	read    time.Time // modification time of the file that current is from
	looked  time.Time
}

// lookEvery is how often Files looks whether its certificate has changed.
const lookEvery = 10 * time.Second

// OpenFiles reads a PEM certificate chain and its key.
func OpenFiles(certFile, keyFile string, log *slog.Logger) (*Files, error) {
	f := &Files{cert: certFile, key: keyFile, log: log}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *Files) load() error {
	st, err := os.Stat(f.cert)
	if err != nil {
		return fmt.Errorf("read the certificate: %w", err)
	}
	c, err := tls.LoadX509KeyPair(f.cert, f.key)
	if err != nil {
		return fmt.Errorf("read the certificate %s with the key %s: %w", f.cert, f.key, err)
	}
	f.current, f.read = &c, st.ModTime()
	return nil
}

// Expires returns when the certificate that is shown ends.
func (f *Files) Expires() time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.current.Leaf.NotAfter
}

// GetCertificate suits tls.Config. A new certificate that cannot be read is told in the log, and the old one is shown.
func (f *Files) GetCertificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if now.Sub(f.looked) < lookEvery {
		return f.current, nil
	}
	f.looked = now
	if st, err := os.Stat(f.cert); err == nil && st.ModTime().Equal(f.read) {
		return f.current, nil
	}
	if err := f.load(); err != nil {
		f.log.Error("the new certificate cannot be used; the old one is shown", "err", err)
	}
	return f.current, nil
}
