package openid

import (
	"bytes"
	"compress/gzip"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/fault"
)

// glewlwydTables is where Debian's package keeps the tables of a new database.
const glewlwydTables = "/usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz"

// glewlwyd is Debian's OpenID Connect provider, with a client and a user.
type glewlwyd struct {
	t   *testing.T
	api string
}

type m = map[string]any

func newGlewlwyd(t *testing.T, redirect string) *glewlwyd {
	t.Helper()
	for _, p := range []string{"glewlwyd", "sqlite3"} {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("needs the program %s", p)
		}
	}
	dir := t.TempDir()
	packed, err := os.Open(glewlwydTables)
	if err != nil {
		t.Skip("needs the tables in glewlwyd's documentation")
	}
	defer packed.Close()
	tables, err := gzip.NewReader(packed)
	if err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(dir, "db")
	fill := exec.CommandContext(t.Context(), "sqlite3", db)
	fill.Stdin = tables
	if out, err := fill.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	conf := filepath.Join(dir, "conf")
	const modules = "/usr/lib/glewlwyd/"
	if err := os.WriteFile(conf, fmt.Appendf(nil, `port=%d
bind_address="127.0.0.1"
external_url="http://127.0.0.1:%d"
login_url="login.html"
api_prefix="api"
log_mode="console"
log_level="WARNING"
session_key="GLEWLWYD2_SESSION_ID"
admin_scope="g_admin"
profile_scope="g_profile"
login_api_enabled=true
user_module_path="%suser"
user_middleware_module_path="%suser_middleware"
client_module_path="%sclient"
user_auth_scheme_module_path="%sscheme"
plugin_module_path="%splugin"
hash_algorithm="SHA512"
database={ type="sqlite3"; path="%s" };
`, port, port, modules, modules, modules, modules, modules, db), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "glewlwyd", "--config-file="+conf)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("glewlwyd said:\n%s", said.Bytes())
		}
	})
	g := &glewlwyd{t, fmt.Sprintf("http://127.0.0.1:%d/api", port)}
	admin := g.person()
	deadline := time.Now().Add(30 * time.Second)
	for g.signIn(admin, "admin", "password") != http.StatusOK { // as the package ships it
		if time.Now().After(deadline) {
			t.Fatalf("glewlwyd does not answer:\n%s", said.Bytes())
		}
		time.Sleep(20 * time.Millisecond)
	}
	key, err := rsa.GenerateKey(rand.Reader, 2048) // of a key of elliptic curves it cuts leading zeros off, which RFC 7518 section 6.2.1 forbids
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	g.must(admin, "POST", "/mod/plugin/", m{"module": "oidc", "name": "oidc", "display_name": "OpenID Connect", "parameters": m{
		"iss": g.issuer(), "jwt-type": "rsa", "jwt-key-size": "256", "jwks-show": true,
		"key":                    string(pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})),
		"cert":                   string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"access-token-duration":  3600,
		"refresh-token-duration": 3600, "code-duration": 600, "auth-type-code-enabled": true, "auth-type-id-token-enabled": true,
		"pkce-allowed": true, "pkce-required": true, "subject-type": "public", "secret-type": "pairwise",
		"claims":     []m{{"name": "groups", "user-property": "groups", "type": "string", "mandatory": true}},
		"name-claim": "mandatory", "email-claim": "no", "scope-claim": "no", "address-claim": m{"type": "no"},
	}})
	var users m
	g.ask(admin, "GET", "/mod/user/database", nil, &users)
	users["parameters"].(m)["data-format"].(m)["groups"] = m{"multiple": true, "read": true, "write": true, "profile-read": true}
	g.must(admin, "PUT", "/mod/user/database", users)
	g.must(admin, "PUT", "/mod/user/database/reset", nil)
	g.must(admin, "POST", "/user/", m{"username": "alice", "name": "Alice", "password": "wonderland", "enabled": true, "scope": []string{"openid", "g_profile"}, "groups": []string{"staff", "netops"}})
	g.must(admin, "POST", "/client/", m{
		"client_id": "opentap", "name": "OpenTap", "confidential": true, "client_secret": "s3cret", "password": "s3cret", "enabled": true, "scope": []string{"openid"},
		"redirect_uri": []string{redirect}, "authorization_type": []string{"code", "id_token"}, "token_endpoint_auth_method": []string{"client_secret_basic"},
	})
	return g
}

func (g *glewlwyd) issuer() string { return g.api + "/oidc" }

// person is a browser that remembers who signed in.
func (g *glewlwyd) person() *http.Client {
	jar, err := cookiejar.New(nil)
	if err != nil {
		g.t.Fatal(err)
	}
	c := &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	g.t.Cleanup(c.CloseIdleConnections)
	return c
}

