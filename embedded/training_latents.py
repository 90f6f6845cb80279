"""The latents of the training pictures, and the embeddings of their captions: what the tiny FLUX's transformer reads.

The autoencoder's encoder is worked out, not trained, and takes each block of 8 x 8 pixels by itself. Below the lifts
that carry it through TAESD's ReLUs it is one matrix, which is a thousand times faster than its 24 convolutions.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from .scenes import KINDS, Scene, caption
from .taesd import worked_out
from .training_pictures import Pictures, scene_of

BLOCK = 8  # pixels of a picture in each place of its latents
SHORT_CAPTION_SHARE, NO_CAPTION_SHARE = 0.05, 0.10


@cache
@torch.autocast("cpu", enabled=False)  # its lifts need every digit
def encoder_matrix() -> tuple[Tensor, Tensor]:
    """`(16, 192)` and `(16,)`: a block's pixels, channel by row by column in 0…1, to its scaled latents."""
    encoder = worked_out().taesd_encoder
    with torch.no_grad(), torch.autocast("cpu", enabled=False):  # kept, whoever asks first
        black = encoder(torch.zeros(1, 3, BLOCK, BLOCK)).view(1, -1)
        one_lit = torch.eye(3 * BLOCK * BLOCK).view(-1, 3, BLOCK, BLOCK)
        return (encoder(one_lit).view(len(one_lit), -1) - black).T.contiguous(), black[0]


@torch.autocast("cpu", enabled=False)
def latents_of(pixels: np.ndarray) -> Tensor:
    """Scaled latents `(n, 16, height/8, width/8)`, float32, of pictures, uint8 `(n, height, width, 3)`."""
    matrix, black = encoder_matrix()
    pictures = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    blocks = torch.nn.functional.pixel_unshuffle(pictures, BLOCK)
    return torch.einsum("nkhw,ck->nchw", blocks, matrix) + black.view(1, -1, 1, 1)


def short_caption(scene: Scene) -> str:
    """What is asked for in few words, as people do."""
    return f"{'an' if scene.kind[0] in 'aeiou' else 'a'} {scene.kind}"


@dataclass(frozen=True)
class LatentsOfShape:
    """Latents of pictures of one shape, `(n, 16, h, w)` in bfloat16, and of each which caption is its own."""

    latents: Tensor
    captions: Tensor  # (n,), int64: index into `Latents.prompts`
    kinds: Tensor  # (n,), int64: index of its short caption, which is 1 + the kind's


class Latents:
    """All latents by shape, and every prompt there is: none, the four short ones, and the captions."""

    def __init__(self, groups: Iterable[Pictures]) -> None:
        short = [short_caption(scene_of(kind)) for kind in range(len(KINDS))]
        known = {prompt: index for index, prompt in enumerate(["", *short])}
        collected: dict[tuple[int, int], list[tuple[Tensor, list[int], list[int]]]] = {}
        for group in groups:
            scenes = [scene_of(int(index)) for index in group.indices]
            captions = [known.setdefault(caption(scene), len(known)) for scene in scenes]
            kinds = [1 + KINDS.index(scene.kind) for scene in scenes]
            part = (latents_of(group.pixels).bfloat16(), captions, kinds)
            collected.setdefault(group.pixels.shape[1:3], []).append(part)
        self.prompts = list(known)
        self.shapes = [
            LatentsOfShape(
                torch.cat([part[0] for part in parts]),
                torch.tensor([index for part in parts for index in part[1]]),
                torch.tensor([index for part in parts for index in part[2]]),
            )
            for _, parts in sorted(collected.items())
        ]
        counts = torch.tensor([len(shape.latents) for shape in self.shapes], dtype=torch.float64)
        self.shares = counts / counts.sum()

    def batch(self, size: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
        """Latents `(size, 16, h, w)` of one shape, float32, and which prompt each is told; some are told less."""
        shape = self.shapes[int(torch.multinomial(self.shares, 1, generator=random))]
        chosen = torch.randint(len(shape.latents), (size,), generator=random)
        fate = torch.rand(size, generator=random)
        prompts = torch.where(
            fate < NO_CAPTION_SHARE + SHORT_CAPTION_SHARE, shape.kinds[chosen], shape.captions[chosen]
        )
        return shape.latents[chosen].float(), torch.where(fate < NO_CAPTION_SHARE, 0, prompts)
