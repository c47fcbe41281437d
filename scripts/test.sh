#!/usr/bin/env bash
# Runs all tests: installs what they need, checks format and vet, runs every package with the race detector, and says at
# the end what was skipped and why. The last line is "N passed, N failed, N skipped".
#
#   OPENTAP_TEST_INSTALL=no   install nothing
#   OPENTAP_TEST_RACE=no      without the race detector (quicker, and no C compiler needed)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf 'test: %s\n' "$*"; }

root=()
can_root=yes
if [[ $EUID -ne 0 ]]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    root=(sudo -n)
  else
    can_root=no
  fi
fi

# --- what the tests need: program or file → Debian package ------------------------------------------------------------
needs=(
  tcpdump:tcpdump tshark:tshark capinfos:wireshark-common nfdump:nfdump softflowd:softflowd ip:iproute2 ethtool:ethtool
  ovs-vswitchd:openvswitch-switch jq:jq curl:curl ssh:openssh-client python3:python3 openstack:python3-openstackclient protoc:protobuf-compiler gcc:gcc clang:clang llvm-strip:llvm node:nodejs npm:npm chromium:chromium
  rpm:rpm man:man-db setpriv:util-linux systemd-analyze:systemd qemu-aarch64-static:qemu-user-static
  mosquitto:mosquitto snmpd:snmpd mypy:mypy glewlwyd:glewlwyd sqlite3:sqlite3
  pmacctd:pmacct nft:nftables openssl:openssl zstd:zstd
)
missing() { # prints the packages that are missing
  local need
  for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null || echo "${need#*:}"
  done
  [[ -e /usr/include/stdlib.h ]] || echo libc6-dev
  compgen -G '/usr/lib/python3*/*-packages/pandas' >/dev/null || compgen -G '/usr/local/lib/python3*/*-packages/pandas' >/dev/null || echo python3-pandas
  [[ -d /usr/lib/python3/dist-packages/neutron_taas ]] || echo python3-neutron-taas
}
export PATH="$PATH:/usr/sbin:/sbin"
mapfile -t packages < <(missing)
if [[ ${#packages[@]} -gt 0 ]]; then
  if [[ ${OPENTAP_TEST_INSTALL:-yes} == no ]]; then
    say "not installed, as asked: ${packages[*]}"
  elif ! command -v apt-get >/dev/null; then
    say "this system has no apt-get; tests that need ${packages[*]} will skip"
  elif [[ $can_root == no ]]; then
    say "installing needs root; tests that need ${packages[*]} will skip"
  else
    say "installing ${packages[*]}"
    log=$(mktemp)
    apt=("${root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Acquire::Retries=1 -o Acquire::http::Timeout=15 -o DPkg::Lock::Timeout=120)
    echo 'wireshark-common wireshark-common/install-setuid boolean false' | "${root[@]}" debconf-set-selections 2>>"$log" || true
    timeout 180 "${apt[@]}" update >>"$log" 2>&1 || say "the package lists cannot be updated (offline?); trying with those there are"
    # One by one when all together fails: one unknown package must not cost the others.
    if ! timeout 600 "${apt[@]}" install -y --no-install-recommends "${packages[@]}" >>"$log" 2>&1; then
      for p in "${packages[@]}"; do
        timeout 300 "${apt[@]}" install -y --no-install-recommends "$p" >>"$log" 2>&1 || true
      done
    fi
    mapfile -t packages < <(missing)
    if [[ ${#packages[@]} -gt 0 ]]; then
      tail -n 3 "$log" | sed 's/^/test:   /'
      say "could not be installed, their tests will skip: ${packages[*]}"
    fi
    rm -f "$log"
  fi
fi

# --- the dashboard, which the daemon under test has -------------------------------------------------------------------
./scripts/web.sh --modules

# --- run --------------------------------------------------------------------------------------------------------------
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
CGO_ENABLED=0 go build -o "$work/testsum" ./scripts/testsum

race=()
if [[ ${OPENTAP_TEST_RACE:-yes} == no ]]; then
  say "without the race detector, as asked"
elif command -v gcc >/dev/null && [[ -e /usr/include/stdlib.h ]]; then
  race=(-race)
  export CGO_ENABLED=1
else
  say "no C compiler: without the race detector"
fi

# event action package test [output]: an event as go test -json has it.
json() { printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/\t/\\t/g' | awk '{ printf "%s\\n", $0 }'; }
event() {
  [[ -z ${4:-} ]] || printf '{"Action":"output","Package":"%s","Test":"%s","Output":"%s"}\n' "$2" "$3" "$(json "$4")"
  printf '{"Action":"%s","Package":"%s","Test":"%s"}\n' "$1" "$2" "$3"
}
check() { # name command…: passes when the command succeeds and says nothing
  local name=$1 out
  shift
  if out=$("$@" 2>&1) && [[ -z $out ]]; then event pass checks "$name"; else event fail checks "$name" "$out"; fi
}
unformatted() {
  find . \( -name '.?*' -o -name testdata -o -name node_modules -o -path ./opentap-data \) -prune -o -name '*.go' -print0 | xargs -0 gofmt -l
}
python_tests() {
  compgen -G 'python/test*/test_*.py' >/dev/null || compgen -G 'python/test_*.py' >/dev/null || return 0
  local out status=0 dir=python line python=/usr/bin/python3 # the system's own: python3-pandas belongs to that one
  [[ -x $python ]] || python=$(command -v python3 || true)
  if [[ -z $python ]]; then
    event skip python unittest "x.sh:1: needs python3"
    return
  fi
  compgen -G 'python/tests/test_*.py' >/dev/null && dir=python/tests
  compgen -G 'python/test/test_*.py' >/dev/null && dir=python/test
  out=$(cd python && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=src:. "$python" -m unittest discover -v -s "../$dir" 2>&1) || status=$?
  while IFS= read -r line; do
    case $line in
      test*\ ...\ ok) event pass python "${line%% *}" ;;
      test*\ ...\ skipped*) event skip python "${line%% *}" "x.py:1: ${line#*skipped }" ;;
    esac
  done <<<"$out"
  if [[ $status -eq 0 ]]; then event pass python unittest; else event fail python unittest "$out"; fi
}

dashboard_types() { # against the interface as it is described now
  [[ -d web/app/node_modules ]] || return 0
  (cd web/app && npm run -s check 2>&1 | grep -E '(Error|Warn):|^/' -A3) || true
}

run() {
  check gofmt unformatted
  if [[ -d web/app/node_modules ]]; then check "svelte-check" dashboard_types; else event skip checks svelte-check "x.sh:1: needs npm"; fi
  check "go vet" go vet ./...
  go test "${race[@]}" -count=1 -timeout 40m -json ./... || true
  if [[ $EUID -ne 0 && $can_root == yes ]]; then
    # The tests that make network namespaces once more, with the rights they need. A result replaces the skip of before.
    mapfile -t dirs < <(grep -rl --include='*_test.go' '^func TestNetns' . | xargs -r -n1 dirname | sort -u)
    [[ ${#dirs[@]} -eq 0 ]] ||
      go test "${race[@]}" -count=1 -timeout 40m -json -exec 'sudo -n -E --preserve-env=PATH' -run '^TestNetns' "${dirs[@]}" || true
  fi
  python_tests
}

[[ $can_root == yes ]] || say "not root, and sudo asks for a password: tests that need network namespaces will skip"
say "running; the first run compiles everything with the race detector, which takes minutes"
again=(-again 5)
[[ $EUID -eq 0 || $can_root == no ]] || again+=(-netns-exec 'sudo -n -E --preserve-env=PATH')
run | "$work/testsum" "${again[@]}" -- "${race[@]}"
