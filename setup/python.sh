# Sourced by quickstart.sh and test.sh: sets PYTHON to a Python that is new enough, the caller's choice if there is one.

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python3.10 python3.14}; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      PYTHON=$candidate
      return
    fi
  done
  echo "Impasto needs Python 3.10 or newer; ${PYTHON:-python3} is: $("${PYTHON:-python3}" --version 2>&1)." >&2
  echo "Install one (python.org, or your system's packages), then run the same command again," >&2
  echo "or name one: PYTHON=/path/to/python3.12" >&2
  exit 1
}

find_python
unset PYTHONDONTWRITEBYTECODE # or ComfyUI, torch and transformers are compiled at each start, for 10 seconds and more
