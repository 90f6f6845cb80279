"""The node that captions datasets with Florence-2."""

from __future__ import annotations

from comfy_api.latest import io

from ..captioners.cleanup import DEFAULT_RULES
from ..captioners.florence import MAX_BATCH, MAX_BEAMS, MAX_TOKENS, TASKS, Florence2Captioner, Settings
from ..captioners.florence_checkpoints import (
    REPOSITORIES,
    Checkpoint,
    choose_checkpoint,
    download_checkpoint,
    find_checkpoints,
    missing_checkpoint,
)
from ..captioners.runner import caption_dataset
from ..captioners.unfinished import fingerprint, leave_open
from . import host, sockets


class ImpastoFlorence2Captioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        found = [checkpoint.name for checkpoint in _found()]
        return io.Schema(
            node_id="ImpastoFlorence2Captioner",
            display_name="Florence-2 Captioner",
            category="Impasto/Captions",
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
            inputs=[
                sockets.Dataset.Input(
                    "dataset",
                    optional=True,
                    tooltip="The dataset to caption. It stays as it is. Leave it out to use only the captioner output.",
                ),
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
                    options=list(TASKS),
                    default=next(iter(TASKS)),
                    tooltip="How much to say: a paragraph, two sentences, one, or a list of what is in the picture.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    placeholder="a rare word, for example mntgrdn",
                    tooltip="Put in front of every caption; changing it captions nothing again. Empty for none.",
                ),
                io.Boolean.Input(
                    "clean_up",
                    default=True,
                    tooltip="Take off lead-ins ('The image shows'), style and medium words and artist names.",
                ),
                io.Int.Input(
                    "num_beams",
                    default=3,
                    min=1,
                    max=MAX_BEAMS,
                    advanced=True,
                    tooltip="Answers followed at the same time, of which the likeliest is kept. 1 is fastest.",
                ),
                io.Int.Input(
                    "max_new_tokens",
                    default=256,
                    min=8,
                    max=MAX_TOKENS,
                    advanced=True,
                    tooltip="Longest answer in tokens. A longer one is cut after its last whole sentence.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=8,
                    min=1,
                    max=MAX_BATCH,
                    advanced=True,
                    tooltip="Pictures at a time. Halved by itself, and said in the report, where memory is too small.",
                ),
                sockets.Captioner.Input(
                    "fallback",
                    optional=True,
                    tooltip="Another captioner, asked about pictures that this one gives no caption for.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The dataset with a caption for every picture it could say."),
                io.String.Output("report", tooltip="How many were captioned, what was refused and what to look at."),
                sockets.Captioner.Output("captioner", tooltip="This captioner, as the fallback of another."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model: str) -> bool | str:
        """Accept models that are not here: `execute` says what to do, and where it looked."""
        return isinstance(model, str) or "model is a name"

    @classmethod
    def fingerprint_inputs(cls, **values: object) -> str:
        """Go on where the last run left pictures open: a service may be the fallback."""
        return fingerprint(host.owner_folder(), Florence2Captioner.name)

    @classmethod
    async def execute(
        cls,
        model: str,
        download: bool,
        task: str,
        trigger_word: str,
        clean_up: bool,
        num_beams: int,
        max_new_tokens: int,
        batch_size: int,
        dataset=None,
        fallback=None,
    ) -> io.NodeOutput:
        captioner = Florence2Captioner(
            _checkpoint(model, download),
            Settings(task, num_beams, max_new_tokens),
            batch_size,
            host.FlorencePlace(),
        )
        if dataset is None:
            return io.NodeOutput(None, "", captioner)
        rules = DEFAULT_RULES if clean_up else None
        progress = host.progress()
        captioned = await caption_dataset(
            dataset, captioner, progress, trigger_word=trigger_word, rules=rules, fallback=fallback
        )
        if captioned.open:
            leave_open(host.owner_folder(), captioner.name)
        report = "\n".join([captioned.report, *captioner.remarks])
        progress(1, 1, report)
        return io.NodeOutput(captioned.dataset, report, captioner)


def _found() -> tuple[Checkpoint, ...]:
    return find_checkpoints(host.models_root(), host.model_folders())


def _checkpoint(model: str, download: bool) -> Checkpoint:
    found = _found()
    checkpoint = choose_checkpoint(model, found)
    if checkpoint is None and not download:
        raise missing_checkpoint(model, host.models_root(), found)
    return checkpoint or download_checkpoint(model, host.models_root(), host.progress())


NODES = [ImpastoFlorence2Captioner]
