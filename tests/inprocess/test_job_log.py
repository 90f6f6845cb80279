"""Jobs of the nodes, logged beside their results and shown by the node Job Log."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from ..small_sources import picture_bytes


def test_loading_filtering_and_captioning_are_told_with_times_memory_and_throughput(comfyui):
    from impasto.nodes.captions import MetadataCaptioner
    from impasto.nodes.dataset import QualityFilter
    from impasto.nodes.jobs import JobLog
    from impasto.nodes.sources import ImageFolderLoader

    pictures = comfyui.base / "input" / "logged"
    pictures.mkdir(parents=True)
    for number in range(3):
        (pictures / f"{number}.jpg").write_bytes(picture_bytes(number))
    dataset, _ = ImageFolderLoader.execute("input", "logged", "logged", "JPEG").args
    limits = {"min_side": 32, "max_aspect": 2.0, "min_bytes_per_pixel": 0.0}
    QualityFilter.execute(dataset, **limits)
    asyncio.run(MetadataCaptioner.execute("mntgrdn", dataset=dataset))

    told, numbers = JobLog.execute(dataset=dataset).args
    jobs = json.loads(numbers)
    assert [job["job"] for job in jobs] == ["Captioner metadata", "Quality Filter", "Image Folder Loader"]
    assert [job["outcome"] for job in jobs] == ["done"] * 3
    assert all(job["peak_memory"] > 100_000_000 for job in jobs)  # of a process that has loaded torch
    stages = {part["stage"]: part.get("items") for job in jobs for part in job["stages"]}
    assert stages["store pictures"] == stages["measure pictures"] == stages["ask metadata"] == 3
    assert "store pictures: " in told and " a second" in told and "of host memory" in told
    assert len(json.loads(JobLog.execute(newest=1, dataset=dataset).args[1])) == 1

    QualityFilter.execute(dataset, **limits)
    again = json.loads(JobLog.execute(newest=1, dataset=dataset).args[1])[0]
    assert {part["stage"]: part.get("items") for part in again["stages"]}["measure pictures"] is None

    line = (Path(dataset.folder) / "jobs.jsonl").read_text(encoding="utf-8")
    assert str(comfyui.base) not in line and "mntgrdn" not in line


def test_a_log_of_nothing_is_refused_in_words(comfyui):
    from impasto.errors import SettingsError
    from impasto.nodes.jobs import JobLog

    with pytest.raises(SettingsError, match="Connect a dataset, a dataset config or a run"):
        JobLog.execute()
