# Two commands on a fresh machine: `make demo` and `make test`. What they build, git ignores.
# Needed: git, make, a C compiler, Python 3.11, Go 1.26, Rust 1.95, Node 20. The logic is in .ci/.
.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
PYTHON ?= python3.11
export FLIGHTS ?=

UV := .tools/uv/bin/uv
VENV := .venv/.stamp
NODE := node_modules/.stamp
PROTOC := .tools/.protoc
GOLANGCI := .tools/.lint
PYTEST := .venv/bin/pytest

.PHONY: setup gen check-gen breaking fmt lint build test test-python test-go test-rust test-typescript test-system \
        test-tidy system calls interop build-dev fault soak sim mutants fuzz demo build-bench bench bench-quick size check ci \
        outage retries limits latency clean help

##@ Set up
setup: $(VENV) $(NODE) $(PROTOC) ## Install the pinned tools into ignored folders

# A stamp depends on the file that pins its tool, so that a new version is installed by itself.
$(UV): .ci/uv.txt
	$(PYTHON) -m venv .tools/uv
	.tools/uv/bin/pip install --quiet --disable-pip-version-check -r $<
	touch $@

$(VENV): $(UV) uv.lock $(shell find pyproject.toml sdk services -name pyproject.toml)
	$(UV) sync --quiet --frozen --all-packages --python $(PYTHON)
	touch $@

$(NODE): package-lock.json
	npm ci --no-fund --no-audit --loglevel=error
	touch $@

$(PROTOC) $(GOLANGCI): .tools/.%: .ci/tools/%/go.mod .ci/tools/%/go.sum
	.ci/go_tools.sh $*
	touch $@

##@ Contracts
gen: setup ## Generate sdk/*/gen from proto/
	.ci/gen.sh

check-gen: gen ## Fail when the committed sdk/*/gen is not what proto/ gives
	.ci/check_gen.sh

breaking: setup ## Fail when proto/ breaks the committed baseline
	.ci/breaking.sh

##@ Code
fmt: setup $(GOLANGCI) ## Format everything that a person writes
	.ci/fmt.sh

lint: setup $(GOLANGCI) ## Run every linter
	.ci/lint.sh

lint-%: setup $(GOLANGCI) ## Run the linters of python, go, rust, typescript or proto
	.ci/lint.sh $*

build: ## Build the release binaries into build/release
	.ci/build.sh $(or $(PROFILE),release)

##@ Tests
test: test-tidy test-python test-go test-rust test-typescript test-system ## Run every test

build-dev: setup ## Build the binaries that tests run into build/dev
	.ci/build.sh dev

test-python: setup build-dev ## Test the Python packages
	PLAIT_BIN=$(CURDIR)/build/dev $(PYTEST) -n 2
test-go: build-dev setup ## Test the Go modules, with the race detector
	PLAIT_BIN=$(CURDIR)/build/dev go test -race -count=1 $$(.ci/go_modules.sh)
test-rust: build-dev setup ## Test the Rust crates
	PLAIT_BIN=$(CURDIR)/build/dev PLAIT_SCHEDULER=$(CURDIR)/.venv/bin/plait-scheduler cargo test --workspace --locked
test-typescript: setup build-dev ## Test the TypeScript package
	PLAIT_BIN=$(CURDIR)/build/dev .ci/typescript.sh test
test-system: setup build-dev ## Test the processes together
	PLAIT_BIN=$(CURDIR)/build/dev $(PYTEST) -n 4 tests/system
test-tidy: setup ## Test the hygiene of the repository
	$(PYTEST) tests/tidy
system: test-system ## The same as test-system
calls: setup build-dev ## Of the system tests those of calls and of what the scheduler decides
	$(PYTEST) -n 4 tests/system/test_{call,direct,*break,fair,*lim,plain,roll,sched,superv,two,vers}*.py
interop: setup build-dev ## Run each conformance case with every pair of SDKs; PAIRS=--ring with some pairs
	PLAIT_BIN=$(CURDIR)/build/dev .venv/bin/python -m interop.runner $(or $(PAIRS),--write)
fault: setup build-dev ## Test under faults: the short forms of the campaigns, some minutes
	.ci/fault.sh short
fault-%: setup build-dev ## Run campaigns: fault-long KILLS=2000 all of them, fault-report writes the report
	.ci/fault.sh $*
soak: fault-soak ## Run mixed load and random kills for HOURS=1; plots memory and descriptors
fuzz: ## Fuzz every parser of bytes from outside, FUZZ_S=10 seconds each, or as CI does: FUZZ_S=short
	.ci/fuzz.sh $(or $(FUZZ_S),10)
sim: ## Simulate the broker: SEEDS=1000 FROM=1
	.ci/sim.sh run
sim-%: ## sim-short: the same seeds each time, for CI
	.ci/sim.sh $*
mutants: sim-mutants ## Turn on each deliberate bug; the simulation must find it in SEEDS=1000

##@ Run
demo: setup build ## Run the airport example; FLIGHTS=5000 takes the first 5000 flights
	PLAIT_BIN=$(CURDIR)/build/$(or $(PROFILE),release) .venv/bin/python -m airport.demo $(FLIGHTS:%=--flights=%)
build-bench: setup ## Build the release binaries and the bench programs
	.ci/build.sh release bench
bench: setup build-bench ## Measure, in full; writes bench/RESULTS.md
	PLAIT_BIN=$(CURDIR)/build/release .venv/bin/python -m bench.run
bench-quick: setup build-bench ## Measure, in a minute; prints a JSON line for each language
	PLAIT_BIN=$(CURDIR)/build/release .venv/bin/python -m bench.run --quick
size outage retries limits latency: setup build-bench ## Measure ten million tasks; an outage; retries; limits; latency classes
	PLAIT_BIN=$(CURDIR)/build/release .venv/bin/python -m tests.load.$@

##@ Everything
check: lint test ## What to run before a commit
ci: ## What CI runs
	.ci/run
clean: ## Remove what was built; the tools stay
	cargo clean --quiet
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
help: ## Print this
	@awk -f .ci/help.awk $(MAKEFILE_LIST)
