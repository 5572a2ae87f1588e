#!/usr/bin/env bash
# Fails when sdk/*/gen holds anything that is not committed. `git diff` alone would miss new files.
set -euo pipefail
cd "$(dirname "$0")/.."
changed=$(git status --porcelain -- sdk/*/gen)
[ -z "$changed" ] && exit 0
printf 'generated code is not what is committed; run `make gen` and commit:\n%s\n' "$changed" >&2
exit 1
