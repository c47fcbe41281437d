//go:build linux

package e2e

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"opentap/internal/await"
)

// Beyond loopback there is TLS and nothing else; curl and openssl agree, and a person at a terminal is asked once.
func TestNetnsTLSBeyondLoopback(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"curl", "openssl", "script"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip("needs " + tool)
		}
	}
	l := newLab(t)
	d := prepare(t, l.near, "metrics: {anonymous_ranges: [127.0.0.1]}\n")
	run := func(stdin string, env []string, name string, args ...string) result {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(append(os.Environ(), "XDG_CONFIG_HOME="+d.file("config")), env...)
		cmd.Dir = filepath.Dir(d.log)
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		d.ns.Do(func() { err = cmd.Start() })
		if err != nil {
			t.Fatal(err)
		}
		_, _ = in.Write([]byte(stdin)) // a program that does not read it has ended
		if stdin == "" {
			in.Close()
		}
		err = cmd.Wait()
		r := result{out.String(), errs.String(), 0}
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			r.code = exit.ExitCode()
		} else if err != nil {
			t.Fatalf("%s: %v\n%s%s", name, err, r.stdout, r.stderr)
		}
		return r
	}
	out, err := os.OpenFile(d.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	launch := func() {
		t.Helper()
		cmd := exec.Command(daemonBin, "--data-dir", d.dir, "--listen", "0.0.0.0:2020", "--config", d.conf)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		var err error
		d.ns.Do(func() { err = cmd.Start() })
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		d.cmd, d.ended = cmd, ended
		go func() { ended <- cmd.Wait() }()
	}
	launch()
	await.Until(t, "the port is open", func() bool {
		conn, err := d.dial(context.Background(), "tcp", "127.0.0.1:2020")
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	ca := filepath.Join(d.dir, "tls", "ca.pem")
	await.Until(t, "it is ready for curl", func() bool {
		return strings.Contains(run("", nil, "curl", "-s", "--cacert", ca, "https://127.0.0.1:2020/readyz").stdout, `"ready"`)
	})
	b, err := os.ReadFile(filepath.Join(d.dir, "admin.token"))
	if err != nil {
		t.Fatal(err)
	}
	env := []string{"OPENTAP_URL=https://127.0.0.1:2020", "OPENTAP_TOKEN=" + strings.TrimSpace(string(b))}

	if r := run("", nil, "curl", "-s", "https://127.0.0.1:2020/healthz"); r.code != 60 {
		t.Errorf("curl believes it without its authority: exit code %d", r.code)
	}
	if r := run("", nil, "curl", "-s", "http://127.0.0.1:2020/healthz"); strings.Contains(r.stdout, `"ok"`) {
		t.Errorf("it answers without TLS: %s", r.stdout)
	}
	if r := run("", nil, "curl", "-s", "--cacert", ca, "https://127.0.0.1:2020/metrics"); !strings.Contains(r.stdout, "opentap_build_info{") {
		t.Errorf("metrics: %.200s", r.stdout)
	}
	if r := run("", nil, "openssl", "s_client", "-connect", "127.0.0.1:2020", "-tls1_1"); r.code == 0 {
		t.Error("TLS 1.1 is spoken")
	}
	if r := run("", nil, "openssl", "verify", "-CAfile", ca, filepath.Join(d.dir, "tls", "server.pem")); r.code != 0 {
		t.Errorf("openssl verify: %s%s", r.stdout, r.stderr)
	}
	fp := strings.TrimSpace(run("", nil, daemonBin, "--show-fingerprint", "--data-dir", d.dir).stdout)
	if r := run("", env, clientBin, "points"); r.code != 3 || !strings.Contains(r.stderr, fp) {
		t.Errorf("nobody to ask: exit code %d: %s", r.code, r.stderr)
	}
	if r := run("no\r", env, "script", "-qec", clientBin+" points", "/dev/null"); r.code != 3 || !strings.Contains(r.stdout, fp) || !strings.Contains(r.stdout, "(yes/no)") {
		t.Errorf("answered no: exit code %d: %s", r.code, r.stdout)
	}
	if r := run("yes\r", env, "script", "-qec", clientBin+" points", "/dev/null"); r.code != 0 {
		t.Errorf("answered yes: exit code %d: %s", r.code, r.stdout)
	}
	if r := run("", env, clientBin, "points"); r.code != 0 {
		t.Errorf("it was trusted: exit code %d: %s", r.code, r.stderr)
	}

	// A half-open connection holds nobody up.
	half, err := d.dial(context.Background(), "tcp", "127.0.0.1:2020")
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	if r := run("", env, clientBin, "points"); r.code != 0 {
		t.Errorf("beside a half-open connection: exit code %d: %s", r.code, r.stderr)
	}

	// Made anew, the server is another.
	d.stop()
	if err := os.RemoveAll(filepath.Join(d.dir, "tls")); err != nil {
		t.Fatal(err)
	}
	launch()
	await.Until(t, "the new authority answers", func() bool {
		return run("", nil, "curl", "-s", "--cacert", ca, "https://127.0.0.1:2020/healthz").code == 0
	})
	if r := run("", env, clientBin, "points"); r.code != 3 || !strings.Contains(r.stderr, "HAS CHANGED") {
		t.Errorf("another authority: exit code %d: %s", r.code, r.stderr)
	}
}
