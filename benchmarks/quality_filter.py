"""Pictures per second of the quality filter beside cleanvision and imagededup, on the same files in one run.

    .impasto/venv/bin/python benchmarks/quality_filter.py --peers PYTHON [--pictures 200] [--side 1400]

PYTHON is that of an environment with `cleanvision` and `imagededup` in it; not this one, for they pin other versions
than ComfyUI's. Without it only our own figures are printed. The pictures are painted once and recompressed with other
tones.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAINTED = 12  # different paintings; every other picture is one of them with other tones and another part in view

# Runs in the peers' environment: the whole of each, as their READMEs call them, with as many processes as they choose.
PEERS = """
import contextlib, io, json, sys, time
folder, workers = sys.argv[1], int(sys.argv[2])
from cleanvision import Imagelab
from imagededup.methods import PHash
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    started = time.perf_counter()
    Imagelab(data_path=folder).find_issues(n_jobs=workers)
    cleanvision = time.perf_counter() - started
    started = time.perf_counter()
    PHash(verbose=False).find_duplicates(image_dir=folder, num_enc_workers=workers, num_dist_workers=workers)
    imagededup = time.perf_counter() - started
print(json.dumps({"cleanvision": cleanvision, "imagededup": imagededup}))
"""


def main() -> None:
    arguments = argparse.ArgumentParser(description="The quality filter beside cleanvision and imagededup.")
    arguments.add_argument("--peers", help="python of an environment that has both")
    arguments.add_argument("--pictures", type=int, default=200)
    arguments.add_argument("--side", type=int, default=1400, help="pixels of the longer side")
    given = arguments.parse_args()
    load_pack()
    with tempfile.TemporaryDirectory() as folder:
        dataset = make_dataset(Path(folder), given.pictures, given.side)
        megabytes = sum(record.size for record in dataset.records()) / 1e6
        print(f"{given.pictures} JPEGs, {given.side} px, {megabytes:.0f} MB, {os.cpu_count()} cores")
        seconds = ours(dataset)
        for name in seconds:
            print(f"  {name:34} {given.pictures / seconds[name]:12,.0f} pictures/s  {seconds[name]:8.3f} s")
        if given.peers:
            peers = run_peers(given.peers, Path(folder) / "images")
            for name in peers:
                print(f"  {name:34} {given.pictures / peers[name]:12,.0f} pictures/s  {peers[name]:8.3f} s")
            ratio = sum(peers.values()) / seconds["whole filter"]
            print(f"the whole filter is {ratio:.1f} times as fast as cleanvision and imagededup together")


def load_pack() -> None:
    """Make the repository importable as `impasto`, whatever its folder is called."""
    spec = importlib.util.spec_from_file_location(
        "impasto", REPOSITORY / "__init__.py", submodule_search_locations=[str(REPOSITORY)]
    )
    sys.modules["impasto"] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)


def make_dataset(folder: Path, count: int, side: int):
    import io

    from impasto.dataset.pictures import store_picture
    from impasto.dataset.records import Record, write_manifest
    from impasto.embedded.paintings import KINDS, paint, scene
    from PIL import ImageEnhance

    painted = [
        paint(scene(KINDS[n % len(KINDS)], n), "impressionist", 640, 480).resize((side, side * 3 // 4))
        for n in range(min(PAINTED, count))
    ]
    records = []
    for number in range(count):
        picture = painted[number % len(painted)]
        shift = number // len(painted)
        part = picture.crop((shift * 7 % 200, shift * 5 % 150, picture.width, picture.height)).resize(picture.size)
        buffer = io.BytesIO()
        ImageEnhance.Color(part).enhance(0.8 + number % 5 / 10).save(buffer, "JPEG", quality=92)
        stored = store_picture(folder, buffer.getvalue())
        place = f"benchmark#{number}"
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size, source=place))
    return write_manifest(folder, records)


def ours(dataset) -> dict[str, float]:
    """Seconds of stage one on one core, of the whole filter on all, and of the filter again with other thresholds."""
    from impasto.curation.measures import jpeg_quality
    from impasto.curation.quality import Thresholds, filter_quality, judge_quality, judge_record

    thresholds = Thresholds()
    records = dataset.records()

    def stage_one() -> None:
        for record in records:
            list(judge_record(record, thresholds))
            list(judge_quality(jpeg_quality(dataset.image_path(record)), thresholds))

    stage_one()  # the files, read into memory for everybody
    return {
        "stage one, processor time": timed(lambda: [stage_one() for _ in range(10)], time.process_time) / 10,
        "whole filter": timed(lambda: filter_quality(dataset, thresholds)),
        "again with other thresholds": timed(lambda: filter_quality(dataset, Thresholds(min_sharpness=0.1))),
    }


def timed(work: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    started = clock()
    work()
    return clock() - started


def run_peers(python: str, folder: Path) -> dict[str, float]:
    workers = str(os.cpu_count() or 1)
    answer = subprocess.run([python, "-c", PEERS, str(folder), workers], capture_output=True, text=True)
    if answer.returncode:
        sys.exit(f"The peers' run failed:\n{answer.stderr[-2000:]}")
    return json.loads(answer.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
