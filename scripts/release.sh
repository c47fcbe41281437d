#!/usr/bin/env bash
# Makes the archives of a release in dist/, with SHA256SUMS: the command line for Linux, macOS and Windows, for Linux with the
# daemon and its scripts of installation. The same octets from the same source.
#
#   --targets "linux/amd64 …"   which; all of them by default
#   --version VERSION           instead of what scripts/version.sh says
#   --out DIR                   where to (dist)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
targets='linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64' version='' out=dist
while [[ $# -gt 0 ]]; do
  [[ $# -gt 1 ]] || { echo "release: $1 needs a value" >&2 && exit 2; }
  case $1 in
    --targets) targets=$2 ;;
    --version) version=$2 ;;
    --out) out=$2 ;;
    *) echo "release: there is no option $1" >&2 && exit 2 ;;
  esac
  shift 2
done
version=${version:-$(scripts/version.sh)}
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y VERSION)}
mkdir -p "$out"
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
CGO_ENABLED=0 go build -o "$stage/archive" ./packaging/archive
made=()
for target in $targets; do
  os=${target%/*} arch=${target#*/} programs=(opentap) extension=tar.gz
  [[ $os != linux ]] || programs+=(opentapd opentapd-phidget)
  [[ $os != windows ]] || extension=zip
  name=opentap_${version}_${os}_$arch
  mkdir "$stage/$name"
  scripts/program.sh "$os" "$arch" "$version" "$stage/$name" "${programs[@]}"
  cp LICENSE README.md CHANGELOG.md "$stage/$name/"
  GOOS=$os GOARCH=$arch scripts/licences.sh "${programs[@]/#/./cmd/}" >"$stage/$name/THIRD-PARTY"
  [[ $os != linux ]] || cp packaging/*.sh "$stage/$name/"
  "$stage/archive" "$out/$name.$extension" "$stage/$name" "$epoch"
  made+=("$name.$extension")
  rm -rf "${stage:?}/$name"
  echo "$out/$name.$extension"
done
(cd "$out" && sha256sum "${made[@]}") >"$out/SHA256SUMS"
