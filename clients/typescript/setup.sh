#!/bin/sh
# Makes everything from a clean clone: installs the pinned packages, generates from proto/, builds. May be run again.
set -eu
cd "$(dirname "$0")"
[ -x ../../.bin/buf ] || make -C ../.. .bin/buf
# better-sqlite3 is compiled, if no prebuilt of it can be had (a minute, with gcc and make).
npm install --no-package-lock --prefer-offline --no-audit --no-fund --loglevel=error
npm run --silent generate
npm run --silent build
