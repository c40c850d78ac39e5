#!/bin/sh
# Lints and tests; those with a real bridge need its binary in $SPOTBRIDGE_BIN.
set -eu
cd "$(dirname "$0")"
cargo fmt --check
cargo clippy --quiet --all-targets -- -D warnings
cargo test --quiet
