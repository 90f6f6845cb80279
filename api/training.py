"""From a dataset to a LoRA, and from pictures to a LoRA in one call."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from ..dataset import config_reader
from ..dataset.config_editor import find_toml
from ..errors import DatasetError, ImpastoError
from ..paths import existing_child
from ..trainers.run.publish import lora_folder
from ..trainers.settings import RANGES
from . import graphs, jobs, preparing
from .models import TINY, RunAll, Train, _Base
from .routing import Call, Refused, Reply

MOST_STEPS = int(RANGES["steps"][1])
MODELS = {  # field of a request -> ComfyUI's folder key
    "pretrained_model": "diffusion_models",
    "clip_l": "text_encoders",
    "t5xxl": "text_encoders",
    "ae": "vae",
}


def train(call: Call) -> Reply:
    """Train on the dataset's newest config, or the one that is named."""
    body: Train = call.body
    lora_folder(call.places.loras_root, body.output_name)  # refused before anything is queued
    config = body.dataset_config or _newest_config(call, body.output_name)
    steps, every = _steps(call, config, body)
    asked = {"steps": steps, "checkpoint_every": every, **_common(body)}
    graph = graphs.trained(
        graphs.written_config(config), body.output_name, base(call, body), graphs.settings_of(body.settings, **asked)
    )
    return started(call, "train", graph)


def run_all(call: Call) -> Reply:
    """Load, caption where that is asked for, write the config, encode and train, in one job."""
    body: RunAll = call.body
    lora_folder(call.places.loras_root, body.output_name)
    graph = _pictures(call, body)
    if body.auto_captioning:
        inputs = preparing.captioner_inputs(body.captioner, body.captioner_model)
        graph = graphs.captioned(graph, body.captioner, body.trigger_word, inputs)
    graph = graphs.configured(
        graph,
        body.resolution,
        body.trigger_word,
        num_repeats=body.num_repeats,
        batch_size=body.batch_size,
        enable_bucket=body.enable_bucket,
    )
    settings = graphs.settings_of(body.settings, steps=body.steps, checkpoint_every=body.steps, **_common(body))
    return started(call, "run", graphs.trained(graph, body.output_name, base(call, body), settings))


def base(call: Call, body: _Base) -> graphs.Base:
    """The model files that a request means.

    Raises:
        Refused: ComfyUI lists none of that name; the text gives those that it lists.
    """
    if body.pretrained_model == TINY:
        return graphs.Base()
    files = {field: _model(call, field, getattr(body, field)) for field in MODELS}
    return graphs.Base(files["pretrained_model"], files["clip_l"], files["t5xxl"], files["ae"])


def _model(call: Call, field: str, asked: str) -> str:
    """A file of ComfyUI's list: of that name, else of that stem in any folder, since .sft is .safetensors."""
    listed = call.host.models(MODELS[field]) if call.host else []
    if asked in listed:
        return asked
    stem = PurePosixPath(asked.replace("\\", "/")).stem
    alike = [name for name in listed if PurePosixPath(name.replace("\\", "/")).stem == stem]
    if alike:
        return alike[0]
    others = f", or {TINY}, which is always there" if field == "pretrained_model" else ""
    there = f"It lists: {', '.join(listed)[:1_000]}{others}." if listed else f"It lists none{others}."
    raise Refused(f"{field} is '{asked[:200]}', which is not in ComfyUI's folder {MODELS[field]}. {there}", field, 404)


def _pictures(call: Call, body: RunAll) -> graphs.Graph:
    if body.image_urls:
        return graphs.from_urls(body.output_name, body.image_urls, body.captions)
    if body.folder:
        return graphs.from_folder(body.output_name, body.root, body.folder, body.trigger_word)
    if body.wikiart:
        return graphs.from_wikiart(body.output_name, body.wikiart.model_dump())
    return graphs.from_dataset(preparing.existing(call, body.output_name).name)


def _common(body: Train | RunAll) -> dict[str, Any]:
    return {"learning_rate": body.learning_rate, "rank": body.network_dim, "alpha": float(body.network_dim)}


def _newest_config(call: Call, name: str) -> str:
    """The config in a dataset's folder that was written last, as Dataset TOML Loader takes it."""
    folder = existing_child(call.places.datasets_roots, name, what="output_name", holds=Path.is_dir)
    found = sorted(folder.glob("*.toml"), key=lambda file: file.stat().st_mtime_ns) if folder else []
    if not found:
        preparing.existing(call, name)
        raise Refused(f"The dataset '{name}' has no config yet. POST create-dataset-config first.", "output_name", 404)
    return f"{folder.name}/{found[-1].name}"


def _steps(call: Call, config: str, body: Train) -> tuple[int, int]:
    """Optimiser steps in all, and from one checkpoint to the next; of a config that fills every batch."""
    try:
        file = find_toml(call.places.datasets_roots, config)
    except DatasetError as error:
        raise Refused(str(error), "dataset_config", 404) from error
    group = config_reader.read(file)
    asked = body.enable_bucket if "enable_bucket" in body.model_fields_set else None
    if asked is not None and any(block.buckets.enable_bucket != asked for block in group.datasets):
        raise Refused(
            f"enable_bucket is {asked}, and the config {config} says otherwise. POST create-dataset-config with that "
            "first, or leave it out.",
            "enable_bucket",
            409,
        )
    shown = {block: 0 for block in group.datasets}
    for picture in config_reader.pictures(group):
        shown[picture.dataset] += picture.repeats
    epoch = sum(graphs.steps_of_epochs(count, 1, block.batch_size, 1) for block, count in shown.items())
    steps = min(body.steps or epoch * body.max_train_epochs, MOST_STEPS)
    return steps, min(epoch * body.save_every_n_epochs or steps, MOST_STEPS)


def started(call: Call, kind: str, graph: graphs.Graph) -> Reply:
    """Queue a training; the body says by `job_id` under which id."""
    try:
        job_id = jobs.post(call, kind, graph, call.body.job_id)
    except Refused:
        raise
    except ImpastoError as error:
        raise Refused(str(error)) from error
    return Reply({"message": "Training started", "run_id": job_id, "job_id": job_id})
