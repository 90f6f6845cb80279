"""What the goldens ask of the pack, as plain values: the only module here that knows where the pack keeps its code.

When a module moves or a function takes its arguments otherwise, this file is mended; the tests and their JSON are not.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from impasto.captioners.captioner import Picture
from impasto.captioners.florence import Florence2Captioner, FlorenceSettings
from impasto.captioners.florence_checkpoints import FlorenceCheckpoint
from impasto.captioners.gemini import GeminiCaptioner, GeminiSettings
from impasto.captioners.ledger import Answer, Question, append_answer, read_ledger
from impasto.captioners.metadata import MetadataCaptioner
from impasto.captioners.openai import OpenAICaptioner, OpenAISettings
from impasto.curation.exports import FORMATS as EXPORT_FORMATS
from impasto.curation.exports import ExportSettings, export_dataset
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml
from impasto.dataset.records import Dataset, Record, Refusal, write_manifest
from impasto.progress import silent
from impasto.prompting import sample_formats
from impasto.prompting.library import Library, SavedPrompt
from impasto.prompting.prompt_set import Prompt, crossed, expanded_set, held_out_prompts, prompt_set
from impasto.prompting.seed_book import SeedBook
from impasto.prompting.seeds import SeedSettings, further_seed, seeds_at
from impasto.rendering.batches import Memory, PictureBatch, paint_all
from impasto.rendering.cells import Grid, Sampling, columns_of, render
from impasto.trainers.attention import ATTENTION_BACKENDS
from impasto.trainers.flux import loading
from impasto.trainers.flux.fingerprint import fingerprint as flux_fingerprint
from impasto.trainers.presets import PRESETS
from impasto.trainers.run import create
from impasto.trainers.run import folder as runs
from impasto.trainers.run import publish as publishing
from impasto.trainers.run.checkpoints import ADAPTER_FILE
from impasto.trainers.settings import (
    LOSS_WEIGHTINGS,
    OPTIMIZERS,
    PRECISIONS,
    SCHEDULERS,
    TIMESTEP_SAMPLINGS,
    TRACKERS,
    Settings,
)
from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

CHOICES = {
    "optimizer": OPTIMIZERS,
    "scheduler": SCHEDULERS,
    "timestep_sampling": TIMESTEP_SAMPLINGS,
    "loss_weighting": LOSS_WEIGHTINGS,
    "precision": PRECISIONS,
    "tracker": TRACKERS,
    "attention_backend": ATTENTION_BACKENDS,
}


# Training: what decides a run's id, and the run on disk.


def training_defaults() -> dict[str, Any]:
    """Every training setting with its default, in the order that settings.toml has them."""
    return dataclasses.asdict(Settings())


def presets() -> dict[str, dict[str, Any]]:
    """Preset -> its training settings, and what it says of the dataset."""
    return {
        name: {setting: getattr(preset.settings, setting) for setting in preset.settings.to_dict()}
        | {"dataset": [preset.width, preset.height, preset.batch_size]}
        for name, preset in PRESETS.items()
    }


def targets() -> list[str]:
    from impasto.trainers.lora.targets import TARGETS

    return list(TARGETS)


def begin_run(root: Path, name: str, settings: Mapping[str, Any], inputs: Mapping[str, Any]) -> Path:
    """The folder of the run of these training settings; `inputs` as settings.toml has them under [inputs]."""
    return create.create_run(root, runs.Job(name, Settings(**settings), **inputs)).path


def continue_run(root: Path, run: Path, more_steps: int, weights: Path, **changes: Any) -> Path:
    """The folder of the run that goes on from the last checkpoint of `run`."""
    fingerprint = flux_fingerprint(weights)
    return create.continue_run(root, runs.Run(run.name, str(run)), more_steps, weights, fingerprint, **changes).path


def asked_for(run: Path) -> dict[str, Any]:
    """What a run is asked to do, as it is read from its folder."""
    return dataclasses.asdict(runs.Job.read(runs.Run(run.name, str(run))))


def train(run: Path, stop_after: int | None = None) -> dict[str, Any]:
    """Train in this process, on the CPU, to the end or until `stop_after` steps are done; status.json's content."""
    from impasto.trainers.recipe import train_run

    of_folder = runs.Run(run.name, str(run))

    def stop_requested() -> bool:
        # A step's line is written during the next one.
        done = max((line["step"] for line in of_folder.metrics()), default=0)
        return stop_after is not None and done >= stop_after - 1

    train_run(of_folder, cpu=True, stop_requested=stop_requested)
    return of_folder.status()


