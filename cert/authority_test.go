package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func authority(t *testing.T) *Authority {
	t.Helper()
	a, err := NewAuthority("fleet", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestAuthoritySurvivesItsSecret(t *testing.T) {
	a := authority(t)
	secret, err := a.Secret()
	if err != nil {
		t.Fatal(err)
	}
	b, err := ParseAuthority(secret)
	if err != nil || !b.Certificate().Equal(a.Certificate()) {
		t.Fatalf("%v", err)
	}
	for name, bad := range map[string][]byte{"empty": nil, "no PEM": []byte("x"), "half": secret[:len(secret)/2]} {
		if _, err := ParseAuthority(bad); err == nil {
			t.Errorf("%s is taken for an authority", name)
		}
	}
}

func TestAuthorityIsRenewedWithItsKey(t *testing.T) {
	a := authority(t)
	if b, err := a.Renewed(time.Now()); b != nil || err != nil {
		t.Errorf("renewed too early: %v, %v", b, err)
	}
	b, err := a.Renewed(time.Now().Add(authorityLife - authorityEarly + time.Hour))
	if err != nil || b == nil || Fingerprint(b.cert) != Fingerprint(a.cert) || !b.cert.NotAfter.After(a.cert.NotAfter) {
		t.Errorf("%v, %v", b, err)
	}
}

func TestSignTakesTheKeyAndNothingElse(t *testing.T) {
	a := authority(t)
	m := Member{AgentMember, "0123abcd", "a host / with \"odd\" name"}
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{"evil.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := a.Sign(der, m, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	got, err := MemberOf(c)
	if err != nil || got != m || len(c.DNSNames) != 0 || c.IsCA || !key.PublicKey.Equal(c.PublicKey) {
		t.Errorf("%+v, %v, names %v", got, err, c.DNSNames)
	}
	weak, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaDER, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, weak)
	forged := append([]byte(nil), der...)
	forged[len(forged)-1] ^= 1
	for name, bad := range map[string][]byte{"RSA": rsaDER, "signature": forged, "empty": nil} {
		if _, err := a.Sign(bad, m, time.Hour, time.Now()); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
}

// handshake is between a dialler of controllers and a server that shows c.
func handshake(t *testing.T, c *tls.Certificate, trusted string, now func() time.Time) error {
	t.Helper()
	_, err := shake(t, func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c, nil },
		&tls.Config{InsecureSkipVerify: true, VerifyConnection: VerifyController(trusted, now)})
	return err
}

func TestOnlyTheFleetsControllersAreTrusted(t *testing.T) {
	a, other := authority(t), authority(t)
	trusted := Fingerprint(a.Certificate())
	issue := func(a *Authority, k Kind, life time.Duration) *tls.Certificate {
		c, err := a.Issue(Member{k, "id", "name"}, life, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	good := issue(a, ControllerMember, time.Hour)
	if err := handshake(t, good, trusted, time.Now); err != nil {
		t.Errorf("a controller: %v", err)
	}
	later := func() time.Time { return time.Now().Add(2 * time.Hour) }
	stolen := *issue(other, ControllerMember, time.Hour)
	stolen.Certificate = [][]byte{stolen.Certificate[0], good.Certificate[1]} // another's leaf beside our authority
	for name, c := range map[string]struct {
		cert *tls.Certificate
		now  func() time.Time
		says string
	}{
		"another fleet": {issue(other, ControllerMember, time.Hour), time.Now, "not of the fleet"},
		"an agent":      {issue(a, AgentMember, time.Hour), time.Now, "controller's certificate"},
		"expired":       {good, later, "expired"},
		"stolen":        {&stolen, time.Now, "controller's certificate"},
	} {
		if err := handshake(t, c.cert, trusted, c.now); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestMembershipIsKept(t *testing.T) {
	a := authority(t)
	trusted := Fingerprint(a.Certificate())
	key, request, err := Request()
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := a.Sign(request, Member{AgentMember, "id", "name"}, time.Hour, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := Bind(key, [][]byte{leaf.Raw, a.Certificate().Raw}, trusted)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "member.pem")
	if err := WriteMember(path, c); err != nil {
		t.Fatal(err)
	}
	got, pin, err := ReadMember(path)
	if err != nil || pin != trusted || !got.Leaf.Equal(leaf) {
		t.Errorf("%v, %s", err, pin)
	}
	if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", st.Mode())
	}
	if _, err := Bind(key, c.Certificate, "SHA256:other"); err == nil {
		t.Error("another authority is bound")
	}
	k2, _, _ := Request()
	if _, err := Bind(k2, c.Certificate, trusted); err == nil {
		t.Error("another key is bound")
	}
}

func FuzzParseAuthority(f *testing.F) {
	a, _ := NewAuthority("f", time.Now())
	b, _ := a.Secret()
	f.Add(b)
	f.Fuzz(func(_ *testing.T, b []byte) {
		if a, err := ParseAuthority(b); err == nil && a.Certificate() == nil {
			panic("no error and no authority")
		}
	})
}
