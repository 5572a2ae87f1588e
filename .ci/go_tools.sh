#!/usr/bin/env bash
# Builds the Go tools pinned in .ci/tools/$1/go.mod into .tools/bin. They are no members of go.work:
# their dependencies must not mix with ours.
set -euo pipefail
bin=$(cd "$(dirname "$0")/.." && pwd)/.tools/bin
mkdir -p "$bin"
cd "$(dirname "$0")/tools/$1"
GOWORK=off go build -o "$bin/" tool
