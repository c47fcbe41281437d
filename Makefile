# Everything starts here: make help.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export CGO_ENABLED ?= 0

# The version is worked out by a script, so that it is right without git too. It must not hold spaces.
LDFLAGS = -s -w -X main.version=$(shell ./scripts/version.sh)

.PHONY: help run build packages release test test-short bench bench-query lint generate clean

help: ## show what can be made
	@echo "OpenTap: see what happens on a network"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

run: build ## start the daemon here, capture ten seconds, show what was seen (asks for sudo to open raw sockets)
	@./scripts/run.sh

build: ## build bin/opentapd with its dashboard, and bin/opentap, static; and bin/opentapd-phidget: no cgo
	@./scripts/web.sh
	@mkdir -p bin
	go build -trimpath -buildvcs=false -ldflags '$(LDFLAGS)' -o bin/ ./cmd/opentapd ./cmd/opentap ./cmd/opentapd-phidget

release: ## archives with checksums in dist/: the command line for Linux, macOS and Windows, the daemon for Linux
	@./scripts/web.sh
	@./scripts/release.sh

packages: ## deb and rpm in dist/, for amd64 and arm64
	@./scripts/web.sh
	@./scripts/packages.sh

test: ## install what the tests need, run them all with the race detector, count the skips with their reasons
	@./scripts/test.sh

test-short: ## the quick tests of all rooms, as the user you are, nothing installed
	go vet ./...
	go test -short ./...

bench: ## measure speed against the targets, always as ratios within one run
	@./scripts/bench.sh

GB ?= 1,10

bench-query: ## search in recordings of GB=1,10 (or 30: then without tcpdump); needs twice that much disk
	@./scripts/bench.sh -only query -gb $(GB)

lint: ## go vet, gofumpt and staticcheck as pinned in tools/go.mod, shellcheck
	@./scripts/lint.sh

generate: ## make generated files again (needs protoc, clang, llvm)
	@./scripts/generate.sh

clean: ## remove what was built, and the test cache; captures in opentap-data stay
	rm -rf bin dist .testtools
	go clean -testcache
