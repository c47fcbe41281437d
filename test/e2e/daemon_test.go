//go:build linux

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"opentap/internal/await"
	"opentap/internal/nettest"
)

// daemon is one opentapd in a namespace.
type daemon struct {
	t     testing.TB
	ns    *nettest.NS
	dir   string // --data-dir
	conf  string // configuration file; "" = none
	port  int
	token string
	web   *http.Client
	cmd   *exec.Cmd
	ended chan error
	log   string // file of what it says
}

// newDaemon prepares a daemon and starts it. yaml is its configuration file.
func newDaemon(t testing.TB, ns *nettest.NS, yaml string) *daemon {
	t.Helper()
	d := prepare(t, ns, yaml)
	d.start()
	return d
}

// prepare makes everything but the process.
func prepare(t testing.TB, ns *nettest.NS, yaml string) *daemon {
	t.Helper()
	base := t.TempDir()
	d := &daemon{t: t, ns: ns, dir: filepath.Join(base, "data"), port: 2020, log: filepath.Join(base, "log")}
	if yaml != "" {
		d.conf = filepath.Join(base, "opentap.yaml")
		if err := os.WriteFile(d.conf, []byte(yaml), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	d.web = &http.Client{Timeout: 60 * time.Second, Transport: &http.Transport{DisableCompression: true, DialContext: d.dial}}
	t.Cleanup(func() {
		if d.cmd != nil {
			d.kill()
		}
		removePins(t, d.dir)
		if t.Failed() {
			t.Logf("opentapd said at the end:\n%s", d.tail())
		}
	})
	return d
}

// dial connects from inside the namespace.
func (d *daemon) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	d.ns.Do(func() { conn, err = (&net.Dialer{Timeout: 5 * time.Second}).DialContext(ctx, network, addr) })
	return conn, err
}

func (d *daemon) url() string { return fmt.Sprintf("http://127.0.0.1:%d", d.port) }

// args of a run of opentapd.
func (d *daemon) args(more ...string) []string {
	a := []string{"--data-dir", d.dir, "--listen", fmt.Sprintf("127.0.0.1:%d", d.port)}
	if d.conf != "" {
		a = append(a, "--config", d.conf)
	}
	return append(a, more...)
}

// start runs opentapd until it is ready.
func (d *daemon) start() {
	d.t.Helper()
	d.launch()
	ended := d.ended
	await.Until(d.t, "opentapd is ready", func() bool {
		select {
		case err := <-ended:
			ended <- err
			d.t.Fatalf("opentapd ended: %v\n%s", err, d.tail())
		default:
		}
		return d.try("GET", "/readyz", nil, "Authorization", "").Status == 200
	})
	b, err := os.ReadFile(filepath.Join(d.dir, "admin.token"))
	if err != nil {
		d.t.Fatal(err)
	}
	d.token = strings.TrimSpace(string(b))
}

// launch runs opentapd.
func (d *daemon) launch() {
	d.t.Helper()
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(daemonBin, d.args()...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} // the namespace's thread lives as long as the test
	d.ns.Do(func() { err = cmd.Start() })
	if err != nil {
		d.t.Fatal(err)
	}
	ended := make(chan error, 1)
	d.cmd, d.ended = cmd, ended
	go func() { ended <- cmd.Wait() }()
}

// kill ends it as a power cut would end the process.
func (d *daemon) kill() {
	_ = d.cmd.Process.Kill()
	err := <-d.ended
	d.ended <- err
	d.web.CloseIdleConnections()
	d.cmd = nil
}

// stop ends it in good order.
func (d *daemon) stop() {
	d.t.Helper()
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		d.t.Fatal(err)
	}
	select {
	case err := <-d.ended:
		if err != nil {
			d.t.Fatalf("opentapd did not stop well: %v\n%s", err, d.tail())
		}
	case <-time.After(await.Patience):
		d.t.Fatalf("opentapd does not stop\n%s", d.tail())
	}
	d.web.CloseIdleConnections()
	d.cmd = nil
}

// tail is the end of what it said.
func (d *daemon) tail() string {
	b, _ := os.ReadFile(d.log)
	lines := bytes.Split(b, []byte("\n"))
	kept := lines[:0:0]
	for _, l := range lines {
		if !bytes.Contains(l, []byte("msg=request")) || bytes.Contains(l, []byte("status=500")) {
			kept = append(kept, l)
		}
	}
	if len(kept) > 30 {
		kept = kept[len(kept)-30:]
	}
	return string(bytes.Join(kept, []byte("\n")))
}

// result is one run of a program.
type result struct {
	stdout, stderr string
	code           int
}

// exec runs a program inside the namespace.
func (d *daemon) exec(name string, args ...string) result {
	d.t.Helper()
	return d.execEnv(nil, name, args...)
}

func (d *daemon) execEnv(env []string, name string, args ...string) result {
	d.t.Helper()
	var stdout, stderr bytes.Buffer
	ctx, cancel := context.WithTimeout(context.Background(), await.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.WaitDelay = time.Second
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = append(append(os.Environ(), "TZ=UTC", "LC_ALL=C"), env...)
	cmd.Dir = filepath.Dir(d.log)
	var err error
	d.ns.Do(func() { err = cmd.Start() })
	if err == nil {
		err = cmd.Wait()
	}
	r := result{stdout.String(), stderr.String(), 0}
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		r.code = exit.ExitCode()
	case err != nil:
		d.t.Fatalf("run %s: %v", name, err)
	}
	return r
}

// opentap runs the command line client.
func (d *daemon) opentap(args ...string) result {
	d.t.Helper()
	return d.execEnv([]string{"OPENTAP_URL=" + d.url(), "OPENTAP_TOKEN=" + d.token}, clientBin, args...)
}

// must runs the command line client, which shall succeed.
func (d *daemon) must(args ...string) string {
	d.t.Helper()
	r := d.opentap(args...)
	if r.code != 0 {
		d.t.Fatalf("opentap %q: exit code %d\n%s%s", args, r.code, r.stdout, r.stderr)
	}
	return r.stdout
}

// file names a file in the test's own directory.
func (d *daemon) file(name string) string { return filepath.Join(filepath.Dir(d.log), name) }

// captureDir is where a capture's data is.
func (d *daemon) captureDir(v view) string { return filepath.Join(d.dir, "captures", v.UID) }

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
