#!/usr/bin/env bash
# Does one step for every client whose toolchain is here, and names the others: clients/each.sh setup | test | conformance
# SPOTBRIDGE_CLIENTS=go,rust chooses some; with SPOTBRIDGE_CLIENTS_REQUIRED=1 a missing toolchain is an error.
set -euo pipefail
cd "$(dirname "$0")/.."
step=${1:?setup, test or conformance}
export SPOTBRIDGE_BIN=${SPOTBRIDGE_BIN:-$PWD/.bin/spotbridge}

declare -A needs=([go]=go [python]=python3 [typescript]='node npm' [java]='javac mvn' [rust]='cargo rustc')
declare -A protocol=([go]=sse [python]=subscribe [typescript]=subscribe [java]=group [rust]=group)
chosen=${SPOTBRIDGE_CLIENTS:-go,python,typescript,java,rust}

setup() {
  case $1 in
    go) go build -o .bin/expense-feed ./clients/go ;;
    *) "clients/$1/setup.sh" ;;
  esac
}

test() {
  case $1 in
    go) ;; # its tests run with those of the module
    *) "clients/$1/test.sh" ;;
  esac
}

conformance() {
  local feed=clients/$1/expense-feed
  [ "$1" != go ] || feed=.bin/expense-feed
  "$SPOTBRIDGE_BIN" conformance run --protocol "${protocol[$1]}" --client "exec $feed run" --processed "exec $feed processed"
}

skipped=()
for language in ${chosen//,/ }; do
  missing=
  for tool in ${needs[$language]:?there is no client in "$language"}; do
    command -v "$tool" >/dev/null || missing="$missing $tool"
  done
  if [ -n "$missing" ]; then
    skipped+=("$language (no$missing)")
    continue
  fi
  printf -- '--- %s: %s\n' "$language" "$step"
  "$step" "$language"
done
if [ ${#skipped[@]} -gt 0 ]; then
  printf 'skipped: %s\n' "${skipped[@]}"
  [ "${SPOTBRIDGE_CLIENTS_REQUIRED:-}" != 1 ] || exit 1
fi
