"""The node between a dataset and its training: pictures and captions become latents and text embeddings."""

from comfy_api.latest import io

from ..trainers import features
from . import host, sockets


class EncodeTrainingData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoEncodeTrainingData",
            display_name="Encode Training Data",
            category="Impasto/Training",
            description="Encodes every picture with the VAE and every caption with the CLIP, once, so that training "
            "needs neither. What is already encoded is kept: only new pictures and captions are encoded.",
            search_aliases=["cache latents", "cache text embeddings", "precompute", "vae encode dataset", "features"],
            inputs=[
                sockets.DatasetConfig.Input("dataset_config", tooltip="From Dataset TOML Writer."),
                io.Clip.Input("clip", tooltip="FLUX's text encoders, from DualCLIPLoader with type flux."),
                io.Vae.Input("vae", tooltip="FLUX's autoencoder, from Load VAE."),
            ],
            outputs=[
                sockets.Features.Output("features", tooltip="The encoded training data, for FLUX LoRA Trainer."),
                io.String.Output("report", tooltip="How many pictures are in which bucket, and the space they take."),
            ],
        )

    @classmethod
    def execute(cls, dataset_config, clip, vae) -> io.NodeOutput:
        encoders = host.autoencoder(vae), host.text_encoder(clip)
        encoded = features.encode(dataset_config.path, *encoders, host.progress())
        return io.NodeOutput(encoded, features.report(encoded))


NODES = [EncodeTrainingData]
