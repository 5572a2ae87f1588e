#!/usr/bin/env bash
# Formats everything that a person writes.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/bin:$PWD/.venv/bin:$PWD/node_modules/.bin:$PATH"
ruff format --quiet
ruff check --quiet --select I --fix
mapfile -t modules < <(.ci/go_modules.sh)
golangci-lint fmt "${modules[@]%/...}"
cargo fmt --all
cargo fmt --manifest-path tests/fuzz/Cargo.toml # a workspace of its own
buf format --write
biome check --config-path=.ci --write sdk/typescript interop/drivers/typescript interop/plain/node
