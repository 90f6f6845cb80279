"""From URLs to a captioned dataset with its config: the first three of the five calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dataset.records import Dataset
from ..dataset.stored import stored_dataset
from ..errors import DatasetError
from ..paths import checked_name
from . import graphs, jobs
from .models import CaptionImages, CreateDatasetConfig, DownloadImages
from .routing import Call, Refused, Reply

QUESTION = CaptionImages.model_fields["prompt"].default  # that which every captioner asks by itself
ASKED = ("gemini", "openai")  # captioners that take any question


def download_images(call: Call) -> Reply:
    """URLs become a dataset; what fails is told beside its URL, and the rest is kept."""
    body: DownloadImages = call.body
    name = checked_name(body.output_name, "output_name")
    graph = graphs.from_urls(name, body.urls, body.captions)

    def finished(made: dict[str, Any], job_id: str) -> dict[str, Any]:
        dataset = _dataset(call, made)
        files = {record.source: str(dataset.image_path(record)) for record in dataset.records()}
        files |= {refusal.source: f"Error: {refusal.reason}" for refusal in dataset.refusals()}
        return {"message": "Download complete", "job_id": job_id, "files": files}

    return jobs.followed(call, "download-images", graph, "The pictures are being downloaded", finished)


def caption_images(call: Call) -> Reply:
    body: CaptionImages = call.body
    name = existing(call, body.output_name).name
    settings = captioner_inputs(body.captioner, body.captioner_model, body.prompt)
    graph = graphs.captioned(graphs.from_dataset(name), body.captioner, body.trigger_word, settings)

    def finished(made: dict[str, Any], job_id: str) -> dict[str, Any]:
        captions = {
            Path(record.file_name).name: record.text or "Error: no caption was given; the job's report says why."
            for record in _dataset(call, made).records()
        }
        return {"message": "Captions generated and saved", "job_id": job_id, "captions": captions}

    return jobs.followed(call, "caption-images", graph, "The pictures are being captioned", finished)


def create_dataset_config(call: Call) -> Reply:
    body: CreateDatasetConfig = call.body
    dataset = existing(call, body.output_name)
    graph = graphs.configured(
        graphs.from_dataset(dataset.name),
        body.resolution,
        body.trigger_word,
        num_repeats=body.num_repeats,
        batch_size=body.batch_size,
        enable_bucket=body.enable_bucket,
        validation_split=body.validation_split,
        shuffle_caption=body.shuffle_caption,
        cached_text=not body.shuffle_caption,  # shuffled captions are no one text
        keep_tokens=body.keep_tokens,
    )

    def finished(made: dict[str, Any], job_id: str) -> dict[str, Any]:
        config = made["dataset_config"]
        path = Path(existing(call, body.output_name).folder) / Path(config).name
        return {"message": "Dataset config created", "job_id": job_id, "path": str(path), "dataset_config": config}

    return jobs.followed(call, "create-dataset-config", graph, "The config is being written", finished)


def captioner_inputs(captioner: str, model: str, question: str = QUESTION) -> dict[str, Any]:
    """Inputs of a captioner's node that are to be others than the node has them by itself.

    Raises:
        Refused: the captioner cannot be asked that.
    """
    if captioner not in ASKED and question != QUESTION:
        raise Refused(
            f"prompt is '{question[:100]}', and {captioner} takes none but '{QUESTION}'. Leave it out, or choose the "
            "captioner gemini or openai.",
            "prompt",
        )
    chosen = {"model": model} if model and captioner != "metadata" else {}
    return chosen if question == QUESTION else chosen | {"system_prompt": question}


def existing(call: Call, name: str) -> Dataset:
    """The dataset of a request.

    Raises:
        Refused: there is none of that name; the text lists those that there are.
    """
    try:
        return stored_dataset(call.places.datasets_roots, name)
    except DatasetError as error:
        raise Refused(str(error), "output_name", 404) from error


def _dataset(call: Call, made: dict[str, Any]) -> Dataset:
    """What a job made, at the revision that it made."""
    return stored_dataset(call.places.datasets_roots, made["dataset"], made["revision"])
