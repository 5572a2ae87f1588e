#!/usr/bin/env bash
# Prints a package pattern for each module of go.work: the go command has none for all of them.
set -euo pipefail
cd "$(dirname "$0")/.."
go list -m -f '{{.Dir}}/...'
