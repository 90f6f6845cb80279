"""What ways of training teach: style gained, content lost and diversity left, on equal steps and on equal seconds.

    .impasto/venv/bin/python benchmarks/learning.py                     some hours on two cores
    .impasto/venv/bin/python benchmarks/learning.py --only Impasto rank some of it: "Impasto" itself, all with "rank"
    .impasto/venv/bin/python benchmarks/learning.py --quick             a minute or two; shows that it runs, no more

All train on the same forty impressionist pictures, on the tiny FLUX that draws plain ones. Judges, fitted on decoded
pairs, look at samples of scenes that nothing was trained on: how many are impressionist (style), and how many show the
composition asked for (content). Diversity is how far two samples of one scene lie apart, as a share of the base's.
Every contender is trained once a seed; the spread is the least and the most over the seeds. Seconds are the
processor's, which on a busy machine tell more than the clock; for equal seconds each contender gets as many steps as
fit into the time of the first. ComfyUI is the one in COMFYUI_PATH, else in .impasto/ComfyUI.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_size import load_pack
from step_report import table
from step_trainers import bare_loss, comfyui_folder, import_comfyui

if TYPE_CHECKING:
    from impasto.embedded.examination import Examination, Findings, Velocity
    from impasto.trainers.features.index import Features

STEPS, SEEDS = 300, 3
RANK, RATE, BATCH = 16, 1e-3, 4
LEAST_RANK = 2  # of the rank that falls with the timestep, at pure noise
NOISE_SEEDS = (1, 1001)  # two samples of each scene
QUICK = {"steps": 2, "seeds": 1, "scenes": 8}
PRESETS = ("Impressionism", "Mucha QLoRA")  # those that say how to teach a style; the others say what fits a card
FREE_OF_CARDS = {"precision": "bf16", "gradient_checkpointing": False, "gradient_accumulation": 1, "compile": False}


@dataclass(frozen=True)
class Way:
    """A contender: a way to train.

    Attributes:
        trainer: "Impasto", "diffusers + PEFT" or "TrainLoraNode".
        settings: of ours, where they differ from `lesson.SETTINGS`.
        rate, rank: of the others.
        falling: rank that falls with the timestep (T-LoRA), in the bare loop.
    """

    name: str
    trainer: str
    settings: dict[str, Any] = field(default_factory=dict)
    rate: float = RATE
    rank: int = RANK
    falling: bool = False


def ways() -> list[Way]:
    from impasto.trainers.presets import PRESETS as KNOWN
    from impasto.trainers.settings import Settings

    default = Settings()
    presets = []
    for name in PRESETS:
        chosen = {key: value for key, value in vars(KNOWN[name].settings).items() if value != getattr(default, key)}
        learning = {"learning_rate": default.learning_rate, "targets": default.targets} | chosen | FREE_OF_CARDS
        presets.append(Way(f"Impasto, preset {name}", "Impasto", learning))
    return [
        Way("Impasto", "Impasto"),
        Way("diffusers + PEFT", "diffusers + PEFT"),
        Way("TrainLoraNode", "TrainLoraNode"),
        Way("TrainLoraNode, its default rate", "TrainLoraNode", rate=5e-4),
        *presets,
        Way("Impasto, late single blocks", "Impasto", {"block_ranks": "single 2-3: 16; rest: 0"}),
        # Choi et al. 2024, "Style-Friendly SNR Sampler" (arXiv:2411.14793): log-SNR of mean -6 and deviation 2, which
        # is a logit of sigma of mean 3 and deviation 1.
        Way("Impasto, sigmas of high noise", "Impasto", {"timestep_mean": 3.0, "timestep_scale": 1.0}),
        Way("Impasto, rank 4", "Impasto", {"rank": 4, "alpha": 4.0}),
        Way("Impasto, rank 64", "Impasto", {"rank": 64, "alpha": 64.0}),
        Way("rank falling with the timestep", "diffusers + PEFT", falling=True),
    ]


def named(words: Sequence[str]) -> list[Way]:
    """The contender of such a name, or where none is called so, all whose names hold the word; all without words."""
    known = {way.name: way for way in ways()}
    if not words:
        return list(known.values())
    return [
        way
        for name, way in known.items()
        if any(name == word or (word not in known and word in name) for word in words)
    ]


# ---- Training, each in its own way --------------------------------------------------------------------------------


def train_impasto(way: Way, features: Features, steps: int, seed: int, folder: Path) -> Velocity:
    from impasto.embedded import lesson
    from impasto.embedded.examination import Examination

    rank = {"rank": way.rank, "alpha": float(way.rank)}
    settings = rank | way.settings | {"steps": steps, "checkpoint_every": steps, "sample_steps": 0, "seed": seed}
    run = lesson.begin(features, folder, **settings)
    return guided(Examination.transformer(lesson.learn(run)))


def guided(transformer: Any) -> Velocity:
    from impasto.trainers.flux.forward import predict_velocity
    from impasto.trainers.sampler import PREVIEW_GUIDANCE

    def velocity(latents: Any, sigma: Any, t5: Any, pooled: Any) -> Any:
        return predict_velocity(transformer, latents, sigma, t5, pooled, guidance=PREVIEW_GUIDANCE)

    return velocity


def examples(features: Features) -> list[tuple[Any, Any, Any]]:
    """(scaled latent, T5, pooled) of every picture, each with a batch axis of 1."""
    from impasto.trainers.features.index import load

    loaded = load(features)
    return [
        (loaded.load_latent(example)[None], *(text[None] for text in loaded.load_text(example.text_path)))
        for example in loaded.examples
    ]


class FallingRank:
    """T-LoRA (Soboleva et al. 2025, arXiv:2507.05964): of rank r, r_min + (r - r_min)(1 - sigma) are used at sigma.

    Its orthogonal start is left out: what is compared is the rank that falls.
    """

    def __init__(self, transformer: Any, rank: int) -> None:
        import torch

        self.order, self.sigma = torch.arange(rank), torch.zeros(1)
        for name, module in transformer.named_modules():
            if name.endswith("lora_A.default"):
                module.register_forward_hook(self._mask)

    def _mask(self, module: Any, inputs: Any, output: Any) -> Any:
        rank = len(self.order)
        used = LEAST_RANK + ((rank - LEAST_RANK) * (1 - self.sigma)).floor()
        mask = (self.order < used[:, None]).to(output.dtype)
        return output * (mask if output.ndim == 2 else mask[:, None])


def train_bare(way: Way, features: Features, steps: int, seed: int, folder: Path) -> Velocity:
    """The shortest correct loop: diffusers' model, PEFT's LoRA on the same layers, torch's AdamW."""
    import torch
    from impasto.embedded import tiny_flux
    from impasto.trainers.flux import loading
    from impasto.trainers.lora import adapter
    from peft import LoraConfig

    torch.manual_seed(seed)
    transformer = loading.load_transformer(tiny_flux.PRETRAINED["transformer"], "bf16")
    layers = adapter.target_modules(transformer, "all linear")
    transformer.add_adapter(LoraConfig(r=way.rank, lora_alpha=way.rank, target_modules=layers))
    parameters = [parameter for parameter in transformer.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.data = parameter.data.float()
    falling = FallingRank(transformer, way.rank) if way.falling else None
    optimizer = torch.optim.AdamW(parameters, lr=way.rate)
    data = [torch.cat(tensors) for tensors in zip(*examples(features), strict=True)]
    for _ in range(steps):
        chosen, sigma = torch.randperm(len(data[0]))[:BATCH], torch.rand(BATCH)
        if falling:
            falling.sigma = sigma
        bare_loss(transformer, *(tensor[chosen] for tensor in data), sigma).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
    told = guided(transformer)

    def velocity(latents: Any, sigma: Any, t5: Any, pooled: Any) -> Any:
        if falling:
            falling.sigma = sigma
        return told(latents, sigma, t5, pooled)

    return velocity


def train_comfyui(way: Way, features: Features, steps: int, seed: int, folder: Path) -> Velocity:
    """ComfyUI's node as its server runs it, its own defaults where not named; the LoRA applied by ComfyUI's loader."""
    nodes_train = import_comfyui(str(folder))
    import comfy.model_management
    import comfy.sd
    import torch
    from impasto.embedded import tiny_flux
    from impasto.trainers.flux.latents import unscale_latent
    from impasto.trainers.sampler import PREVIEW_GUIDANCE

    settings = {option.id: option.default for option in nodes_train.TrainLoraNode.define_schema().inputs[3:]}
    settings |= {"steps": steps, "batch_size": BATCH, "rank": way.rank, "learning_rate": way.rate, "seed": seed}
    settings |= {"training_dtype": "bf16", "lora_dtype": "fp32", "gradient_checkpointing": True}
    with torch.inference_mode():  # execution.py runs every node inside it
        data = [tuple(tensor.clone() for tensor in example) for example in examples(features)]
        # The node gets what VAE Encode gives; ComfyUI scales it.
        latents = torch.cat([unscale_latent(latent) for latent, _, _ in data])
        positive = [[t5, {"pooled_output": pooled, "guidance": 1.0}] for _, t5, pooled in data]
        model = comfy.sd.load_diffusion_model(str(tiny_flux.PRETRAINED["transformer"]))
        inputs = {name: [value] for name, value in settings.items()}
        node = nodes_train.TrainLoraNode
        output = node.execute(model=[model], latents=[{"samples": latents}], positive=[positive], **inputs)
        patched, _ = comfy.sd.load_lora_for_models(model, None, output.args[0], 1.0, 0)
        comfy.model_management.load_models_gpu([patched], force_full_load=True)
    transformer = patched.model.diffusion_model
    dtype = patched.model.get_dtype_inference()

    @torch.inference_mode()
    def velocity(latents: Any, sigma: Any, t5: Any, pooled: Any) -> Any:
        strength = torch.full_like(sigma, PREVIEW_GUIDANCE)
        told = {"y": pooled.to(dtype), "guidance": strength.to(dtype)}
        return transformer(latents.to(dtype), sigma, t5.to(dtype), **told).float()

    return velocity


TRAINERS = {"Impasto": train_impasto, "diffusers + PEFT": train_bare, "TrainLoraNode": train_comfyui}


# ---- Measuring ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Outcome:
    """What one training came to: its steps, processor seconds, the findings, and how far two samples lie apart."""

    steps: int
    seconds: float
    findings: Findings
    apart: float


def examined(examinations: Sequence[Examination], velocity: Velocity) -> tuple[Findings, float]:
    """The findings in all samples, and the mean distance of two thumbnails of one scene from different noise."""
    import torch
    from impasto.embedded.examination import Findings

    found = [examination.judge(examination.draw_by(velocity)) for examination in examinations]
    first, second = (each.thumbnails for each in found)
    parts = ("impressionist", "right", "thumbnails")
    whole = Findings(*(torch.cat([getattr(each, part) for each in found]) for part in parts))
    return whole, (first - second).norm(dim=1).mean().item()


def outcome(
    way: Way, features: Features, steps: int, seed: int, examinations: Sequence[Examination], root: Path
) -> Outcome:
    folder = Path(tempfile.mkdtemp(dir=root))
    began = time.process_time()
    velocity = TRAINERS[way.trainer](way, features, steps, seed, folder)
    seconds = time.process_time() - began
    return Outcome(steps, seconds, *examined(examinations, velocity))


def row(name: str, outcomes: Sequence[Outcome], base: Findings, base_apart: float) -> tuple[str, ...]:
    def spread(values: Sequence[float], form: str = "{:.0%}") -> str:
        low, high = form.format(min(values)), form.format(max(values))
        return form.format(statistics.mean(values)) + (f" ({low} to {high})" if low != high else "")

    steps = [each.steps for each in outcomes]
    return (
        name,
        spread(steps, "{:.0f}"),
        spread([each.seconds for each in outcomes], "{:.1f}"),
        spread([each.findings.style - base.style for each in outcomes], "{:+.0%}"),
        spread([base.content - each.findings.content for each in outcomes], "{:+.0%}"),
        spread([each.findings.kept(base) for each in outcomes]),
        spread([each.apart / base_apart for each in outcomes]),
    )


HEADER = ("way of training", "steps", "CPU s", "style gained", "content lost", "scenes kept", "diversity")


def tell(cells: Sequence[str]) -> None:
    """A line at once, so that a stop loses no more than the contender at work."""
    print("; ".join(f"{head} {value}" for head, value in zip(HEADER, cells, strict=True)), flush=True)


def compare(chosen: Sequence[Way], steps: int, seeds: int, scenes: int, root: Path) -> None:
    from impasto.embedded import lesson
    from impasto.embedded.examination import Examination, held_out_scenes

    comfyui = comfyui_folder()
    examinations = [Examination(held_out_scenes(scenes), comfyui, seed=seed) for seed in NOISE_SEEDS]
    base, base_apart = examined(examinations, guided(Examination.transformer()))
    print(
        f"Base: {base.style:.1%} of {2 * scenes} samples impressionist, {base.content:.1%} of the right composition.\n"
    )
    pictures = root / "pictures"
    pictures.mkdir()
    features = lesson.prepare(pictures, "impressionist", comfyui)
    equal_steps, equal_seconds, imported = [], [], set()
    for way in chosen:
        try:
            if way.trainer not in imported:  # what is imported, once in a process, is no part of a training's time
                TRAINERS[way.trainer](way, features, 1, 0, Path(tempfile.mkdtemp(dir=root)))
                imported.add(way.trainer)
            first = [outcome(way, features, steps, seed, examinations, root) for seed in range(seeds)]
            equal_steps.append((way, first))
            tell(row(way.name, first, base, base_apart))
            seconds, ours = (statistics.mean(each.seconds for each in some) for some in (first, equal_steps[0][1]))
            fitting = max(1, round(steps * ours / seconds))
            if abs(fitting - steps) > 0.1 * steps:
                first = [outcome(way, features, fitting, seed, examinations, root) for seed in range(seeds)]
                tell(row(way.name, first, base, base_apart))
            equal_seconds.append((way, first))
        except Exception as error:
            logging.exception("%s failed", way.name)
            print(f"{way.name} fails: {type(error).__name__}: {error}")
    for title, done in (("On equal steps", equal_steps), ("On equal seconds", equal_seconds)):
        print(f"\n{title}\n")
        print(table(HEADER, [row(way.name, outcomes, base, base_apart) for way, outcomes in done]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="see that it runs: 2 steps, one seed, 8 scenes")
    parser.add_argument("--only", nargs="+", metavar="WORD", default=[], help="contenders of these names, or with it")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--scenes", type=int, default=64, help="examined, from two noises each")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    load_pack()
    sizes = QUICK if arguments.quick else {key: getattr(arguments, key) for key in QUICK}
    with tempfile.TemporaryDirectory() as root:
        compare(named(arguments.only), **sizes, root=Path(root))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
