package cert

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Kind says what a member of a fleet is.
type Kind string

// Kinds of members.
const (
	AgentMember      Kind = "agent"
	ControllerMember Kind = "controller"
)

// Member is whom a certificate of a fleet is for. It is spelt in the certificate's one URI (RFC 5280 section 4.2.1.6):
// opentap://KIND/ID?name=NAME. No other name in the certificate means anything.
type Member struct {
	Kind Kind
	ID   string // stays
	Name string // for people
}

const memberScheme = "opentap"

func (m Member) uri() *url.URL {
	return &url.URL{Scheme: memberScheme, Host: string(m.Kind), Path: "/" + m.ID, RawQuery: url.Values{"name": {m.Name}}.Encode()}
}

// MemberOf returns whom a certificate is for. The caller has verified it.
func MemberOf(c *x509.Certificate) (Member, error) {
	if len(c.URIs) != 1 || c.URIs[0].Scheme != memberScheme {
		return Member{}, errors.New("the certificate is not that of a member of a fleet")
	}
	u := c.URIs[0]
	m := Member{Kind: Kind(u.Host), ID: strings.TrimPrefix(u.Path, "/"), Name: u.Query().Get("name")}
	if m.ID == "" || m.Name == "" || m.Kind != AgentMember && m.Kind != ControllerMember {
		return Member{}, fmt.Errorf("the certificate names no member of a fleet: %s", u)
	}
	return m, nil
}

// Authority signs the certificates of a fleet's members. It keeps nothing: whoever made it stores what Secret returns.
// Members trust its public key, so that a renewed certificate of it is known to them. It is safe for concurrent use.
type Authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewAuthority makes an authority with a new key.
func NewAuthority(name string, now time.Time) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	a := &Authority{key: key}
	return a, a.sign(name, now)
}

func (a *Authority) sign(name string, now time.Time) error {
	serial, err := serialNumber()
	if err != nil {
		return err
	}
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"OpenTap"}, CommonName: clip(name)},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLife), IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &a.key.PublicKey, a.key)
	if err != nil {
		return fmt.Errorf("make the authority's certificate: %w", err)
	}
	a.cert, err = x509.ParseCertificate(der)
	return err
}

// Renewed returns the same authority with a new certificate when the old one is about to end; nil when it is not.
func (a *Authority) Renewed(now time.Time) (*Authority, error) {
	if now.Before(a.cert.NotAfter.Add(-authorityEarly)) {
		return nil, nil
	}
	b := &Authority{key: a.key}
	return b, b.sign(a.cert.Subject.CommonName, now)
}

// ParseAuthority reads what Secret returned.
func ParseAuthority(secret []byte) (*Authority, error) {
	c, err := tls.X509KeyPair(secret, secret)
	if err != nil {
		return nil, fmt.Errorf("read the fleet's authority: %w", err)
	}
	key, ok := c.PrivateKey.(*ecdsa.PrivateKey)
	if !ok || !c.Leaf.IsCA {
		return nil, errors.New("read the fleet's authority: it is not a certificate authority with an ECDSA key")
	}
	return &Authority{cert: c.Leaf, key: key}, nil
}

// Secret returns the authority, its key included, as PEM.
func (a *Authority) Secret() ([]byte, error) { return encodePair(a.key, a.cert.Raw) }

// encodePair writes a key and the certificates that follow it as PEM.
func encodePair(key crypto.Signer, ders ...[]byte) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	b := pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der})
	for _, c := range ders {
		b = append(b, pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: c})...)
	}
	return b, nil
}

// Certificate returns the authority's own certificate.
func (a *Authority) Certificate() *x509.Certificate { return a.cert }

// Pool returns a pool with the authority alone.
func (a *Authority) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// Sign makes a certificate for the key in a request (PKCS #10, DER), valid from now for life. Names in the request mean
// nothing. A request that is malformed, not signed by its key, or of a weak key is refused.
func (a *Authority) Sign(request []byte, m Member, life time.Duration, now time.Time) (*x509.Certificate, error) {
	r, err := x509.ParseCertificateRequest(request)
	if err != nil {
		return nil, fmt.Errorf("read the certificate request: %w", err)
	}
	if err := r.CheckSignature(); err != nil {
		return nil, fmt.Errorf("the certificate request is not signed by its key: %w", err)
	}
	switch k := r.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() {
			return nil, fmt.Errorf("the certificate request has a key on %s; P-256, P-384 and Ed25519 are taken", k.Curve.Params().Name)
		}
	default:
		return nil, fmt.Errorf("the certificate request has a key of type %T; ECDSA and Ed25519 are taken", r.PublicKey)
	}
	return a.issue(r.PublicKey, m, life, now)
}

func (a *Authority) issue(key crypto.PublicKey, m Member, life time.Duration, now time.Time) (*x509.Certificate, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if m.Kind == ControllerMember {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	early := min(backdate, life/10) // clocks differ; and a short life shall not be mostly over
	t := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"OpenTap"}, CommonName: clip(m.Name)},
		NotBefore: now.Add(-early), NotAfter: now.Add(life), BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage, URIs: []*url.URL{m.uri()},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key, a.key)
	if err != nil {
		return nil, fmt.Errorf("make a member's certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// Issued is when Sign or Issue made a member's certificate, to about two seconds: it is valid from some time before.
func Issued(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(min(backdate, c.NotAfter.Sub(c.NotBefore)/11)) // a tenth of its life comes before; see issue
}

// Issue makes a certificate with a new key, for a member in this process.
func (a *Authority) Issue(m Member, life time.Duration, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	leaf, err := a.issue(&key.PublicKey, m, life, now)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw, a.cert.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// VerifyController suits tls.Config.VerifyConnection of whoever dials a controller of a fleet, with InsecureSkipVerify set:
// what counts is not the name by which it was reached, but that an authority with the key trusted says that it is a
// controller. trusted is the authority's Fingerprint.
func VerifyController(trusted string, now func() time.Time) func(tls.ConnectionState) error {
	return func(s tls.ConnectionState) error {
		pool := x509.NewCertPool()
		found := false
		for _, c := range s.PeerCertificates {
			if c.IsCA && Fingerprint(c) == trusted {
				pool.AddCert(c)
				found = true
			}
		}
		if !found {
			return fmt.Errorf("the controller is not of the fleet with the authority %s", trusted)
		}
		leaf := s.PeerCertificates[0]
		_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return fmt.Errorf("the controller's certificate: %w", err)
		}
		m, err := MemberOf(leaf)
		if err != nil {
			return err
		}
		if m.Kind != ControllerMember {
			return fmt.Errorf("the certificate is that of %s %s, not of a controller", m.Kind, m.Name)
		}
		return nil
	}
}
