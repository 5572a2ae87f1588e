#!/usr/bin/env bash
# Runs every linter of the languages named, or of all, and says at the end which of them failed.
#   .ci/lint.sh [python|go|rust|typescript|proto]...
set -uo pipefail
cd "$(dirname "$0")/.."
export PATH="$PWD/.tools/bin:$PWD/.venv/bin:$PWD/node_modules/.bin:$PATH"
failed=()

run() {
  printf '%s\n' "lint: $*"
  "$@" || failed+=("$*")
}

python() {
  run ruff format --check --quiet
  run ruff check --quiet
  run mypy --no-error-summary
  run lint-imports --no-logo
}

go_lint() {
  mapfile -t modules < <(.ci/go_modules.sh)
  run golangci-lint run "${modules[@]}"
}

rust() {
  run cargo fmt --all --check
  run cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
  # Its lock file is one of its own, too, and forgotten easily.
  run cargo tree --quiet --locked --depth 0 --manifest-path tests/fuzz/Cargo.toml
  run cargo clippy --quiet --workspace --all-targets -- -D warnings
}

typescript() {
  run biome ci --config-path=.ci --error-on-warnings sdk/typescript interop/drivers/typescript interop/plain/node
  run .ci/typescript.sh build # the compiler's checks are lint, too
}

proto() {
  run buf lint
  run buf format --diff --exit-code
}

[ $# -gt 0 ] || set -- proto python go rust typescript
for language in "$@"; do
  case $language in
    go) go_lint ;;
    python | rust | typescript | proto) "$language" ;;
    *) echo "no linters for $language" >&2; exit 2 ;;
  esac
done
[ ${#failed[@]} -eq 0 ] && exit 0
printf 'failed: %s\n' "${failed[@]}" >&2
exit 1
