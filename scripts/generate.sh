#!/usr/bin/env bash
# Makes generated files again. With --check it changes nothing, and fails when a committed file is not what would be made.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v protoc >/dev/null; then
  echo "generate: protoc is missing (Debian: apt install protobuf-compiler)" >&2
  exit 3
fi
for tool in clang llvm-strip; do
  if ! command -v "$tool" >/dev/null; then
    echo "generate: $tool is missing (Debian: apt install clang llvm)" >&2
    exit 3
  fi
done
if [[ ${1:-} != --check ]]; then
  exec go generate ./...
fi

# A copy is generated and compared, so that a failing check leaves the tree as it was. protoc's own version is in a
# comment of each file and does not count.
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mapfile -t inputs < <(grep -rl --include='*.go' '^//go:generate ' . | grep -v '/\.' | sort || true)
if [[ ${#inputs[@]} -eq 0 ]]; then
  echo "generate: nothing is generated"
  exit 0
fi
tar -cf - --exclude=./.git --exclude=./bin --exclude=./.testtools --exclude=./opentap-data . | tar -xf - -C "$copy"
(cd "$copy" && go generate ./...)
stale=0
while IFS= read -r file; do
  if ! diff -u -I '^//.*protoc.* v[0-9]' "$file" "$copy/$file" >&2; then
    stale=1
    echo "generate: $file is not what make generate makes" >&2
  fi
done < <(grep -rlE --include='*.go' '^// Code generated .* DO NOT EDIT\.$' . | grep -v '/\.')
exit "$stale"
