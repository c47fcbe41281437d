#!/usr/bin/env bash
# Removes OpenTap from /opt/opentap. Configuration and data stay, unless --purge is given.
set -euo pipefail
home=/opt/opentap
unit=/etc/systemd/system/opentap.service

purge='' yes=''
for option in "$@"; do
  case $option in
    --purge) purge=yes ;;
    --yes | --unattended) yes=yes ;;
    -h | --help)
      printf 'Usage: uninstall.sh [--purge] [--yes]\n\n  --purge   remove configuration and data as well\n  --yes     do not ask\n'
      exit
      ;;
    *) echo "uninstall: there is no option $option" >&2 && exit 1 ;;
  esac
done
[[ $EUID -eq 0 ]] || { echo "uninstall: this needs root: sudo $0" >&2 && exit 1; }
if [[ -z $yes ]]; then
  if [[ -n $purge ]]; then
    printf 'Remove OpenTap with its configuration and ALL captured data in %s/log? [yes/no]: ' "$home"
  else
    printf 'Remove OpenTap? Configuration and data are kept. [yes/no]: '
  fi
  IFS= read -r answer || answer=no
  [[ $answer == yes ]] || { echo "Nothing was removed." && exit 1; }
fi
if [[ -x $home/bin/stop_opentap.sh ]]; then "$home/bin/stop_opentap.sh"; fi
if [[ -e $unit ]] && grep -q "$home/bin/opentapd" "$unit"; then
  if [[ -d /run/systemd/system ]]; then systemctl disable --quiet opentap.service || true; fi
  rm -f "$unit"
  if [[ -d /run/systemd/system ]]; then systemctl daemon-reload; fi
fi
rm -f "$home/bin/opentapd" "$home/bin/opentapd-phidget" "$home/bin/opentap" "$home/bin/start_opentap.sh" "$home/bin/stop_opentap.sh" "$home/uninstall.sh"
if [[ -n $purge ]]; then
  rm -rf "$home/log"
  rm -f /etc/opentap/opentap.conf /etc/opentap/opentap.conf.old /etc/opentap/opentapSensorConf.csv
fi
# What others put there stays.
rmdir "$home/bin" "$home" /etc/opentap 2>/dev/null || true
if [[ -n $purge ]]; then
  echo "OpenTap is removed, with its configuration and data."
else
  echo "OpenTap is removed. Kept: /etc/opentap, and the data in $home/log (uninstall.sh --purge removes them)."
fi
