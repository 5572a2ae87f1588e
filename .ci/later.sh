#!/usr/bin/env bash
# Makes build/later: a later version of testing.v1.EchoService, which has a field more, and its generated code. The
# drivers of interop/ are built with it once more, from the same sources (.ci/build.sh), so that old and new builds of
# every language meet (interop/runner/versions.py). Needs `make setup`.
set -euo pipefail
cd "$(dirname "$0")/.."
later=build/later
stamp=$later/.stamp
[ -e "$stamp" ] && [ -z "$(find proto third_party .ci/gen.sh .ci/later.sh -newer "$stamp" -print -quit)" ] && exit

rm -rf "$later/proto"
mkdir -p "$later"
cp -r proto buf.yaml buf.gen.yaml "$later/"
ln -sfn "$PWD/third_party" "$later/third_party"
contract=$later/proto/testing/v1/echo.proto
sed -i 's|^message Scalars {$|&\n  // What the version before does not know.\n  string note = 100;|' "$contract"
.ci/gen.sh --root "$later"

# Python takes the messages of the service from here, and all else from where it always does.
mkdir -p "$later/python"
ln -sfn ../sdk/python/gen/testing "$later/python/testing"
# As does TypeScript.
export PATH="$PWD/node_modules/.bin:$PATH"
(
  cd "$later"
  buf generate --path proto/testing --template '{"version": "v2", "plugins": [{"local": "protoc-gen-es",
    "out": "typescript/gen", "opt": ["target=js", "import_extension=js"]}]}'
)
# Go compiles this in the place of what is committed.
file=sdk/go/gen/testing/v1/echo.pb.go
printf '{"Replace": {"%s": "%s"}}\n' "$PWD/$file" "$PWD/$later/$file" >"$later/overlay.json"
touch "$stamp"
