#!/usr/bin/env bash
# From a clean clone to a binary: the plugins of buf, the generated code, the build with its tests. Repeating it costs
# seconds. Needs cargo, a C compiler (for SQLite) and ../../.bin/buf, which it has made when it is missing.
set -euo pipefail
cd "$(dirname "$0")"

# The plugins run for half a second, so a debug build will do. In one target folder, since they share most crates.
CARGO_TARGET_DIR=target/tools CARGO_PROFILE_DEV_DEBUG=0 \
  cargo install --quiet --locked --debug --root .tools protoc-gen-prost@0.5.0 protoc-gen-tonic@0.5.0

[[ -x ../../.bin/buf ]] || make -C ../.. .bin/buf
# Replaced only when it differs: new files would have cargo compile them again.
../../.bin/buf generate --output target/generated
if ! diff -rq target/generated/gen gen >/dev/null 2>&1; then
  rm -rf gen
  cp -r target/generated/gen gen
fi

# With the tests, whose features of tokio and tonic would otherwise have everything compiled twice.
cargo build --quiet --all-targets
