#!/usr/bin/env bash
# Builds the dashboard into web/dist/site, from where it becomes part of opentapd; does nothing when it is newer than its
# sources. Without Node.js, or without a way to its packages, it says so and succeeds: opentapd works without it.
#
#   OPENTAP_WEB=no   leave the dashboard out
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../web/app"

site=../dist/site
say() { printf 'web: %s\n' "$*" >&2; }

if [[ ${OPENTAP_WEB:-yes} == no ]]; then
  rm -rf "$site"
  say "left out, as asked"
  exit 0
fi
if [[ -e $site/index.html && -z $(find src index.html package.json package-lock.json vite.config.ts svelte.config.js tsconfig.json ../../api/v1/openapi.json \
  -newer "$site/index.html" ! -name api.gen.ts -print -quit) && (${1:-} != --modules || -d node_modules) ]]; then
  exit 0
fi
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
  say "node or npm is missing (Debian: apt install nodejs npm): the dashboard is not built, and its page says so"
  exit 0
fi
if [[ $(node -p 'parseInt(process.versions.node)') -lt 20 ]]; then
  say "Node.js $(node -v) is too old, 20 is needed: the dashboard is not built, and its page says so"
  exit 0
fi
if [[ ! -e node_modules/.package-lock.json || package-lock.json -nt node_modules/.package-lock.json ]]; then
  say "fetching the packages that the dashboard is built with"
  if ! timeout 300 npm ci --loglevel=error >&2; then
    say "the packages cannot be had (offline?): the dashboard is not built, and its page says so"
    exit 0
  fi
  touch node_modules/.package-lock.json
fi
npm run -s build >&2
