#!/usr/bin/env bash
# Fuzzes REST by its own OpenAPI document: starts a bridge with the sample deliveries in a folder of its own, and lets
# schemathesis ask it for a while. No answer may be 5xx, have a status that is not documented, or not have its schema.
#
#   RESTFUZZ_SECONDS=60 RESTFUZZ_SEED=1 tools/restfuzz/run.sh [OPTION OF SCHEMATHESIS...]
#
# A failure is printed with the command line of curl that shows it. The same seed gives the same requests, apart from ids
# that differ from run to run.
set -euo pipefail
cd "$(dirname "$0")/../.."

seconds=${RESTFUZZ_SECONDS:-60}
seed=${RESTFUZZ_SEED:-$((RANDOM * 32768 + RANDOM))}
bridge=$PWD/.bin/spotbridge
python=$PWD/.bin/restfuzz/bin/python
here=$PWD/tools/restfuzz

work=$(mktemp -d)
pid=
finish() {
  if [[ -n $pid ]]; then
    kill "$pid" 2>/dev/null || true
    wait "$pid" || true
  fi
  rm -rf "$work"
}
trap finish EXIT

SPOTBRIDGE_DATA_DIR=$work/data SPOTBRIDGE_LISTEN_WEBHOOK=127.0.0.1:0 SPOTBRIDGE_LISTEN_REST=127.0.0.1:0 \
  SPOTBRIDGE_LISTEN_GRPC=127.0.0.1:0 SPOTBRIDGE_LISTEN_ADMIN=127.0.0.1:0 \
  "$bridge" dev --once --rate 200 >"$work/out" 2>"$work/log" &
pid=$!

until grep -qs 'all samples sent' "$work/out"; do
  if ! kill -0 "$pid" 2>/dev/null || ((SECONDS > 60)); then
    echo 'the bridge did not come up:' >&2
    cat "$work/log" >&2
    exit 1
  fi
  sleep 0.05
done
address() { sed -n "s/.* msg=listening .*\b$1=\([0-9.:]*\).*/\1/p" "$work/log"; }
rest=http://$(address rest)
door=http://$(address webhook)/webhooks/sandbox

# Deliveries that are no events: one that cannot be read, one that nobody signed.
echo 'not JSON' | "$bridge" trigger --file - --url "$door" --data-dir "$work/data" >/dev/null
curl -s -o /dev/null -X POST "$door" -d '{}' \
  -H 'x-spotnana-webhook-id: x' -H "x-spotnana-webhook-timestamp: $(date +%s)" -H 'x-spotnana-webhook-signature: v1,x'

cp "$here/schemathesis.toml" "$work/"
"$python" "$here/prepare.py" "$rest" "$work"
echo "seed $seed (RESTFUZZ_SEED=$seed repeats it)"
cd "$work"
SCHEMATHESIS_HOOKS=$here/hooks.py "$python" -m schemathesis.cli --config-file schemathesis.toml \
  run "$rest/openapi.json" --max-time "$seconds" --seed "$seed" --no-color --warnings off "$@"
if grep 'level=ERROR' "$work/log"; then
  echo 'the bridge logged errors' >&2
  exit 1
fi
