#!/usr/bin/env bash
# Measures speed. Figures are ratios within one run, so that machines can be compared.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! compgen -G 'test/bench/*.go' >/dev/null; then
  echo "bench: test/bench has no program yet; running the benchmarks of the rooms instead"
  exec go test -run '^$' -bench . -benchmem ./...
fi
exec go run ./test/bench "$@"
