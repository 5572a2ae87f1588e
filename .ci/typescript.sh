#!/usr/bin/env bash
# Builds the TypeScript packages, and tests them as built. Needs `make setup`; tests also PLAIT_BIN.
#   .ci/typescript.sh build|test
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

case ${1:?usage: .ci/typescript.sh build|test} in
  build) build ;;
  test)
    [ -d sdk/typescript/dist ] || build
    cd sdk/typescript
    node --test --test-timeout=180000 --test-reporter=spec dist/tests/*.test.js
    ;;
  *) echo "usage: .ci/typescript.sh build|test" >&2; exit 2 ;;
esac
