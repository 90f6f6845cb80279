"""The forward pass that training differentiates: noisy latents in, velocity out, as ComfyUI's sampler computes it.

diffusers' own `FluxTransformer2DModel.forward` is not used: it casts sigma to the hidden dtype before the sinusoidal
embedding, and in bfloat16 the timesteps between 512 and 1024 are then 4 apart. Here sigma stays float32 up to there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.utils.checkpoint import checkpoint

from ...errors import FeatureError, TrainingError
from ...texts import one_line
from .blocks import blocks, recomputed
from .latents import PATCH, PIXELS_PER_LATENT, PIXELS_PER_TOKEN

if TYPE_CHECKING:
    from diffusers import FluxTransformer2DModel

    from .streaming import StreamedBlocks

TIMESTEPS = 1000.0  # sigma and guidance are embedded times this; BFL flux/modules/layers.py `time_factor`
# Graphs per kind of block: with and without gradient, the first block's inputs without one, one size and then any
# size, and one for each rank of a block-wise LoRA. torch's own limit of 8 is for one kind of call.
COMPILED_GRAPHS = 64


def predict_velocity(
    transformer: FluxTransformer2DModel,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    t5: torch.Tensor,
    pooled: torch.Tensor,
    guidance: float = 1.0,
    checkpointing: bool = False,
    interval: int = 1,
    streamed: StreamedBlocks | None = None,
) -> torch.Tensor:
    """Predict the velocity ε - x₀ of noisy latents.

    Args:
        transformer: on the device of the other tensors, in any floating dtype, with or without an adapter.
        latents: (batch, 16, height/8, width/8), scaled, noised to `sigma`.
        sigma: (batch,), float32, in [0, 1].
        t5: (batch, tokens, context width).
        pooled: (batch, pooled width).
        guidance: what the guidance embedding of a distilled model (FLUX.1-dev) is told; others don't use it.
        checkpointing: recompute blocks in the backward pass instead of keeping what they computed.
        interval: with `checkpointing`, only every so many-th block, see `recomputed`.
        streamed: brings the weights of those blocks that are not on the device; these are recomputed in any case.

    Returns:
        The velocity, in the shape and dtype of `latents`.

    Raises:
        FeatureError: the latents' height or width is odd (pictures must be multiples of 16 pixels), or their channels
            are not this model's.
    """
    _check_latents(transformer, latents)
    rows, columns = latents.shape[-2] // PATCH, latents.shape[-1] // PATCH
    dtype = transformer.x_embedder.weight.dtype
    image = transformer.x_embedder(patchify(latents).to(dtype))
    text = transformer.context_embedder(t5.to(dtype))
    conditioning = _embed_conditioning(transformer, sigma, pooled.to(dtype), guidance)
    rotary = transformer.pos_embed(position_ids(t5.shape[1], rows, columns, latents.device))

    for index, block in enumerate(blocks(transformer)):
        # A compiled block is compiled on its own, inside of what is recomputed: a checkpoint within a compiled graph
        # would break it, or recompute what the compiler had decided to keep.
        run = streamed.carried(index, block) if streamed else block
        if torch.is_grad_enabled() and recomputed(index, checkpointing, interval, streamed.indices if streamed else ()):
            # Non-reentrant: gradients reach the adapter though neither image nor text requires them in the first block.
            text, image = checkpoint(run, image, text, conditioning, rotary, use_reentrant=False)
        else:
            text, image = run(image, text, conditioning, rotary)
    if streamed:
        streamed.turn()

    tokens = transformer.proj_out(transformer.norm_out(image, conditioning))
    return unpatchify(tokens, rows, columns).to(latents.dtype)


def use_attention(transformer: FluxTransformer2DModel, backend: str) -> None:
    """Have every block compute attention by one of diffusers' backends; before or after the adapter, before compiling.

    Args:
        transformer: whose attention processors are told, in place.
        backend: as diffusers calls it.
    """
    from diffusers.models.attention_dispatch import attention_backend

    # diffusers also makes it the default of every other model in the process, which the plan of the memory rehearses
    # with on a device that has no kernels. What this context found there is put back at its end.
    with attention_backend():
        transformer.set_attention_backend(backend)


def compile_blocks(transformer: FluxTransformer2DModel, device: torch.device, backend: str = "inductor") -> None:
    """Compile each kind of block once, in place, when it first runs; state dict and module names stay as they are.

    The blocks of a kind share their graphs. A second bucket size makes sizes symbolic (torch's automatic dynamic
    shapes), so that any further size runs without compiling again. Sigma, guidance and the embedders stay outside.

    Args:
        transformer: with its adapter, in place.
        device: where it will run; a trial on it shows whether there is a compiler.
        backend: of `torch.compile`.

    Raises:
        TrainingError: this machine cannot compile.
    """
    try:
        torch.compile(torch.square, backend=backend)(torch.ones(2, device=device))
    except Exception as error:  # whatever of torch's, Triton's or the C++ compiler's: each has its own kinds
        cause = one_line(str(error).split("\n\n")[0])
        raise TrainingError(
            f"torch.compile does not work here ({cause}). It needs Triton on a GPU, a C++ compiler on the CPU. "
            "Switch compile off: the result is the same, only slower."
        ) from error
    config = torch._dynamo.config  # its recompile_limit is called so since torch 2.7; the older name works in all
    config.cache_size_limit = max(config.cache_size_limit, COMPILED_GRAPHS)
    for block in blocks(transformer):
        block.compile(backend=backend)


def patchify(latents: torch.Tensor) -> torch.Tensor:
    """Cut (batch, channels, height, width) into tokens (batch, height/2 * width/2, channels * 4).

    The order within a token is channel, row, column: ComfyUI's "b c (h ph) (w pw) -> b (h w) (c ph pw)".
    """
    batch, channels, height, width = latents.shape
    patches = latents.reshape(batch, channels, height // PATCH, PATCH, width // PATCH, PATCH)
    return patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, -1, channels * PATCH * PATCH)


def unpatchify(tokens: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Put tokens (batch, rows * columns, channels * 4) back together: (batch, channels, rows * 2, columns * 2)."""
    batch = tokens.shape[0]
    patches = tokens.reshape(batch, rows, columns, -1, PATCH, PATCH)
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, -1, rows * PATCH, columns * PATCH)


