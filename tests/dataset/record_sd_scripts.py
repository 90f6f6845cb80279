"""Record what a copy of sd-scripts reads from our dataset TOMLs, for `test_sd_scripts.py`.

    python -m tests.dataset.record_sd_scripts "sd-scripts" <folder of sd-scripts> library
    python -m tests.dataset.record_sd_scripts "FluxTrainer" <custom_nodes> ComfyUI-FluxTrainer.library

Needs the packages that the copy needs, in the versions it names (transformers 4 and diffusers 0.32), and ours.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.dataset.records import Dataset
from impasto.dataset.schema_key import SD_SCRIPTS

import tests.conftest  # makes the repository importable as `impasto`  # noqa: F401

from .test_sd_scripts import CASES, NOT_FOR_FLUX_TRAINER, ONLY_THEIRS, RECORDED, paintings


def their_reading(library: str, dataset: Dataset, path: str) -> dict[str, object]:
    """The way of sd-scripts' own train_network.py from the file to the buckets."""
    config_util = importlib.import_module(f"{library}.config_util")
    train_util = importlib.import_module(f"{library}.train_util")
    parser = argparse.ArgumentParser()
    train_util.add_dataset_arguments(parser, True, True, True)
    train_util.add_training_arguments(parser, True)
    train_util.add_masked_loss_arguments(parser)
    config_util.add_config_arguments(parser)
    arguments = parser.parse_args(["--dataset_config", path])
    sanitizer = config_util.ConfigSanitizer(True, True, False, True)
    blueprint = config_util.BlueprintGenerator(sanitizer).generate(config_util.load_user_config(path), arguments)
    groups = config_util.generate_dataset_group_by_blueprint(blueprint.dataset_group)
    train, *held_out = groups if isinstance(groups, tuple) else (groups,)
    train.verify_bucket_reso_steps(32)
    read = {
        Path(info.absolute_path).stem: (info, one.process_caption(one.image_to_subset[key], info.caption))
        for group in (train, *filter(None, held_out))
        for one in group.datasets
        for key, info in one.image_data.items()
    }
    in_order = [read.pop(record.sha256[:16]) for record in dataset.records()]
    assert not read, "sd-scripts reads pictures that are not in the dataset"
    manager = train.datasets[0].bucket_manager
    return {
        "table": [] if manager.no_upscale else sorted(map(list, manager.predefined_resos)),
        "buckets": [list(info.bucket_reso) for info, _ in in_order],
        "captions": [caption for _, caption in in_order],
        "repeats": [info.num_repeats for info, _ in in_order],
        "batch_size": train.datasets[0].batch_size,
        "cacheable": [bool(train.is_text_encoder_output_cacheable()), bool(train.is_latent_cacheable())],
    }


def main() -> None:
    target, parent, library = sys.argv[1:]
    sys.path.insert(0, parent)
    with tempfile.TemporaryDirectory() as folder:
        dataset = paintings(Path(folder) / "paintings")
        cases = CASES | ONLY_THEIRS
        if target != SD_SCRIPTS:
            cases = {name: asked for name, asked in cases.items() if name not in NOT_FOR_FLUX_TRAINER}
        RECORDED[target] = {
            name: their_reading(
                library, dataset, write_dataset_toml(dataset, TomlSettings(target=target, **asked)).path
            )
            for name, asked in cases.items()
        }
    lines = [
        f" {json.dumps(name)}: {{\n"
        + ",\n".join(f"  {json.dumps(case)}: {json.dumps(reading)}" for case, reading in readings.items())
        + "\n }"
        for name, readings in RECORDED.items()
    ]
    Path(__file__).with_name("sd_scripts.json").write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
