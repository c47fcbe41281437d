#!/usr/bin/env bash
# Looks the source over. The linters are pinned in tools/go.mod, a module of its own; where they cannot be downloaded
# go vet and gofmt do what they can, and it is said.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bin=$PWD/.testtools/bin
mkdir -p "$bin"
failed=0

check() { # name command…: the command's output is the complaint
  local name=$1 out
  shift
  if ! out=$("$@" 2>&1) || [[ -n $out ]]; then
    printf '%s:\n%s\n' "$name" "$out"
    failed=1
  else
    echo "$name: nothing to complain of"
  fi
}
sources() { # hand-written Go files
  find . \( -name '.?*' -o -name testdata -o -name node_modules -o -path ./opentap-data \) -prune -o -name '*.go' -print0 |
    xargs -0 grep -LzE '(^|\n)// Code generated .* DO NOT EDIT\.\n'
}

check "go vet" go vet ./...
check "go vet (darwin: what is not Linux's must still compile)" env GOOS=darwin go vet ./point ./packet ./filter/... ./pcap ./want ./ledger ./fault ./netdev ./sensor ./sensor/ifcount
if GOBIN=$bin go -C tools install mvdan.cc/gofumpt honnef.co/go/tools/cmd/staticcheck 2>"$bin/install.log"; then
  mapfile -t files < <(sources)
  check gofumpt "$bin/gofumpt" -l "${files[@]}"
  check staticcheck "$bin/staticcheck" ./...
else
  echo "lint: gofumpt and staticcheck cannot be had here ($(tail -n 1 "$bin/install.log")); gofmt instead"
  mapfile -t files < <(sources)
  check gofmt gofmt -l "${files[@]}"
fi
# SC2317: it takes functions that a trap calls for unreachable.
if command -v shellcheck >/dev/null; then
  check shellcheck shellcheck -e SC2317 scripts/*.sh packaging/*.sh packaging/deb/p* .ci/run
else
  echo "lint: shellcheck is not installed; shell scripts were only parsed"
  for s in scripts/*.sh packaging/*.sh packaging/deb/p* .ci/run; do check "bash -n $s" bash -n "$s"; done
fi
exit "$failed"
