# Two commands on a fresh machine: `make demo` and `make test`. Recipes are short; the logic is in .ci/.
# Needed: git, make, a C compiler, Python 3.11, Go 1.26, Rust 1.95, Node 20. Everything else is put into .tools,
# .venv, node_modules, target and build, which git ignores.
.DEFAULT_GOAL := help
SHELL := /bin/bash
MAKEFLAGS += --no-print-directory
PYTHON ?= python3.11
FLIGHTS ?=

UV := .tools/uv/bin/uv
VENV := .venv/.stamp
NODE := node_modules/.stamp
PROTOC := .tools/.protoc
GOLANGCI := .tools/.lint

##@ Set up
.PHONY: setup
setup: $(VENV) $(NODE) $(PROTOC) ## Install the pinned tools into ignored folders of this tree

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
	.ci/go-tools.sh $*
	touch $@

##@ Contracts
.PHONY: gen check-gen
gen: setup ## Generate sdk/*/gen from proto/
	.ci/gen.sh

check-gen: gen ## Fail when the committed sdk/*/gen differs from what proto/ gives
	.ci/check_gen.sh

.PHONY: help
help: ## Print this
	@awk -f .ci/help.awk $(MAKEFILE_LIST)
