package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Request makes a key and a request for a certificate (PKCS #10, DER).
func Request() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("make a certificate request: %w", err)
	}
	return key, der, nil
}

// Bind puts a key and the certificates made for it together (DER: the member's own, then the authority's), and checks that
// they belong together and that the authority has the key trusted, a Fingerprint.
func Bind(key *ecdsa.PrivateKey, ders [][]byte, trusted string) (*tls.Certificate, error) {
	if len(ders) != 2 {
		return nil, fmt.Errorf("%d certificates were given, want the member's and the authority's", len(ders))
	}
	leaf, err := x509.ParseCertificate(ders[0])
	if err != nil {
		return nil, err
	}
	ca, err := x509.ParseCertificate(ders[1])
	if err != nil {
		return nil, err
	}
	if Fingerprint(ca) != trusted {
		return nil, fmt.Errorf("the certificates are of the authority %s, want %s", Fingerprint(ca), trusted)
	}
	if err := leaf.CheckSignatureFrom(ca); err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is of another key")
	}
	if _, err := MemberOf(leaf); err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: ders, PrivateKey: key, Leaf: leaf}, nil
}

// WriteMember keeps a member's certificate, its key and its authority in one file that its owner alone can read; a crash
// leaves the old one or the new one.
func WriteMember(path string, c *tls.Certificate) error {
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return fmt.Errorf("write %s: the key is a %T", path, c.PrivateKey)
	}
	b, err := encodePair(key, c.Certificate...)
	if err != nil {
		return err
	}
	return writeFile(path, 0o600, b)
}

// ReadMember reads what WriteMember wrote. trusted is its authority's Fingerprint.
func ReadMember(path string) (c *tls.Certificate, trusted string, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, "", err
	}
	pair, err := tls.X509KeyPair(b, b)
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", path, err)
	}
	key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || len(pair.Certificate) != 2 {
		return nil, "", fmt.Errorf("read %s: it is not a member's certificate with its authority's", filepath.Base(path))
	}
	ca, err := x509.ParseCertificate(pair.Certificate[1])
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", path, err)
	}
	trusted = Fingerprint(ca)
	c, err = Bind(key, pair.Certificate, trusted)
	if err != nil {
		return nil, "", fmt.Errorf("read %s: %w", path, err)
	}
	return c, trusted, nil
}

// WriteRequest keeps a key and the request made with it, readable by their owner alone.
func WriteRequest(path string, key *ecdsa.PrivateKey, request []byte) error {
	b, err := encodePair(key)
	if err != nil {
		return err
	}
	return writeFile(path, 0o600, append(b, pem.EncodeToMemory(&pem.Block{Type: requestBlock, Bytes: request})...))
}

// ReadRequest reads what WriteRequest wrote.
func ReadRequest(path string) (*ecdsa.PrivateKey, []byte, error) {
	key, err := readKey(path)
	if err != nil {
		return nil, nil, err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	_, rest := pem.Decode(b)
	block, _ := pem.Decode(rest)
	if block == nil || block.Type != requestBlock {
		return nil, nil, fmt.Errorf("read %s: holds no PEM block %q", path, requestBlock)
	}
	return key, block.Bytes, nil
}
