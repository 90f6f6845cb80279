#!/usr/bin/env bash
# Sets up everything under .impasto/, then checks style and types and runs the tests.
#   ./test.sh                    all but the longest, with ComfyUI's page in Chromium, which is found or installed
#   ./test.sh --long             also the rest: more kills, more sizes
#   ./test.sh tests/dataset -q   arguments are pytest's; -n 0 for one process
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [[ "${1:-}" == --long ]]; then
  export IMPASTO_LONG=1
  shift
fi
. setup/python.sh
"$PYTHON" -m setup.environment --test
.impasto/venv/bin/ruff check .
.impasto/venv/bin/mypy
# A process a core, each computing on one; a file's tests stay together, because they share servers and trained runs.
# They begin in the order that tests/conftest.py gives them.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec .impasto/venv/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations 15 "$@"
