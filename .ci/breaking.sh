#!/usr/bin/env bash
# Compares proto/ with the committed baseline image. Against a git branch, a fresh clone would be
# compared with itself.
#   .ci/breaking.sh             fail on a breaking change
#   .ci/breaking.sh --accept    make proto/ the new baseline, as a release does
#   .ci/breaking.sh --root DIR  another tree with the same layout, for tests
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
buf=$here/node_modules/.bin/buf
root=$here
[ "${1:-}" = "--root" ] && root=$(cd "$2" && pwd)
cd "$root"
baseline=proto/baseline.binpb

if [ "${1:-}" = "--accept" ]; then
  "$buf" build --exclude-source-info -o "$baseline"
  exit
fi
image=$(mktemp --suffix=.binpb)
trap 'rm -f "$image"' EXIT
"$buf" build -o "$image"
"$buf" breaking "$image" --against "$baseline" --config buf.yaml --exclude-path google