def latest_run(root: Path) -> str:
    return runs.find_run(root, runs.LATEST).id


def checkpoints_of(run: Path) -> dict[int, Path]:
    """Step -> the LoRA file of its checkpoint, in our own format."""
    return {step: folder / ADAPTER_FILE for step, folder in runs.Run(run.name, str(run)).checkpoints().items()}


def metrics_of(run: Path) -> list[dict[str, Any]]:
    return runs.Run(run.name, str(run)).metrics()


def publish(run: Path, name: str, loras_root: Path, format: str) -> Path | None:
    return publishing.publish(runs.Run(run.name, str(run)), name, loras_root, format)


def fingerprint(weights: Path) -> str:
    return flux_fingerprint(weights)


# Encoded training data.


def encode(
    config: Path,
    encode_picture: Callable[[Tensor], Tensor],
    encode_text: Callable[[str], tuple[Tensor, Tensor]],
    identities: tuple[str, str] = ("autoencoder", "text encoders"),
    **arguments: Any,
) -> tuple[Path, str, str]:
    """Folder, key and file of prompts of the features; `identities` of the two encoders."""
    from impasto.trainers.features import encoding as features

    encoders = [features.Encoder(*both) for both in zip(identities, (encode_picture, encode_text), strict=True)]
    made = features.encode(config, *encoders, **arguments)
    return Path(made.folder), made.key, made.prompts


def samples_of(folder: Path, key: str, prompts: str = "") -> list[dict[str, Any]]:
    """Each example of the features, with the tensors of its files."""
    from impasto.trainers.features.index import Features, load

    loaded = load(Features(str(folder), key, prompts))
    described = []
    for example in loaded.examples:
        t5, pooled = loaded.load_text(example.text_path)
        described.append(
            {
                "id": example.id,
                "image": example.image,
                "caption": example.caption,
                "size": [example.width, example.height],
                "tokens": example.tokens,
                "repeats": example.repeats,
                "held_out": example.held_out,
                "tensors": {"latent": loaded.load_latent(example), "t5": t5, "pooled": pooled},
            }
        )
    return described


# LoRA files.


def lora_of(weights: Path, settings: Mapping[str, Any]) -> dict[str, Tensor]:
    """A LoRA before its first step, in our own format, on the base model in `weights`."""
    from impasto.trainers.lora import adapter
    from impasto.trainers.lora.targets import LoraShape

    transformer = loading.load_transformer(weights, "fp32")
    shape = {name: value for name, value in settings.items() if name != "seed"}
    adapter.add_lora(transformer, LoraShape(**shape), settings["seed"])
    return adapter.lora_state_dict(transformer)


def lora_formats() -> list[str]:
    from impasto.trainers.lora.file_formats import FORMATS

    return list(FORMATS)


def converted(state: Mapping[str, Tensor], format: str) -> dict[str, Tensor]:
    from impasto.trainers.lora.file_formats import convert

    return convert(state, format)


def read_lora(path: Path) -> dict[str, Tensor]:
    from impasto.trainers.lora.file_formats import read

    return read(path)


def metadata_in(lora: Path) -> dict[str, str]:
    from impasto.trainers.lora.file_formats import read_metadata

    return read_metadata(lora)


