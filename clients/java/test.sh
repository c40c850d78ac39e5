#!/bin/sh
# Tests; those with a real bridge need its binary in $SPOTBRIDGE_BIN.
set -eu
cd "$(dirname "$0")"
mkdir -p target
mvn --batch-mode --no-transfer-progress -Dstyle.color=never test >target/test.log || { cat target/test.log; exit 1; }
grep -E '^\[(INFO|WARNING)\] Tests run: .*[0-9]$' target/test.log # the summary of each module
