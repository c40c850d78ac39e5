#!/bin/sh
# Lints, checks types and tests; those with a real bridge need its binary in $SPOTBRIDGE_BIN.
set -eu
cd "$(dirname "$0")"
.venv/bin/ruff check --quiet .
.venv/bin/mypy
.venv/bin/pytest -q
