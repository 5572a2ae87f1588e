#!/usr/bin/env bash
# Builds every process that is not Python and gathers the binaries in build/PROFILE, where the
# tests, the demo and the benchmarks look for them (PLAIT_BIN).
#   .ci/build.sh dev|release|sim [bench]
# With `bench` also the bench programs of the languages that are compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
profile=${1:?usage: .ci/build.sh dev|release|sim [bench]}
folder=$profile
if [ "$profile" = dev ]; then
  folder=debug # cargo's name for it
fi
crates=(plait-broker airport-ledger)
# The interop drivers serve the tests, and with link-time optimisation every program costs minutes.
if [ "$profile" = dev ]; then
  crates+=(echo-worker-rust plait-broker-sim)
fi

compile() { cargo build --quiet --locked --profile "$profile" "${crates[@]/#/--package=}" "$@"; }
mkdir -p "build/$profile"
if [ "$profile" = dev ]; then
  .ci/later.sh
  # Before the others, for both builds of a program have the same place.
  compile --features echo-worker-rust/later
  cp "${CARGO_TARGET_DIR:-$PWD/target}/$folder/echo-worker-rust" build/later/
fi
compile
for crate in "${crates[@]}"; do
  program=${crate/plait-broker-sim/plait-sim} # the checker of histories
  ln -sf "${CARGO_TARGET_DIR:-$PWD/target}/$folder/$program" "build/$profile/"
done

# A program takes the name of its folder; a driver's folder is named after its language.
mapfile -t modules < <(.ci/go_modules.sh | grep -v /interop/drivers/)
go build -o "build/$profile/" "${modules[@]}"
if [ "$profile" = dev ]; then
  go build -o "build/$profile/echo-worker-go" ./interop/drivers/go
  go build -overlay build/later/overlay.json -o build/later/echo-worker-go ./interop/drivers/go
  go build -o "build/$profile/caller-go" ./interop/drivers/go/caller
  go build -o "build/$profile/tier-go" ./interop/drivers/go/tier
  .ci/typescript.sh build
  ln -sf "$PWD/interop/drivers/typescript/dist/main.js" "build/$profile/echo-worker-typescript"
  .ci/typescript.sh later
  # The interop suite of grpc-go, as its authors wrote it, for the sidecar.
  (
    cd .ci/tools/interop
    export GOWORK=off
    go build -o "$OLDPWD/build/$profile/grpc-interop-client" google.golang.org/grpc/interop/client
    go build -o "$OLDPWD/build/$profile/grpc-interop-server" ./server
  )
fi

if [ "${2:-}" = bench ]; then
  cargo build --quiet --locked --profile "$profile" --package=plait --example=bench
  ln -sf "${CARGO_TARGET_DIR:-$PWD/target}/$folder/examples/bench" "build/$profile/plait-bench-rust"
  go build -o "build/$profile/tier-go" ./interop/drivers/go/tier
  [ "$profile" = dev ] || .ci/typescript.sh build
  ln -sf "$PWD/interop/drivers/typescript/dist/bench.js" "build/$profile/plait-bench-typescript"
fi
