# Runs inside a root of its own, started by systemd, or by bash where that cannot be (then $1 is "plain"): installs, uses,
# upgrades, removes and purges the packages. Every line with "bad:" is a complaint. /dist has the packages, /dist/install.sh
# and its programs; /said takes the log of the services.
set -u
plain=${1:-}
out=$(mktemp)
bad() { echo "bad: $*"; sed 's/^/  /' "$out"; }
ok() { "$@" >"$out" 2>&1 || bad "failed: $*"; }
not() { if "$@" >"$out" 2>&1; then bad "succeeded: $*"; fi; }
says() { grep -q -e "$1" "$out" || bad "does not say $1"; }
within() { # seconds command…: until it succeeds
  local end=$((SECONDS + $1))
  shift
  until "$@" >"$out" 2>&1; do
    [ $SECONDS -lt $end ] || { bad "still fails: $*"; return 1; }
    sleep 0.1
  done
}
unit() { sed -n "s/^$2=//p" "/usr/lib/systemd/system/$1.service"; }
pid=
# What systemd would run, by other means where it does not run: the unit's own command line, user and capabilities.
start() {
  if [ -z "$plain" ]; then ok systemctl start "$1"; pid=$(systemctl show -P MainPID "$1"); return; fi
  local caps
  caps=$(unit "$1" AmbientCapabilities | sed 's/CAP_/+/g; s/ /,/g' | tr 'A-Z' 'a-z')
  setpriv --reuid "$(unit "$1" User)" --regid "$(unit "$1" Group)" --clear-groups --no-new-privs --bounding-set "-all,$caps" \
    --inh-caps "-all,$caps" --ambient-caps "-all,$caps" $(unit "$1" ExecStart) >/dev/null 2>>/said/log &
  pid=$!
}
stop() { if [ -z "$plain" ]; then ok systemctl stop "$1"; else kill "$pid" && wait "$pid"; fi; }
runs() { kill -0 "$pid" 2>/dev/null && opentap points; }
has_rights() { # pid capability…: these and no others
  local want
  want=$(printf '%s' "$2")
  for set in CapPrm CapEff CapBnd CapAmb; do
    [ "$(sed -n "s/^$set:[[:space:]]*//p" "/proc/$1/status")" = "$want" ] || bad "$set of process $1 is not $want: $(grep ^Cap "/proc/$1/status")"
  done
  grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$1/status" || bad "process $1 may gain privileges"
  [ "$(stat -c %U "/proc/$1")" = opentap ] || bad "process $1 is of $(stat -c %U "/proc/$1")"
}
capture() { # id: pings while it captures
  ok opentap capture ethernet --point lo --duration 300ms --period 100ms --id "$1" -w "/tmp/$1.csv"
  [ "$(wc -l <"/tmp/$1.csv")" -gt 2 ] || bad "capture $1 has no counters"
  opentap capture pcap --point lo --filter 'tcp port 2020' --packets 20 --duration 20s --id "$1-packets" -w "/tmp/$1.pcap" >"$out" 2>&1 &
  local job=$!
  while kill -0 $job 2>/dev/null; do opentap points >/dev/null 2>&1; done
  wait $job || bad "no packets were captured"
  says '20 captured'
}

rm -f /usr/sbin/policy-rc.d # of machines that build
if [ -z "$plain" ]; then
  mkdir -p /etc/systemd/system/service.d
  printf '[Service]\nStandardError=append:/said/log\n' >/etc/systemd/system/service.d/said.conf
  systemctl daemon-reload
fi

# --- not beside the other way of installing, and the other way round ---
mkdir -p /opt/opentap/bin && cp /dist/bin/opentapd /opt/opentap/bin/
not dpkg -i /dist/1.deb
says '/opt/opentap/uninstall.sh'
ok dpkg -P opentap
rm -rf /opt/opentap

# --- install ---
ok dpkg -i /dist/1.deb
[ "$(opentap version --client)" = 1.0.0 ] || bad "it is not the version that was installed: $(opentap version --client)"
[ "$(stat -c '%U %G %a' /var/lib/opentap)" = 'opentap opentap 700' ] || bad "/var/lib/opentap: $(stat -c '%U %G %a' /var/lib/opentap)"
ok opentapd --check-config --config /etc/opentap/opentap.yaml
ok systemd-analyze verify opentap.service opentap-controller.service opentap-agent.service
[ -s "$out" ] && bad "systemd complains of a unit"
for page in opentapd opentap opentap-capture opentap.yaml; do
  file=$(find /usr/share/man -name "$page.[158].gz")
  man --warnings -E UTF-8 -l -Tutf8 -Z "$file" >/tmp/page 2>"$out" && grep -q opentap /tmp/page || bad "there is no page $page"
  [ -s "$out" ] && bad "the page $page is not well made"
done
bash -c '. /usr/share/bash-completion/completions/opentap; complete -p opentap' >"$out" 2>&1 || bad "no completion in bash"
if [ -z "$plain" ]; then # the package starts it
  ok systemctl is-enabled opentap
  ok systemctl is-active opentap
  pid=$(systemctl show -P MainPID opentap)
else
  start opentap
fi
within 20 runs
has_rights "$pid" 000000c000003400
[ -n "$plain" ] || grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status" || bad "no filter of system calls"
ok opentap doctor
grep -E '^(bad|warn) +(capabilities|ebpf|packet_ring|af_xdp|private|leftovers)' "$out" && bad "the service lacks something"
capture first
if [ -e /sys/fs/bpf/opentap ] && [ -z "$plain" ]; then
  ok mkdir "/proc/$pid/root/sys/fs/bpf/pinned"
  [ -d /sys/fs/bpf/opentap/pinned ] || bad "what it pins is not below /sys/fs/bpf/opentap"
fi
[ "$(/usr/libexec/opentap/opentapd-phidget </dev/null 2>&1 | wc -l)" = 1 ] || bad "the helper for Phidgets does not start"
# Wireshark finds its points without another step.
if command -v tshark >/dev/null; then
  ok tshark -D
  says 'opentap:.*lo'
fi
not /dist/install.sh --unattended --from /dist/bin
says 'the package opentap is installed'

# --- upgrade: configuration and data stay, and what ran runs ---
printf 'name: mine\nsensors:\n  phidgets:\n    inputs: [{serial: 1, port: 0, name: rack}]\n' >>/etc/opentap/opentap.yaml
before=$pid
[ -z "$plain" ] || stop opentap
ok dpkg -i /dist/2.deb
[ "$(opentap version --client)" = 2.0.0 ] || bad "it was not upgraded"
[ -z "$plain" ] && pid=$(systemctl show -P MainPID opentap) || start opentap
[ "$pid" != "$before" ] || bad "the old version still runs"
within 20 runs
grep -q '^name: mine$' /etc/opentap/opentap.yaml || bad "the configuration was replaced"
# The helper for Phidgets starts within the service's bounds, and says what it lacks.
lacks_library() { opentap sensors scan | grep -q 'libphidget22 cannot be loaded'; }
within 20 lacks_library
ok opentap show first
ok opentap retrieve first-packets -w /tmp/again.pcap
cmp -s /tmp/first.pcap /tmp/again.pcap || bad "the capture is not what it was"
capture second

# --- a service that cannot serve does not count as started, and one that serves does at once ---
if [ -z "$plain" ]; then
  cp /etc/opentap/opentap.yaml /tmp/opentap.yaml
  stop opentap
  printf 'captures_dir: 1\n' >>/etc/opentap/opentap.yaml
  not systemctl start opentap
  ok systemctl stop opentap
  ok systemctl reset-failed opentap
  cp /tmp/opentap.yaml /etc/opentap/opentap.yaml
  start opentap
  ok opentap points
fi

# --- the roles on their own: the agent's unit as it is, for a controller whose unit was told to live beside it ---
if [ -z "$plain" ]; then
  printf 'listen: 127.0.0.1:2030\nfleet:\n  listen: 127.0.0.1:2031\n  advertise: 127.0.0.1:2031\n' >/etc/opentap/controller.yaml
  sed -e '/^Conflicts=/d' -e 's|^StateDirectory=.*|StateDirectory=controller|' -e '/^ExecStart=/s|$| --config /etc/opentap/controller.yaml --data-dir /var/lib/controller|' \
    /usr/lib/systemd/system/opentap-controller.service >/etc/systemd/system/opentap-test-controller.service
  systemctl daemon-reload
  start opentap-test-controller
  controller() { opentap --url http://127.0.0.1:2030 --token-file /var/lib/controller/admin.token "$@"; }
  within 20 controller points
  has_rights "$pid" 0000000000000400
  controller node join-token >/etc/opentap/join-token 2>"$out" || bad "no token to join with"
  chown opentap /etc/opentap/join-token
  cp /etc/opentap/opentap.yaml /tmp/opentap.yaml
  printf 'fleet:\n  controllers: ["127.0.0.1:2031"]\n  join_token_file: /etc/opentap/join-token\n' >>/etc/opentap/opentap.yaml
  start opentap-agent
  not systemctl is-active opentap
  has_points() { controller points | grep -q '^lo '; }
  within 20 has_points
  has_rights "$pid" 000000c000003000
  ok controller capture ethernet --point lo --duration 300ms --period 100ms -w /tmp/far.csv
  [ "$(wc -l </tmp/far.csv)" -gt 2 ] || bad "an agent of its own captures nothing"
  ok systemctl stop opentap-test-controller
  cp /tmp/opentap.yaml /etc/opentap/opentap.yaml
  rm -r /etc/opentap/join-token /etc/opentap/controller.yaml /var/lib/controller
  start opentap
  not systemctl is-active opentap-agent
  within 20 runs
fi

# --- remove: data and configuration stay; purge: nothing does ---
[ -z "$plain" ] || stop opentap
ok dpkg -r opentap
kill -0 "$pid" 2>/dev/null && bad "removed, and it runs"
[ -e /usr/bin/opentap ] || [ -e /usr/lib/systemd/system/opentap.service ] && bad "removed, and programs or units are left"
[ -e /sys/fs/bpf/opentap ] && bad "removed, and pins are left"
[ -s /etc/opentap/opentap.yaml ] && [ -d /var/lib/opentap/captures ] || bad "removed, and configuration or data is gone"
ok dpkg -P opentap
getent passwd opentap >"$out" && bad "purged, and the user is left"
getent group opentap >"$out" && bad "purged, and the group is left"
left() {
  find /etc /usr /var /opt /lib /run /sys/fs/bpf -xdev -name '*opentap*' -not -path '*/go-build*' -not -path '/var/cache/man/*' -not -path '/var/tmp/*' -not -name '*opentap-test*' 2>/dev/null
}
left >"$out"
[ -s "$out" ] && bad "purged, and something is left"

# --- the configuration of the first OpenTap is read where there is no other ---
mkdir -p /etc/opentap
printf 'name: virgo\nretention: 60\nwebsrv-addr: 127.0.0.1:2021\n' >/etc/opentap/opentap.conf
ok dpkg -i /dist/2.deb
[ -e /etc/opentap/opentap.yaml ] && bad "a new configuration hides the old one"
[ -z "$plain" ] || start opentap
export OPENTAP_URL=http://127.0.0.1:2021
within 20 opentap points
unset OPENTAP_URL
[ -z "$plain" ] || stop opentap
ok dpkg -P opentap
[ -s /etc/opentap/opentap.conf ] || bad "purged what is not the package's"
rm -r /etc/opentap

# --- rpm ---
if command -v rpm >/dev/null; then
  mkdir /tmp/rpmdb
  rpms() { ok rpm --dbpath /tmp/rpmdb --nodeps --force-debian "$@"; }
  mkdir -p /opt/opentap/bin && cp /dist/bin/opentapd /opt/opentap/bin/
  not rpm --dbpath /tmp/rpmdb --nodeps --force-debian -i /dist/1.rpm
  says '/opt/opentap/uninstall.sh'
  rm -rf /opt/opentap
  rpms -i /dist/1.rpm
  grep -qi 'error\|fail\|cannot\|not found' "$out" && bad "the scripts of the rpm complain"
  start opentap
  within 20 runs
  capture first
  echo 'name: mine' >>/etc/opentap/opentap.yaml
  [ -z "$plain" ] || stop opentap
  rpms -U /dist/2.rpm
  [ "$(opentap version --client)" = 2.0.0 ] || bad "the rpm was not upgraded"
  grep -q '^name: mine$' /etc/opentap/opentap.yaml || bad "the rpm replaced the configuration"
  [ -z "$plain" ] && pid=$(systemctl show -P MainPID opentap) || start opentap
  within 20 runs
  ok opentap show first
  [ -z "$plain" ] || stop opentap
  rpms -e opentap
  kill -0 "$pid" 2>/dev/null && bad "erased, and it runs"
  [ -e /usr/bin/opentapd ] && bad "erased, and programs are left"
  [ -d /var/lib/opentap/captures ] || bad "erased, and data is gone"
fi
echo the end