func (g *glewlwyd) signIn(c *http.Client, user, password string) int {
	return g.ask(c, "POST", "/auth/", m{"username": user, "password": password}, nil)
}

// ask returns the status; 0 = it does not answer.
func (g *glewlwyd) ask(c *http.Client, method, path string, body, answer any) int {
	g.t.Helper()
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			g.t.Fatal(err)
		}
		in = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(g.t.Context(), method, g.api+path, in)
	if err != nil {
		g.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && answer != nil {
		err = json.Unmarshal(b, answer)
	}
	if err != nil {
		g.t.Fatalf("%s %s: %v", method, path, err)
	}
	if resp.StatusCode >= 400 {
		g.t.Logf("%s %s: %d %s", method, path, resp.StatusCode, b)
	}
	return resp.StatusCode
}

func (g *glewlwyd) must(c *http.Client, method, path string, body any) {
	g.t.Helper()
	if status := g.ask(c, method, path, body, nil); status != http.StatusOK {
		g.t.Fatalf("%s %s: %d", method, path, status)
	}
}

// back goes to the provider as a browser is sent there, and returns what it is sent back with.
func (g *glewlwyd) back(c *http.Client, to, redirect string) url.Values {
	g.t.Helper()
	resp, err := c.Get(to + "&g_continue")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	at, err := resp.Location()
	if err != nil || !strings.HasPrefix(at.String(), redirect+"?") {
		g.t.Fatalf("%s: %v, %v", resp.Status, at, err)
	}
	return at.Query()
}

// TestWithGlewlwyd has a provider that we did not write: discovery, keys, the code flow with PKCE, claims of its own, and what it
// refuses.
func TestWithGlewlwyd(t *testing.T) {
	const redirect = "http://127.0.0.1:1/v1/session/oidc/callback"
	g := newGlewlwyd(t, redirect)
	p, err := New(Config{
		Name: "glewlwyd", Issuer: g.issuer(), ClientID: "opentap", ClientSecret: "s3cret", NameClaim: "name",
		Rules: []Rule{{Claim: "groups", Value: "netops", Role: "operator", Project: "net"}},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	alice := g.person()
	if g.signIn(alice, "alice", "guess") == http.StatusOK {
		t.Fatal("the provider takes a wrong password")
	}
	if status := g.signIn(alice, "alice", "wonderland"); status != http.StatusOK {
		t.Fatal(status)
	}
	g.must(alice, "PUT", "/auth/grant/opentap", m{"scope": "openid"})
	start := func() (string, []byte) {
		to, kept, err := p.Start(t.Context(), redirect, "")
		if err != nil {
			t.Fatal(err)
		}
		return to, kept
	}
	to, kept := start()
	q := g.back(alice, to, redirect)
	id, err := p.Finish(t.Context(), kept, q.Get("state"), q.Get("code"))
	if err != nil || id.Name != "Alice" || id.Role != "operator" || id.Project != "net" {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := p.Finish(t.Context(), kept, q.Get("state"), q.Get("code")); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the code again: %v", err)
	}
	// A code that was given to another sign-in: the provider has that one's challenge.
	to, _ = start()
	stolen := g.back(alice, to, redirect).Get("code")
	to, kept = start()
	if _, err := p.Finish(t.Context(), kept, g.back(alice, to, redirect).Get("state"), stolen); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a stolen code: %v", err)
	}

	// What a program brings: the token itself.
	token := g.token(alice, redirect)
	if !p.Recognises(token) {
		t.Error("its token is not recognised")
	}
	if id, _, err := p.Verify(t.Context(), token); err != nil || id.Name != "Alice" || id.Role != "operator" {
		t.Errorf("%+v, %v", id, err)
	}
	parts := strings.Split(token, ".")
	if _, _, err := p.Verify(t.Context(), parts[0]+"."+parts[1]+"."+strings.Repeat("A", len(parts[2]))); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("another signature: %v", err)
	}
}

// token is an id token by the provider's implicit flow, which gives it to the browser itself.
func (g *glewlwyd) token(c *http.Client, redirect string) string {
	g.t.Helper()
	resp, err := c.Get(g.issuer() + "/auth?" + url.Values{
		"response_type": {"id_token"}, "client_id": {"opentap"}, "redirect_uri": {redirect}, "scope": {"openid"}, "state": {"s"}, "nonce": {"n"},
	}.Encode() + "&g_continue")
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	at, err := resp.Location()
	if err != nil {
		g.t.Fatal(resp.Status, err)
	}
	q, err := url.ParseQuery(at.Fragment)
	if err != nil || q.Get("id_token") == "" {
		g.t.Fatalf("%s, %v", at, err)
	}
	return q.Get("id_token")
}
