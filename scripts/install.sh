#!/usr/bin/env bash
# install.sh EXTRA: .venv with this checkout (editable), the extra ("app": none) and the versions that were tested together.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # none yet, or the half of one
  for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11} ""; do
    [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || break
  done
  if [ -z "$python" ]; then
    echo "CEM Explorer needs Python 3.11 or newer; ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>/dev/null || echo missing)." \
      "If you have one elsewhere, name it: make run PYTHON=/path/to/python3.11" >&2
    exit 1
  fi
  "$python" -c 'import ensurepip, venv' 2>/dev/null || scripts/system.sh "${python##*/}-venv"
  echo "Installing into .venv; this takes some minutes the first time, for PyTorch is large."
  "$python" -m venv --clear .venv
fi

pip=(.venv/bin/python -m pip install --disable-pip-version-check -c constraints.txt)
[ -t 1 ] || pip+=(-q) # progress bars are for people
# The build backend goes first and into .venv, so that it is a pinned one too.
"${pip[@]}" hatchling editables
"${pip[@]}" --no-build-isolation -e ".$([ "$1" = app ] || echo "[$1]")"
if [ "$1" = test ]; then
  # Looked into by tests, and imported by nothing: without what it depends on, in a folder of its own.
  "${pip[@]}" --no-deps --upgrade --target .venv/peers robustbench
fi
touch ".venv/.$1"