def position_ids(text_tokens: int, rows: int, columns: int, device: torch.device) -> torch.Tensor:
    """Positions for the rotary embedding: text (0, 0, 0), image (0, row, column); float32, as bfloat16 ends at 256.

    Returns:
        (text_tokens + rows * columns, 3).
    """
    row, column = torch.meshgrid(
        torch.arange(rows, dtype=torch.float32, device=device),
        torch.arange(columns, dtype=torch.float32, device=device),
        indexing="ij",
    )
    image = torch.stack((torch.zeros_like(row), row, column), dim=-1).reshape(-1, 3)
    return torch.cat((torch.zeros(text_tokens, 3, dtype=torch.float32, device=device), image))


def embed_sigma(transformer: FluxTransformer2DModel, sigma: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Embed sigma (batch,) to (batch, hidden size); the sinusoids are computed in float32, then cast to `dtype`."""
    embed = transformer.time_text_embed
    return embed.timestep_embedder(embed.time_proj(sigma.float() * TIMESTEPS).to(dtype))


def _embed_conditioning(
    transformer: FluxTransformer2DModel, sigma: torch.Tensor, pooled: torch.Tensor, guidance: float
) -> torch.Tensor:
    embed = transformer.time_text_embed
    conditioning = embed_sigma(transformer, sigma, pooled.dtype)
    if transformer.config.guidance_embeds:
        scale = torch.full_like(sigma, guidance, dtype=torch.float32) * TIMESTEPS
        conditioning = conditioning + embed.guidance_embedder(embed.time_proj(scale).to(pooled.dtype))
    return conditioning + embed.text_embedder(pooled)


def _check_latents(transformer: FluxTransformer2DModel, latents: torch.Tensor) -> None:
    channels, height, width = latents.shape[-3:]
    if height % PATCH or width % PATCH:
        pixels = f"{width * PIXELS_PER_LATENT}x{height * PIXELS_PER_LATENT}"
        raise FeatureError(
            f"Latents of {width}x{height} (a picture of {pixels} pixels) cannot be cut into {PATCH}x{PATCH} patches. "
            f"Encode again with bucket sides that are multiples of {PIXELS_PER_TOKEN} pixels."
        )
    if channels * PATCH**2 != transformer.config.in_channels:
        raise FeatureError(
            f"The latents have {channels} channels, this model takes {transformer.config.in_channels // PATCH**2}. "
            "Encode again with the VAE that belongs to the model."
        )
