"""Florence-2 as a captioner: loading it with transformers' own classes, and captioning batches that shrink to fit.

Where checkpoints lie and come from is for `florence_checkpoints`; on which device the model is, for who opens it.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import torch
from PIL import Image

from ..clock import now_and_then
from ..dataset.pictures import PictureRefused, seen
from ..errors import ModelError, SettingsError
from ..files import content_hash
from ..out_of_memory import is_out_of_memory
from ..texts import one_line
from .captioner import Caption, CaptionRefusal, Kind, Picture
from .florence_checkpoints import FlorenceCheckpoint, fingerprint

if TYPE_CHECKING:
    from transformers import Florence2ForConditionalGeneration, Florence2Processor

CAPTIONER = "florence-2"
WORDING = 1  # raised when the same answer shall be read otherwise, so that old captions no longer count
OLDEST_TRANSFORMERS = "4.56"  # the first with Florence-2 of its own

# As a person chooses them -> Florence-2's task tokens (arXiv 2311.06242, table 1), each the whole of its prompt.
TASKS = {
    "more_detailed_caption": "<MORE_DETAILED_CAPTION>",
    "detailed_caption": "<DETAILED_CAPTION>",
    "caption": "<CAPTION>",
    "dense_region_caption": "<DENSE_REGION_CAPTION>",
}
MAX_BEAMS, MAX_TOKENS, MAX_BATCH = 16, 1024, 256  # 1024: the positions that the decoder was trained with
DECODING_THREADS = 4  # Pillow lets go of the interpreter while it decodes
ACTIVATION_STAGES = 17  # peak of a picture, in outputs of the first stage: 311 MB at base size in float32 on a CPU

T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlorenceSettings:
    """What Florence-2 is told beside the picture."""

    task: str = "more_detailed_caption"  # a key of `TASKS`
    num_beams: int = 3  # 1 is greedy
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise SettingsError(f"task is '{self.task}'. Choose one of: {', '.join(TASKS)}.")
        for name, limit in (("num_beams", MAX_BEAMS), ("max_new_tokens", MAX_TOKENS)):
            if not 1 <= getattr(self, name) <= limit:
                raise SettingsError(f"{name} is {getattr(self, name)}. Choose 1 to {limit}.")


@dataclass(frozen=True)
class Florence:
    """A loaded checkpoint: the model in evaluation mode, and what turns pictures into its inputs."""

    model: Florence2ForConditionalGeneration
    processor: Florence2Processor


@dataclass(frozen=True)
class Generated:
    """What the model said of one picture."""

    text: str  # special tokens and all, up to the end token
    tokens: int
    ended: bool  # by its own end token, rather than by the limit


def load_florence(folder: Path, dtype: torch.dtype = torch.float32) -> Florence:
    """Load a native checkpoint to the CPU. No code from the folder is run, and no pickle read.

    Raises:
        ModelError: transformers is too old, or the files are damaged or not of Florence-2.
    """
    try:
        from transformers import Florence2ForConditionalGeneration, Florence2Processor
    except ImportError as error:
        from transformers import __version__

        raise ModelError(
            f"transformers {__version__} has no Florence-2 of its own. Install a newer one in ComfyUI's Python: "
            f"python -m pip install 'transformers>={OLDEST_TRANSFORMERS}'"
        ) from error
    local = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = Florence2Processor.from_pretrained(folder, **local)
        model = Florence2ForConditionalGeneration.from_pretrained(folder, dtype=dtype, use_safetensors=True, **local)
    except MemoryError:
        raise
    except Exception as error:  # transformers raises whatever it meets in files that do not belong together
        raise ModelError(
            f"{folder} could not be loaded as Florence-2: {one_line(str(error))[:300]}. Fetch the checkpoint again."
        ) from error
    return Florence(model.eval().requires_grad_(False), processor)


def activation_bytes(florence: Florence, num_beams: int) -> int:
    """About the memory that one picture takes beside the weights, so that ComfyUI can make room for a batch."""
    vision, text = florence.model.config.vision_config, florence.model.config.text_config
    height, width = picture_size(florence)[::-1]
    stride = vision.patch_stride[0]
    first_stage = (height // stride) * (width // stride) * vision.embed_dim[0]
    image_tokens = florence.processor.num_image_tokens
    cache = 2 * text.decoder_layers * image_tokens * text.d_model * num_beams  # keys and values of cross-attention
    return (ACTIVATION_STAGES * first_stage + cache) * florence.model.dtype.itemsize


def picture_size(florence: Florence) -> tuple[int, int]:
    """Width and height, in pixels, that every picture is brought to, whatever its aspect, as in training."""
    size = florence.processor.image_processor.size
    return size["width"], size["height"]


def read_picture(path: Path, size: tuple[int, int], resample: int = Image.Resampling.BICUBIC) -> Image.Image:
    """A picture as it is `seen`, at exactly `size` (width, height).

    Raises:
        PictureRefused: the file is missing or does not decode whole.
    """
    return seen(path, (2 * size[0], 2 * size[1])).resize(size, Image.Resampling(resample))


@torch.inference_mode()
def generate(
    florence: Florence, pictures: Sequence[Image.Image], settings: FlorenceSettings, check: Callable[[], None]
) -> list[Generated]:
    """Answer `settings.task` for pictures of `picture_size`; `check` is called several times a second and may raise."""
    model, processor = florence.model, florence.processor
    token = TASKS[settings.task]
    inputs = processor(
        text=[token] * len(pictures), images=list(pictures), do_resize=False, do_center_crop=False, return_tensors="pt"
    ).to(model.device, model.dtype)
    with checked(model, check) as criteria:
        sequences = model.generate(
            **inputs,
            num_beams=settings.num_beams,
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            stopping_criteria=criteria,
        )
    return [_generated(florence, sequence) for sequence in sequences.tolist()]


@contextmanager
def checked(model: Florence2ForConditionalGeneration, check: Callable[[], None]) -> Iterator[list]:
    """Calls `check` on the way through the model and, by the criteria yielded, between the answer's tokens."""

    throttled = now_and_then(check)  # a check may send progress to the browser

    def before(module: torch.nn.Module, inputs: object) -> None:
        throttled()

    def after_token(ids: torch.Tensor, scores: torch.Tensor, **others: object) -> torch.Tensor:
        throttled()
        return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)

    from transformers import StoppingCriteriaList

    parts = model.model
    encoding = [*parts.vision_tower.modules(), *parts.multi_modal_projector.modules()]
    encoding += parts.language_model.encoder.modules()
    # In the decoder, which runs once for every token, only before whole layers: a hook costs a few microseconds.
    layers = [module for module in encoding if not list(module.children())] + [*parts.language_model.decoder.layers]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    try:
        yield StoppingCriteriaList([after_token])
    finally:
        for hook in hooks:
            hook.remove()


