#!/usr/bin/env bash
# Installs OpenTap the way the first one was: to /opt/opentap, with /etc/opentap/opentap.conf and start and stop scripts.
# Run it as root after make build, or beside the programs of a release. Run again it replaces the programs, and keeps
# configuration and data. docs/howto/old-installation.md tells more.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
home=/opt/opentap
conf=/etc/opentap/opentap.conf
unit=/etc/systemd/system/opentap.service

say() { printf '%s\n' "$*"; }
die() {
  printf 'install: %s\n' "$@" >&2
  exit 1
}

usage() {
  cat <<'TEXT'
Usage: install.sh [--unattended] [options]

Without --unattended it asks for the device name, the retention, the web address, and an alias for every interface but lo.

  --unattended           ask nothing; take the options and the defaults
  --name NAME            name of this device (the host's name)
  --retention MINUTES    how long data is kept (60)
  --address ADDR:PORT    web address (127.0.0.1:2020)
  --alias IFACE=NAME     the name that clients use for an interface; may be repeated
  --default-point IFACE  where a capture is taken that names no point (the device of the default route)
  --insecure             beyond loopback: plain HTTP, which clients of the first OpenTap need
  --tls                  beyond loopback: HTTPS with a certificate made here
  --anonymous ROLE=RANGE let clients without a token in from these addresses; may be repeated
  --reconfigure          write the configuration anew; the old one is kept beside it
  --from DIR             where the programs opentapd and opentap are
  --no-start             do not start it
  --no-systemd           no systemd unit, even where systemd runs
TEXT
}

# --- what is wanted ---------------------------------------------------------------------------------------------------
unattended='' name='' retention='' address='' point='' transport='' reconfigure='' from='' start=yes systemd=yes
aliases=() anonymous=()
while [[ $# -gt 0 ]]; do
  option=$1
  shift
  if [[ $option == --*=* ]]; then
    set -- "${option#*=}" "$@"
    option=${option%%=*}
  fi
  case $option in
    --name | --retention | --address | --alias | --default-point | --anonymous | --from)
      [[ $# -gt 0 ]] || die "$option needs a value"
      value=$1
      shift
      ;;
  esac
  case $option in
    --unattended) unattended=yes ;;
    --name) name=$value ;;
    --retention) retention=$value ;;
    --address) address=$value ;;
    --alias) [[ $value == ?*=?* ]] || die "--alias: $value is not IFACE=NAME" && aliases+=("${value%%=*} ${value#*=}") ;;
    --default-point) point=$value ;;
    --insecure) transport='insecure: yes' ;;
    --tls) transport='tls: yes' ;;
    --anonymous) [[ $value == ?*=?* ]] || die "--anonymous: $value is not ROLE=RANGE" && anonymous+=("${value%%=*} ${value#*=}") ;;
    --reconfigure) reconfigure=yes ;;
    --from) from=$value ;;
    --no-start) start='' ;;
    --no-systemd) systemd='' ;;
    -h | --help) usage && exit ;;
    *) usage >&2 && die "there is no option $option" ;;
  esac
done

[[ $EUID -eq 0 ]] || die "this needs root: sudo $0"
for d in /lib /usr/lib; do
  [[ ! -e $d/systemd/system/opentap.service ]] || die "the package opentap is installed; remove it first, or configure that one"
done
if [[ -z $from ]]; then
  for d in "$here" "$here/bin" "$here/../bin"; do
    [[ -x $d/opentapd && -x $d/opentap ]] && from=$d && break
  done
fi
[[ -n $from && -x $from/opentapd && -x $from/opentap ]] || die "there are no programs opentapd and opentap in ${from:-$here/../bin}: run make build first, or say --from DIR"
[[ -n $systemd && -d /run/systemd/system ]] || systemd=

# --- the interview ----------------------------------------------------------------------------------------------------
ask() { # question default: the answer in $answer
  printf '%s [%s]: ' "$1" "$2"
  IFS= read -r answer || die "" "the answers ended; nothing was installed"
  answer=${answer:-$2}
}
is_loopback() { [[ $1 == 127.* || $1 == '[::1]:'* || $1 == localhost:* ]]; }
has() { # key…: whether the configuration has one of them
  local key
  for key in "$@"; do
    if grep -q "^[[:space:]]*${key}[[:space:]]*:" "$conf"; then return 0; fi
  done
  return 1
}
ask_transport() {
  say "Clients of the first OpenTap speak plain HTTP: tokens and packets then cross the network in the clear."
  ask "Serve plain HTTP or HTTPS (http/https)" https
  case $answer in
    http) transport='insecure: yes' ;;
    https) transport='tls: yes' ;;
    *) die "$answer is neither http nor https; nothing was installed" ;;
  esac
}
hostname=$(uname -n)
write=yes
if [[ -e $conf && -z $reconfigure ]]; then
  say "The configuration $conf is kept (--reconfigure writes it anew)."
  write=
  old_address=$(sed -n 's/^[[:space:]]*websrv-addr[[:space:]]*:[[:space:]]*//p' "$conf" | head -n 1)
  if [[ -z $unattended && -z $transport && -n $old_address ]] && ! is_loopback "$old_address" && ! has insecure tls tls-cert; then ask_transport; fi
