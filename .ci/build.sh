#!/usr/bin/env bash
# Builds every process that is not Python and gathers the binaries in build/PROFILE, where the
# tests, the demo and the benchmarks look for them (PLAIT_BIN).
#   .ci/build.sh dev|release
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:?usage: .ci/build.sh dev|release}
folder=$profile
[ "$profile" = dev ] && folder=debug # cargo's name for it
crates=(plait-broker airport-ledger echo-worker-rust)

cargo build --quiet --locked --profile "$profile" "${crates[@]/#/--package=}"
mkdir -p "build/$profile"
for crate in "${crates[@]}"; do
  ln -sf "${CARGO_TARGET_DIR:-$PWD/target}/$folder/$crate" "build/$profile/"
done
# Each of the modules' programs takes the name of its folder; the driver's folder is named after its language.
mapfile -t modules < <(.ci/go_modules.sh | grep -v /interop/drivers/)
go build -o "build/$profile/" "${modules[@]}"
go build -o "build/$profile/echo-worker-go" ./interop/drivers/go
