#!/usr/bin/env bash
# Makes the eBPF objects and their Go bindings, and records what they were made from.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for tool in clang llvm-strip; do
  if ! command -v "$tool" >/dev/null; then
    echo "generate: $tool is missing (Debian: apt install clang llvm)" >&2
    exit 3
  fi
done
for name in tap mux sink; do
  go tool bpf2go -go-package bpftap -target bpfel -cc clang -strip llvm-strip \
    -cflags "-O2 -g -Wall -Werror -mcpu=v3" -output-stem "object_$name" "$name" "bpf/$name.c"
done
{
  clang --version | sed -n '1s/^/# /p'
  sha256sum bpf/*.c bpf/*.h object_*_bpfel.o
} >objects.sha256
