#!/usr/bin/env bash
# Sets up everything under .impasto/, then runs the main job on a real ComfyUI: paintings, training, progress grid.
#   ./quickstart.sh          run it and stop
#   ./quickstart.sh --serve  run it and leave the server running, to open the graph in a browser
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
case "${1:-}" in
  "" | --serve | --workflow) ;;
  *) sed -n '2,4s/^# //p' quickstart.sh; exit 2 ;;
esac
. setup/python.sh
"$PYTHON" -m setup.environment
exec .impasto/venv/bin/python worker.py impasto.setup.quickstart "$@"
