#!/usr/bin/env bash
# Builds the TypeScript packages, and tests them as built. Needs `make setup`; tests also PLAIT_BIN. `later`: the driver
# as built, with the later version of its contract (.ci/later.sh).
#   .ci/typescript.sh build|later|test
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/node_modules/.bin:$PATH"
build() {
  for package in sdk/typescript interop/drivers/typescript; do
    # What is no longer in the sources must not be tested, or packed.
    rm -rf "$package/dist"
    tsc --project "$package"
  done
  chmod +x interop/drivers/typescript/dist/{main,bench}.js
}

later() {
  local home=build/later/typescript
  local sdk=$home/node_modules/@plait/sdk
  rm -rf "$home/dist" "$sdk"
  mkdir -p "$sdk"
  cp -r interop/drivers/typescript/{dist,package.json} "$home/"
  cp -r sdk/typescript/{dist,package.json} "$sdk/"
  cp "$home/gen/testing/v1/echo_pb.js" "$sdk/dist/gen/testing/v1/"
  ln -sf typescript/dist/main.js build/later/echo-worker-typescript
}

case ${1:?usage: .ci/typescript.sh build|later|test} in
  build) build ;;
  later) later ;;
  test)
    [ -d sdk/typescript/dist ] || build
    cd sdk/typescript
    node --test --test-timeout=180000 --test-reporter=spec dist/tests/*.test.js
    ;;
  *) echo "usage: .ci/typescript.sh build|later|test" >&2; exit 2 ;;
esac
