// Package openidtest is an OpenID Connect provider for tests: discovery, keys that rotate, the authorization code flow with
// PKCE and a login form, as OpenID Connect Core 1.0 and RFC 6749, 7519, 7636 have it. It is strict where clients go wrong.
//
// Runs in: tools
package openidtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// Provider is one that runs. Fields are set before it is asked.
type Provider struct {
	*httptest.Server
	ClientID, Secret string
	Redirects        map[string]bool           // where browsers may be sent back
	Users            map[string]map[string]any // by name: their claims; every password is "secret"

	tb    testing.TB
	mu    sync.Mutex
	key   jose.JSONWebKey
	old   []jose.JSONWebKey
	codes map[string]grant
	down  bool
	asked map[string]int
}

type grant struct{ user, redirect, nonce, challenge string }

// New starts a provider that ends with the test.
func New(tb testing.TB) *Provider {
	p := &Provider{
		tb: tb, ClientID: "opentap", Secret: "client-secret", Redirects: map[string]bool{}, Users: map[string]map[string]any{},
		codes: map[string]grant{}, asked: map[string]int{},
	}
	p.Rotate()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", p.discovery)
	mux.HandleFunc("GET /keys", p.keys)
	mux.HandleFunc("GET /authorize", p.form)
	mux.HandleFunc("POST /authorize", p.authorize)
	mux.HandleFunc("POST /token", p.token)
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		down := p.down
		p.asked[r.URL.Path]++
		p.mu.Unlock()
		if down {
			http.Error(w, "away", http.StatusServiceUnavailable)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	tb.Cleanup(p.Close)
	return p
}

// Down has it refuse everything, or not any more.
func (p *Provider) Down(down bool) { p.mu.Lock(); p.down = down; p.mu.Unlock() }

// Asked counts requests by path.
func (p *Provider) Asked(path string) int { p.mu.Lock(); defer p.mu.Unlock(); return p.asked[path] }

// Rotate signs with a new key from now on; the one before is still shown.
func (p *Provider) Rotate() {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.tb.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.key.Key != nil {
		p.old = []jose.JSONWebKey{p.key}
	}
	p.key = jose.JSONWebKey{Key: k, KeyID: fmt.Sprintf("k%d", time.Now().UnixNano()), Algorithm: string(jose.ES256), Use: "sig"}
}

// Claims are those of a token for a user, to be changed before they are signed.
func (p *Provider) Claims(user string) map[string]any {
	now := time.Now()
	c := map[string]any{"iss": p.URL, "sub": "id-" + user, "aud": p.ClientID, "iat": now.Unix(), "exp": now.Add(time.Hour).Unix(), "preferred_username": user}
	maps.Copy(c, p.Users[user])
	return c
}

// Sign makes a token.
func (p *Provider) Sign(claims map[string]any) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return sign(p.tb, jose.SigningKey{Algorithm: jose.ES256, Key: p.key}, claims)
}

// SignWith makes a token signed otherwise.
func (p *Provider) SignWith(alg jose.SignatureAlgorithm, key any, claims map[string]any) string {
	return sign(p.tb, jose.SigningKey{Algorithm: alg, Key: key}, claims)
}

func sign(tb testing.TB, k jose.SigningKey, claims map[string]any) string {
	s, err := jose.NewSigner(k, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		tb.Fatal(err)
	}
	b, err := json.Marshal(claims)
	if err != nil {
		tb.Fatal(err)
	}
	o, err := s.Sign(b)
	if err != nil {
		tb.Fatal(err)
	}
	text, err := o.CompactSerialize()
	if err != nil {
		tb.Fatal(err)
	}
	return text
}

func reply(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the client may go
}

func (p *Provider) discovery(w http.ResponseWriter, _ *http.Request) {
	reply(w, 200, map[string]any{
		"issuer": p.URL, "authorization_endpoint": p.URL + "/authorize", "token_endpoint": p.URL + "/token", "jwks_uri": p.URL + "/keys",
		"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"}, "code_challenge_methods_supported": []string{"S256"},
	})
}

func (p *Provider) keys(w http.ResponseWriter, _ *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{p.key.Public()}}
	for _, k := range p.old {
		set.Keys = append(set.Keys, k.Public())
	}
	reply(w, 200, set)
}

// form asks for the name and password.
func (p *Provider) form(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	if q.Get("client_id") != p.ClientID || !p.Redirects[q.Get("redirect_uri")] {
		http.Error(w, "this client is not known, or may not send browsers to "+q.Get("redirect_uri"), http.StatusBadRequest) // and is not sent anywhere
		return
	}
	w.Header().Set("Content-Type", "text/html")
	fmt.Fprintf(w, `<form method="post" action="/authorize?%s"><input name="user"><input name="password" type="password"></form>`, html.EscapeString(r.URL.RawQuery))
}

func (p *Provider) authorize(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	back, err := url.Parse(q.Get("redirect_uri"))
	if err != nil || !p.Redirects[q.Get("redirect_uri")] {
		http.Error(w, "bad redirect_uri", http.StatusBadRequest)
		return
	}
	out := url.Values{"state": {q.Get("state")}}
	user := r.PostFormValue("user")
	switch {
	case q.Get("response_type") != "code" || q.Get("code_challenge_method") != "S256" || q.Get("code_challenge") == "":
		out.Set("error", "invalid_request")
	case p.Users[user] == nil || r.PostFormValue("password") != "secret":
		out.Set("error", "access_denied")
	default:
		code := rand.Text()
		p.mu.Lock()
		p.codes[code] = grant{user, q.Get("redirect_uri"), q.Get("nonce"), q.Get("code_challenge")}
		p.mu.Unlock()
		out.Set("code", code)
	}
	back.RawQuery = out.Encode()
	http.Redirect(w, r, back.String(), http.StatusFound)
}

func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	id, secret, ok := r.BasicAuth()
	if !ok {
		id, secret = r.PostFormValue("client_id"), r.PostFormValue("client_secret")
	}
	if id != p.ClientID || secret != p.Secret {
		reply(w, 401, map[string]string{"error": "invalid_client"})
		return
	}
	code := r.PostFormValue("code")
	p.mu.Lock()
	g, ok := p.codes[code]
	delete(p.codes, code) // once
	p.mu.Unlock()
	sum := sha256.Sum256([]byte(r.PostFormValue("code_verifier")))
	if !ok || g.redirect != r.PostFormValue("redirect_uri") || base64.RawURLEncoding.EncodeToString(sum[:]) != g.challenge {
		reply(w, 400, map[string]string{"error": "invalid_grant"})
		return
	}
	claims := p.Claims(g.user)
	claims["nonce"] = g.nonce
	reply(w, 200, map[string]any{"access_token": rand.Text(), "token_type": "Bearer", "expires_in": 3600, "id_token": p.Sign(claims)})
}
