"""What the bodies of requests are held to, and what answers are, as pydantic models, of which the OpenAPI document is
made.

The first five and their defaults are those of Quinn-Care-Private-Limited/flux-train, so that its clients need another
address only; what it has not is behind them. A body that does not fit is refused by field, value and remedy.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ..captioners.editing import MAX_CAPTION
from ..errors import writable
from .routing import Refused

TINY = "tiny-flux"  # of pretrained_model: the pack's own, which needs no download
LONGEST_TEXT, MOST_PICTURES, SHOWN = 20_000, 10_000, 100
MOST_TEXTS = 200  # captions of one call
MOST_WAIT = 86_400.0  # seconds
JOB_ID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"

Name = Annotated[str, Field(min_length=1, max_length=100)]
Text = Annotated[str, Field(max_length=LONGEST_TEXT)]
File = Annotated[str, Field(min_length=1, max_length=500)]
Side = Annotated[int, Field(ge=64, le=4096, multiple_of=16, description="Pixels.")]
Value = bool | int | float | Annotated[str, Field(max_length=1_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


class _Body(_Strict):
    job_id: str | None = Field(
        None,
        pattern=JOB_ID,
        description="An id of your own for the job, a UUID in small letters: asked for again, it is the same job.",
    )


class _Waiting(_Body):
    wait: float = Field(
        3600.0,
        ge=0,
        le=MOST_WAIT,
        description="Seconds to wait for the end; after that the answer is 202 with the job's id, for GET status.",
    )


class _Captioning(BaseModel):
    captioner: Literal["florence2", "metadata", "gemini", "openai"] = Field(
        "florence2", description="metadata: from the pictures' own labels, without a model."
    )
    captioner_model: Text = Field("", description="Of that captioner; empty is its own default.")


class _Base(BaseModel):
    pretrained_model: File = Field(
        "flux1-dev-fp8.sft",
        description=f"Among ComfyUI's diffusion models, by its file's name, whatever its ending; {TINY}: the pack's "
        "own, without the three below.",
    )
    clip_l: File = Field("clip_l.safetensors", description="Among ComfyUI's text encoders.")
    t5xxl: File = Field("t5xxl_fp16.safetensors", description="Among ComfyUI's text encoders.")
    ae: File = Field("ae.sft", description="Among ComfyUI's VAEs.")


class _Learning(_Base):
    learning_rate: float = Field(8e-4, ge=1e-8, le=1.0)
    network_dim: int = Field(4, ge=1, le=1024, description="Rank of the LoRA, and its alpha.")
    enable_bucket: bool = True
    settings: dict[str, Value] = Field(
        default={}, max_length=40, description="Inputs of the node Training Settings, by name; they go before all else."
    )


class DownloadImages(_Waiting):
    urls: list[File] = Field(min_length=1, max_length=MOST_PICTURES, description="https, from hosts that are allowed.")
    output_name: Name = Field(description="Of the dataset.")
    captions: list[Text] = Field(default=[], max_length=MOST_PICTURES, description="One for each URL, in their order.")

    @model_validator(mode="after")
    def _paired(self) -> DownloadImages:
        return _paired(self, self.urls, self.captions)


class CaptionImages(_Captioning, _Waiting):
    output_name: Name = Field(description="Of the dataset.")
    trigger_word: Text = Field(description="Put in front of every caption; empty for none.")
    prompt: Text = Field(
        "Describe this image in detail.",
        description="What is asked. Florence-2 knows no other question; gemini and openai take any.",
    )


class CreateDatasetConfig(_Waiting):
    output_name: Name = Field(description="Of the dataset.")
    trigger_word: Text = Field("", description="The caption of pictures that have none (class_tokens).")
    num_repeats: int = Field(10, ge=1, le=10_000)
    resolution: Side = 1024
    batch_size: int = Field(1, ge=1, le=256)
    shuffle_caption: bool = False
    caption_extension: Literal[".txt"] = ".txt"
    keep_tokens: int = Field(1, ge=0, le=255)
    enable_bucket: bool = True
    validation_split: float = Field(0.0, ge=0, le=0.9, description="Share of the pictures held out to measure on.")


class Train(_Learning, _Body):
    output_name: Name = Field(description="Of the dataset, and of the LoRA.")
    max_train_epochs: int = Field(10, ge=1, le=100_000)
    save_every_n_epochs: int = Field(0, ge=0, le=100_000, description="0: only at the end.")
    full_bf16: bool = Field(False, description="Taken, and without effect: the LoRA is always trained in fp32.")
    steps: int | None = Field(None, ge=1, le=1_000_000, description="In place of max_train_epochs.")
    dataset_config: Annotated[str, Field(max_length=500)] = Field(
        "", description="A TOML file in the datasets folder, 'monets/my.toml'; empty: the dataset's newest."
    )


class WikiArt(BaseModel):
    """A choice of paintings, as the node WikiArt Loader takes it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    source: Text = "embedded-wikiart"
    style: Text = "any"
    genre: Text = "any"
    artist: Text = "any"
    count: int = Field(100, ge=1, le=100_000)
    seed: int = Field(0, ge=0, le=2**64 - 1)
    quotas: Text = ""
    max_per_artist: int = Field(0, ge=0, le=100_000)


