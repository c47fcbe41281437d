#!/usr/bin/env bash
# Starts OpenTap here, shows what it can do in ten seconds, and stays until Ctrl-C. Called by make run after make build.
#
#   OPENTAP_DATA     where state and captures are kept   (default ./opentap-data)
#   OPENTAP_LISTEN   address and port of the daemon      (default 127.0.0.1:2020)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

data=${OPENTAP_DATA:-./opentap-data}
listen=${OPENTAP_LISTEN:-127.0.0.1:2020}
url=http://$listen
daemon=./bin/opentapd
cli=./bin/opentap

die() {
  printf 'run: %s\n' "$@" >&2
  exit 1
}

[[ -x $daemon && -x $cli ]] || die "there is no $daemon: run make build first"
host=${listen%:*} port=${listen##*:}
if (exec 3<>"/dev/tcp/$host/$port") 2>/dev/null; then
  who=$(ss -Hltnp "sport = :$port" 2>/dev/null | grep -o 'users:.*' | head -n 1 || true)
  die "port $port at $host is in use${who:+ by $who}." \
    "Stop that program, or choose another port: OPENTAP_LISTEN=127.0.0.1:2021 make run"
fi

# --- rights -----------------------------------------------------------------------------------------------------------
as=()
if [[ $EUID -ne 0 ]] && ! { command -v getcap >/dev/null && [[ $(getcap "$daemon") == *cap_net_raw* ]]; }; then
  cat <<TEXT
The daemon reads raw packets, which Linux allows to root only. So sudo is asked for the daemon alone; the command line
runs as you. To do without sudo, give the daemon the rights it needs, once after each build:

  sudo setcap cap_net_raw,cap_net_admin,cap_bpf+ep $daemon

TEXT
  command -v sudo >/dev/null || die "there is no sudo here: run make run as root, or use setcap as above"
  sudo -v || die "without those rights there are no packets to see"
  as=(sudo -n)
fi

# --- start ------------------------------------------------------------------------------------------------------------
# shellcheck disable=SC2174 # the directory itself is meant
mkdir -p -m 700 "$data" # for its owner alone; one that is there stays as it is
work=$(mktemp -d)
log=$work/opentapd.log
: >"$log"
mkfifo "$work/leash"
# The daemon hangs on a leash: a pipe that this script holds. When the script ends, however it ends, the pipe closes and
# whoever holds the daemon's rights tells it to stop; so stopping needs no password.
# shellcheck disable=SC2016 # the inner shell expands
"${as[@]}" sh -c '
  trap "" INT
  exec 3<&0
  "$@" </dev/null 3<&- &
  pid=$!
  { cat <&3 >/dev/null; kill -TERM "$pid" 2>/dev/null; } &
  leash=$!
  exec 3<&-
  wait "$pid"
  status=$?
  kill "$leash" 2>/dev/null
  exit "$status"
' opentapd "$daemon" --listen "$listen" --data-dir "$data" <"$work/leash" >"$log" 2>&1 &
holder=$!
exec 4>"$work/leash"

stopping=
finish() {
  local status=$?
  trap '' INT TERM HUP
  exec 4>&-
  [[ -z ${follow:-} ]] || kill "$follow" 2>/dev/null || true
  if [[ -z $stopping ]] && kill -0 "$holder" 2>/dev/null; then echo "stopping the daemon …"; fi
  wait "$holder" 2>/dev/null || true
  rm -rf "$work"
  exit "$status"
}
trap finish EXIT
trap 'exit 0' INT TERM HUP

for ((i = 0; ; i++)); do
  if curl -fsS -o /dev/null --max-time 2 "$url/readyz" 2>/dev/null; then break; fi
  if ! [[ -d /proc/$holder ]]; then
    stopping=yes
    tail -n 20 "$log" >&2
    die "the daemon ended; above is what it said last"
  fi
  if ((i >= 150)); then
    tail -n 20 "$log" >&2
    die "the daemon does not answer at $url/readyz after 30 s; above is what it said last"
  fi
  sleep 0.2
done
echo "OpenTap runs at $url, data in $data"

# --- the token --------------------------------------------------------------------------------------------------------
token_file=
for ((i = 0; i < 25; i++)); do # it is made at the first start
  token_file=$("${as[@]}" find "$data" -maxdepth 3 -type f \( -name 'admin.token' -o -name 'admin-token' \) -print -quit 2>/dev/null || true)
  [[ -z $token_file ]] || break
  sleep 0.2
done
if [[ -n $token_file ]]; then
  OPENTAP_TOKEN=$("${as[@]}" cat "$token_file")
  export OPENTAP_TOKEN
fi
export OPENTAP_URL=$url

# --- ten seconds of packets and flows ---------------------------------------------------------------------------------
echo
"$cli" points || true
echo
echo "Capturing packets, flows and counters of the default point for ten seconds …"
"$cli" capture netflow --duration 10s -w "$work/flows.csv" >"$work/flows.log" 2>&1 4>&- & # nobody else may hold the leash
flows=$!
"$cli" capture ethernet --duration 10s -w "$work/counters.csv" >"$work/counters.log" 2>&1 4>&- &
counters=$!
got_packets=yes
"$cli" capture pcap --duration 10s -w "$work/packets.pcapng" 4>&- || got_packets=
got_flows=yes
wait "$flows" || got_flows=
got_counters=yes
wait "$counters" || got_counters=
if [[ -n $got_packets && -s $work/packets.pcapng ]]; then
  cp "$work/packets.pcapng" ./opentap-demo.pcapng
  line="  packets  $(stat -c %s ./opentap-demo.pcapng) octets of pcapng in opentap-demo.pcapng"
  if command -v capinfos >/dev/null; then line+=", $(capinfos -Mcr ./opentap-demo.pcapng 2>/dev/null | awk -F '= *|: *' '/Number of packets/ { print $2; exit }') packets"; fi
  echo "$line"
else
  echo "  packets  none: see above"
fi
if [[ -n $got_flows && -s $work/flows.csv ]]; then
  cp "$work/flows.csv" ./opentap-demo.csv
  echo "  flows    $(($(wc -l <./opentap-demo.csv) - 1)) lines in opentap-demo.csv"
else
  echo "  flows    none:"
  sed 's/^/    /' "$work/flows.log"
fi
if [[ -n $got_counters && -s $work/counters.csv ]]; then
  cp "$work/counters.csv" ./opentap-demo-counters.csv
  echo "  counters $(($(wc -l <./opentap-demo-counters.csv) - 1)) lines in opentap-demo-counters.csv"
else
  echo "  counters none:"
  sed 's/^/    /' "$work/counters.log"
fi
if [[ -s opentap-demo.csv && $(wc -l <./opentap-demo.csv) -le 1 ]]; then
  echo
  echo "The interface was quiet. So loopback for five seconds, where the daemon is spoken with right now …"
  if "$cli" capture pcap --point lo --duration 5s -w "$work/lo.pcapng" 4>&-; then
    cp "$work/lo.pcapng" ./opentap-demo.pcapng
    echo "  packets  $(stat -c %s ./opentap-demo.pcapng) octets of pcapng in opentap-demo.pcapng; who talks with whom in it: $cli meter opentap-demo.pcapng"
  fi
fi

# A link with a code that works once. Whoever reads this terminal could read the token's file as well.
if [[ -n ${OPENTAP_TOKEN:-} ]] && link=$("$cli" dashboard 2>/dev/null); then
  printf '\nThe dashboard, signed in (the link works once, within ten minutes; %s dashboard makes another):\n\n  %s\n' "$cli" "$link"
fi

cat <<TEXT

The administrator's token is in ${token_file:-$data}${as:+ (readable by root)}. Try, in another terminal:

  export OPENTAP_URL=$url OPENTAP_TOKEN=\$(${as:+sudo }cat '${token_file:-$data/admin.token}')
  $cli points                                                 what can be observed here
  $cli capture pcap --duration 30s -f 'port 53' -w dns.pcapng   packets that a filter picks
  $cli capture netflow --duration 60s -w flows.csv                who talks with whom

Ctrl-C stops the daemon. Its log follows.
TEXT
tail -n +1 -f --pid="$holder" "$log" 4>&- &
follow=$!
wait "$holder" || true
stopping=yes
kill "$follow" 2>/dev/null || true
die "the daemon ended by itself"
