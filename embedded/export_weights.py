"""Write what the pack ships: transformer, decoder, and judges of what they draw, in `embedded/weights/`.

    python worker.py impasto.embedded.export_weights --folder FOLDER

FOLDER is the one that `embedded.train_transformer` and `embedded.train_decoder` have worked in. Averaged weights in
bfloat16; the transformer by Black Forest Labs' keys. The judges are fitted on round trips of both finishes through
the decoder that is shipped, and their accuracy on scenes held out is told. Each file says in its metadata how it came
about.
"""

from __future__ import annotations

import argparse
import json
import logging
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..errors import TrainingError
from ..files import appearing
from ..trainers.flux.layout import FluxArchitecture, layout
from . import judges, learning
from .judge_samples import decoded
from .paintings import FINISHES
from .text_encoder_weights import CLIP_WIDTH, T5_WIDTH
from .tiny_flux import JUDGES, METADATA_KEY, PRETRAINED
from .train_decoder import trained
from .train_transformer import DOUBLE_BLOCKS, HEADS, SINGLE_BLOCKS, guidance_means_nothing, new_transformer
from .training_pictures import DATA_VERSION, held_out_pictures, training_pictures
from .transformer_weights import HEAD_WIDTH, PATCH_CHANNELS

logger = logging.getLogger(__name__)

LICENCE = "Apache-2.0"
LARGEST = 25 * 2**20  # bytes, of all files
JUDGES_FITTED_ON, JUDGES_TRIED_ON = 400, 64  # square pictures of each finish, as far as there are so many


def by_original_keys(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' weights of the family's transformer as one tensor for each of Black Forest Labs' keys."""
    architecture = FluxArchitecture(
        hidden_size=HEADS * HEAD_WIDTH,
        heads=HEADS,
        double_blocks=DOUBLE_BLOCKS,
        single_blocks=SINGLE_BLOCKS,
        context_width=T5_WIDTH,
        pooled_width=CLIP_WIDTH,
        in_channels=PATCH_CHANNELS,
        guidance=True,
        prefix="",
        parameters=sum(value.numel() for value in weights.values()),
    )
    original = {}
    for source in layout(architecture):
        whole = torch.empty(source.shape)
        for name, ranges in source.parameters.items():
            rows = iter(weights[name].split([stop - start for start, stop in ranges]))
            for start, stop in ranges:
                whole[start:stop] = next(rows)
        original[source.key] = whole
    return original


def _without_guidance(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Before the second phase has begun, any guidance must mean what 1 does, and not noise."""
    transformer = new_transformer()
    transformer.load_state_dict(weights)
    guidance_means_nothing(transformer)
    return transformer.state_dict()


def export_judges(folder: Path) -> None:
    """Fit and write the judges of finish and composition, both of pictures in either finish."""
    model, steps = trained(folder)
    pictures = folder / "pictures"

    def shown(groups, count: int) -> tuple[np.ndarray, list[str], list[str]]:
        """Round trips, and the finish and the composition of each."""
        found = {finish: decoded(model, groups(pictures), finish, count) for finish in FINISHES}
        finishes = [finish for finish, some in found.items() for _ in some.scenes]
        compositions = [judges.composition_of(scene) for some in found.values() for scene in some.scenes]
        return np.concatenate([some.pixels for some in found.values()]), finishes, compositions

    pixels, *labels = shown(training_pictures, JUDGES_FITTED_ON)
    features = {"finish": judges.texture, "composition": judges.thumbnail}
    fitted = {name: judges.fit(features[name], pixels, known) for name, known in zip(features, labels, strict=True)}
    origin = {"script": "embedded.export_weights", "decoder steps": steps, "data": DATA_VERSION, "licence": LICENCE}
    judges.save(JUDGES, fitted, origin)
    pixels, *labels = shown(held_out_pictures, JUDGES_TRIED_ON)
    for (name, judge), known in zip(fitted.items(), labels, strict=True):
        share = judge.accuracy(pixels, known)
        logger.info("judge of %s: right about %.1f %% of held-out round trips", name, 100 * share)


def export(folder: Path) -> None:
    """Write all files.

    Raises:
        TrainingError: a training has not been begun in `folder`, or the files would be too large to ship.
    """
    states = {part: learning.load_state(folder / f"{part}.pt") for part in PRETRAINED}
    for part, state in states.items():
        if state is None:
            raise TrainingError(f"There is no {part}.pt in {folder}. Run embedded.train_{part} first.")
        weights = state["average"]
        if part == "transformer":
            weights = by_original_keys(weights if state["teacher"] else _without_guidance(weights))
        weights = {key: value.bfloat16().contiguous() for key, value in weights.items()}
        description = {
            "script": f"embedded.train_{part}",
            "steps": state["step"],
            "data": DATA_VERSION,
            "licence": LICENCE,
        }
        with appearing(PRETRAINED[part]) as temporary:
            save_file(weights, temporary, {METADATA_KEY: json.dumps(description, sort_keys=True)})
        logger.info("%s: %d steps, %.1f MB", part, state["step"], PRETRAINED[part].stat().st_size / 1e6)
    export_judges(folder)
    size = sum(path.stat().st_size for path in (*PRETRAINED.values(), JUDGES))
    if size > LARGEST:
        raise TrainingError(f"The files have {size} bytes, over the {LARGEST} that the pack may ship.")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write the tiny FLUX's weights that the pack ships.")
    parser.add_argument("--folder", type=Path, required=True, help="where the states of both trainings lie")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    export(arguments.folder)
    return 0
