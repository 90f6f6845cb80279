#!/usr/bin/env bash
# Sets up everything under .impasto/, then checks the style and runs the tests.
#   ./test.sh                    all that finishes within half an hour on 2 cores
#   ./test.sh --long             also the rest: more kills, more sizes
#   ./test.sh tests/dataset -q   arguments are pytest's
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
if [ "${1:-}" = --long ]; then
  export IMPASTO_LONG=1
  shift
fi
. setup/python.sh
"$PYTHON" -m setup.environment --test
.impasto/venv/bin/ruff check .
exec .impasto/venv/bin/python -m pytest "$@"