class RunAll(_Learning, _Captioning, _Body):
    output_name: Name = Field(description="Of the dataset that is made, and of the LoRA.")
    image_urls: list[File] = Field(default=[], max_length=MOST_PICTURES)
    captions: list[Text] = Field(default=[], max_length=MOST_PICTURES, description="One for each URL, in their order.")
    auto_captioning: bool = Field(False, description="Ask `captioner` about every picture.")
    steps: int = Field(500, ge=1, le=1_000_000)
    resolution: Side = 1024
    full_bf16: bool = Field(True, description="Taken, and without effect: the LoRA is always trained in fp32.")
    trigger_word: Text = ""
    num_repeats: int = Field(1, ge=1, le=10_000)
    batch_size: int = Field(1, ge=1, le=256)
    folder: Annotated[str, Field(max_length=500)] = Field("", description="Of pictures, in place of image_urls.")
    root: Literal["input", "datasets"] = Field("input", description="Where that folder is.")
    wikiart: WikiArt | None = Field(None, description="In place of image_urls.")

    @model_validator(mode="after")
    def _one_source(self) -> RunAll:
        given = [name for name in ("image_urls", "folder", "wikiart") if getattr(self, name)]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given together; give one of them, or none for a dataset")
        return _paired(self, self.image_urls, self.captions)


class Continue(_Body):
    more_steps: int | None = Field(
        None,
        ge=1,
        le=1_000_000,
        description="Of a finished run, or of one whose graph is not known. Without it, one that was stopped goes on "
        "to its end.",
    )


class CheckCaptions(_Strict):
    texts: list[Annotated[str, Field(max_length=MAX_CAPTION)]] = Field(max_length=MOST_TEXTS)
    trigger_word: Text = ""
    prefix: Text = ""
    suffix: Text = ""


class TryThresholds(_Strict):
    thresholds: dict[str, bool | int | float] = Field(
        default={}, max_length=40, description="Of Quality Filter, by name; those left out are as the filter has them."
    )
    keep: Annotated[str, Field(max_length=1_000_000)] = Field("", description="As the filter's input of that name.")


class Remove(_Strict):
    confirm: str = Field(max_length=500, description="The run's own id once more.")


class Posted(BaseModel):
    """A job that is in ComfyUI's queue."""

    message: str
    job_id: str


class Started(Posted):
    run_id: str = Field(description="The job's id: every route takes it in the place of the run's own, which is known "
                        "once the pictures are encoded.")  # fmt: skip


class Downloaded(Posted):
    files: dict[str, str] = Field(description="URL: the file it became, or 'Error: ' and why not.")


class CaptionsGiven(Posted):
    captions: dict[str, str] = Field(description="File: its caption, or 'Error: ' and why it has none.")


class Configured(Posted):
    path: str
    dataset_config: str = Field(description="The same, as train and the node Dataset TOML Loader take it.")


class HowFar(BaseModel):
    progress: int = Field(description="Percent.")
    error: str | None = None


class HowItStands(BaseModel):
    run_id: str = Field(description="As it was asked for.")
    status: Literal["processing", "completed", "failed"]
    data: HowFar
    state: Literal["queued", "running", "finished", "failed", "stopped", "lost"]
    job_id: str | None
    run: str | None = Field(description="The run's own id, once it is known.")
    kind: str
    ahead: int = Field(description="Jobs before it in the queue.")
    doing: str
    step: int
    total: int
    percent: float
    seconds_left: float | None
    best_step: int | None
    lora: str | None = Field(description="As ComfyUI's lists name it.")
    logs: list[str] = Field(description="The last lines of the trainer's log.")
    resumable: bool
    remedy: str


class Cancelled(BaseModel):
    job_id: str
    cancelled: bool


class Fault(BaseModel):
    message: str
    field: str = Field(description="That is wrong; empty for none.")


class Error(BaseModel):
    error: Fault


B = TypeVar("B", bound=BaseModel)


def _paired(body: B, urls: list[str], captions: list[str]) -> B:
    if captions and len(captions) != len(urls):
        raise ValueError(f"captions are {len(captions)} and URLs are {len(urls)}; give one for each, or none")
    return body


def read(model: type[B], body: Any) -> B:
    """The body as the model.

    Raises:
        Refused: it does not fit; the text names each field, its value and what belongs there.
    """
    if body is None and any(field.is_required() for field in model.model_fields.values()):
        raise Refused("The body is empty; send a JSON object.", "body")
    try:
        # As JSON, whose strictness takes a mapping for a model.
        return model.model_validate_json(json.dumps({} if body is None else body))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False)
        said = [_said(each["loc"], each["input"], each["msg"], each["type"], model) for each in wrong[:5]]
        first = ".".join(map(str, wrong[0]["loc"])) or "body"
        raise Refused(writable(" ".join(said)), writable(first)[:SHOWN]) from error


def _said(loc: tuple[int | str, ...], value: Any, message: str, kind: str, model: type[BaseModel]) -> str:
    name = ".".join(map(str, loc))[:SHOWN] or "The body"
    if kind == "missing":
        return f"{name} is missing; give it."
    if kind == "extra_forbidden":
        return f"{name} is no field of this request; it takes {', '.join(model.model_fields)}."
    if kind == "value_error":
        return f"{message.removeprefix('Value error, ')}."
    shown = repr(value)
    return f"{name} is {shown[:SHOWN]}{'…' if len(shown) > SHOWN else ''}. {message}."
