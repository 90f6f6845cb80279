"""Runs built so that the right answer is known, and what Evaluate LoRA says of them.

    .impasto/venv/bin/python benchmarks/judging.py                        some twenty-five minutes of one core a seed
    .impasto/venv/bin/python benchmarks/judging.py --only overtrained plain --seeds 1
    .impasto/venv/bin/python benchmarks/judging.py --folder FOLDER        keeps runs, pictures and lines there

Each run trains the tiny FLUX, which draws plain pictures, for 60 steps at most, or 240 on ten pictures; the verdict is
that of `evaluation.evaluate`, as the node asks for it, on 8 prompts with 2 seeds each. What is right is found without
it: the shipped judges, fitted on painted pairs, look at other scenes and noise, and count how many samples of each
checkpoint are impressionist and how many show the composition asked for. A run that is there already is only judged
anew, so that a stop loses at most the checkpoint being drawn. ComfyUI, for its tokenizers, is the one in COMFYUI_PATH,
else in .impasto/ComfyUI. Seeds 0 and 1 were looked at while verdict and kinds were made; the others
were not.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from full_size import REPOSITORY, load_pack
from train_step import comfyui_folder, table

if TYPE_CHECKING:
    from impasto.dataset.records import Dataset
    from impasto.embedded.scenes import Scene
    from impasto.evaluation.verdict import StepVerdict
    from impasto.trainers.features.index import Features
    from impasto.trainers.run.folder import Run
    from PIL import Image
    from torch import Tensor

SEEDS = (2, 3)
FOLDER = REPOSITORY / ".impasto" / "judging"
SIDE, SAMPLER_STEPS = 128, 8
PROMPTS, NOISES = 8, (11, 12)  # of what the verdict sees
LOOKED_AT = 72  # samples of other scenes by which the truth is known
SET = 40  # pictures

NO_STYLE = 0.10  # of the samples became impressionist: less is no difference
AS_GOOD = 0.10  # style gained less content lost: how far below the best a step is still a right answer, 7 of 72 samples
LOST, KEPT = 0.25, 0.10  # content lost that has to be said, and up to which it must not be
COPIED = 0.25  # of the samples repeat a training picture: it has to be said, or another step kept


@dataclass(frozen=True)
class Kind:
    """A way to train whose outcome is known beforehand.

    Attributes:
        expected: in words.
        control: nothing of the style can have been learned: "improved" is wrong whatever was measured.
        pictures: how many are trained on.
        settings: where they differ from the lesson's.
    """

    name: str
    expected: str
    control: bool = False
    pictures: int = SET
    finish: str = "impressionist"
    shuffled: bool = False
    settings: dict[str, Any] = field(default_factory=dict)


TOO_LONG = {"learning_rate": 4e-3, "steps": 240, "checkpoint_every": 60}
KINDS = (
    Kind("ordinary", "a later step", settings={"learning_rate": 4e-4}),
    Kind("slow", "a later step", settings={"learning_rate": 2e-4}),
    Kind("overtrained", "an earlier step, or copies named", pictures=10, settings=TOO_LONG),
    Kind("shuffled captions", "style gained, content lost", shuffled=True, settings={"learning_rate": 2e-3}),
    Kind("undertrained", "no difference", settings={"learning_rate": 2e-5, "steps": 30, "checkpoint_every": 10}),
    Kind("rate 0", "no difference", control=True, settings={"learning_rate": 1e-8, "steps": 6, "checkpoint_every": 2}),
    Kind("plain pictures", "no difference", control=True, finish="plain"),
)


def scenes(first: int, count: int) -> list[Scene]:
    from impasto.embedded.training_pictures import HELD_OUT, scene_of

    return [scene_of(HELD_OUT + first + index) for index in range(count)]


def drawn(transformer: Any, told: Sequence[Tensor], noise: Tensor) -> list[Image.Image]:
    """Samples `(batch, 16, 16, 16)` of noise, `told` what the text encoders made of the prompts."""
    import torch
    from impasto.embedded.examination import pretrained_autoencoder
    from impasto.embedded.learning import as_pixels
    from impasto.trainers.flux.forward import predict_velocity
    from impasto.trainers.sampler import PREVIEW_GUIDANCE, sample
    from PIL import Image

    t5, pooled = told

    def velocity(latents: Tensor, sigma: float) -> Tensor:
        sigmas = torch.full((len(latents),), sigma)
        return predict_velocity(transformer, latents, sigmas, t5, pooled, guidance=PREVIEW_GUIDANCE)

    latents = sample(velocity, noise, SAMPLER_STEPS)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        pixels = as_pixels(pretrained_autoencoder().decode(latents))
    return [Image.fromarray(picture) for picture in pixels]


class TinyPainter:
    """`rendering.painting.Painter` without ComfyUI: all pictures of a checkpoint are drawn at once, and then given."""

    def __init__(self, asked: Sequence[tuple[str, int]], comfyui: Path) -> None:
        self.asked, self.comfyui = asked, comfyui
        self.adapter: Path | None = None
        self.pictures: dict[tuple[str, int], Image.Image] = {}

    def encode(self, texts: Sequence[str]) -> None:
        pass  # `told` does it, once for all that is asked

    @cached_property
    def told(self) -> tuple[Tensor, Tensor]:
        from impasto.embedded import text_embeddings

        return text_embeddings.embed([text for text, _ in self.asked], self.comfyui)

    def use(self, adapter: Path | None, strength: float) -> None:
        if adapter != self.adapter:
            self.adapter, self.pictures = adapter, {}

    def paint(self, text: str, seed: int, on_step: Callable[[int], None]) -> Image.Image:
        import torch
        from impasto.embedded.examination import Examination
        from impasto.embedded.train_transformer import starting_noise

        if not self.pictures:
            noise = torch.cat([starting_noise(1, seed=seed) for _, seed in self.asked])
            pictures = drawn(Examination.transformer(self.adapter), self.told, noise)
            self.pictures = dict(zip(self.asked, pictures, strict=True))
        return self.pictures[text, seed]


@dataclass(frozen=True)
class Truth:
    """What the judges find in samples of a checkpoint, as shares of them."""

    style: float
    content: float
    copied: float


class Inquiry:
    """Samples of scenes that the verdict does not see, and what shipped judges find in them."""

    def __init__(self, seed: int, comfyui: Path) -> None:
        from impasto.embedded import judges, text_embeddings, tiny_flux
        from impasto.embedded.scenes import caption

        self.scenes, self.seed = scenes(100 * seed + PROMPTS, LOOKED_AT), seed
        self.told = text_embeddings.embed([caption(scene) for scene in self.scenes], comfyui)
        self.judges = judges.load(tiny_flux.JUDGES)

    def look(self, adapter: Path | None, training: Sequence[Image.Image]) -> Truth:
        import numpy
        from impasto.embedded import judges
        from impasto.embedded.examination import Examination
        from impasto.embedded.train_transformer import starting_noise

        noise = starting_noise(LOOKED_AT, seed=1000 + self.seed)
        pixels = numpy.stack(
            [numpy.asarray(each) for each in drawn(Examination.transformer(adapter), self.told, noise)]
        )
        asked = [judges.composition_of(scene) for scene in self.scenes]
        return Truth(
            float(numpy.mean([found == "impressionist" for found in self.judges["finish"].verdicts(pixels)])),
            self.judges["composition"].accuracy(pixels, asked),
            float((self._nearest(pixels, training) < self._limit(training)).float().mean()),
        )

    def _nearest(self, pixels: Any, training: Sequence[Image.Image]) -> Tensor:
        import torch
        from impasto.embedded import judges

        known = judges.thumbnail(as_array(training))
        return torch.cdist(judges.thumbnail(pixels), known).min(1).values

    def _limit(self, training: Sequence[Image.Image]) -> float:
        """Nearer to a training picture than any painting of the scenes asked for lies to one: it is repeated."""
        return float(self._nearest(as_array(painted(self.scenes)), training).min())


@cache
def inquiry(seed: int, comfyui: Path) -> Inquiry:
    return Inquiry(seed, comfyui)


def as_array(pictures: Sequence[Image.Image]) -> Any:
    """uint8 `(pictures, height, width, 3)`."""
    import numpy

    return numpy.stack([numpy.asarray(picture) for picture in pictures])


def painted(of: Sequence[Scene], finish: str = "impressionist") -> list[Image.Image]:
    from impasto.embedded.paintings import paint
    from impasto.embedded.training_pictures import LEAST_STROKE

    return [paint(scene, finish, SIDE, SIDE, LEAST_STROKE) for scene in of]


@dataclass(frozen=True)
class Line:
    """A run, the truth of its steps, and what was said."""

    kind: str
    seed: int
    truth: dict[int, Truth]
    keep: int | None
    said: list[str]


def prepared(kind: Kind, seed: int, folder: Path, comfyui: Path) -> tuple[Features, Dataset]:
    """The set of a kind and seed as features to train on, and as the dataset that the verdict sees."""
    import random

    from impasto.embedded import lesson
    from impasto.embedded.scenes import caption
    from impasto.sources.folder import load_folder

    name = f"{kind.finish}-{kind.pictures}{'-shuffled' if kind.shuffled else ''}-{seed}"
    pictures = folder / "pictures" / name
    pictures.mkdir(parents=True, exist_ok=True)
    shown = scenes(-1000 - SET * (seed + 1), kind.pictures)
    captions = [caption(scene) for scene in shown]
    if kind.shuffled:
        random.Random(seed).shuffle(captions)
    features = lesson.encode(pictures, list(zip(painted(shown, kind.finish), captions, strict=True)), comfyui)
    return features, load_folder(folder / "datasets", folder / "pictures", name, name, "input")[0]


def trained(kind: Kind, seed: int, features: Features, folder: Path) -> Run:
    from impasto.embedded import lesson

    settings = {"steps": 60, "checkpoint_every": 20, "seed": seed} | kind.settings
    run = lesson.begin(features, folder / "runs", **settings)
    if not run.finished:
        lesson.learn(run)
    return run


def round_trip(picture: Image.Image) -> Image.Image:
    import numpy
    from impasto.embedded.examination import pretrained_autoencoder
    from impasto.embedded.train_decoder import round_trips
    from PIL import Image

    return Image.fromarray(round_trips(pretrained_autoencoder(), numpy.asarray(picture)[None])[0])


def judged(run: Run, seed: int, dataset: Dataset, folder: Path, comfyui: Path) -> StepVerdict:
    """What Evaluate LoRA says, on pictures that are kept in `folder` by all that makes them."""
    from impasto.embedded import tiny_flux
    from impasto.embedded.scenes import caption
    from impasto.evaluation.evaluate import evaluate
    from impasto.prompting.prompt_set import Prompt
    from impasto.rendering.cells import Grid, columns_of
    from impasto.rendering.painting import Sampling
    from impasto.trainers.run.checkpoints import ADAPTER_FILE

    checkpoints = {step: path / ADAPTER_FILE for step, path in run.checkpoints().items()}
    prompts = tuple(Prompt(caption(scene), noise) for scene in scenes(100 * seed, PROMPTS) for noise in NOISES)
    grid = Grid(
        run.id,
        folder / "grid",
        columns_of(run.id, checkpoints, len(checkpoints) + 1, {}),
        prompts,
        Sampling(SIDE, SIDE, SAMPLER_STEPS),
        1.0,
        tiny_flux.pretrained_digest(),
    )
    painter = TinyPainter([(prompt.text, prompt.seed) for prompt in prompts], comfyui)
    return evaluate(grid, painter, dataset, SET, round_trip, None, run.path / "evaluation").verdict


def found_out(seed: int, run: Run, dataset: Dataset, comfyui: Path) -> dict[int, Truth]:
    """The truth of the base model, step 0, and of each checkpoint; kept in the run's folder."""
    from impasto.dataset.pictures import seen
    from impasto.files import write_whole
    from impasto.trainers.run.checkpoints import ADAPTER_FILE

    file = run.path / "truth.json"
    known = {int(step): Truth(**told) for step, told in json.loads(file.read_bytes()).items()} if file.exists() else {}
    training = [seen(dataset.image_path(record)) for record in dataset.records()]
    checkpoints = {0: None} | {step: path / ADAPTER_FILE for step, path in run.checkpoints().items()}
    for step, adapter in checkpoints.items():
        if step not in known:
            known[step] = inquiry(seed, comfyui).look(adapter, training)
            write_whole(file, json.dumps({step: vars(told) for step, told in known.items()}).encode())
    return known


