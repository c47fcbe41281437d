//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// chromium is where Debian has the browser.
const chromium = "/usr/bin/chromium"

// needDashboard skips without what building and driving the dashboard takes. It returns the directory of its sources.
func needDashboard(t *testing.T) string {
	t.Helper()
	needTool(t, "node", "ip")
	if _, err := os.Stat(chromium); err != nil {
		t.Skip("needs the program chromium")
	}
	dir, err := filepath.Abs("../../web")
	if err != nil {
		t.Fatal(err)
	}
	if !exists(filepath.Join(dir, "dist/site/index.html")) || !exists(filepath.Join(dir, "app/node_modules/playwright-core")) {
		t.Skip("needs the dashboard, which make test builds when npm is there")
	}
	return dir
}

// TestNetnsDashboard has a browser look at a daemon that sees traffic. The tests are in web/app/tests; each is one here. With
// OPENTAP_STAY=FILE nothing is tested: the daemon stays, for people to look at, until the file is removed, which says where it is.
func TestNetnsDashboard(t *testing.T) {
	needRoot(t)
	dir := needDashboard(t)
	s := newStage(t)
	d := s.d
	stop := s.chatter(t)
	defer stop()
	if file := os.Getenv("OPENTAP_STAY"); file != "" {
		s.stay(t, file)
		return
	}

	var code struct{ Code string }
	a := d.try("POST", "/v1/session/code", nil)
	if err := json.Unmarshal(a.Body, &code); err != nil || a.Status != 201 {
		t.Fatalf("no code: %d %s", a.Status, a.Body)
	}
	s.browse(t, dir, "dashboard.mjs", "CODE="+code.Code, "IDP="+s.idp.URL, "DAEMON="+strconv.Itoa(d.cmd.Process.Pid))
}

// browse runs tests of web/app/tests, which say how each of theirs went.
func (s *stage) browse(t *testing.T, dir, script string, env ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 12*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(dir, "app/tests", script))
	cmd.Env = append(append(os.Environ(), env...), "OPENTAP_URL="+s.d.url(), "OPENTAP_TOKEN="+s.d.token, "OPENTAP="+clientBin, "CHROMIUM="+chromium,
		"SHOTS="+filepath.Join(dir, "shots"), "HOME="+t.TempDir(), "NODE_NO_WARNINGS=1")
	if s.ovs != nil {
		cmd.Env = append(append(cmd.Env, s.ovs.Env()...), "FABRIC=yes")
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it takes the browser with it
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.d.ns.Do(func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		verdict, rest, ok := strings.Cut(lines.Text(), "\t")
		if !ok {
			continue
		}
		name, why, _ := strings.Cut(rest, "\t")
		n++
		t.Run(name, func(t *testing.T) {
			if verdict != "ok" {
				t.Error(strings.ReplaceAll(why, " ⏎ ", "\n"))
			} else {
				t.Log(why)
			}
		})
	}
	if err := cmd.Wait(); err != nil && !t.Failed() || n == 0 {
		t.Errorf("node: %v after %d tests\n%s", err, n, said.String())
	}
}

// stay waits until a file is removed that says how to come here.
func (s *stage) stay(t *testing.T, file string) {
	t.Helper()
	text := fmt.Sprintf("PID=%d\nOPENTAP_URL=%s\nOPENTAP_TOKEN=%s\n", s.d.cmd.Process.Pid, s.d.url(), s.d.token)
	if s.ovs != nil {
		for _, v := range s.ovs.Env() {
			if strings.HasPrefix(v, "OVS_RUNDIR=") {
				text += v + "\nFABRIC=yes\n"
			}
		}
	}
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for exists(file) {
		time.Sleep(100 * time.Millisecond)
	}
}
