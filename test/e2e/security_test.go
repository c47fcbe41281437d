//go:build linux

package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"opentap/internal/await"
)

// Nothing is told to strangers.
func TestNetnsNothingWithoutToken(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	d.create(m{"kind": "pcap", "id": "secret", "points": []string{"tap0"}})
	if st, err := os.Stat(filepath.Join(d.dir, "admin.token")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("admin.token: %v %v", st.Mode(), err)
	}
	if st, err := os.Stat(d.captureDir(d.show("secret"))); err != nil || st.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can look into captured data: %v %v", st.Mode(), err)
	}
	var doc struct {
		Paths map[string]map[string]json.RawMessage `json:"paths"`
	}
	d.ask(200, "GET", "/openapi.json", nil, "Authorization", "").decode(t, &doc)
	open := map[string]int{ // what strangers may ask, and what they hear of an installation without a provider to sign in at
		"GET /healthz": 200, "GET /readyz": 200, "GET /openapi.json": 200,
		"GET /v1/session": 200, "POST /v1/session": 415, "DELETE /v1/session": 204, "GET /v1/session/oidc": 200, "GET /v1/session/oidc/start": 501,
	}
	asked := 0
	for path, methods := range doc.Paths {
		path = strings.NewReplacer("{id}", "secret", "{name}", "tap0").Replace(path)
		for method := range methods {
			method = strings.ToUpper(method)
			if method == "PARAMETERS" {
				continue
			}
			want := 401
			if o := open[method+" "+path]; o != 0 {
				want = o
			}
			asked++
			a := d.ask(want, method, path, nil, "Authorization", "")
			if want == 401 && a.Header.Get("WWW-Authenticate") == "" {
				t.Errorf("%s %s: 401 without WWW-Authenticate", method, path)
			}
			if want == 401 && path == "/v1/points/tap0" { // many wrong tokens are met with 429
				d.ask(401, method, path, nil, "Authorization", "Bearer "+d.token[:len(d.token)-1]+"x")
			}
			if want == 401 && strings.Contains(string(a.Body), "tap0") {
				t.Errorf("%s %s tells a stranger: %s", method, path, a.Body)
			}
		}
	}
	if asked < 12 {
		t.Errorf("the document has %d operations only", asked)
	}
	for _, path := range []string{"/", "/capabilities", "/capture/netflow?start=1&stop=2", "/retrieve?id=secret", "/retrieve?id=secret&token=" + d.token} {
		d.ask(401, "GET", path, nil, "Authorization", "")
	}
	r := d.execEnv([]string{"OPENTAP_URL=" + d.url(), "OPENTAP_TOKEN=wrong"}, clientBin, "points")
	if r.code != 3 || r.stdout != "" {
		t.Errorf("opentap with a wrong token: %d %s %s", r.code, r.stdout, r.stderr)
	}
	if d.show("secret").Status.State != "running" {
		t.Error("a stranger did something")
	}
	d.awaitAudit(`"outcome":"denied"`)
}

func (d *daemon) awaitAudit(part string) {
	d.t.Helper()
	await.Until(d.t, "the audit log has "+part, func() bool { return strings.Contains(audits(d.t, d), part) })
}

// Whom the administrator lets in without a token may do what the role says.
func TestNetnsAnonymousGrant(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "auth:\n  anonymous:\n    - role: viewer\n      ranges: [127.0.0.1/32]\n")
	d.create(m{"kind": "pcap", "id": "c", "points": []string{"tap0"}})
	d.ask(200, "GET", "/v1/points", nil, "Authorization", "")
	d.ask(403, "POST", "/v1/captures", m{"kind": "pcap", "points": []string{"tap0"}}, "Authorization", "")
	d.ask(403, "DELETE", "/v1/captures/c", nil, "Authorization", "")
	a := d.try("GET", "/v1/captures/c/data", nil, "Authorization", "")
	if a.Status != 403 && a.Status != 404 {
		t.Errorf("a viewer reads payload: %d", a.Status)
	}
	if d.exec("ip", "addr", "add", "192.0.2.77/32", "dev", "lo").code == 0 { // from another address: nobody
		r := d.exec("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", "192.0.2.77", d.url()+"/v1/points")
		if r.code == 0 && r.stdout != "401" {
			t.Errorf("from outside the range: %s", r.stdout)
		}
	}
}