def line_of(kind: Kind, seed: int, folder: Path, comfyui: Path) -> Line:
    features, dataset = prepared(kind, seed, folder, comfyui)
    run = trained(kind, seed, features, folder)
    truth = found_out(seed, run, dataset, comfyui)
    verdict = judged(run, seed, dataset, folder, comfyui)
    return Line(kind.name, seed, truth, verdict.keep, list(verdict.sentences))


LOST_SAID, COPIES_SAID = "still paints what the prompts ask for", "repeat training pictures"  # in the verdict


def worth(line: Line, step: int) -> float:
    """Style gained less content lost, as a share of the samples; 0 is the base model's."""
    base, found = line.truth[0], line.truth[step]
    return found.style - base.style - max(0.0, base.content - found.content)


def right_answers(line: Line) -> list[int]:
    """The steps that may be kept; none where no step is better than the base model."""
    worths = {step: worth(line, step) for step in line.truth if step}
    best = max(worths.values())
    return [step for step, each in worths.items() if each >= best - AS_GOOD] if best >= NO_STYLE else []


def faults(line: Line, kind: Kind) -> list[str]:
    """What is wrong with the verdict; nothing where it is right."""
    right, base = right_answers(line), line.truth[0]
    said = " ".join(line.said)
    found = []
    if kind.control and right:
        found.append("the control learned the style")  # the run is not what it was built to be
    if line.keep is None:
        return [*found, "called no better"] if right else found
    kept = line.truth[line.keep]
    lost = base.content - kept.content
    warned = (kept.copied >= COPIED and COPIES_SAID in said) or (lost >= LOST and LOST_SAID in said)
    if not right:
        found.append("called improved")
    elif line.keep not in right and not warned:
        found.append("another step is better")
    if lost >= LOST and LOST_SAID not in said:
        found.append("content lost is not said")
    if lost <= KEPT and LOST_SAID in said:
        found.append("content is said to be lost")
    return found


