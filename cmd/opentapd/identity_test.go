package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"opentap/auth/openid/openidtest"
)

// oidcYAML believes a provider.
func oidcYAML(t *testing.T, idp *openidtest.Provider, more string) func(*config) {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(idp.Secret+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(c *config) {
		yaml := "auth:\n  oidc:\n    - name: idp\n      issuer: " + idp.URL + "\n      client_id: opentap\n      client_secret_file: " + secret + `
      rules:
        - {claim: groups, value: ops, role: operator, project: red}
        - {claim: groups, value: boss, role: admin}
` + more
		if err := parseConfig([]byte(yaml), c); err != nil {
			t.Fatal(err)
		}
	}
}

// asked is one request with these headers, name, value, …
func (p *process) asked(t *testing.T, c *http.Client, path string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest("GET", "http://"+p.addr+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestTokensOfAProviderOpenTheDoors(t *testing.T) {
	idp := openidtest.New(t)
	idp.Users["alice"] = map[string]any{"groups": []string{"ops", "boss"}}
	p := launch(t, "127.0.0.1:0", oidcYAML(t, idp, ""))
	c := &http.Client{}
	defer c.CloseIdleConnections()
	tok := idp.Sign(idp.Claims("alice"))
	for _, x := range []struct {
		name, project string
		path          string
		status        int
		has           string
	}{
		{"who she is", "", "/v1/session", 200, `"project":"red"`},
		{"what she may not", "", "/v1/tokens", 403, "operator"},
		{"in another project", "default", "/v1/tokens", 200, `"tokens"`},
		{"in no project of hers", "green", "/v1/points", 401, "no role in the project"},
	} {
		status, body := p.asked(t, c, x.path, "Authorization", "Bearer "+tok, "OpenTap-Project", x.project)
		if status != x.status || !strings.Contains(body, x.has) {
			t.Errorf("%s: %d %s", x.name, status, body)
		}
	}
	// Whoever guesses is held off, and the provider hears nothing of it; a good token from there that is known is taken.
	bad := idp.SignWith("HS256", []byte(strings.Repeat("k", 32)), idp.Claims("alice"))
	held := false
	for range 40 {
		status, _ := p.asked(t, c, "/v1/points", "Authorization", "Bearer "+bad)
		held = held || status == 429
	}
	if !held {
		t.Error("forty wrong tokens, and nobody was held off")
	}
	if status, _ := p.asked(t, c, "/v1/session", "Authorization", "Bearer "+tok); status != 200 {
		t.Errorf("a good token from the same address: %d", status)
	}
	if strings.Contains(p.log.String(), strings.Split(tok, ".")[2]) {
		t.Error("a token is in the log")
	}
}

func TestSigningInWithABrowser(t *testing.T) {
	idp := openidtest.New(t)
	idp.Users["alice"] = map[string]any{"groups": []string{"ops"}}
	idp.Users["mallory"] = map[string]any{"groups": []string{"none"}}
	p := launch(t, "127.0.0.1:0", oidcYAML(t, idp, ""))
	idp.Redirects["http://"+p.addr+"/v1/session/oidc/callback"] = true
	browser := func() *http.Client {
		jar, _ := cookiejar.New(nil)
		c := &http.Client{Jar: jar, CheckRedirect: func(r *http.Request, _ []*http.Request) error {
			if r.URL.Path == "/" {
				return http.ErrUseLastResponse // the dashboard is another's matter
			}
			return nil
		}}
		t.Cleanup(c.CloseIdleConnections)
		return c
	}
	signIn := func(c *http.Client, user string) *http.Response {
		t.Helper()
		page, err := c.Get("http://" + p.addr + "/v1/session/oidc/start")
		if err != nil {
			t.Fatal(err)
		}
		page.Body.Close()
		resp, err := c.PostForm(page.Request.URL.String(), url.Values{"user": {user}, "password": {"secret"}})
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	c := browser()
	if status, body := p.asked(t, c, "/v1/session/oidc"); status != 200 || !strings.Contains(body, `"idp"`) {
		t.Errorf("where to sign in: %d %s", status, body)
	}
	if resp := signIn(c, "alice"); resp.StatusCode != 303 || resp.Header.Get("Location") != "/" {
		t.Fatalf("after signing in: %s %s", resp.Status, resp.Header.Get("Location"))
	}
	_, body := p.asked(t, c, "/v1/session")
	var who struct{ Name, Project, Role, Via string }
	if err := json.Unmarshal([]byte(body), &who); err != nil || who.Name != "alice" || who.Project != "red" || who.Role != "operator" || !strings.Contains(who.Via, "idp") {
		t.Errorf("she is %s", body)
	}
	if resp := signIn(browser(), "mallory"); resp.StatusCode != 401 {
		t.Errorf("somebody without a role: %s", resp.Status)
	}
	// A link that somebody else prepared: his code, her browser.
	req, _ := http.NewRequest("GET", "http://"+p.addr+"/v1/session/oidc/callback?state=x&code=y", nil)
	req.Header.Set("Sec-Fetch-Site", "cross-site")
	resp, err := browser().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != 401 || len(resp.Header.Values("Set-Cookie")) > 1 {
		t.Errorf("a prepared link: %s %v", resp.Status, resp.Header.Values("Set-Cookie"))
	}
	if b, err := os.ReadFile(filepath.Join(p.dir, "audit", "audit-00000000000000000001.jsonl")); err != nil || !strings.Contains(string(b), `"by":"oidc idp"`) {
		t.Errorf("the audit log does not say how she came: %v", err)
	}
}

// A Keystone that answers as a real one was recorded to.
func TestKeystoneTokensOpenTheDoors(t *testing.T) {
	good, err := os.ReadFile("../../auth/keystone/testdata/validate.json")
	if err != nil {
		t.Fatal(err)
	}
	var asked atomic.Int32
	ks := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path != "/identity/v3/auth/tokens" || r.Header.Get("X-Subject-Token") != "gAAAAABgoodgoodgood" {
			http.Error(w, `{"error":{"code":401,"message":"The request you have made requires authentication.","title":"Unauthorized"}}`, http.StatusUnauthorized)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(fresh(good))
	}))
	defer ks.Close()
	p := launch(t, "127.0.0.1:0", func(c *config) { c.Auth.Keystone.URL = ks.URL + "/identity/v3" })
	c := &http.Client{}
	defer c.CloseIdleConnections()
	for range 5 {
		if status, body := p.asked(t, c, "/v1/session", "X-Auth-Token", "gAAAAABgoodgoodgood"); status != 200 || !strings.Contains(body, `"via":"keystone"`) {
			t.Errorf("%d %s", status, body)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("Keystone was asked %d times for one token", n)
	}
	held := false
	for range 40 {
		status, _ := p.asked(t, c, "/v1/points", "X-Auth-Token", "gAAAAABwrongwrongwrong")
		held = held || status == 429
	}
	if n := asked.Load(); !held || n > 15 {
		t.Errorf("forty wrong tokens: held off %v, Keystone was asked %d times", held, n)
	}
	if status, _ := p.asked(t, c, "/v1/points", "Authorization", "Bearer "+p.token); status != 200 {
		t.Errorf("our own token: %d", status)
	}
}

// fresh is a recorded answer whose token has not ended.
func fresh(answer []byte) []byte {
	var a map[string]map[string]any
	if json.Unmarshal(answer, &a) != nil {
		return answer
	}
	a["token"]["expires_at"] = time.Now().Add(time.Hour).UTC().Format("2006-01-02T15:04:05.000000Z")
	b, _ := json.Marshal(a)
	return b
}
