#!/usr/bin/env bash
# Starts OpenTap: by systemd where it has the unit, else in the background. Returns when it runs, or says why not.
set -euo pipefail
home=/opt/opentap
conf=/etc/opentap/opentap.conf
pidfile=/run/opentapd.pid
log=$home/log/opentapd.log

[[ $EUID -eq 0 ]] || { echo "start_opentap: this needs root" >&2 && exit 1; }
if [[ -d /run/systemd/system && -e /etc/systemd/system/opentap.service ]]; then
  systemctl start opentap.service
  echo "OpenTap runs (systemctl status opentap, journalctl -u opentap)."
  exit
fi
pid=$(cat "$pidfile" 2>/dev/null || true)
if [[ $pid =~ ^[0-9]+$ && $(readlink "/proc/$pid/exe" 2>/dev/null) == "$home/bin/opentapd"* ]]; then
  echo "OpenTap runs already, as process $pid."
  exit
fi
install -d -m 0700 "$home/log"
touch "$log" && chmod 0600 "$log"
before=$(stat -c %s "$log")
setsid "$home/bin/opentapd" --config "$conf" </dev/null >>"$log" 2>&1 &
pid=$!
echo "$pid" >"$pidfile"
for ((i = 0; i < 300; i++)); do
  if tail -c "+$((before + 1))" "$log" | grep -q 'opentapd is running'; then
    echo "OpenTap runs as process $pid; its log is $log, its administrator's token in $home/log/admin.token."
    exit
  fi
  if [[ ! -d /proc/$pid ]]; then break; fi
  sleep 0.1
done
echo "start_opentap: OpenTap does not start:" >&2
tail -c "+$((before + 1))" "$log" | tail -n 20 >&2
if [[ ! -d /proc/$pid ]]; then rm -f "$pidfile"; fi
exit 1
