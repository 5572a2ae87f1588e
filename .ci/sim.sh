#!/usr/bin/env bash
# Simulates the broker, in two layers: its core, journal, log and recovery; and all of it in a network, where a seed
# costs some ten times as much. A twentieth of the seeds goes to the second.
#   .ci/sim.sh run        SEEDS seeds from FROM
#   .ci/sim.sh short      for CI: the same seeds each time, a minute or two; new ones are for `run`
#   .ci/sim.sh mutants    turns each deliberate bug on in turn; fails when one is not found in SEEDS seeds
#   .ci/sim.sh mesh-mutants  the same in a network, and tells in how many of SEEDS seeds it is found
# Results go to build/fault/, where the report on campaigns finds them.
set -euo pipefail
cd "$(dirname "$0")/.."
mode=${1:?usage: .ci/sim.sh run|short|mutants|mesh-mutants}
commit=$(git rev-parse --short HEAD)
day=$(date -u +%F)
mkdir -p build/fault
stamp=(--commit "$commit" --date "$day")

plait_sim() {
  cargo run --quiet --locked --profile sim --package plait-broker-sim "${features[@]}" -- "$@"
}

features=()
seeds=${SEEDS:-1000}
from=${FROM:-1}
case $mode in
run)
  mesh=$(((seeds + 19) / 20))
  plait_sim run --seeds $((seeds - mesh)) --from "$from" --keep-going "${stamp[@]}" \
    --result build/fault/simulation.json
  plait_sim run --layer mesh --seeds "$mesh" --from "$from" --keep-going "${stamp[@]}" \
    --result build/fault/simulation-mesh.json
  ;;
short)
  plait_sim run --seeds 6000 --from 1 "${stamp[@]}"
  plait_sim run --layer mesh --seeds 60 --from 1 "${stamp[@]}"
  ;;
mutants)
  features=(--features mutants)
  plait_sim mutants --seeds "$seeds" --from "$from" "${stamp[@]}" --result build/fault/mutants.json
  ;;
mesh-mutants)
  features=(--features mutants)
  plait_sim mutants --layer mesh --seeds "$seeds" --from "$from" --keep-going "${stamp[@]}" \
    --result build/fault/mutants-mesh.json
  ;;
*)
  echo "unknown: $mode" >&2
  exit 2
  ;;
esac
