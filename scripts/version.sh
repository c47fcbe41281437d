#!/usr/bin/env bash
# Prints the version of this source tree: a release tag when this commit is one, else VERSION and the commit.
# A source tarball has no git: VERSION alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
base=$(tr -d '[:space:]' <VERSION)
# A tree unpacked inside somebody else's repository is not that repository's.
top=$(git rev-parse --show-toplevel 2>/dev/null || true)
if [[ -z $top || ! $top -ef . ]]; then
  echo "$base"
  exit
fi
if tag=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null); then
  version=${tag#v}
else
  commit=$(git rev-parse --short=9 HEAD 2>/dev/null) || { echo "$base"; exit; }
  version="$base+g$commit"
fi
if ! git diff --quiet HEAD -- 2>/dev/null; then
  version="$version.modified"
fi
echo "$version"
