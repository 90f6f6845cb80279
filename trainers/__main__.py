"""`accelerate launch -m impasto.trainers <run folder>`: the job of a run's folder, without ComfyUI."""

import sys

from .run.process import main

sys.exit(main())
