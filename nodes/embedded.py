"""What makes the pack work with no download."""

from comfy_api.latest import io

from ..embedded.text_encoder_weights import CLIP_CONFIG, T5_CONFIG
from ..embedded.tiny_flux import make_tiny_flux
from .host import execution, folders, models


class TinyFluxLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoTinyFluxLoader",
            display_name="Tiny FLUX Loader",
            category="Impasto/Embedded",
            description=(
                "A FLUX.1 of nine million parameters with its text encoders and autoencoder, made on this machine "
                "without any download. It knows no pictures: use it to try out a graph before loading the real FLUX."
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
                    tooltip="Which family of weights to make. The same seed gives the same files on every machine.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The tiny diffusion model, for samplers, LoRA loaders and trainers of FLUX."),
                io.Clip.Output(tooltip="Tiny CLIP-L and T5 encoders with the real tokenizers, for FLUX prompts."),
                io.Vae.Output(tooltip="A small autoencoder in FLUX's latent format: 16 channels, 8 pixels each way."),
            ],
        )

    @classmethod
    def execute(cls, seed: int) -> io.NodeOutput:
        family = make_tiny_flux(folders.pack_models_root(), seed, execution.progress())
        return io.NodeOutput(
            models.load_diffusion_model(family.transformer),
            models.load_flux_clip(family.clip_l, family.t5, CLIP_CONFIG, T5_CONFIG),
            models.load_vae(family.autoencoder),
        )


NODES = [TinyFluxLoader]
