#!/usr/bin/env bash
# Builds programs as they are released: static, the same octets from the same source wherever it is built.
#
#   scripts/program.sh GOOS GOARCH VERSION DIR PROGRAM…
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
os=$1 arch=$2 version=$3 dir=$4
shift 4
mkdir -p "$dir"
for program in "$@"; do
  suffix=
  [[ $os != windows ]] || suffix=.exe
  CGO_ENABLED=0 GOOS=$os GOARCH=$arch GOAMD64=v1 GOARM64=v8.0 GOFLAGS='' \
    go build -trimpath -buildvcs=false -ldflags "-s -w -buildid= -X main.version=$version" -o "$dir/$program$suffix" "./cmd/$program"
done