def lora_metadata(run: Path, step: int, folder: Path, key: str, guidance: bool) -> dict[str, str]:
    """What the LoRA file of a step says of itself; trained on the features in `folder` that are not held out."""
    from impasto.trainers.features import index as features_index
    from impasto.trainers.run.lora_metadata import metadata

    loaded = features_index.load(features_index.Features(str(folder), key))
    trained = [example for example in loaded.examples if not example.held_out]
    of_folder = runs.Run(run.name, str(run))
    return metadata(of_folder, runs.Job.read(of_folder), step, trained, guidance)


# Datasets.


def write_dataset(
    folder: Path, records: Iterable[Mapping[str, Any]], refusals: Iterable[Mapping[str, Any]] = ()
) -> Dataset:
    return write_manifest(folder, [Record(**each) for each in records], [Refusal(**each) for each in refusals])


def dataset_at(folder: Path, revision: str) -> Dataset:
    return Dataset(folder.name, str(folder), revision)


def write_toml(dataset: Dataset, options: Mapping[str, Any], regularisation: Dataset | None = None) -> tuple[Path, str]:
    """The dataset TOML and the hash of what it stands for."""
    config = write_dataset_toml(dataset, TomlSettings(**options), regularisation=regularisation)
    return Path(config.path), config.hash


def export_formats() -> list[str]:
    return list(EXPORT_FORMATS)


def export(dataset: Dataset, format: str, options: Mapping[str, Any]) -> tuple[Path, Path, str]:
    """Folder, file that the trainer reads, and the note for the person."""
    made = export_dataset(dataset, format, ExportSettings(**options))
    return Path(made.folder), Path(made.config), made.note


# Captions.


def captioners(florence: Path) -> dict[str, Any]:
    """The captioners as a graph's defaults make them, and with other settings. Nothing is loaded or sent.

    Args:
        florence: folder of a checkpoint.
    """
    nowhere = Path("nowhere")
    checkpoint = FlorenceCheckpoint(florence.name, florence, own_code=False)
    briefly = FlorenceSettings(task="caption", num_beams=1, max_new_tokens=64)
    return {
        "metadata": MetadataCaptioner(),
        "metadata naming the artist": MetadataCaptioner(name_artist=True),
        "gemini": GeminiCaptioner(GeminiSettings(), nowhere, environment={}),
        "gemini at low resolution": GeminiCaptioner(GeminiSettings(media_resolution="low"), nowhere, environment={}),
        "gemini told otherwise": GeminiCaptioner(GeminiSettings(system_prompt="Say it."), nowhere, environment={}),
        "openai": OpenAICaptioner(OpenAISettings("ollama", "qwen3-vl:8b"), nowhere, environment={}),
        "openai told otherwise": OpenAICaptioner(
            OpenAISettings("ollama", "gemma3:4b", system_prompt="Say it."), nowhere, environment={}
        ),
        "florence": Florence2Captioner(checkpoint),
        "florence told otherwise": Florence2Captioner(checkpoint, briefly),
    }


def picture(**labels: str) -> Picture:
    return Picture("0" * 64, Path("nowhere.png"), 64, 64, **labels)


def answer(ledger: Path, question: Mapping[str, str], said: Mapping[str, Any]) -> None:
    append_answer(ledger, Question(**question), Answer(**said))


def ledger_of(path: Path) -> list[dict[str, Any]]:
    """Every question with its latest answer."""
    return [{**dataclasses.asdict(asked), **dataclasses.asdict(said)} for asked, said in read_ledger(path).items()]


# Prompts and seeds.


def prompts(text: str, seed: int, expansion: str = "as written", seeds: str = "") -> list[list[Any]]:
    """Text and seed of each prompt of a set, expanded with two wildcards and crossed with `seeds`."""
    wildcards = {"time": ("dawn", "noon", "night"), "place": ("a {quiet|busy} harbour", "a garden at __time__")}
    chosen = expanded_set(prompt_set(text, seed), expansion, wildcards)
    return [[prompt.text, str(prompt.seed)] for prompt in crossed(chosen, seeds)]


def held_out(genres: Sequence[str], captions: Sequence[str], count: int, trigger: str = "") -> list[str]:
    return [prompt.text for prompt in held_out_prompts(genres, captions, count, 1, trigger)]