def _generated(florence: Florence, sequence: list[int]) -> Generated:
    """What lies between the decoder's start token and its end token."""
    tokenizer = florence.processor.tokenizer
    answer = sequence[1:]  # the start token of BART's decoder is the end token
    ended = tokenizer.eos_token_id in answer
    if ended:
        answer = answer[: answer.index(tokenizer.eos_token_id)]
    return Generated(tokenizer.decode(answer, skip_special_tokens=False), len(answer), ended)


def read_answer(florence: Florence, generated: Generated, settings: FlorenceSettings) -> Caption | CaptionRefusal:
    """The caption in an answer. One cut off by the limit of tokens is given as far as its sentences are whole."""
    token = TASKS[settings.task]
    parsed = florence.processor.post_process_generation(generated.text, task=token, image_size=(1000, 1000))[token]
    regions = isinstance(parsed, dict)
    if regions:  # each label once, in the model's order
        parsed = ", ".join(dict.fromkeys(label.strip() for label in parsed["labels"] if label.strip()))
    text = one_line(parsed)
    if generated.ended and text:
        return Caption(text, "stop", generated.tokens)
    if generated.ended:
        return CaptionRefusal(Kind.NO_ANSWER, f"Florence-2 gave an empty {settings.task}", tokens=generated.tokens)
    whole = text if regions else whole_sentences(text)  # a region counts only with all its corners
    if whole:
        return Caption(whole, "length", generated.tokens)
    reason = (
        f"no {'region' if regions else 'sentence'} was whole after max_new_tokens = {settings.max_new_tokens}; raise it"
    )
    return CaptionRefusal(Kind.CUT_OFF, reason, tokens=generated.tokens)


def whole_sentences(text: str) -> str:
    """The text up to the last sentence that ends; "" if none does."""
    return (re.match(r".*[.!?](?=\s|$)", text) or [""])[0]


class ModelPlace(Protocol):
    """Where a captioner's model is while it captions."""

    def open(self, captioner: Florence2Captioner) -> Florence:
        """Its model, loaded where it shall compute, with room for `captioner.fitting` pictures.

        Called before every batch, because another model may have taken the room meanwhile.
        """

    def free(self) -> None:
        """Give back what a batch that did not fit has left."""

    def close(self) -> None:
        """Let go of the model. It may be opened again."""


