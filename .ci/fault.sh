#!/usr/bin/env bash
# Campaigns of faults against real processes; results in build/fault.
#   .ci/fault.sh short|tools|long|report|soak
# `long` runs every campaign, also after one that found something, and then writes the report.
# KILLS, SWAPS, LATE, SECONDS_OF_OVERLOAD, HOURS and STEP say how much. Binaries: PLAIT_BIN, else build/dev.
set -euo pipefail
cd "$(dirname "$0")/.."
export PLAIT_BIN=${PLAIT_BIN:-$PWD/build/dev}
python=.venv/bin/python
failed=0

campaign() {
  printf '\n== %s\n' "$*"
  "$python" -m "tests.fault.$@" || failed=1
}

# What is absent is named by the campaign that needs it.
tools() {
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -q fiu-utils libfiu-dev faketime e2fsprogs ||
      { apt-get update -q && apt-get install -y -q fiu-utils libfiu-dev faketime e2fsprogs; } ||
      true
  fi
}

long() {
  campaign kills --kills "${KILLS:-2000}"
  campaign flips --step "${STEP:-1}"
  campaign disks full --rounds 10
  campaign disks sync --rounds 100
  campaign pauses freeze --rounds 100
  campaign pauses late --tasks "${LATE:-100000}"
  campaign clocks --rounds 60
  campaign network --rounds 100
  campaign poison --rounds 30
  campaign ruins --rounds 9
  campaign swaps broker --swaps "${SWAPS:-60}"
  campaign swaps workers --swaps "${SWAPS:-60}"
  campaign rollback
  campaign overload --seconds "${SECONDS_OF_OVERLOAD:-180}"
  campaign report
}

case "${1:?usage: .ci/fault.sh short|tools|long|report|soak}" in
  short) tools && .venv/bin/pytest tests/fault ;;
  tools) tools ;;
  long) tools && long ;;
  report) campaign report ;;
  soak) campaign soak --hours "${HOURS:-1}" ;;
  *) echo "no such thing: $1" >&2 && exit 2 ;;
esac
exit "$failed"