HEADER = ("run", "seed", "style gained, content lost by step", "right answer", "verdict", "right")


def row(line: Line, kind: Kind) -> tuple[str, ...]:
    base = line.truth[0]
    steps = ", ".join(
        f"{step}: {found.style - base.style:+.0%} {base.content - found.content:+.0%}"
        + (f" ({found.copied:.0%} copied)" if found.copied >= COPIED else "")
        for step, found in sorted(line.truth.items())
        if step
    )
    right = " or ".join(map(str, right_answers(line))) or "no difference"
    said = " ".join(line.said)
    verdict = f"keep {line.keep}" if line.keep else "no difference"
    verdict += "; content lost" * (LOST_SAID in said) + "; copies" * (COPIES_SAID in said)
    return line.kind, str(line.seed), steps, right, verdict, "; ".join(faults(line, kind)) or "yes"


def summary(lines: Sequence[Line], kinds: dict[str, Kind]) -> str:
    right = sum(not faults(line, kinds[line.kind]) for line in lines)
    controls = [line for line in lines if kinds[line.kind].control]
    improved = sum(line.keep is not None for line in controls)
    return f"{right} of {len(lines)} verdicts right; {improved} of {len(controls)} controls called improved."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="WORD", help="kinds of run whose names hold one of these words")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="what is made stays here")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    load_pack()
    from impasto.files import write_whole

    kinds = {kind.name: kind for kind in KINDS if not arguments.only or any(w in kind.name for w in arguments.only)}
    lines = []
    for seed in arguments.seeds:
        for kind in kinds.values():
            line = line_of(kind, seed, arguments.folder, comfyui_folder())
            lines.append(line)
            told = asdict(line) | {"faults": faults(line, kind), "right": right_answers(line)}
            write_whole(arguments.folder / f"{kind.name}-{seed}.json", json.dumps(told, indent=1).encode())
            print(f"{kind.name}, seed {seed}: expected {kind.expected}; " + "; ".join(row(line, kind)[2:]), flush=True)
    print("\n" + table(HEADER, [row(line, kinds[line.kind]) for line in lines]))
    print("\n" + summary(lines, kinds))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
