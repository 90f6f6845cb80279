"""What the captioner nodes have in common, and the node that captions datasets from their own labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy_api.latest import io

from .. import token_limits
from ..captioners import metadata
from ..captioners.background import ask_in_background
from ..captioners.captioner import Captioner
from ..captioners.cleanup import Rules, read_words
from ..captioners.gemini import SYSTEM_PROMPT
from ..captioners.runner import caption_dataset
from ..captioners.unfinished import leave_open
from ..prompting.tokens import flux_encoders
from . import sockets
from .host import encoders, execution, folders
from .jobs import logged

CATEGORY = "Impasto/Captions"
REMOVED = {  # input -> what it takes out, in the order of `Rules`
    "remove_lead_ins": "lead-ins ('The image shows', 'a painting of')",
    "remove_style_words": "style, medium and brushwork, and whole sentences about them",
    "remove_artists": "names of artists, and titles",
    "remove_refusals": "answers like 'I'm sorry, I can't help with that'; the picture then goes to the fallback",
}


def captioner_schema(
    which: Sequence[io.Input],
    how: Sequence[io.Input],
    *,
    fallback: str = "Another captioner, asked about pictures that this one gives no caption for.",
    report: str = "How many were captioned, what was refused and what to look at.",
    **names: Any,
) -> io.Schema:
    """The schema of a captioner node: `dataset`, `which` captioner, the trigger word, clean-up, `how` it is asked.

    Args:
        fallback, report: tooltips.
        names: id, name, description and search aliases of the node.
    """
    return io.Schema(
        category=CATEGORY,
        inputs=[
            _dataset_input(),
            *which,
            _trigger_word_input(),
            io.Boolean.Input(
                "clean_up",
                default=True,
                tooltip="Take off lead-ins ('The image shows'), style and medium words and artist names.",
            ),
            *how,
            sockets.Captioner.Input("fallback", optional=True, tooltip=fallback),
            *_clean_up_inputs(),
        ],
        outputs=_outputs(report),
        is_output_node=True,
        **names,
    )


def _dataset_input() -> io.Input:
    return sockets.Dataset.Input(
        "dataset",
        optional=True,
        tooltip="The dataset to caption. It stays as it is. Leave it out to use only the captioner output.",
    )


def _trigger_word_input() -> io.Input:
    return io.String.Input(
        "trigger_word",
        default="",
        placeholder="a rare word, for example mntgrdn",
        tooltip="Put in front of every caption; changing it captions nothing again. Empty for none.",
    )


def _outputs(report: str) -> list[io.Output]:
    return [
        sockets.Dataset.Output("dataset", tooltip="The dataset with a caption for every picture it could say."),
        io.String.Output("report", tooltip=report),
        sockets.Captioner.Output("captioner", tooltip="This captioner, as the fallback of another."),
    ]


def _clean_up_inputs() -> list[io.Input]:
    """One switch for each rule of clean-up, and words of a person's own."""
    switches = [
        io.Boolean.Input(
            name, default=True, optional=True, advanced=True, tooltip=f"Clean-up, if on, takes out {what}."
        )
        for name, what in REMOVED.items()
    ]
    own = io.String.Input(
        "remove_words",
        default="",
        optional=True,
        advanced=True,
        tooltip="More words and phrases that clean-up takes out, with commas between them.",
    )
    return [*switches, own]


def ask_again_input() -> io.Input:
    return io.Boolean.Input(
        "ask_again",
        default=False,
        advanced=True,
        tooltip="Ask also about pictures that were refused for good in an earlier run.",
    )


def system_prompt_input() -> io.Input:
    return io.String.Input(
        "system_prompt",
        default=SYSTEM_PROMPT,
        multiline=True,
        advanced=True,
        tooltip=(
            "What a caption shall describe and leave out; {genre}, {artist}, {title}, {style} and {date} stand for "
            "each picture's own labels. Another text asks about every picture anew."
        ),
    )


def token_counts(text: str, check: Callable[[], object] = execution.raise_if_cancelled) -> tuple[int, int]:
    """Tokens of a caption for FLUX's CLIP-L and T5, start and end included, by the tokenizers that ComfyUI ships."""
    text = encoders.literal(text)
    clip_l, t5 = flux_encoders(*encoders.token_counters(None, check), token_limits.T5_DEV)
    return clip_l.count(text) + clip_l.extra, t5.count(text) + t5.extra


async def captioned(
    captioner: Captioner,
    dataset,
    trigger_word: str,
    clean_up: bool,
    fallback: Captioner | None = None,
    ask_again: bool = False,
    remove_words: str = "",
    before: str = "",
    **removed: bool,
) -> io.NodeOutput:
    """Caption a dataset as the inputs of `captioner_schema` say; without one, only hand the captioner on.

    Args:
        removed: by the names in `REMOVED`.
        before: a paragraph at the head of the report.
    """
    if dataset is None:
        return io.NodeOutput(None, "", captioner)
    rules = Rules(*(removed.get(name, True) for name in REMOVED), words=read_words(remove_words))
    progress = execution.progress()
    with logged(f"Captioner {captioner.name}", dataset.folder):
        done = await caption_dataset(
            dataset,
            captioner,
            progress,
            trigger_word=trigger_word,
            rules=rules if clean_up else None,
            fallback=fallback,
            ask_again=ask_again,
            asking=ask_in_background,
            count_tokens=token_counts,
        )
    if done.open:
        leave_open(folders.user_root(), captioner.name)
    remarks = getattr(captioner, "remarks", ())  # of a model in this process: what the run taught it
    report = "\n".join([before, done.report, *remarks]).strip()
    progress(1, 1, report)
    return io.NodeOutput(done.dataset, report, captioner)


class MetadataCaptioner(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoMetadataCaptioner",
            display_name="Metadata Captioner",
            category=CATEGORY,
            description=(
                "Captions each picture from its own labels, by what it shows: '<trigger word>, a landscape'. "
                "The style is not named, so that the trigger word learns it. Needs no model and no network."
            ),
            search_aliases=["caption", "trigger word", "labels", "genre", "tags", "captioner"],
            inputs=[
                _dataset_input(),
                _trigger_word_input(),
                io.Boolean.Input(
                    "name_artist",
                    default=False,
                    optional=True,
                    tooltip="Also name the artist where known. The name then learns part of the style.",
                ),
            ],
            outputs=_outputs("How many captions were written, and which pictures share one."),
            is_output_node=True,
        )

    @classmethod
    async def execute(cls, trigger_word: str, name_artist: bool = False, dataset=None) -> io.NodeOutput:
        return await captioned(metadata.MetadataCaptioner(name_artist), dataset, trigger_word, clean_up=False)


NODES = [MetadataCaptioner]
