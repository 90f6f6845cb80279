"""Captions a dataset in a process of its own, to be killed at any instant: FOLDER REVISION USER START SCALE TIMEOUT."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401 (makes `impasto` importable)
from impasto.captioners.background import ask_in_background
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.runner import caption_dataset
from impasto.clock import Clock
from impasto.dataset.records import Dataset

if __name__ == "__main__":
    folder, revision, user, start, scale, timeout = sys.argv[1:]
    clock = Clock(float(start), float(scale))
    settings = GeminiSettings(projects=("one", "two", "three"), timeout=float(timeout))
    dataset = Dataset(Path(folder).name, folder, revision)
    gemini = GeminiCaptioner(settings, Path(user), clock)
    done = asyncio.run(caption_dataset(dataset, gemini, clock=clock, asking=ask_in_background))
    sys.stdout.write(f"{done.report}\n")
    sys.exit(len(done.refused))
