#!/usr/bin/env bash
# Prints the licences of the modules that are linked into programs (GOOS and GOARCH count), as those licences want.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
echo "OpenTap contains the following works of others, each under its licence."
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' "$@" | sort -u | while read -r path version dir; do
  for file in "$dir"/LICEN[SC]E* "$dir"/COPYING* "$dir"/NOTICE* "$dir"/PATENTS; do
    [[ -f $file ]] || continue
    printf '\n%s\n%s %s: %s\n%s\n\n' "${rule:=$(printf '=%.0s' {1..100})}" "$path" "$version" "${file##*/}" "$rule"
    cat "$file"
  done
done
echo
echo "The Go standard library and runtime: Copyright 2009 The Go Authors, under a licence of the same words as golang.org/x/sys above."
