"""The node that captions datasets with Florence-2."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners import florence
from ..captioners.florence_checkpoints import (
    REPOSITORIES,
    FlorenceCheckpoint,
    choose_checkpoint,
    download_checkpoint,
    find_checkpoints,
    missing_checkpoint,
)
from ..captioners.unfinished import fingerprint
from .captions import captioned, captioner_schema
from .host import execution, folders
from .host.florence import ManagedFlorence


class Florence2Captioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        found = [checkpoint.name for checkpoint in _found()]
        return captioner_schema(
            node_id="ImpastoFlorence2Captioner",
            display_name="Florence-2 Captioner",
            description=(
                "Captions pictures on this machine with Florence-2. Every answer is kept at once, so a stopped run "
                "goes on where it was. Needs a Florence-2 in ComfyUI's model folders, or download turned on."
            ),
            search_aliases=[
                "caption",
                "florence2",
                "image to text",
                "vlm",
                "describe image",
                "captioner",
                "auto caption",
            ],
            which=[
                io.Combo.Input(
                    "model",
                    options=[*REPOSITORIES, *(name for name in found if name not in REPOSITORIES)],
                    default=REPOSITORIES[0],
                    tooltip="A Florence-2 by its name on the Hugging Face hub, wherever it lies, or a folder of yours.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    tooltip=(
                        "Fetch a missing model from the hub to models/florence2: 0.5 to 1 GB for base, 1.6 to 3.3 GB "
                        "for large. Off: nothing is ever fetched."
                    ),
                ),
                io.Combo.Input(
                    "task",
                    options=list(florence.TASKS),
                    default=next(iter(florence.TASKS)),
                    tooltip="How much to say: a paragraph, two sentences, one, or a list of what is in the picture.",
                ),
            ],
            how=[
                io.Int.Input(
                    "num_beams",
                    default=3,
                    min=1,
                    max=florence.MAX_BEAMS,
                    advanced=True,
                    tooltip="Answers followed at the same time, of which the likeliest is kept. 1 is fastest.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=256,
                    min=8,
                    max=florence.MAX_TOKENS,
                    advanced=True,
                    tooltip="Longest answer in tokens. A longer one is cut after its last whole sentence.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=florence.MAX_BATCH,
                    advanced=True,
                    tooltip="Pictures at a time. Halved by itself, and said in the report, where memory is too small.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str | None = None) -> bool | str:
        """Accept models that are not here: `execute` says what to do, and where it looked. None comes over a link."""
        return isinstance(model, str | None) or "model is a name"

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> str:
        """Go on where the last run left pictures open: a service may be the fallback."""
        return fingerprint(folders.user_root(), florence.Florence2Captioner.name)

    @classmethod
    async def execute(
        cls,
        model: str,
        download: bool,
        task: str,
        num_beams: int,
        max_new_tokens: int,
        batch_size: int,
        dataset=None,
        **common,
    ) -> io.NodeOutput:
        captioner = florence.Florence2Captioner(
            _checkpoint(model, download),
            florence.FlorenceSettings(task, num_beams, max_new_tokens),
            batch_size,
            ManagedFlorence(),
        )
        return await captioned(captioner, dataset, **common)


def _found() -> tuple[FlorenceCheckpoint, ...]:
    return find_checkpoints(folders.models_root(), folders.model_folders())


def _checkpoint(model: str, download: bool) -> FlorenceCheckpoint:
    found = _found()
    checkpoint = choose_checkpoint(model, found)
    if checkpoint is None and not download:
        raise missing_checkpoint(model, folders.models_root(), found)
    return checkpoint or download_checkpoint(model, folders.models_root(), execution.progress())


NODES = [Florence2Captioner]
