#!/usr/bin/env bash
# Makes deb and rpm packages in dist/: the same octets from the same source. Nothing is asked of the network but the tool that
# packs (tools/nfpm), when it has not been downloaded yet.
#
#   --arch "amd64 arm64"   which
#   --formats "deb rpm"    which
#   --version VERSION      instead of what scripts/version.sh says
#   --bin DIR              programs that are built already
#   --out DIR              where to (dist)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
arches='amd64 arm64' formats='deb rpm' version='' bin='' out=dist
while [[ $# -gt 0 ]]; do
  [[ $# -gt 1 ]] || { echo "packages: $1 needs a value" >&2 && exit 2; }
  case $1 in
    --arch) arches=$2 ;;
    --formats) formats=$2 ;;
    --version) version=$2 ;;
    --bin) bin=$2 ;;
    --out) out=$2 ;;
    *) echo "packages: there is no option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
version=${version:-$(scripts/version.sh)}
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y VERSION)}
export SOURCE_DATE_EPOCH VERSION=$version LC_ALL=C
umask 022
mkdir -p "$out" .testtools/bin
tools=$PWD/.testtools/bin
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
GOBIN=$tools CGO_ENABLED=0 go -C tools/nfpm install github.com/goreleaser/nfpm/v2/cmd/nfpm

# What is the same for every architecture. Completions and manual pages are told by the programs of this machine.
here=$(go env GOHOSTARCH)
host=${bin:-$stage/host}
[[ -n $bin ]] || scripts/program.sh "$(go env GOHOSTOS)" "$here" "$version" "$host" opentapd opentap opentapd-phidget
common=$stage/common
mkdir -p "$common"/{completions,doc,man/man1,man/man5,man/man8}
"$host/opentap" completion bash >"$common/completions/opentap.bash"
"$host/opentap" completion fish >"$common/completions/opentap.fish"
"$host/opentap" completion zsh >"$common/completions/_opentap"
"$host/opentapd" --help 2>&1 | go run ./packaging/man . "$version" "$(date -u -d "@$SOURCE_DATE_EPOCH" +%F)" "$stage/pages"
for page in "$stage"/pages/*; do gzip -9n <"$page" >"$common/man/man${page##*.}/${page##*/}.gz"; done
gzip -9n <CHANGELOG.md >"$common/doc/changelog.gz"
printf 'opentap (%s) unstable; urgency=medium\n\n  * See changelog.gz, which is written for users.\n\n -- OpenTap <opentap@opentap.invalid>  %s\n' \
  "${version/-/\~}" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" | gzip -9n >"$common/doc/changelog.Debian.gz"
cat >"$common/doc/copyright" <<'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: opentap

Files: *
Copyright: 2026 The OpenTap authors
License: Apache-2.0
 On Debian systems, the full text of the Apache License, version 2.0, is in /usr/share/common-licenses/Apache-2.0.
 .
 The programs contain works of others; /usr/share/doc/opentap/THIRD-PARTY has their licences.
TEXT
GOOS=linux GOARCH=amd64 scripts/licences.sh ./cmd/opentapd ./cmd/opentap ./cmd/opentapd-phidget >"$common/doc/THIRD-PARTY"

for arch in $arches; do
  export ARCH=$arch STAGE=$stage/$arch TRIPLET
  case $arch in
    amd64) TRIPLET=x86_64-linux-gnu ;;
    arm64) TRIPLET=aarch64-linux-gnu ;;
    *) echo "packages: there are none for $arch" >&2 && exit 2 ;;
  esac
  cp -a "$common" "$STAGE"
  if [[ $arch == "$here" ]]; then
    install -D -t "$STAGE/bin" "$host/opentapd" "$host/opentap" "$host/opentapd-phidget"
  else
    scripts/program.sh linux "$arch" "$version" "$STAGE/bin" opentapd opentap opentapd-phidget
  fi
  find "$STAGE" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
  for format in $formats; do
    if ! said=$("$tools/nfpm" package --config packaging/nfpm.yaml --packager "$format" --target "$out/" 2>&1); then
      printf 'packages: %s for %s cannot be made:\n%s\n' "$format" "$arch" "$said" >&2
      exit 1
    fi
    printf '%s\n' "${said##*created package: }"
  done
done
