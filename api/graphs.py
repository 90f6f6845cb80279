"""The graphs that requests become, of nodes that a person has too, in ComfyUI's API format.

Pure: what a request asks for comes in, a graph goes out. Node ids are words, so that the graph can be read as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..dataset.config_schema import KEYS
from ..trainers.settings import Settings

Graph = dict[str, dict[str, Any]]
Link = list[str | int]

LOAD, CAPTION, CONFIG, ENCODE, TRAIN = "load", "caption", "config", "encode", "train"
NEWEST_BUCKET = 2  # the longest side of a bucket, in squares of the resolution, as the trainers' own examples have it
TINY_PRETRAINED = "pretrained"
TRAINERS = ("ImpastoFluxLoraTrainer", "ImpastoContinueTraining")
AS_BEFORE_RATE = 0.0  # of Continue Training's learning_rate: the run's own
CAPTIONERS = {
    "florence2": "ImpastoFlorence2Captioner",
    "metadata": "ImpastoMetadataCaptioner",
    "gemini": "ImpastoGeminiCaptioner",
    "openai": "ImpastoOpenAICaptioner",
}


@dataclass(frozen=True)
class Base:
    """What is trained on: model files by the names of ComfyUI's lists, or the pack's own tiny FLUX."""

    transformer: str = ""
    clip_l: str = ""
    t5xxl: str = ""
    vae: str = ""

    @property
    def is_tiny(self) -> bool:
        return not self.transformer


def node(kind: str, title: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title}}


def from_urls(name: str, urls: Sequence[str], captions: Sequence[str] = ()) -> Graph:
    """Pictures of the web become a dataset; with `captions`, one for each."""
    if captions:
        lines = [json.dumps({"url": url, "text": text}) for url, text in zip(urls, captions, strict=True)]
    else:
        lines = [json.dumps({"url": url}) for url in urls]
    inputs = {"urls": "\n".join(lines), "file": "", "name": name, "format": "JPEG"}
    return {LOAD: node("ImpastoImageURLLoader", "Download pictures", **inputs)}


def from_folder(name: str, root: str, folder: str, trigger_word: str) -> Graph:
    inputs = {"root": root, "folder": folder, "name": name, "format": "JPEG", "trigger_word": trigger_word}
    return {LOAD: node("ImpastoImageFolderLoader", "Load a folder of pictures", **inputs)}


def from_wikiart(name: str, choice: Mapping[str, Any]) -> Graph:
    return {LOAD: node("ImpastoWikiArtLoader", "Choose paintings", **choice, name=name)}


def from_dataset(name: str) -> Graph:
    return {LOAD: node("ImpastoDatasetByName", "Take up a dataset", name=name, revision="")}


def captioned(graph: Graph, captioner: str, trigger_word: str, settings: Mapping[str, Any]) -> Graph:
    """The graph with a captioner behind what it loads.

    Args:
        captioner: one of `CAPTIONERS`.
        settings: other inputs of it.
    """
    inputs = {"dataset": [LOAD, 0], "trigger_word": trigger_word, **settings}
    return graph | {CAPTION: node(CAPTIONERS[captioner], "Caption", **inputs)}


def configured(
    graph: Graph,
    resolution: int,
    trigger_word: str = "",
    **settings: Any,
) -> Graph:
    """The graph with a dataset config of what it loads, or captions.

    Args:
        resolution: pixels; the buckets follow it.
        trigger_word: the caption of pictures that have none.
        settings: other inputs of Dataset TOML Writer.
    """
    inputs = {key.name: key.written_default for key in KEYS if key.widget and not key.widget.optional}
    inputs |= buckets_of(resolution) | {"validation_split": 0.0, "resolution": resolution} | settings
    if trigger_word.strip():
        inputs["more_keys"] = f"class_tokens = {json.dumps(trigger_word.strip(), ensure_ascii=False)}"
    source = CAPTION if CAPTION in graph else LOAD
    return graph | {CONFIG: node("ImpastoDatasetTOMLWriter", "Write the config", dataset=[source, 0], **inputs)}


def buckets_of(resolution: int) -> dict[str, int]:
    """Sides of buckets, pixels: sd-scripts' at 256 and above, and smaller ones below."""
    step = 64 if resolution >= 256 else 32
    least = 256 if resolution >= 256 else max(step, resolution // 2 // step * step)
    most = max(1024, -(-NEWEST_BUCKET * resolution // step) * step)
    return {"min_bucket_reso": least, "max_bucket_reso": most, "bucket_reso_steps": step}


def written_config(file: str) -> Graph:
    """A dataset config that is there."""
    inputs = {"file": file, "target": "sd-scripts", "resolution": 0, "batch_size": 0, "num_repeats": 0}
    return {CONFIG: node("ImpastoDatasetTOMLLoader", "Take up the config", **inputs)}


def trained(graph: Graph, name: str, base: Base, settings: Mapping[str, Any]) -> Graph:
    """The graph with the training of a LoRA on the config that it makes.

    Args:
        settings: inputs of Training Settings; the others are its defaults.
    """
    nodes, (model, clip, vae) = models(base)
    encode = node("ImpastoEncodeTrainingData", "Encode", dataset_config=[CONFIG, 0], clip=clip, vae=vae)
    train = {"model": model, "features": [ENCODE, 0], "training": ["settings", 0], "name": name}
    return (
        graph
        | nodes
        | {
            "settings": node("ImpastoTrainingSettings", "Settings", **settings),
            ENCODE: encode,
            TRAIN: node("ImpastoFluxLoraTrainer", "Train", **train),
        }
    )


def models(base: Base) -> tuple[Graph, tuple[Link, Link, Link]]:
    """Nodes that load the models, and their MODEL, CLIP and VAE."""
    if base.is_tiny:
        tiny = node("ImpastoTinyFluxLoader", "Load the tiny FLUX", seed=0, weights=TINY_PRETRAINED)
        return {"tiny_flux": tiny}, (["tiny_flux", 0], ["tiny_flux", 1], ["tiny_flux", 2])
    encoders = {"clip_name1": base.clip_l, "clip_name2": base.t5xxl, "type": "flux"}
    return {
        "transformer": node("UNETLoader", "Load FLUX", unet_name=base.transformer, weight_dtype="default"),
        "encoders": node("DualCLIPLoader", "Load the text encoders", **encoders),
        "vae": node("VAELoader", "Load the VAE", vae_name=base.vae),
    }, (["transformer", 0], ["encoders", 0], ["vae", 0])


def continued(graph: Graph, run_id: str, more_steps: int) -> Graph | None:
    """What trains a run for longer, on the model of the graph that trained it; None if that has no trainer."""
    trainer = next((each for each in graph.values() if each["class_type"] in TRAINERS), None)
    model = trainer and trainer["inputs"].get("model")
    if not is_link(model, graph):
        return None
    return upstream(graph, model[0]) | _longer(model, run_id, more_steps)


def continued_on(loader: dict[str, Any], run_id: str, more_steps: int) -> Graph:
    """The same on the model that a node loads, as its first output."""
    return {"base": loader} | _longer(["base", 0], run_id, more_steps)


def _longer(model: Link, run_id: str, more_steps: int) -> Graph:
    longer = {"model": model, "run": ["earlier", 0], "more_steps": more_steps}
    longer |= {"learning_rate": AS_BEFORE_RATE, "scheduler": "as before"}
    return {
        "earlier": node("ImpastoTrainingRunLoader", "Take up the run", run_id=run_id),
        TRAIN: node("ImpastoContinueTraining", "Train for longer", **longer),
    }


def of_prompt(prompt: Mapping[str, Any], last: str) -> Graph:
    """What leads to a node of a prompt that ComfyUI executes, without what ComfyUI notes in it while it does."""
    kept = ("class_type", "inputs", "_meta")
    graph = {name: {key: each[key] for key in kept if key in each} for name, each in prompt.items()}
    return upstream(graph, last) if last in graph else graph


def upstream(graph: Graph, last: str) -> Graph:
    """The node and all that leads to it."""
    found: Graph = {}
    open_ = [last]
    while open_:
        if (name := open_.pop()) not in found:
            found[name] = graph[name]
            links = (value for value in graph[name]["inputs"].values() if is_link(value, graph))
            open_ += [link[0] for link in links]
    return found


def is_link(value: Any, graph: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph


def steps_of_epochs(pictures: int, repeats: int, batch_size: int, epochs: int) -> int:
    """Steps that so many epochs take, with every batch full."""
    return max(1, -(-pictures * repeats // batch_size) * epochs)


def settings_of(given: Mapping[str, Any], **asked: Any) -> dict[str, Any]:
    """Inputs of Training Settings: what a request's own fields say, and over that what it gives by name.

    Raises:
        SettingsError: a value is out of its range.
    """
    settings = asked | dict(given)
    Settings(**settings)
    return settings