def sample_prompts(folder: Path, prompts: Sequence[tuple[str, int]]) -> dict[str, str]:
    """File -> text of a prompt set in other trainers' formats."""
    settings = sample_formats.SampleSettings(512, 768, 20, 3.5)
    files = sample_formats.write_sample_formats(folder, [Prompt(*each) for each in prompts], settings)
    return {file.name: file.read_text(encoding="utf-8") for file in files}


def seeds(profile: str, seed: int = 5, text: str = "7, 8 # nine\n9", count: int = 3, position: int = 0) -> list[str]:
    from datetime import date

    given = seeds_at(SeedSettings(profile, seed, text, count), position, date(2026, 11, 29))
    return [str(each) for each in given]


def companions(seed: int) -> list[str]:
    return [str(further_seed(seed, index)) for index in range(1, 5)]


def taken(book: Path, profile: str, sequence: str, **settings: Any) -> list[str]:
    """Seeds from a seed book, which goes on where it stood."""
    asked = SeedSettings(profile, **{"seed": 5, "text": "7, 8, 9", "count": 2} | settings)
    return [str(each) for each in SeedBook(book).take(asked, sequence, "")]


def fill_seed_book(path: Path) -> None:
    book = SeedBook(path)
    book.keep("dusk", 2**64 - 5)
    book.write_note(7, "good light")


def seed_book_of(path: Path) -> dict[str, Any]:
    """Favourites, a note and the history of the sequence "default" of a seed book, the last first."""
    book = SeedBook(path)
    return {
        "favourites": {name: str(seed) for name, seed in book.favourites().items()},
        "note of 7": book.note(7),
        "history": [[taken.profile, [str(seed) for seed in taken.seeds]] for taken in book.history("default")],
    }


def save_prompts(path: Path, saved: Iterable[Mapping[str, Any]], queued: Iterable[tuple[str, int, str]]) -> None:
    library = Library(path)
    library.save([SavedPrompt(**each) for each in saved])
    for each in queued:
        library.record(*each)


def library_of(path: Path) -> dict[str, Any]:
    """A prompt library's prompts and history without the times of queueing, and what some searches find."""
    library = Library(path)
    return {
        "prompts": [json.loads(json.dumps(dataclasses.asdict(each))) for each in library.search()],
        "history": [[each.text, str(each.seed), each.lora] for each in library.queued()],
        "with 'harb'": [each.text for each in library.search("harb")],
        "tagged light": [each.text for each in library.search(tag="light")],
        "favourites": [each.text for each in library.search(favourites=True)],
        "queued with 'etang'": [each.text for each in library.queued("etang")],
    }


# Rendered pictures.


class _Painter:
    """Gives grey pictures at once: what is looked at is how they are kept."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size

    def encode(self, texts: Sequence[str]) -> None:
        pass

    def use(self, adapter: Path | None, strength: float) -> None:
        pass

    def paint(self, text: str, seed: int, on_step: Callable[[int], None]) -> Image.Image:
        return Image.new("RGB", self.size, "grey")

    def paint_batch(self, text: str, seeds: Sequence[int], on_step: Callable[[int], None]) -> list[Image.Image]:
        return [Image.new("RGB", self.size, "grey") for _ in seeds]


def batch_files(folder: Path, prompts: Sequence[tuple[str, int]], models: str, **sampling: Any) -> dict[str, Any]:
    """The manifest of a painted batch, and what each picture says of itself."""
    chosen = Sampling(**sampling)
    batch = PictureBatch(folder, tuple(Prompt(*each) for each in prompts), chosen, models, size=2)
    memory = Memory(ran_out=lambda error: False, free=lambda: None)
    painted = paint_all(batch, _Painter((chosen.width, chosen.height)), memory, silent)
    lines = batch.manifest.read_text(encoding="utf-8").splitlines()
    return {"manifest": [json.loads(line) for line in lines], "pictures": _described(painted.files)}


def grid_files(
    folder: Path,
    checkpoints: Mapping[int, Path],
    prompts: Sequence[tuple[str, int]],
    models: str,
    strength: float,
    **sampling: Any,
) -> dict[str, Any]:
    """The pictures of a progress grid's cells, and what each says of itself."""
    chosen = Sampling(**sampling)
    columns = columns_of("golden", checkpoints, 5, {0: 0.5})
    grid = Grid("golden", folder, columns, tuple(Prompt(*each) for each in prompts), chosen, strength, models)
    render(grid, _Painter((chosen.width, chosen.height)), silent)
    return _described(sorted(folder.glob("*.png")))


