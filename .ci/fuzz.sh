#!/usr/bin/env bash
# Runs the fuzz targets of tests/fuzz one after the other.
#   .ci/fuzz.sh SECONDS|short [TARGET...]
# SECONDS for each. Inputs are mutated from tests/fuzz/corpus/TARGET and what was found before in
# build/fuzz/TARGET. An input that fails is written to build/fuzz/TARGET-crash-*, and ends the run.
# `short`, for CI: some seconds each, from the corpus alone and always the same seed.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?usage: .ci/fuzz.sh SECONDS|short [TARGET...]}
shift
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  targets=(journal_frame snapshot_chunk archive_block log_segment filter config timeout keys streams)
fi

# What cargo-fuzz passes, but for the sanitizer, which needs a nightly compiler; our crates forbid
# unsafe code.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1"
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/fuzz
export CARGO_TARGET_DIR
# Half the building; what runs for seconds need not be fast.
[ "$seconds" != short ] || export CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_DEBUG=false
# With a target named, build scripts and macros are built without these flags.
host=$(rustc -vV | sed -n 's/^host: //p')
cargo build --quiet --locked --release --target "$host" --manifest-path tests/fuzz/Cargo.toml
fuzz=$CARGO_TARGET_DIR/$host/release/plait-fuzz

mkdir -p build/fuzz
length=(-max_total_time="$seconds")
[ "$seconds" != short ] || length=(-max_total_time=4 -seed=1)
for target in "${targets[@]}"; do
  printf '== fuzz %s\n' "$target"
  found=build/fuzz/$target
  [ "$seconds" != short ] || found=$(mktemp -d)
  mkdir -p "$found" "tests/fuzz/corpus/$target"
  PLAIT_FUZZ=$target "$fuzz" "${length[@]}" -timeout=30 -rss_limit_mb=2048 \
    -print_final_stats=1 -verbosity=0 -artifact_prefix="build/fuzz/$target-" \
    "$found" "tests/fuzz/corpus/$target"
done
