#!/bin/sh
# Makes everything that the client needs, in this folder: .venv with the pinned packages and the client itself, installed from where
# it lies, and the generated code. Repeating it is safe, and takes a second while nothing is new. $PYTHON: Python 3.11 or newer.
set -eu
cd "$(dirname "$0")"
if ! cat requirements.txt pyproject.toml | cmp -s - .venv/made-from; then
  "${PYTHON:-python3}" -m venv --clear .venv
  .venv/bin/pip install --quiet --disable-pip-version-check --requirement requirements.txt
  .venv/bin/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
  cat requirements.txt pyproject.toml >.venv/made-from # last: only a complete .venv counts
fi
./generate
