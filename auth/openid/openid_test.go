package openid

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"go.uber.org/goleak"

	"opentap/auth"
	"opentap/auth/openid/openidtest"
	"opentap/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newProvider(t *testing.T, idp *openidtest.Provider, change func(*Config)) *Provider {
	t.Helper()
	cfg := Config{Name: "idp", Issuer: idp.URL, ClientID: idp.ClientID, ClientSecret: idp.Secret, Rules: []Rule{
		{Claim: "groups", Value: "netops", Role: "operator"},
		{Claim: "realm.roles", Value: "boss", Role: "admin", Project: "hq"},
		{Claim: "https://example.com/tenants", Value: "*", Role: "owner", ProjectClaim: "https://example.com/tenants"},
	}}
	if change != nil {
		change(&cfg)
	}
	p, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

func TestTokens(t *testing.T) {
	idp := openidtest.New(t)
	idp.Users["alice"] = map[string]any{"groups": []string{"staff", "netops"}}
	idp.Users["bob"] = map[string]any{"realm": map[string]any{"roles": []string{"boss"}}, "email": "bob@example.com"}
	idp.Users["carol"] = map[string]any{"https://example.com/tenants": []string{"red", "blue"}}
	idp.Users["dave"] = map[string]any{"groups": []string{"staff"}}
	p := newProvider(t, idp, nil)
	stranger, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	with := func(user string, change map[string]any) map[string]any {
		c := idp.Claims(user)
		for k, v := range change {
			if v == nil {
				delete(c, k)
			} else {
				c[k] = v
			}
		}
		return c
	}
	at := func(d time.Duration) int64 { return time.Now().Add(d).Unix() }
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + strings.Split(idp.Sign(idp.Claims("alice")), ".")[1] + "."
	for _, c := range []struct{ name, token, project, want, says string }{
		{"a list of groups", idp.Sign(idp.Claims("alice")), "", "alice operator default", ""},
		{"a list in an object", idp.Sign(idp.Claims("bob")), "", "bob admin hq", ""},
		{"the project is a claim's", idp.Sign(idp.Claims("carol")), "", "carol owner red", ""},
		{"the other project", idp.Sign(idp.Claims("carol")), "blue", "carol owner blue", ""},
		{"a project of others", idp.Sign(idp.Claims("carol")), "green", "", "no role in the project"},
		{"no rule fits", idp.Sign(idp.Claims("dave")), "", "", "no role here"},
		{"the name is another claim", idp.Sign(with("bob", map[string]any{"preferred_username": nil})), "", "bob@example.com admin hq", ""},
		{"several audiences", idp.Sign(with("alice", map[string]any{"aud": []string{"x", idp.ClientID}})), "", "alice operator default", ""},
		{"another audience", idp.Sign(with("alice", map[string]any{"aud": "x"})), "", "", "for somebody else"},
		{"expired", idp.Sign(with("alice", map[string]any{"exp": at(-time.Minute)})), "", "", "expired on"},
		{"of the future", idp.Sign(with("alice", map[string]any{"nbf": at(time.Hour)})), "", "", "not valid"},
		{"without an end", idp.Sign(with("alice", map[string]any{"exp": nil})), "", "", "expired"},
		{"another key", idp.SignWith(jose.ES256, stranger, idp.Claims("alice")), "", "", "not valid"},
		{"a secret for a key", idp.SignWith(jose.HS256, []byte(strings.Repeat("k", 32)), idp.Claims("alice")), "", "", "not valid"},
		{"no signature", unsigned, "", "", "not valid"},
	} {
		if !p.Recognises(c.token) {
			t.Errorf("%s: it is not recognised", c.name)
		}
		id, until, err := p.Verify(auth.WithProject(t.Context(), c.project), c.token)
		got := strings.TrimSpace(id.Name + " " + id.Role + " " + id.Project)
		switch {
		case c.says != "":
			if !fault.Is(err, fault.Unauthenticated) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil || got != c.want || id.Via != "oidc idp" || until.Before(time.Now()):
			t.Errorf("%s: %q until %s, %v", c.name, got, until, err)
		}
	}
	for name, bad := range map[string]string{"another issuer": idp.Sign(with("alice", map[string]any{"iss": "https://evil.example"})), "no JWT": "a.b", "empty": "", "dots": "..", "huge": strings.Repeat("x", maxToken) + ".."} {
		if p.Recognises(bad) {
			t.Errorf("%s is recognised", name)
		}
	}
}

