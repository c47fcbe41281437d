#!/usr/bin/env bash
# Stops OpenTap in good order. Captures go on at the next start, and say what they missed.
set -euo pipefail
home=/opt/opentap
pidfile=/run/opentapd.pid

[[ $EUID -eq 0 ]] || { echo "stop_opentap: this needs root" >&2 && exit 1; }
if [[ -d /run/systemd/system && -e /etc/systemd/system/opentap.service ]]; then
  systemctl stop opentap.service
  echo "OpenTap is stopped."
  exit
fi
pid=$(cat "$pidfile" 2>/dev/null || true)
runs() { [[ $pid =~ ^[0-9]+$ && $(readlink "/proc/$pid/exe" 2>/dev/null) == "$home/bin/opentapd"* ]]; }
if ! runs; then
  rm -f "$pidfile"
  echo "OpenTap does not run."
  exit
fi
kill -TERM "$pid"
for ((i = 0; i < 300; i++)); do
  if ! runs; then
    rm -f "$pidfile"
    echo "OpenTap is stopped."
    exit
  fi
  sleep 0.1
done
echo "stop_opentap: process $pid does not end" >&2
exit 1
