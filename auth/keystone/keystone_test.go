package keystone

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"opentap/auth"
	"opentap/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func recorded(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func newValidator(t *testing.T, cfg Config) *Validator {
	t.Helper()
	v, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v.Close)
	return v
}

func TestRecordedAnswers(t *testing.T) {
	var status int
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != "GET" || r.URL.Path != "/v3/auth/tokens" || r.Header.Get("X-Auth-Token") == "" || r.Header.Get("X-Auth-Token") != r.Header.Get("X-Subject-Token") {
			t.Errorf("asked %s %s %v", r.Method, r.URL, r.Header)
		}
		w.WriteHeader(status)
		_, _ = w.Write(body)
	}))
	defer srv.Close()
	v := newValidator(t, Config{URL: srv.URL + "/v3/"})
	boss := newValidator(t, Config{URL: srv.URL, Roles: map[string]string{"admin": "admin", "member": "owner"}})
	for _, c := range []struct {
		name, file string
		v          *Validator
		status     int
		want       string
		kind       fault.Kind
	}{
		{"a member", "validate.json", v, 200, "alice owner c9e5fc492c11479682ecd82e9087c3d3", 0},
		{"without a project", "unscoped.json", v, 200, "", fault.Unauthenticated},
		{"the cloud's administrator", "admin.json", v, 200, "admin owner b8620b920f5c46baa7d25aa8cda6d31f", 0},
		{"the cloud's administrator, who is ours", "admin.json", boss, 200, "admin admin b8620b920f5c46baa7d25aa8cda6d31f", 0},
		{"a wrong token", "wrong.json", v, 401, "", fault.Unauthenticated},
		{"not found", "wrong.json", v, 404, "", fault.Unauthenticated},
		{"it is ill", "wrong.json", v, 503, "", fault.Unavailable},
		{"it says nothing", "README.md", v, 200, "", fault.Unavailable},
	} {
		status, body = c.status, recorded(t, c.file)
		id, until, err := c.v.Verify(t.Context(), "gAAAAABsomething")
		if c.want == "" {
			if !fault.Is(err, c.kind) {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if got := id.Name + " " + id.Role + " " + id.Project; err != nil || got != c.want || until.IsZero() || id.Via != "keystone" {
			t.Errorf("%s: %q until %s, %v", c.name, got, until, err)
		}
	}
	nobody := newValidator(t, Config{URL: srv.URL, Roles: map[string]string{"king": "admin"}})
	status, body = 200, recorded(t, "validate.json")
	if _, _, err := nobody.Verify(t.Context(), "gAAAAABsomething"); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("no role has a meaning: %v", err)
	}
}

func TestATokenGoesNowhereElse(t *testing.T) {
	evil := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { t.Errorf("the token came here: %v", r.Header) }))
	defer evil.Close()
	srv := httptest.NewServer(http.RedirectHandler(evil.URL, http.StatusFound))
	defer srv.Close()
	if _, _, err := newValidator(t, Config{URL: srv.URL}).Verify(t.Context(), "gAAAAABsomething"); !fault.Is(err, fault.Unavailable) {
		t.Errorf("%v", err)
	}
}

