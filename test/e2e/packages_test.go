//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// packagesBoot makes a root of its own, an overlay over this machine's, and starts systemd in it, which runs the script and
// ends all. Where systemd does not start, bash runs the script. $1 has packages, $2 the script; $3 takes what is said.
const packagesBoot = `
set -u
mount --make-rprivate / || exit 9
top=$(mktemp -d)
mount -t tmpfs none "$top" && mkdir "$top"/{upper,work,root} &&
  mount -t overlay overlay -o "lowerdir=/,upperdir=$top/upper,workdir=$top/work" "$top/root" || exit 9
root=$top/root
mount -t proc proc "$root/proc" && mount -t sysfs sysfs "$root/sys" && mount --rbind /dev "$root/dev" &&
  mount -t tmpfs none "$root/run" && mount -t tmpfs none "$root/tmp" || exit 9
mount -t bpf bpf "$root/sys/fs/bpf"
mkdir "$root/dist" "$root/said" && mount --bind "$1" "$root/dist" && mount --bind "$3" "$root/said" && cp "$2" "$root/said/script" || exit 9
rm -rf "$root/etc/opentap" "$root/var/lib/opentap" "$root/opt/opentap"
ip link set lo up
if [ -x "$root/lib/systemd/systemd" ] && mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"; then
  cat >"$root/etc/systemd/system/opentap-test.service" <<TEXT
[Unit]
DefaultDependencies=no
[Service]
Type=oneshot
ExecStart=/bin/bash /said/script
ExecStopPost=/bin/systemctl --force --force poweroff
StandardOutput=file:/said/out
StandardError=file:/said/out
TEXT
  exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C chroot "$root" /lib/systemd/systemd --system --unit=opentap-test.service \
    --log-target=null --show-status=0 >/dev/null 2>&1
fi
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C chroot "$root" bash /said/script plain >"$3/out" 2>&1
`

// The packages, as an administrator uses them: dpkg and rpm, with a systemd that runs the units as they are.
func TestNetnsPackages(t *testing.T) {
	needRoot(t)
	needTool(t, "unshare", "dpkg", "setpriv", "ip", "man")
	dist, said := t.TempDir(), t.TempDir()
	for version, name := range map[string]string{"1.0.0": "1", "2.0.0": "2"} {
		out := t.TempDir()
		cmd := exec.Command("../../scripts/packages.sh", "--arch", "amd64", "--version", version, "--out", out)
		cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
		if b, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make packages: %v\n%s", err, b)
		}
		for _, ext := range []string{".deb", ".rpm"} {
			made, err := filepath.Glob(filepath.Join(out, "*"+ext))
			if err != nil || len(made) != 1 {
				t.Fatalf("made %v, %v", made, err)
			}
			if err := os.Rename(made[0], filepath.Join(dist, name+ext)); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := exec.LookPath("lintian"); err == nil { // Debian's own judge
		if b, err := exec.Command("lintian", "--allow-root", "--fail-on", "error", filepath.Join(dist, "2.deb")).CombinedOutput(); err != nil {
			t.Errorf("lintian: %v\n%s", err, b)
		}
	}
	// install.sh, to see that it minds the package.
	for from, to := range map[string]string{
		daemonBin: "bin/opentapd", clientBin: "bin/opentap", "../../packaging/install.sh": "install.sh",
		"../../packaging/start_opentap.sh": "start_opentap.sh", "../../packaging/stop_opentap.sh": "stop_opentap.sh", "../../packaging/uninstall.sh": "uninstall.sh",
	} {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dist, to)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("unshare", "-m", "-n", "-p", "-f", "-C", "-i", "-u", "--kill-child", "bash", "-c", packagesBoot, "packages", dist, "testdata/packages.sh", said)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 9 {
		t.Skip("needs CAP_SYS_ADMIN (mount namespace with overlay)")
	}
	text, readErr := os.ReadFile(filepath.Join(said, "out"))
	if readErr != nil {
		t.Fatalf("%v: %v\n%s", readErr, err, out)
	}
	if strings.Contains(string(text), "bad:") || !strings.Contains(string(text), "the end\n") {
		log, _ := os.ReadFile(filepath.Join(said, "log"))
		t.Errorf("%v\n%s%s\nthe services said:\n%s", err, out, text, log)
	}
}
