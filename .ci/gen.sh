#!/usr/bin/env bash
# Generates sdk/{go,python,rust,typescript}/gen from proto/. One buf image feeds every generator. Everything is
# generated into a scratch folder first: a failure leaves the tree alone, and an unchanged file keeps
# its time, so that nothing is rebuilt. Needs `make setup`.
#   .ci/gen.sh [--root DIR]     another tree with the same layout, for tests
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
root=$here
[ "${1:-}" = "--root" ] && root=$(cd "$2" && pwd)
cd "$root"

buf=$here/node_modules/.bin/buf
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
export PATH="$here/.tools/bin:$here/.venv/bin:$here/node_modules/.bin:$PATH"

image=$out/image.binpb
"$buf" build -o "$image"
mapfile -t protos < <(cd proto && find . -name '*.proto' -printf '%P\n' | LC_ALL=C sort)
mapfile -t with_service < <(cd proto && grep -l '^service ' "${protos[@]}")

# google/rpc is left out for Go and Python: genproto and googleapis-common-protos have it.
"$buf" generate "$image" --exclude-path google --output "$out"
"$buf" generate "$image" --template "$here/.ci/typescript.gen.yaml" --output "$out"

gen=$out/sdk/python/gen
mkdir -p "$gen"
protoc() { python -m grpc_tools.protoc --descriptor_set_in="$image" "$@"; }
protoc --python_out="$gen" --mypy_out="quiet:$gen" "${protos[@]}"
protoc --grpc_python_out="$gen" --mypy_grpc_out="quiet:$gen" "${with_service[@]}"

# Envoy's messages are for the scheduler, and for the SDKs whose gRPC library does not speak xDS; KEDA's are the
# scheduler's only.
for theirs in third_party/envoy third_party/keda; do
  [ -d "$theirs" ] || continue
  gen=$out/sdk/python/gen
  mapfile -t protos < <(cd "$theirs" && find . -name '*.proto' -printf '%P\n' | LC_ALL=C sort)
  mapfile -t with_service < <(cd "$theirs" && grep -l '^service ' "${protos[@]}")
  protoc() { python -m grpc_tools.protoc "-I$theirs" -Ithird_party "$@"; }
  protoc --python_out="$gen" --mypy_out="quiet:$gen" "${protos[@]}"
  protoc --grpc_python_out="$gen" --mypy_grpc_out="quiet:$gen" "${with_service[@]}"
done
xds=$out/xds.binpb
mapfile -t envoy < <(cd third_party/envoy && find . -name '*.proto' -printf '%P\n' | LC_ALL=C sort)
python -m grpc_tools.protoc -Ithird_party/envoy -Ithird_party --include_imports --include_source_info \
  --descriptor_set_out="$xds" "${envoy[@]}"
"$buf" generate "$xds" --path plait_xds --template "$here/.ci/typescript.gen.yaml" --output "$out"

gen=$out/sdk/rust/gen
cargo build --quiet --manifest-path "$here/Cargo.toml" -p plait-codegen
"${CARGO_TARGET_DIR:-$here/target}/debug/plait-codegen" "$image" "$xds" "$gen"
# Without the comments, and with the custom options that prost would drop.
"$buf" build --as-file-descriptor-set --exclude-source-info -o "$gen/plait.fds.binpb"

for gen in sdk/{go,python,rust,typescript}/gen; do
  mkdir -p "$gen"
  (cd "$gen" && find . -type f ! -path '*/__pycache__/*') | while read -r file; do
    [ -e "$out/$gen/$file" ] || rm "$gen/$file"
  done
  (cd "$out/$gen" && find . -type f) | while read -r file; do
    cmp -s "$out/$gen/$file" "$gen/$file" || install -D -m 644 "$out/$gen/$file" "$gen/$file"
  done
  find "$gen" -type d -empty -delete
done
