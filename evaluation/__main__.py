"""`python -m impasto.evaluation <run folder>`: the page of a run, without ComfyUI."""

import sys

from .run_page import main

sys.exit(main())
