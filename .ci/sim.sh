#!/usr/bin/env bash
# Simulates the broker.
#   .ci/sim.sh run        SEEDS seeds from FROM
#   .ci/sim.sh short      for CI: the same seeds each time, a minute or two; new ones are for `run`
#   .ci/sim.sh mutants    turns each deliberate bug on in turn; fails when one is not found in SEEDS seeds
# Results go to build/fault/, where the report on campaigns finds them.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:?usage: .ci/sim.sh run|short|mutants}
commit=$(git rev-parse --short HEAD)
day=$(date -u +%F)
mkdir -p build/fault
stamp=(--commit "$commit" --date "$day")

plait_sim() {
  cargo run --quiet --locked --profile sim --package plait-broker-sim "${features[@]}" -- "$@"
}

features=()
case $mode in
run)
  plait_sim run --seeds "${SEEDS:-1000}" --from "${FROM:-1}" --keep-going "${stamp[@]}" \
    --result build/fault/simulation.json
  ;;
short)
  plait_sim run --seeds 8000 --from 1 "${stamp[@]}"
  ;;
mutants)
  features=(--features mutants)
  plait_sim mutants --seeds "${SEEDS:-1000}" --from "${FROM:-1}" "${stamp[@]}" \
    --result build/fault/mutants.json
  ;;
*)
  echo "unknown: $mode" >&2
  exit 2
  ;;
esac
