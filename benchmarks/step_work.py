"""What the benchmark of a training step asks of whom: the contenders, the work, and the data that they train on."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from full_size import architecture, write_random

IMPASTO, COMFYUI, DIFFUSERS = "Impasto", "TrainLoraNode", "diffusers + PEFT"
POOLED_WIDTH = 768  # CLIP-L's
PICTURES = 4
# Side of the matrices, how many products: on a card some seconds of them, after which its clock is that of training.
RATE_SIZES = {"cuda": (8192, 1000), "cpu": (2048, 3), "quick": (256, 3)}


@dataclass(frozen=True)
class Contender:
    """One trainer in one mode.

    Attributes:
        trainer: `IMPASTO`, `COMFYUI` or `DIFFUSERS`.
        interval: gradient checkpointing of every so many-th block; 0 for none. Only ours knows more than 0 and 1.
        depth: TrainLoraNode's `checkpoint_depth`; 1, its default, is the model as a whole, 2 is each block.
        bypass: TrainLoraNode's `bypass_mode`: the LoRA beside the layer instead of added to its weight.
        label: what sets this mode of ours apart.
        settings: of ours, where they differ from everyone's.
    """

    trainer: str
    interval: int = 1
    depth: int = 1
    bypass: bool = False
    label: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        if self.trainer != COMFYUI:
            return f"{self.trainer}, {self.label}" if self.label else self.trainer
        default = " (its default)" if self == Contender(COMFYUI) else ""
        depth = f", depth {self.depth}" if self.interval else ""
        return f"{COMFYUI}{', bypass' if self.bypass else ''}{depth}{default}"

    @property
    def state(self) -> str:
        return {0: "no", 1: "yes"}.get(self.interval, f"1 in {self.interval}")

    @property
    def plain(self) -> bool:
        """Whether this is something that all trainers have."""
        return not self.label and self.interval < 2


ALTERNATIVES = (Contender(DIFFUSERS), Contender(COMFYUI))
SETS = {
    "trainers": (
        Contender(IMPASTO),
        *ALTERNATIVES,
        Contender(COMFYUI, depth=2),
        Contender(COMFYUI, bypass=True),
        Contender(COMFYUI, depth=2, bypass=True),
        Contender(IMPASTO, 0),
        Contender(DIFFUSERS, 0),
        Contender(COMFYUI, 0),
        Contender(COMFYUI, 0, bypass=True),
    ),
    "precision": tuple(
        Contender(IMPASTO, label=name, settings={"precision": name}) for name in ("bf16", "fp8", "int8", "nf4")
    ),
    "checkpointing": (Contender(IMPASTO, 2),),
    "streaming": (Contender(IMPASTO, label="6 blocks streamed", settings={"streamed_blocks": 6}),),
    "compile": (Contender(IMPASTO, label="compiled", settings={"compile": True}),),
}


@dataclass(frozen=True)
class Work:
    """What everyone is asked to do; a file of it is handed to the measuring processes.

    Attributes:
        folder: holds the weights and the features.
        hidden_size, double_blocks, single_blocks: of the transformer.
        context_width: width of the T5 embeddings.
        width, height: of the pictures, in pixels.
        batch: pictures per batch.
        tokens: length of the T5 embeddings.
        rank: of the LoRA.
        warmup: steps that are not measured, at least 1.
        steps: steps that are measured.
        attention: ComfyUI's; "pytorch" as on a CUDA device, or "default", which on the CPU is sub-quadratic.
        features_key: of the features in `folder`.
        cap: gigabytes of the card that is simulated; 0 for the card as it is.
        profile: whether to profile the measured steps, which makes them slower.
    """

    folder: str
    hidden_size: int
    double_blocks: int
    single_blocks: int
    context_width: int
    width: int
    height: int
    batch: int
    tokens: int
    rank: int
    warmup: int
    steps: int
    attention: str
    features_key: str = ""
    cap: int = 0
    profile: bool = False

    @property
    def weights(self) -> Path:
        return Path(self.folder) / "transformer.safetensors"

    @property
    def pictures(self) -> Path:
        """Where everything lies that depends on the size of the pictures and batches."""
        return Path(self.folder) / f"{self.width}x{self.height}x{self.batch}"

    @property
    def features_folder(self) -> Path:
        return self.pictures / "features" / self.features_key


def write_weights(work: Work) -> None:
    """Write seeded weights: in bfloat16 where there is a CUDA device to train in it, else in float32."""
    import torch
    from impasto.embedded.transformer_weights import transformer_weights
    from safetensors.torch import save_file

    if torch.cuda.is_available():
        flux = architecture(work.hidden_size, (work.double_blocks, work.single_blocks))
        write_random(work.weights, dataclasses.replace(flux, context_width=work.context_width))
        return
    weights = transformer_weights(
        hidden_size=work.hidden_size,
        double_blocks=work.double_blocks,
        single_blocks=work.single_blocks,
        context_width=work.context_width,
        pooled_width=POOLED_WIDTH,
        seed=0,
    )
    save_file(weights, work.weights)


def with_features(work: Work) -> Work:
    return dataclasses.replace(work, features_key=encode_features(work))


def encode_features(work: Work) -> str:
    """Encode pictures of noise with stand-ins for VAE and CLIP: for time and memory only the shapes matter."""
    import torch
    from impasto.trainers.features import encoding as features
    from PIL import Image

    def encode_image(pixels: torch.Tensor) -> torch.Tensor:
        return torch.randn(16, pixels.shape[0] // 8, pixels.shape[1] // 8, generator=random)

    def encode_text(text: str) -> tuple[torch.Tensor, torch.Tensor]:
        t5 = torch.randn(work.tokens, work.context_width, generator=random)
        return t5, torch.randn(POOLED_WIDTH, generator=random)

    random = torch.Generator().manual_seed(0)
    pictures = work.pictures / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        Image.new("RGB", (work.width, work.height), (number, 0, 0)).save(pictures / f"{number}.png")
        (pictures / f"{number}.txt").write_text(f"picture {number}")
    config = work.pictures / "dataset.toml"
    config.write_text(
        f"[[datasets]]\nresolution = [{work.width}, {work.height}]\nbatch_size = {work.batch}\n"
        f'[[datasets.subsets]]\nimage_dir = "{pictures.as_posix()}"\ncaption_extension = ".txt"\n'
    )
    return features.encode(config, features.Encoder("vae", encode_image), features.Encoder("clip", encode_text)).key


def examples(work: Work) -> list[tuple[Any, Any, Any]]:
    """(latent, T5, pooled) of every picture, each with a batch axis of 1."""
    from impasto.trainers.features.index import Features, load

    loaded = load(Features(str(work.features_folder), work.features_key))
    return [
        (loaded.load_latent(example)[None], *(text[None] for text in loaded.load_text(example.text_path)))
        for example in loaded.examples
    ]


def step_flops(work: Work) -> int:
    """Operations of a step's matrix products: forward pass and gradients of the inputs.

    Neither what is recomputed nor the LoRA counts: it is what a step needs at least, the same for every trainer.
    """
    from impasto.trainers.flux import detection

    return product_flops(detection.inspect(work.weights), work.width, work.height, work.batch, work.tokens)


def product_flops(flux: Any, width: int, height: int, batch: int, tokens: int) -> int:
    """`step_flops` of an architecture, for pictures of this size in pixels."""
    import torch
    from impasto.trainers.flux import forward as velocity
    from impasto.trainers.flux import loading
    from torch.utils.flop_counter import FlopCounterMode

    transformer = loading.empty_transformer(flux).requires_grad_(False)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        latents = torch.empty(batch, flux.in_channels // 4, height // 8, width // 8, requires_grad=True)
        t5 = torch.empty(batch, tokens, flux.context_width, requires_grad=True)
        pooled = torch.empty(batch, flux.pooled_width)
        velocity.predict_velocity(transformer, latents, torch.empty(batch), t5, pooled).sum().backward()
    return counter.get_total_flops()


def matmul_rate(side: int, repeats: int) -> float:
    """Operations per second of large matrix products: bfloat16 by the clock on a CUDA device, else float32 by processor
    time."""
    import torch

    cuda = torch.cuda.is_available()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    clock = time.perf_counter if cuda else time.process_time
    matrix, product = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))

    def seconds() -> float:
        began = clock()
        for _ in range(repeats):
            torch.mm(matrix, matrix, out=product)
        if cuda:
            torch.cuda.synchronize()
        return clock() - began

    seconds()
    return 2 * side**3 * repeats / min(seconds() for _ in range(3))