class HostMemory:
    """A `ModelPlace` on the CPU, without ComfyUI."""

    def __init__(self) -> None:
        self._florence: Florence | None = None

    def open(self, captioner: Florence2Captioner) -> Florence:
        self._florence = self._florence or load_florence(captioner.checkpoint.folder)
        return self._florence

    def free(self) -> None:
        pass  # torch gives host memory back by itself

    def close(self) -> None:
        self._florence = None


@dataclass
class Florence2Captioner:
    """A `Captioner` over one checkpoint. What it holds is small until it captions, and after `close`."""

    checkpoint: FlorenceCheckpoint
    settings: FlorenceSettings = FlorenceSettings()
    batch_size: int = 8
    place: ModelPlace = field(default_factory=HostMemory)
    remarks: list[str] = field(default_factory=list)  # what a person should know of the run, for the report
    name: str = field(default=CAPTIONER, init=False)
    concurrency: int = field(default=1, init=False)
    counted: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= MAX_BATCH:
            raise SettingsError(f"batch_size is {self.batch_size}. Choose 1 to {MAX_BATCH}.")
        self.fitting = self.batch_size  # most pictures that have not run out of memory yet
        self.model = f"{self.checkpoint.folder.name}@{fingerprint(self.checkpoint.folder)}"

    def prompt(self, picture: Picture) -> str:
        told = {"wording": WORDING, "task": self.settings.task, "beams": self.settings.num_beams}
        return content_hash(told | {"max_new_tokens": self.settings.max_new_tokens})

    async def caption(
        self, pictures: Sequence[Picture], check: Callable[[], None], sending: Callable[[], None]
    ) -> list[Caption | CaptionRefusal]:
        """See `Captioner.caption`.

        Raises:
            ModelError: the checkpoint cannot be loaded, or not even one picture fits into memory.
        """
        results = self._each_fitting(pictures, lambda batch: self._caption(batch, check))
        await asyncio.sleep(0.001)  # the runner's turn: nothing is awaited while the model computes
        return results

    async def close(self) -> None:
        self.place.close()

    def _each_fitting(self, items: Sequence[T], answer: Callable[[Sequence[T]], list]) -> list:
        """`answer` for all items, in as large pieces as memory allows."""
        results: list = []
        while len(results) < len(items):
            piece = items[len(results) : len(results) + self.fitting]
            try:
                results += answer(piece)
                continue
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                words = one_line(str(error))[:200]
            # Only here, with the exception and the frames that it held gone, is the batch's memory free.
            self.place.free()
            self._halve(len(piece), words)
        return results

    def _halve(self, tried: int, words: str) -> None:
        if tried == 1:
            raise ModelError(
                f"Florence-2 ({self.checkpoint.name}) ran out of memory with one picture at {self.settings.num_beams} "
                f"beams ({words}). Use fewer beams or a base model, or free memory. What is captioned is kept."
            )
        self.fitting = tried // 2
        remark = f"{tried} pictures at a time did not fit into memory; went on with {self.fitting}."
        self.remarks.append(remark)
        log.warning("Florence-2: %s", remark)

    def _caption(self, pictures: Sequence[Picture], check: Callable[[], None]) -> list[Caption | CaptionRefusal]:
        check()
        florence = self.place.open(self)
        read = self._read_all(florence, pictures, check)
        readable = [picture for picture in read if isinstance(picture, Image.Image)]
        answers = iter(generate(florence, readable, self.settings, check) if readable else [])
        return [
            read_answer(florence, next(answers), self.settings) if isinstance(picture, Image.Image) else picture
            for picture in read
        ]

    def _read_all(
        self, florence: Florence, pictures: Sequence[Picture], check: Callable[[], None]
    ) -> list[Image.Image | CaptionRefusal]:
        size, resample = picture_size(florence), florence.processor.image_processor.resample

        def read(picture: Picture) -> Image.Image | CaptionRefusal:
            try:
                return read_picture(picture.path, size, resample)
            except PictureRefused as refused:
                return CaptionRefusal(
                    Kind.UNREADABLE, f"{picture.path.name} cannot be decoded: {one_line(str(refused))}"
                )

        results: list[Image.Image | CaptionRefusal] = []
        with ThreadPoolExecutor(min(DECODING_THREADS, len(pictures))) as threads:
            for result in threads.map(read, pictures):
                check()
                results.append(result)
        return results
