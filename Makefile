# Everything that people and CI do here. Only Go, git and make are needed; other tools are built from the versions that
# tools/*/go.mod pin, into .bin/, when a target needs them for the first time (a few minutes).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

VERSION = $(shell git describe --always --dirty 2>/dev/null || echo unknown)

BUF := .bin/buf
GOLANGCI_LINT := .bin/golangci-lint
OPENAPI := .bin/openapi
GRPCURL := .bin/grpcurl
RESTFUZZ := .bin/restfuzz/.complete

# The race detector needs cgo, and Go switches that off where it finds no C compiler.
RACE = $(if $(filter 1,$(shell go env CGO_ENABLED)),-race)
race-note = $(if $(RACE),,@echo 'no C compiler found: the tests run without the race detector')

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-17s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: build ## start an embedded bridge with sample deliveries (SPOTBRIDGE_* is honoured; data in .data/dev)
	@SPOTBRIDGE_DATA_DIR="$${SPOTBRIDGE_DATA_DIR:-.data/dev}" exec .bin/spotbridge dev

.PHONY: build
build: ## build .bin/spotbridge
	@go build -buildvcs=false -ldflags '-X main.version=$(VERSION)' -o .bin/spotbridge ./cmd/spotbridge
	@echo 'built .bin/spotbridge $(VERSION)'

.PHONY: test
test: ## run all Go tests, with the race detector; the property tests briefly
	$(race-note)
	go test $(RACE) -short -timeout 30m ./...
	cd tools/openapi && go test ./...

.PHONY: test-integration
test-integration: ## run the suites of the log and of consumer groups on a nats-server process of their own
	$(race-note)
	go test $(RACE) -count=1 -short -timeout 30m -tags integration -run OnAnExternalServer ./app

.PHONY: test-long
test-long: ## run all tests at full length (10 minutes and more)
	$(race-note)
	go test $(RACE) -count=1 -timeout 60m -tags integration ./...

.PHONY: soak
soak: ## for 5 minutes members of a consumer group are killed at random, and a subscriber stops reading (SPOTBRIDGE_SOAK=20m for longer)
	go test -count=1 -timeout 90m -tags soak -run TestSoak -v ./app | grep -v 'level=WARN'

.PHONY: clients
clients: build $(BUF) ## generate and build the clients in clients/, for each language whose toolchain is here
	@clients/each.sh setup

.PHONY: test-clients
test-clients: clients test-examples test-rest-fuzz ## test the clients, hold them to the conformance scenarios and to each other
	@clients/each.sh test
	@clients/each.sh conformance
	SPOTBRIDGE_BIN=.bin/spotbridge go test -count=1 -timeout 10m -tags clients ./clients/compare

.PHONY: test-rest-fuzz
test-rest-fuzz: build $(RESTFUZZ) ## fuzz REST by /openapi.json for a minute (needs Python; RESTFUZZ_SECONDS, RESTFUZZ_SEED)
	@[ ! -e $(RESTFUZZ) ] || tools/restfuzz/run.sh

.PHONY: test-examples
test-examples: build $(BUF) $(GRPCURL) ## run what README.md and docs/ show, and old clients, with a real bridge (needs curl)
	go test -count=1 -tags clients ./clients/examples ./clients/compat

.PHONY: bench
bench: ## print each figure beside its baseline
	@go run ./app/bench

.PHONY: generate
generate: $(BUF) $(OPENAPI) ## regenerate gen/ from proto/
	@$(BUF) generate
	@$(OPENAPI) -in .bin/swagger/api.swagger.json -out gen/openapi
	@rm -r .bin/swagger
	@echo 'generated gen/go and gen/openapi'

.PHONY: payload-schema
payload-schema: ## typed payloads from a schema: make payload-schema SCHEMA="a.json b.json"
	@go run ./tools/payloadgen $(addprefix -schema ,$(SCHEMA))
	@$(MAKE) generate

.PHONY: lint
lint: $(BUF) $(GOLANGCI_LINT) ## gofmt, go vet, golangci-lint, buf lint and buf format
	@files=$$(gofmt -l .); if [ -n "$$files" ]; then printf 'not formatted (gofmt -w):\n%s\n' "$$files"; exit 1; fi
	go vet -tags integration,soak,clients ./...
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	cd tools/openapi && ../../$(GOLANGCI_LINT) run --allow-parallel-runners ./...
	$(BUF) lint
	$(BUF) format -d --exit-code

.PHONY: breaking
breaking: $(BUF) ## compare proto/ with the published contract, tools/baseline.binpb
	$(BUF) breaking --against tools/baseline.binpb

.PHONY: baseline
baseline: $(BUF) ## make today's proto/ the published contract
	$(BUF) build -o tools/baseline.binpb --exclude-source-info

.PHONY: check
check: check-generated lint breaking test test-integration test-clients ## all of the above that CI demands

.PHONY: check-generated
check-generated: generate ## generating changes nothing
	@git diff --exit-code --stat -- gen || { echo 'gen/ is not what proto/ gives: commit what "make generate" wrote'; exit 1; }
	@new=$$(git ls-files --others --exclude-standard -- gen); \
	if [ -n "$$new" ]; then printf 'generated and not in git:\n%s\n' "$$new"; exit 1; fi

.PHONY: clean
clean: ## remove .bin (data in .data stays)
	rm -rf .bin

# The built tools. Their go.sum changes with go.mod.
$(BUF): tools/buf/go.mod
	@echo 'building buf (the first time takes minutes)'
	@cd tools/buf && go build -o ../../$@ github.com/bufbuild/buf/cmd/buf
	@touch $@

$(GOLANGCI_LINT): tools/golangci-lint/go.mod
	@echo 'building golangci-lint (the first time takes minutes)'
	@cd tools/golangci-lint && go build -o ../../$@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	@touch $@

$(GRPCURL): tools/grpcurl/go.mod
	@cd tools/grpcurl && go build -o ../../$@ github.com/fullstorydev/grpcurl/cmd/grpcurl
	@touch $@

$(RESTFUZZ): tools/restfuzz/requirements.txt
	@if ! command -v python3 >/dev/null; then \
	  echo 'skipped: fuzzing of REST (no python3)'; [ "$${SPOTBRIDGE_CLIENTS_REQUIRED:-}" != 1 ]; exit; fi; \
	rm -rf $(@D) && python3 -m venv $(@D) && \
	$(@D)/bin/pip install --quiet --disable-pip-version-check --no-deps -r $< && touch $@

$(OPENAPI): tools/openapi/go.mod $(filter-out %_test.go,$(wildcard tools/openapi/*.go))
	@cd tools/openapi && go build -buildvcs=false -o ../../$@ .
	@touch $@
