"""Captions a dataset in a process of its own, to be killed at any instant: FOLDER REVISION USER START SCALE."""

import asyncio
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import conftest  # noqa: F401 (makes `impasto` importable)
from impasto.captioners.clock import ScaledClock
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.runner import caption_dataset
from impasto.curation.records import Dataset

if __name__ == "__main__":
    folder, revision, user, start, scale = sys.argv[1:]
    clock = ScaledClock(float(start), float(scale))
    gemini = GeminiCaptioner(GeminiSettings(projects=("one", "two", "three"), timeout=1.0), Path(user), clock, {})
    dataset = Dataset(Path(folder).name, folder, revision)
    done = asyncio.run(caption_dataset(dataset, gemini, clock=clock))
    sys.exit(len(done.refused))