// Who did what stands in the audit log before it happens; when it cannot be written, nothing happens.
func TestNetnsAuditFirst(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := newDaemon(t, l.near, "")
	d.create(m{"kind": "pcap", "id": "c", "points": []string{"tap0"}})
	l.Send(plain(0, 10, 1)...)
	d.awaitCaptured("c", 10)
	d.data("c", "pcapng")
	d.finish("c")
	d.create(m{"kind": "pcap", "id": "gone", "points": []string{"tap0"}})
	d.ask(204, "DELETE", "/v1/captures/gone", nil)
	log := audits(t, d) // the answers are here: the lines must be
	at := -1
	for _, s := range []string{`"action":"capture.start","object":"c"`, `"action":"capture.retrieve","object":"c"`, `"action":"capture.stop","object":"c"`, `"action":"capture.delete","object":"gone"`} {
		i := strings.Index(log, s)
		if i < at || i < 0 {
			t.Errorf("the audit log has no %s in its place", s)
		}
		at = max(at, i)
	}
	if strings.Contains(log, d.token) {
		t.Error("the token is in the audit log")
	}
	r := d.exec(daemonBin, d.args("--verify-audit")...)
	if r.code != 0 {
		t.Errorf("the chain: %d %s%s", r.code, r.stdout, r.stderr)
	}

	// A limit on the size of files stands for a full disk: the daemon can write no file beyond it.
	files, _ := filepath.Glob(filepath.Join(d.dir, "audit", "audit-*.jsonl"))
	st, err := os.Stat(files[len(files)-1])
	if err != nil {
		t.Fatal(err)
	}
	await.Until(t, "the state's file is written no more, since the limit is not meant for it", func() bool {
		db, err := os.Stat(filepath.Join(d.dir, "store", "member", "snap", "db"))
		return err == nil && time.Since(db.ModTime()) > time.Second
	})
	before := d.ask(200, "GET", "/v1/captures", nil)
	limitFiles(t, d.cmd.Process.Pid, uint64(st.Size()))
	a := d.try("GET", "/v1/captures/c/data", nil)
	if a.Status != 503 || strings.Contains(string(a.Body), "opentap_") {
		t.Errorf("without audit log the data is given: %d %.300s", a.Status, a.Body)
	}
	if a := d.try("DELETE", "/v1/captures/c", nil); a.Status != 503 {
		t.Errorf("without audit log a capture is deleted: %d", a.Status)
	}
	if a := d.try("POST", "/v1/captures", m{"kind": "pcap", "id": "more", "points": []string{"tap0"}}); a.Status != 503 {
		t.Errorf("without audit log a capture is started: %d", a.Status)
	}
	limitFiles(t, d.cmd.Process.Pid, ^uint64(0))
	if after := d.ask(200, "GET", "/v1/captures", nil); len(after.Body) != len(before.Body) {
		t.Errorf("something happened:\n%s\n%s", before.Body, after.Body)
	}
	d.kill()
	d.start()
	d.data("c", "pcapng")

	// A changed line is found.
	files, _ = filepath.Glob(filepath.Join(d.dir, "audit", "audit-*.jsonl"))
	b, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	d.kill()
	if err := os.WriteFile(files[0], []byte(strings.Replace(string(b), `"object":"gone"`, `"object":"home"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if r := d.exec(daemonBin, d.args("--verify-audit")...); r.code == 0 {
		t.Error("a changed line is not found")
	}
}

func TestNetnsAWrongConfigurationIsRefused(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	d := prepare(t, l.near, "nonsense: 1\n")
	r := d.exec("timeout", append([]string{"10", daemonBin}, d.args()...)...)
	if r.code != 1 || !strings.Contains(r.stderr, "nonsense") {
		t.Errorf("a wrong configuration: exit code %d: %s", r.code, r.stderr)
	}
	if exists(d.dir) {
		t.Error("it touched the disk before it refused")
	}
}
