//go:build linux

package e2e

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"debug/elf"
	"debug/macho"
	"debug/pe"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// release makes a release, and returns where it is.
func release(t *testing.T, targets string) string {
	t.Helper()
	out := t.TempDir()
	cmd := exec.Command("../../scripts/release.sh", "--version", "1.2.3", "--targets", targets, "--out", out)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("make release: %v\n%s", err, b)
	}
	return out
}

// The command line runs on three systems, the daemon on Linux; two processors each.
func TestReleaseIsForEverySystem(t *testing.T) {
	needTool(t, "go", "tar", "sha256sum")
	if testing.Short() {
		t.Skip("needs minutes")
	}
	out := release(t, "linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64")
	check := exec.Command("sha256sum", "--check", "--strict", "SHA256SUMS")
	check.Dir = out
	if b, err := check.CombinedOutput(); err != nil || strings.Count(string(b), ": OK") != 6 {
		t.Errorf("the sums: %v\n%s", err, b)
	}
	for _, a := range []struct {
		target   string
		programs []string
		is       func([]byte) string
		want     string
	}{
		{"linux_amd64", []string{"opentap", "opentapd"}, elfOf, "EM_X86_64 static"},
		{"linux_arm64", []string{"opentap", "opentapd"}, elfOf, "EM_AARCH64 static"},
		{"darwin_amd64", []string{"opentap"}, machoOf, "CpuAmd64"},
		{"darwin_arm64", []string{"opentap"}, machoOf, "CpuArm64"},
		{"windows_amd64", []string{"opentap.exe"}, peOf, "8664"},
		{"windows_arm64", []string{"opentap.exe"}, peOf, "aa64"},
	} {
		top := "opentap_1.2.3_" + a.target + "/"
		for _, p := range a.programs {
			if got := a.is(unpack(t, out, top, p)); got != a.want {
				t.Errorf("%s of %s is for %s, want %s", p, a.target, got, a.want)
			}
		}
		if notices := unpack(t, out, top, "THIRD-PARTY"); !bytes.Contains(notices, []byte("github.com/spf13/cobra")) {
			t.Errorf("%s lacks the licences of what it is made of", a.target)
		}
	}

	// From the same source, the same octets.
	again := release(t, "linux/arm64 windows/arm64")
	for _, name := range []string{"opentap_1.2.3_linux_arm64.tar.gz", "opentap_1.2.3_windows_arm64.zip"} {
		if a, b := sum(t, filepath.Join(out, name)), sum(t, filepath.Join(again, name)); a != b {
			t.Errorf("%s is %s the first time, %s the second", name, a, b)
		}
	}

	t.Run("arm64", func(t *testing.T) {
		runForeign(t, unpack(t, out, "opentap_1.2.3_linux_arm64/", "opentapd"), unpack(t, out, "opentap_1.2.3_linux_arm64/", "opentap"))
	})
}

// unpack returns a file of an archive.
func unpack(t *testing.T, dir, top, name string) []byte {
	t.Helper()
	archive := filepath.Join(dir, strings.TrimSuffix(top, "/"))
	if strings.Contains(top, "windows") {
		z, err := zip.OpenReader(archive + ".zip")
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		f, err := z.Open(top + name)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	return []byte(output(t, "tar", "-xzOf", archive+".tar.gz", top+name))
}

func elfOf(b []byte) string {
	f, err := elf.NewFile(bytes.NewReader(b))
	if err != nil {
		return err.Error()
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return f.Machine.String() + " with an interpreter"
		}
	}
	return f.Machine.String() + " static"
}

func machoOf(b []byte) string {
	f, err := macho.NewFile(bytes.NewReader(b))
	if err != nil {
		return err.Error()
	}
	return f.Cpu.String()
}

func peOf(b []byte) string {
	f, err := pe.NewFile(bytes.NewReader(b))
	if err != nil {
		return err.Error()
	}
	return hex.EncodeToString([]byte{byte(f.Machine >> 8), byte(f.Machine)})
}

func sum(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// runForeign starts programs for arm64: they say their version, the daemon checks a configuration and serves.
func runForeign(t *testing.T, daemon, client []byte) {
	const qemu = "qemu-aarch64-static"
	if _, err := exec.LookPath(qemu); err != nil {
		t.Skip("needs the program " + qemu + " to start what was built for arm64")
	}
	dir := t.TempDir()
	opentapd, opentap := filepath.Join(dir, "opentapd"), filepath.Join(dir, "opentap")
	for path, b := range map[string][]byte{opentapd: daemon, opentap: client, filepath.Join(dir, "opentap.yaml"): []byte("name: far\n")} {
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for want, args := range map[string][]string{
		"opentapd 1.2.3\n": {opentapd, "--version"}, "1.2.3\n": {opentap, "version", "--client"},
		"the configuration is good\n": {opentapd, "--check-config", "--config", filepath.Join(dir, "opentap.yaml")},
	} {
		if got := output(t, qemu, args...); got != want {
			t.Errorf("%q says %q, want %q", args, got, want)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free, most likely still in a moment
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	l.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	cmd := exec.CommandContext(ctx, qemu, opentapd, "--config", filepath.Join(dir, "opentap.yaml"), "--data-dir", filepath.Join(dir, "data"), "--listen", addr)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	served := false
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline) && !served; time.Sleep(100 * time.Millisecond) {
		if resp, err := http.Get("http://" + addr + "/openapi.json"); err == nil {
			served = resp.StatusCode == http.StatusOK
			resp.Body.Close()
		}
	}
	if served {
		call := exec.Command(qemu, opentap, "--url", "http://"+addr, "--token-file", filepath.Join(dir, "data", "admin.token"), "version", "-o", "json")
		if b, err := call.CombinedOutput(); err != nil || !strings.Contains(string(b), `"server": "1.2.3"`) {
			t.Errorf("the command line for arm64 asks the daemon for arm64: %v\n%s", err, b)
		}
	}
	cancel()
	err = cmd.Wait()
	if !served {
		t.Errorf("the daemon for arm64 does not serve: %v\n%s", err, &log)
	}
}
