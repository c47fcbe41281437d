//go:build linux

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// installScript runs in a mount namespace of its own, where /opt, /etc/opentap and /run are empty. $1 is packaging, $2 where
// the programs are. Every line that it prints with "bad:" is a complaint.
const installScript = `
set -u
packaging=$1 bin=$2
mount --make-rprivate / || exit 9
for d in /opt /run; do mount -t tmpfs none $d || exit 9; done
mkdir -p /opt/upper /opt/work && mount -t overlay overlay -o lowerdir=/etc,upperdir=/opt/upper,workdir=/opt/work /etc 2>/dev/null ||
  { [ -d /etc/opentap ] && exit 9; mkdir /opt/etc && cp -a /etc/. /opt/etc && mount --bind /opt/etc /etc || exit 9; }
rm -rf /etc/opentap
out=$(mktemp)
# The address of the namespace is what old clients of another host would use.
bad() { echo "bad: $*"; sed 's/^/  /' "$out"; }
ok() { "$@" >"$out" 2>&1 || bad "failed: $*"; }
not() { if "$@" >"$out" 2>&1; then bad "succeeded: $*"; fi; }
says() { grep -q -e "$1" "$out" || bad "does not say $1"; }
cap() { OPENTAP_DATA=/opt/opentap/log /opt/opentap/bin/opentap "$@"; }

not $packaging/install.sh --unattended --from $bin --retention soon
says '\[6:12\] retention'
not $packaging/install.sh --unattended --from $bin --address 10.1.1.3:80
says 'insecure: yes'
not $packaging/install.sh --unattended --from $bin --colour red
not $packaging/install.sh --unattended --from /nowhere
[ -e /opt/opentap ] || [ -e /etc/opentap ] && bad "a refused installation left something"

ok $packaging/install.sh --unattended --from $bin --name virgo --retention=90 --alias lo=inside --default-point inside
grep -qx 'alias: lo inside' /etc/opentap/opentap.conf || bad "no alias in the configuration"
cp /run/opentapd.pid /opt/pid
cp /etc/opentap/opentap.conf /opt/conf1
ok /opt/opentap/bin/start_opentap.sh
says 'already'
[ "$(stat -c %a /opt/opentap/log)" = 700 ] || bad "data can be read by all"
ok cap points
says inside
ok cap capture ethernet --duration 1s --period 100ms --id kept -w /opt/counters.csv
[ "$(wc -l </opt/counters.csv)" -gt 5 ] || bad "few counters"

# Again: programs are replaced, the rest stays, and it runs.
ok $packaging/install.sh --unattended --from $bin --name other
says 'is kept'
grep -qx 'name: virgo' /etc/opentap/opentap.conf || bad "the configuration was replaced"
[ "$(cat /run/opentapd.pid)" != "$(cat /opt/pid)" ] || bad "it was not started anew"
ok cap show kept
cmp -s /etc/opentap/opentap.conf /opt/conf1 || bad "the configuration was changed"
ok /opt/opentap/bin/opentapd convert-config
says 'retention:'

ok /opt/opentap/bin/stop_opentap.sh
[ -e /run/opentapd.pid ] && bad "a pid file is left"
ok /opt/opentap/bin/stop_opentap.sh
says 'does not run'
echo 'colour: red' >>/etc/opentap/opentap.conf
not /opt/opentap/bin/start_opentap.sh
says 'unknown key'
sed -i '/colour/d' /etc/opentap/opentap.conf
ok /opt/opentap/bin/start_opentap.sh

echo no | not /opt/opentap/uninstall.sh
ok cap points
echo yes | ok /opt/opentap/uninstall.sh
says 'Kept'
[ -e /opt/opentap/bin ] && bad "programs are left"
[ -e /run/opentapd.pid ] && bad "it still runs"
[ -s /opt/opentap/log/admin.token ] && [ -s /etc/opentap/opentap.conf ] || bad "data or configuration is gone"

# The interview: name, retention, address, plain HTTP, an alias per interface, who comes in without a token.
cp /etc/opentap/opentap.conf /opt/before
printf 'leo\n30\n0.0.0.0:8080\nhttp\nwan\n\n127.0.0.1\n' | ok $packaging/install.sh --from $bin --reconfigure --no-start
says 'Alias of interface'
for line in 'name: leo' 'retention: 30' 'websrv-addr: 0.0.0.0:8080' 'insecure: yes' 'alias: wan0 wan' 'anonymous: analyst 127.0.0.1'; do
  grep -qx "$line" /etc/opentap/opentap.conf || bad "the configuration lacks $line"
done
cmp -s /opt/before /etc/opentap/opentap.conf.old || bad "the old configuration is not kept"
ok /opt/opentap/bin/start_opentap.sh
printf 'GET /capabilities HTTP/1.0\r\nHost: 127.0.0.1:8080\r\n\r\n' >/opt/request
exec 3<>/dev/tcp/127.0.0.1/8080 && cat /opt/request >&3 && timeout 10 cat <&3 >"$out"; exec 3>&-
says '"retention":"30"'
printf 'leo\n' | not $packaging/install.sh --from $bin --reconfigure
says 'the answers ended'
ok $packaging/uninstall.sh --purge --yes

# A file of the first OpenTap is taken as it is, but for the decision that it could not make.
mkdir /etc/opentap
printf '### OpenTap ###\nname: virgo\nretention: 60\nwebsrv-addr: 0.0.0.0:80\nlisten-interface: wan0' >/etc/opentap/opentap.conf
not $packaging/install.sh --unattended --from $bin
says '/etc/opentap/opentap.conf: \[4:14\]'
[ -e /opt/opentap ] && bad "a refused installation left something"
echo http | ok $packaging/install.sh --from $bin --no-start
says 'Added to it: insecure: yes;data-dir: /opt/opentap/log'
grep -qx 'listen-interface: wan0' /etc/opentap/opentap.conf || bad "the old file was changed"

# Where systemd runs it is asked.
mkdir -p /run/systemd/system /opt/stub
printf '#!/bin/sh\necho "$@" >>/opt/systemctl\n' >/opt/stub/systemctl && chmod +x /opt/stub/systemctl
PATH=/opt/stub:$PATH
ok $packaging/install.sh --unattended --from $bin
ok /opt/opentap/bin/stop_opentap.sh
grep -q 'ExecStart=/opt/opentap/bin/opentapd --config /etc/opentap/opentap.conf' /etc/systemd/system/opentap.service || bad "no unit"
ok $packaging/uninstall.sh --purge --yes
[ "$(paste -sd , /opt/systemctl)" = "daemon-reload,enable --quiet opentap.service,start opentap.service,stop opentap.service,stop opentap.service,disable --quiet opentap.service,daemon-reload" ] ||
  { cp /opt/systemctl "$out"; bad "systemd was asked otherwise"; }
[ -e /etc/systemd/system/opentap.service ] && bad "the unit is left"
[ -e /opt/opentap ] || [ -e /etc/opentap ] && bad "purged, and something is left: $(ls -R /opt/opentap /etc/opentap)"
echo the end
`

// An installation as the first OpenTap had it, from the interview to its removal, in a root of its own.
func TestNetnsClassicInstallation(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needTool(t, "unshare", "setsid", "ip")
	packaging, err := filepath.Abs("../../packaging")
	if err != nil {
		t.Fatal(err)
	}
	// Everything that the script starts ends with it: the processes have an init of their own.
	cmd := exec.Command("unshare", "-m", "-n", "-p", "-f", "--mount-proc", "--kill-child", "bash", "-c",
		"ip link set lo up; ip link add wan0 type veth peer name wan1\nmount -t sysfs none /sys\n"+installScript, "install", packaging, filepath.Dir(daemonBin))
	cmd.Env = append(os.Environ(), "LC_ALL=C", "OPENTAP_TOKEN=", "OPENTAP_URL=")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() == 9 {
		t.Skip("needs CAP_SYS_ADMIN (mount namespace with overlay)")
	}
	if err != nil || strings.Contains(string(out), "bad:") || !strings.HasSuffix(string(out), "the end\n") {
		t.Errorf("%v\n%s", err, out)
	}
}
