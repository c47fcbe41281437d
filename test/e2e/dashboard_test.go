//go:build linux

package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"opentap/internal/nettest"
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

// TestNetnsDashboard has a browser look at a daemon that sees traffic. The tests are in web/app/tests; each is one here.
func TestNetnsDashboard(t *testing.T) {
	l := newLab(t)
	dir := needDashboard(t)
	l.near.Ready("tap0")
	d := prepare(t, l.near, "")
	for _, args := range [][]string{{"link", "add", "tool0", "type", "veth", "peer", "name", "tool1"}, {"link", "set", "tool1", "up"}, {"link", "set", "tool0", "up"}} {
		if r := d.exec("ip", args...); r.code != 0 {
			t.Fatalf("ip %q: %s", args, r.stderr)
		}
	}
	d.start()
	stop := chatter(l)
	defer stop()

	var code struct{ Code string }
	a := d.try("POST", "/v1/session/code", nil)
	if err := json.Unmarshal(a.Body, &code); err != nil || a.Status != 201 {
		t.Fatalf("no code: %d %s", a.Status, a.Body)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", filepath.Join(dir, "app/tests/dashboard.mjs"))
	cmd.Env = append(os.Environ(), "OPENTAP_URL="+d.url(), "OPENTAP_TOKEN="+d.token, "CODE="+code.Code, "CHROMIUM="+chromium,
		"SHOTS="+filepath.Join(dir, "shots"), "HOME="+t.TempDir(), "NODE_NO_WARNINGS=1")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) } // it takes the browser with it
	cmd.WaitDelay = 10 * time.Second
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	d.ns.Do(func() { err = cmd.Start() })
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
			}
		})
	}
	if err := cmd.Wait(); err != nil && !t.Failed() || n == 0 {
		t.Errorf("node: %v after %d tests\n%s", err, n, said.String())
	}
}

// chatter sends all kinds of packets, hostile ones among them, until the returned function is called.
func chatter(l *lab) (stop func()) {
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-quit:
				return
			case <-tick.C:
			}
			l.Send(zoo(10)...)
			l.Send(nettest.Packet{SrcPort: 4000, DstPort: 5353, Payload: append([]byte("<script>alert(1)</script>\x1b[2J\u202e"), numbered(i, 60)...)}.Bytes())
			l.Send(nettest.Packet{Proto: nettest.TCP, TCPFlags: 0x18, SrcPort: 4001, DstPort: 80, Seq: uint32(i), Payload: []byte("GET /<img src=x onerror=alert(1)> HTTP/1.1\r\nHost: <b>x</b>\r\n\r\n")}.Bytes())
		}
	})
	return func() { close(quit); wg.Wait() }
}