def _described(pictures: Iterable[Path]) -> dict[str, Any]:
    described = {}
    for path in pictures:
        with Image.open(path) as file:
            described[path.name] = {name: json.loads(value) for name, value in file.text.items()}
    return described


# Nodes; asked for with ComfyUI importable only.


def node_schemas() -> dict[str, Any]:
    """What a saved graph holds to: each node's inputs in their order, with defaults and fixed choices, and outputs."""
    import asyncio

    from impasto.nodes import ImpastoExtension

    nodes = asyncio.run(ImpastoExtension().get_node_list())
    return {schema.node_id: _schema(schema) for schema in (node.GET_SCHEMA() for node in nodes)}


def _schema(schema: Any) -> dict[str, Any]:
    return {
        "inputs": [_input(each) for each in schema.inputs],
        "outputs": [
            f"{each.display_name or each.id}: {each.get_io_type()}{' list' if each.is_output_list else ''}"
            for each in schema.outputs
        ],
        "is an output node": bool(schema.is_output_node),
    }


# Inputs that offer what lies on disk, with how many of their options stand there whatever lies there.
LISTED_FROM_DISK = {"start_from": 1, "run_id": 1, "lora": 1, "name": 0}


def _input(given: Any) -> str:
    """Name, type and all that decides which values a saved graph may hold; lists that ComfyUI gives are not ours."""
    from impasto.nodes.host.sampling import sampler_names, scheduler_names

    said = [f"{given.id}: {given.get_io_type()}"]
    for name in ("default", "options", "min", "max"):
        value = getattr(given, name, None)
        if value in (sampler_names(), scheduler_names()):
            value = "ComfyUI's"
        if given.id in LISTED_FROM_DISK and name == "options" and value:
            value = value[: LISTED_FROM_DISK[given.id]]
        said += [] if value is None else [f"{name} {value!r}"]
    said += [name for name in ("optional", "multiline", "force_input", "control_after_generate") if _is(given, name)]
    return ", ".join(said)


def _is(given: Any, name: str) -> bool:
    return bool(getattr(given, name, False))


def node_sockets() -> dict[str, dict[str, Any]]:
    """Node id -> its inputs' names and its outputs' types in order, and the values its widgets take, in their order.

    A widget is (name, kind, options, min, max); the page's own one for what follows a seed's use is among them.
    """
    import asyncio

    from comfy_api.latest import io
    from impasto.nodes import ImpastoExtension

    def widgets(given: Any) -> Iterable[tuple]:
        if isinstance(given, io.WidgetInput) and not given.force_input:
            yield given.id, given.get_io_type(), *(getattr(given, name, None) for name in ("options", "min", "max"))
            if getattr(given, "control_after_generate", None):
                yield f"after {given.id}", "COMBO", ["fixed", "increment", "decrement", "randomize"], None, None

    schemas = [node.GET_SCHEMA() for node in asyncio.run(ImpastoExtension().get_node_list())]
    return {
        schema.node_id: {
            "inputs": [each.id for each in schema.inputs],
            # A graph is saved with * where an output has the type of an input.
            "outputs": [each.get_io_type().replace("COMFY_MATCHTYPE_V3", "*") for each in schema.outputs],
            "widgets": [widget for each in schema.inputs for widget in widgets(each)],
        }
        for schema in schemas
    }


def identity_of_model(weights: Path) -> str:
    from impasto.nodes.host import identity
    from impasto.nodes.host import models as host_models

    return identity.model_identity(host_models.load_diffusion_model(weights))
