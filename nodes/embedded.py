"""What makes the pack work with no download."""

from comfy_api.latest import io

from ..embedded.text_encoder_weights import CLIP_CONFIG, T5_CONFIG, T5_LEAST_TOKENS
from ..embedded.tiny_flux import make_tiny_flux, pretrained_tiny_flux
from . import results
from .host import execution, folders, models

PRETRAINED, SEEDED = "pretrained", "seeded"


class TinyFluxLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTinyFluxLoader",
            display_name="Tiny FLUX Loader",
            category="Impasto/Embedded",
            description=(
                "A FLUX.1 of nine million parameters with its text encoders and autoencoder, without any download. It "
                "has learned to draw simple scenes of 128 pixels, in plain colours: train a LoRA on it and see a style "
                "appear, or try out a graph before loading the real FLUX."
            ),
            search_aliases=["tiny flux", "test model", "dummy model", "offline flux", "no download"],
            inputs=[
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,
                    advanced=True,
                    tooltip=(
                        "Which family of seeded weights to make. The same seed gives the same files on every machine. "
                        "The pretrained weights have none."
                    ),
                ),
                io.Combo.Input(
                    "weights",
                    options=[PRETRAINED, SEEDED],
                    default=PRETRAINED,
                    optional=True,
                    tooltip=(
                        "Pretrained: draws landscapes, portraits, cityscapes and still lifes, at 128x128, 144x112, "
                        "112x144, 160x96 and 96x160 pixels. Seeded: knows no pictures, and has no size that it is "
                        "made for; for trying out graphs."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The tiny diffusion model, for samplers, LoRA loaders and trainers of FLUX."),
                io.Clip.Output(tooltip="Tiny CLIP-L and T5 encoders with the real tokenizers, for FLUX prompts."),
                io.Vae.Output(tooltip="A small autoencoder in FLUX's latent format: 16 channels, 8 pixels each way."),
            ],
        )

    @classmethod
    def execute(cls, seed: int, weights: str = SEEDED) -> io.NodeOutput:
        # Graphs of 0.1.0 in API format have no weights: they get the family that they were made with.
        pretrained = weights == PRETRAINED
        root, progress = folders.pack_models_root(), execution.progress()
        family = pretrained_tiny_flux(root, progress) if pretrained else make_tiny_flux(root, seed, progress)
        least_tokens = T5_LEAST_TOKENS if pretrained else None
        learned = "it draws simple scenes of 128 pixels" if pretrained else f"seed {seed}, it knows no pictures"
        return io.NodeOutput(
            models.load_diffusion_model(family.transformer),
            models.load_flux_clip(family.clip_l, family.t5, CLIP_CONFIG, T5_CONFIG, least_tokens),
            models.load_vae(family.autoencoder),
            ui=results.said(f"Tiny FLUX, {weights}: {learned}."),
        )


NODES = [TinyFluxLoader]