func TestRecognises(t *testing.T) {
	v := newValidator(t, Config{URL: "https://keystone.example:5000"})
	for token, want := range map[string]bool{
		"gAAAAABlGk0cTfA6x-_=": true, strings.Repeat("a", 32): true, "": false, "short": false, "ot_" + strings.Repeat("a", 69): false,
		"os_" + strings.Repeat("a", 69): false, "with space in the middle": false, "line\nbreak-and-more-of-it": false, strings.Repeat("a", maxToken+1): false,
	} {
		if got := v.Recognises(token); got != want {
			t.Errorf("%.40q: %v", token, got)
		}
	}
	for name, c := range map[string]Config{
		"no URL": {URL: "keystone"}, "a secret in it": {URL: "https://a:b@keystone.example"}, "a query": {URL: "https://keystone.example/?x"},
		"no role of ours": {URL: "https://keystone.example", Roles: map[string]string{"member": "king"}},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func FuzzIdentity(f *testing.F) {
	for _, name := range []string{"validate.json", "unscoped.json", "admin.json", "wrong.json"} {
		b, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	v, err := New(Config{URL: "https://keystone.example"})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var a answer
		if json.Unmarshal(b, &a) != nil {
			return
		}
		id, until, err := v.identity(&a)
		if _, rights := auth.RightsOf(id.Role); err == nil && (id.Name == "" || id.Project == "" || until.IsZero() || rights != nil) {
			t.Errorf("%+v until %s", id, until)
		}
	})
}

const serve = `
import os, sys
sys.argv = ['keystone']
os.environ['OS_KEYSTONE_CONFIG_DIR'] = os.getcwd()
os.environ['OS_KEYSTONE_CONFIG_FILES'] = 'keystone.conf'
from keystone.server import wsgi
app = wsgi.initialize_public_application()
from wsgiref.simple_server import make_server
make_server('127.0.0.1', int(os.environ['PORT']), app).serve_forever()
`

// The real thing, where Debian's python3-keystone is installed: a token is taken, and one that was revoked is not.
func TestWithKeystone(t *testing.T) {
	if os.Getenv("OPENTAP_LONG") != "1" {
		t.Skip("it takes Keystone half a minute to get up: set OPENTAP_LONG=1")
	}
	const python = "/usr/bin/python3"
	if exec.Command(python, "-c", "import keystone").Run() != nil {
		t.Skip("needs Debian's python3-keystone")
	}
	dir := t.TempDir()
	conf := "[database]\nconnection = sqlite:///" + dir + "/db\n[fernet_tokens]\nkey_repository = " + dir + "/fernet\n[cache]\nenabled = false\n"
	if err := os.WriteFile(filepath.Join(dir, "keystone.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "fernet"), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	base := "http://" + l.Addr().String()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_ = l.Close()
	me, _ := exec.Command("id", "-un").Output()
	user := strings.TrimSpace(string(me))
	for _, args := range [][]string{
		{"db_sync"},
		{"fernet_setup", "--keystone-user", user, "--keystone-group", user},
		{"bootstrap", "--bootstrap-password", "pw", "--bootstrap-public-url", base + "/v3/"},
	} {
		cmd := exec.Command(python, append([]string{"-c", "import sys\nfrom keystone.cmd.manage import main\nsys.argv = ['keystone-manage', '--config-file', 'keystone.conf'] + sys.argv[1:]\nmain()"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("keystone-manage %s: %v\n%s", args[0], err, out)
		}
	}
	cmd := exec.Command(python, "-c", serve)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "PORT="+port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	defer http.DefaultClient.CloseIdleConnections()
	ask := func(method, path, token, body string) *http.Response {
		req, err := http.NewRequest(method, base+path, bytes.NewReader([]byte(body)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		if token != "" {
			req.Header.Set("X-Auth-Token", token)
			req.Header.Set("X-Subject-Token", token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return nil
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp
	}
	for deadline := time.Now().Add(2 * time.Minute); ask("GET", "/v3/", "", "") == nil; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("Keystone does not listen")
		}
	}
	token := ask("POST", "/v3/auth/tokens", "", `{"auth":{"identity":{"methods":["password"],"password":{"user":{"name":"admin","domain":{"id":"default"},"password":"pw"}}},`+
		`"scope":{"project":{"name":"admin","domain":{"id":"default"}}}}}`).Header.Get("X-Subject-Token")
	v := newValidator(t, Config{URL: base})
	if !v.Recognises(token) {
		t.Errorf("%q is not recognised", token)
	}
	id, until, err := v.Verify(t.Context(), token)
	if err != nil || id.Name != "admin" || id.Role != "owner" || len(id.Project) != 32 || time.Until(until) < time.Minute {
		t.Errorf("%+v until %s, %v", id, until, err)
	}
	if r := ask("DELETE", "/v3/auth/tokens", token, ""); r == nil || r.StatusCode != 204 {
		t.Fatalf("revoke: %v", r)
	}
	if _, _, err := v.Verify(t.Context(), token); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a revoked token: %v", err)
	}
	if _, _, err := v.Verify(t.Context(), "gAAAAAB"+token[7:]); !fault.Is(err, fault.Unauthenticated) {
		t.Errorf("a forged token: %v", err)
	}
}
