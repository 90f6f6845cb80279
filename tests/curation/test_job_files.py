"""Jobs of other trainers, written from our settings and held to what those projects read.

With `IMPASTO_PEERS` naming a folder of clones (ai-toolkit, OneTrainer, SimpleTuner, sd-scripts), every key is looked up
in the projects themselves, and OneTrainer reads its concept; last done with those of August to November 2026.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
import yaml
from impasto.curation.exports import ExportSettings, export_dataset
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.errors import SettingsError
from impasto.trainers.job_files import JOBS, check_job, write_job
from impasto.trainers.optimizers import OPTIMIZERS
from impasto.trainers.settings import Settings

from ..small_sources import picture_bytes

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PEERS = Path(os.environ.get("IMPASTO_PEERS", ""))
WITH_PEERS = pytest.mark.skipif(
    not os.environ.get("IMPASTO_PEERS"), reason="needs clones of the trainers: set IMPASTO_PEERS to their folder"
)
SETTINGS = Settings(
    steps=1500, learning_rate=2e-4, rank=32, alpha=16.0, optimizer="adamw8bit", scheduler="cosine", warmup_steps=50,
    gradient_accumulation=4, caption_dropout=0.1, checkpoint_every=300, seed=2**40 + 7, precision="int8",
    timestep_sampling="flux_shift", ema_decay=0.99, keep_checkpoints=4, dora=True,
)  # fmt: skip


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "datasets" / "monets"
    folder.mkdir(parents=True)
    stored = [store_picture(folder, picture_bytes(number)) for number in range(2)]
    return write_manifest(
        folder, [Record(p.file_name, p.sha256, p.width, p.height, p.size, "mntgrdn, a barn") for p in stored]
    )


def written(dataset: Dataset, format: str, settings: Settings = SETTINGS) -> tuple[dict, str]:
    export = export_dataset(dataset, format, ExportSettings(resolution=64, num_repeats=3))
    file, note = write_job(format, Path(export.config), dataset.name, settings)
    text = file.read_text(encoding="utf-8")
    assert file.parent == Path(export.folder)
    loads = {".yaml": yaml.safe_load, ".json": json.loads, ".toml": tomllib.loads}
    return loads[file.suffix](text), note


def test_an_ai_toolkit_job_has_our_settings_and_the_exports_block(dataset):
    job, note = written(dataset, "ai-toolkit")
    (process,) = job["config"]["process"]
    assert job["job"] == "extension" and job["config"]["name"] == "monets" and process["type"] == "sd_trainer"
    train = process["train"]
    assert (train["steps"], train["lr"], train["gradient_accumulation"]) == (1500, 2e-4, 4)
    assert (train["optimizer"], train["lr_scheduler"], train["timestep_type"]) == ("adamw8bit", "cosine", "flux_shift")
    assert train["ema_config"] == {"use_ema": True, "ema_decay": 0.99} and process["model"]["quantize"]
    assert process["network"]["linear"] == 32 and process["save"]["save_every"] == 300
    assert process["datasets"][0]["num_repeats"] == 3 and Path(process["datasets"][0]["folder_path"]).is_dir()
    assert "Not taken over: dora." in note and "no warm-up" in note and "use alpha 32" in note


def test_a_simpletuner_config_has_our_settings_and_names_its_backends(dataset):
    job, note = written(dataset, "SimpleTuner")
    assert (job["model_family"], job["model_type"], job["lora_rank"], job["lora_alpha"]) == ("flux", "lora", 32, 16.0)
    assert (job["max_train_steps"], job["learning_rate"], job["lr_scheduler"]) == (1500, 2e-4, "cosine")
    assert job["base_model_precision"] == "int8-quanto" and job["caption_dropout_probability"] == 0.1
    backends = json.loads(Path(job["data_backend_config"]).read_text(encoding="utf-8"))
    assert backends[0]["repeats"] == 2 and 0 <= job["seed"] < 2**32
    assert "config/config.json" in note


def test_an_sd_scripts_job_has_our_settings_and_a_config_that_is_read(dataset):
    from impasto.dataset import config_reader as dataset_config

    job, note = written(dataset, "sd-scripts")
    assert (job["network_dim"], job["network_alpha"], job["max_train_steps"]) == (32, 16.0, 1500)
    assert (job["optimizer_type"], job["lr_scheduler"], job["lr_warmup_steps"]) == ("AdamW8bit", "cosine", 50)
    assert (job["timestep_sampling"], job["fp8_base"], job["network_module"]) == (
        "flux_shift",
        True,
        "networks.lora_flux",
    )
    group = dataset_config.read(job["dataset_config"])
    assert [picture.repeats for picture in dataset_config.pictures(group)] == [3, 3]
    assert "caption_dropout does not go" in note
    constant, _ = written(dataset, "sd-scripts", Settings(warmup_steps=10))
    assert constant["lr_scheduler"] == "constant_with_warmup"


def test_no_job_has_a_path_of_this_machine_but_the_datasets(dataset):
    for format in JOBS:
        job, _ = written(dataset, format)
        paths = re.findall(r'"(/[^"]+)"', json.dumps(job))
        assert paths and all(Path(path).is_relative_to(dataset.folder) for path in paths), format


def test_what_a_trainer_has_not_is_refused_before_anything_is_written(dataset):
    with pytest.raises(SettingsError, match="No job is written for OneTrainer. Choose ai-toolkit or"):
        check_job("OneTrainer", SETTINGS)
    with pytest.raises(SettingsError, match="ai-toolkit has no optimiser like schedule_free_adamw"):
        check_job("ai-toolkit", Settings(optimizer="schedule_free_adamw"))
    for format in ("SimpleTuner", "sd-scripts"):
        for optimizer in OPTIMIZERS:
            check_job(format, Settings(optimizer=optimizer))


def test_onetrainers_concept_has_the_training_files_and_the_size(dataset):
    export = export_dataset(dataset, "OneTrainer", ExportSettings(resolution=768, num_repeats=3))
    (concept,) = json.loads(Path(export.config).read_text(encoding="utf-8"))
    assert len(list(Path(concept["path"]).glob("*.txt"))) == 2
    assert concept["balancing"] == 3.0 and concept["image"]["resolution_override"] == "768"
    assert "0.05" in export.note


def sources(*paths: str) -> str:
    files = [file for path in paths for file in (PEERS / path).rglob("*.py")]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


@WITH_PEERS
def test_every_key_is_one_that_the_project_knows(dataset):
    known = {
        "sd-scripts": set(re.findall(r'"--(\w+)"', sources("sd-scripts"))),
        "SimpleTuner": set(re.findall(r'name="(\w+)"|"--(\w+)"', sources("SimpleTuner/simpletuner"))),
    }
    known["SimpleTuner"] = {name for pair in known["SimpleTuner"] for name in pair}
    for format in known:
        job, _ = written(dataset, format)
        assert not set(job) - known[format], format
    job, _ = written(dataset, "ai-toolkit")
    process = job["config"]["process"][0]
    keys = set(
        re.findall(r"""(?:kwargs\.get|get_conf)\(\s*['"](\w+)['"]""", sources("ai-toolkit/toolkit", "ai-toolkit/jobs"))
    )
    for part in ("network", "save", "train", "model", "sample"):
        assert not set(process[part]) - keys, part
    assert not set(process["datasets"][0]) - keys


@WITH_PEERS
def test_onetrainer_itself_reads_the_concept(dataset, monkeypatch, capsys):
    """Its reader prints what it could not set."""
    monkeypatch.syspath_prepend(str(PEERS / "OneTrainer"))
    from modules.util.config.ConceptConfig import ConceptConfig

    export = export_dataset(dataset, "OneTrainer", ExportSettings(resolution=768, num_repeats=3))
    (given,) = json.loads(Path(export.config).read_text(encoding="utf-8"))
    concept = ConceptConfig.default_values().from_dict(given)
    assert "Could not set" not in capsys.readouterr().out
    assert (concept.path, concept.balancing, str(concept.type)) == (given["path"], 3.0, "STANDARD")
    assert concept.image.resolution_override == "768" and concept.text.prompt_source == "sample"
    assert concept.image.enable_resolution_override and not concept.image.enable_crop_jitter
