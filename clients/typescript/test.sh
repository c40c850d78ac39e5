#!/bin/sh
# Lints and tests; those with a real bridge need its binary in $SPOTBRIDGE_BIN, those with a browser Chromium, too.
set -eu
cd "$(dirname "$0")"
npm run --silent lint
npm run --silent test
npm run --silent test:browser