elif [[ -z $unattended ]]; then
  [[ -n $name ]] || { ask "Name of this device" "${hostname:-opentap}" && name=$answer; }
  [[ -n $retention ]] || { ask "Retention of data, in minutes" 60 && retention=$answer; }
  [[ -n $address ]] || { ask "Address and port of the web service" 127.0.0.1:2020 && address=$answer; }
  if ! is_loopback "$address" && [[ -z $transport ]]; then ask_transport; fi
  if [[ ${#aliases[@]} -eq 0 ]]; then
    for path in /sys/class/net/*; do
      iface=${path##*/}
      [[ $iface == lo || ! -e $path/ifindex ]] && continue
      ask "Alias of interface $iface (none: as it is)" "$iface"
      [[ $answer == "$iface" ]] || aliases+=("$iface $answer")
    done
  fi
  if [[ ${#anonymous[@]} -eq 0 ]]; then
    say "Clients of the first OpenTap send no token. Where they are to be let in, name their addresses, such as 127.0.0.1 or"
    say "10.1.1.0/24: everybody there may then capture and read packets."
    ask "Addresses (none: a token is always needed)" none
    [[ $answer == none ]] || for range in $answer; do anonymous+=("analyst $range"); done
  fi
fi

# --- install ----------------------------------------------------------------------------------------------------------
new=$(mktemp -d)
trap 'rm -rf "$new"' EXIT
if [[ -z $write ]]; then # an old file may lack what this OpenTap has to know
  {
    cat "$conf"
    if [[ -n $(tail -c 1 "$conf") ]]; then echo; fi
    if [[ -n $transport ]] && ! has insecure tls tls-cert; then printf '%s\n' "$transport"; fi
    has data-dir || printf 'data-dir: %s/log\n' "$home"
  } >"$new/opentap.conf"
else
  {
    printf '%s\n' '##############################################' '#                  OpenTap                   #' \
      '##############################################' '# opentapd(8) reads this file; docs/howto/old-installation.md explains it.'
    printf 'name: %s\nretention: %s\nwebsrv-addr: %s\n' "${name:-${hostname:-opentap}}" "${retention:-60}" "${address:-127.0.0.1:2020}"
    [[ -z $transport ]] || printf '%s\n' "$transport"
    [[ -z $point ]] || printf 'default-network-observationpt: %s\n' "$point"
    for a in "${aliases[@]}"; do printf 'alias: %s\n' "$a"; done
    for a in "${anonymous[@]}"; do printf 'anonymous: %s\n' "$a"; done
    printf 'data-dir: %s/log\n' "$home"
  } >"$new/opentap.conf"
fi
if [[ -e /etc/opentap/opentapSensorConf.csv ]]; then cp /etc/opentap/opentapSensorConf.csv "$new/"; fi
"$from/opentapd" --check-config --config "$new/opentap.conf" >"$new/said" 2>&1 || die "this is no good configuration; nothing was installed:" "$(sed "s|$new|/etc/opentap|g" "$new/said")"
if [[ -x $home/bin/stop_opentap.sh ]]; then "$home/bin/stop_opentap.sh" >/dev/null || die "the running OpenTap does not stop"; fi
install -d -m 0755 "$home" "$home/bin" /etc/opentap
install -d -m 0700 "$home/log"
install -m 0755 "$from/opentapd" "$from/opentap" "$home/bin/"
if [[ -x $from/opentapd-phidget ]]; then install -m 0755 "$from/opentapd-phidget" "$home/bin/"; fi
install -m 0755 "$here/start_opentap.sh" "$here/stop_opentap.sh" "$home/bin/"
install -m 0755 "$here/uninstall.sh" "$home/"
if ! cmp -s "$new/opentap.conf" "$conf"; then
  if [[ -e $conf ]]; then
    cp -p "$conf" "$conf.old"
    [[ -n $write ]] || say "Added to it: $(grep -vxFf "$conf" "$new/opentap.conf" | paste -sd ';')"
  fi
  install -m 0644 "$new/opentap.conf" "$conf"
fi
if [[ -n $systemd ]]; then
  cat >"$unit" <<TEXT
[Unit]
Description=OpenTap: packets, flow records, counters and sensors of this host
After=network.target

[Service]
Type=notify
TimeoutStartSec=10min
ExecStart=$home/bin/opentapd --config $conf
Restart=on-failure
RestartSec=2
LimitMEMLOCK=infinity
CapabilityBoundingSet=CAP_NET_RAW CAP_NET_ADMIN CAP_NET_BIND_SERVICE CAP_BPF CAP_PERFMON CAP_SYS_RESOURCE
NoNewPrivileges=yes
ProtectSystem=strict
ReadWritePaths=-$home/log
StateDirectory=opentap
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
TEXT
  systemctl daemon-reload
  systemctl enable --quiet opentap.service
fi
say "OpenTap is installed in $home; its data will be in $home/log."
[[ -z $start ]] || "$home/bin/start_opentap.sh"