func TestKeysRotate(t *testing.T) {
	idp := openidtest.New(t)
	idp.Users["alice"] = map[string]any{"groups": []string{"netops"}}
	p := newProvider(t, idp, nil)
	old := idp.Sign(idp.Claims("alice"))
	// The keys may be on their way from before a rotation, and are shared by whoever asks meanwhile: the next has the new.
	verify := func(what string) {
		t.Helper()
		tok := idp.Sign(idp.Claims("alice"))
		_, _, err := p.Verify(t.Context(), tok)
		for deadline := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(deadline); _, _, err = p.Verify(t.Context(), tok) {
			time.Sleep(time.Millisecond)
		}
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	for i := range 3 {
		verify(fmt.Sprint("key ", i))
		if i == 0 {
			if _, _, err := p.Verify(t.Context(), old); err != nil {
				t.Errorf("the key before: %v", err)
			}
		}
		idp.Rotate()
	}
	asked := idp.Asked("/keys")
	for range 5 {
		verify("a token more")
	}
	if n := idp.Asked("/keys") - asked; n > 1 {
		t.Errorf("five tokens of one key had the keys fetched %d times", n)
	}
}

func TestAProviderThatIsAway(t *testing.T) {
	idp := openidtest.New(t)
	idp.Users["alice"] = map[string]any{"groups": []string{"netops"}}
	now := time.Now()
	p := newProvider(t, idp, func(c *Config) { c.Now = func() time.Time { return now } })
	tok := idp.Sign(idp.Claims("alice"))
	idp.Down(true)
	for range 3 {
		if _, _, err := p.Verify(t.Context(), tok); !fault.Is(err, fault.Unavailable) {
			t.Errorf("%v", err)
		}
	}
	if n := idp.Asked("/.well-known/openid-configuration"); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
	idp.Down(false)
	now = now.Add(6 * time.Second)
	if _, _, err := p.Verify(t.Context(), tok); err != nil {
		t.Errorf("it is back: %v", err)
	}
	idp.Rotate()
	idp.Down(true)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) { // the last fetch may still be under way
		_, _, err := p.Verify(t.Context(), idp.Sign(idp.Claims("alice")))
		if fault.Is(err, fault.Unavailable) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("its keys cannot be had: %v", err)
		}
	}
	if _, _, err := p.Verify(t.Context(), tok); err != nil {
		t.Errorf("keys that are known need nobody: %v", err)
	}
}

// signIn is what a person does in a browser at the provider: it returns the parameters that come back.
func signIn(t *testing.T, to, user, password string) url.Values {
	t.Helper()
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer c.CloseIdleConnections()
	page, err := c.Get(to)
	if err != nil || page.StatusCode != 200 {
		t.Fatalf("%v, %v", page, err)
	}
	page.Body.Close()
	u, _ := url.Parse(to)
	resp, err := c.PostForm(to[:strings.Index(to, "?")]+"?"+u.RawQuery, url.Values{"user": {user}, "password": {password}})
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	back, err := resp.Location()
	if err != nil {
		t.Fatal(err)
	}
	return back.Query()
}

func TestSigningIn(t *testing.T) {
	idp := openidtest.New(t)
	const redirect = "http://127.0.0.1:1/v1/session/oidc/callback"
	idp.Redirects[redirect] = true
	idp.Users["carol"] = map[string]any{"https://example.com/tenants": []string{"red", "blue"}}
	p := newProvider(t, idp, nil)
	start := func(project string) (string, []byte) {
		to, kept, err := p.Start(t.Context(), redirect, project)
		if err != nil {
			t.Fatal(err)
		}
		return to, kept
	}
	to, kept := start("blue")
	q := signIn(t, to, "carol", "secret")
	if _, err := p.Finish(t.Context(), kept, "wrong", q.Get("code")); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("another state: %v", err)
	}
	id, err := p.Finish(t.Context(), kept, q.Get("state"), q.Get("code"))
	if err != nil || id.Name != "carol" || id.Project != "blue" || id.Role != "owner" {
		t.Errorf("%+v, %v", id, err)
	}
	if _, err := p.Finish(t.Context(), kept, q.Get("state"), q.Get("code")); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("the code again: %v", err)
	}
	// Another's code in one's own sign-in: the provider sees by PKCE that it was given to somebody else.
	to, _ = start("")
	stolen := signIn(t, to, "carol", "secret").Get("code")
	mine, kept := start("")
	if _, err := p.Finish(t.Context(), kept, signIn(t, mine, "carol", "secret").Get("state"), stolen); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a stolen code: %v", err)
	}
	to, _ = start("")
	if q := signIn(t, to, "carol", "guess"); q.Get("error") != "access_denied" || q.Get("code") != "" {
		t.Errorf("a wrong password: %v", q)
	}
	if _, err := p.Finish(t.Context(), []byte("{}"), "", ""); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("nothing was begun: %v", err)
	}
}

func TestConfigurations(t *testing.T) {
	rule := []Rule{{Claim: "a", Value: "b", Role: "viewer"}}
	for name, c := range map[string]Config{
		"no URL":       {Issuer: "idp", ClientID: "x", Rules: rule},
		"plain HTTP":   {Issuer: "http://idp.example", ClientID: "x", Rules: rule},
		"no client":    {Issuer: "https://idp.example", Rules: rule},
		"no rule":      {Issuer: "https://idp.example", ClientID: "x"},
		"no role":      {Issuer: "https://idp.example", ClientID: "x", Rules: []Rule{{Claim: "a", Value: "b", Role: "king"}}},
		"half a rule":  {Issuer: "https://idp.example", ClientID: "x", Rules: []Rule{{Claim: "a", Role: "viewer"}}},
		"two projects": {Issuer: "https://idp.example", ClientID: "x", Rules: []Rule{{Claim: "a", Value: "b", Role: "viewer", Project: "p", ProjectClaim: "q"}}},
	} {
		if _, err := New(c, slog.Default()); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzRecognises(f *testing.F) {
	p, err := New(Config{Issuer: "https://idp.example", ClientID: "x", Rules: []Rule{{Claim: "a", Value: "b", Role: "viewer"}}}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("eyJhbGciOiJub25lIn0.eyJpc3MiOiJodHRwczovL2lkcC5leGFtcGxlIn0.")
	f.Fuzz(func(t *testing.T, s string) {
		if p.Recognises(s) && strings.Count(s, ".") != 2 {
			t.Errorf("%q is recognised", s)
		}
	})
}
