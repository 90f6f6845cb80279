"""The nodes between a dataset and its training: pictures and captions become latents and text embeddings."""

from pathlib import Path

from comfy_api.latest import io

from ..dataset.caption_variants import DEFAULT_VARIANTS, MOST_VARIANTS
from ..paths import child_of
from ..texts import megabytes
from ..trainers.features import encoding as features
from ..trainers.features import index, text_table
from . import sockets
from .host import encoders, execution
from .jobs import logged

CATEGORY = "Impasto/Training"


class EncodeTrainingData(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoEncodeTrainingData",
            display_name="Encode Training Data",
            category=CATEGORY,
            description="Encodes every picture with the VAE and every caption with the CLIP, once, so that training "
            "needs neither. What is already encoded is kept: only new pictures and captions are encoded.",
            search_aliases=["cache latents", "cache text embeddings", "precompute", "vae encode dataset", "features"],
            inputs=[
                sockets.DatasetConfig.Input("dataset_config", tooltip="From Dataset TOML Writer."),
                io.Clip.Input("clip", tooltip="FLUX's text encoders, from DualCLIPLoader with type flux."),
                io.Vae.Input("vae", tooltip="FLUX's autoencoder, from Load VAE."),
                io.Int.Input(
                    "caption_variants",
                    optional=True,
                    default=DEFAULT_VARIANTS,
                    min=1,
                    max=MOST_VARIANTS,
                    advanced=True,
                    tooltip="How many texts a caption becomes where the dataset config shuffles captions, drops tags "
                    "or has wildcards. Each takes 4 MB with the real FLUX.",
                ),
                sockets.Prompts.Input(
                    "prompts",
                    optional=True,
                    tooltip="Prompts for samples during training, from Prompt Set; encoded here too.",
                ),
                io.String.Input(
                    "text_features",
                    optional=True,
                    default="",
                    advanced=True,
                    tooltip="Name of a Parquet file of the dataset, from Export Text Features: captions are "
                    "taken from it instead of encoded. Empty for none.",
                ),
                io.Boolean.Input(
                    "caption_weights",
                    optional=True,
                    default=False,
                    advanced=True,
                    tooltip="Read captions as prompts: (boat:1.3) weighs a word, embedding:name is a file. Off, they "
                    "are read literally, as sd-scripts does.",
                ),
            ],
            outputs=[
                sockets.Features.Output("features", tooltip="The encoded training data, for FLUX LoRA Trainer."),
                io.String.Output("report", tooltip="How many pictures are in which bucket, and the space they take."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        dataset_config,
        clip,
        vae,
        caption_variants=DEFAULT_VARIANTS,
        prompts=None,
        text_features="",
        caption_weights=False,
    ) -> io.NodeOutput:
        folder = Path(dataset_config.path).parent
        with logged("Encode Training Data", folder):
            table = None
            if text_features.strip():
                table = text_table.import_texts(_existing_table(folder, text_features))
            encoded = features.encode(
                dataset_config.path,
                encoders.autoencoder(vae),
                encoders.text_encoder(clip),
                execution.progress(),
                caption_variants,
                [(prompt.text, prompt.seed) for prompt in prompts or ()],
                table,
                str if caption_weights else encoders.literal,
            )
        report = index.report(encoded)
        return io.NodeOutput(encoded, report if table else report + _weights(encoded, caption_weights))


class ExportTextFeatures(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoExportTextFeatures",
            display_name="Export Text Features",
            category=CATEGORY,
            description="Writes the text embeddings of encoded training data into one Parquet file under the "
            "dataset's exports, a row for each picture and caption: for diffusers' FLUX QLoRA example, or for another "
            "machine.",
            search_aliases=["parquet", "text embeddings", "prompt_embeds", "precomputed", "compute_embeddings"],
            inputs=[
                sockets.Features.Input("features", tooltip="From Encode Training Data."),
                io.String.Input("name", default="text-features", tooltip="Of the file, without its ending."),
                io.Combo.Input(
                    "float_type",
                    options=list(text_table.FLOAT_TYPES),
                    tooltip="float32 loses nothing; float16 takes half the space and rounds.",
                ),
            ],
            outputs=[
                io.String.Output("name", tooltip="The file's name, for text_features of Encode Training Data."),
                io.String.Output("report", tooltip="Where it is, its rows and its size."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, features, name: str, float_type: str) -> io.NodeOutput:
        path = _table_path(Path(features.folder).parent.parent, name)
        rows = text_table.export_texts(features, path, float_type, execution.progress())
        return io.NodeOutput(path.stem, f"{rows} rows in {path}, {megabytes(path.stat().st_size)}")


def _weights(encoded: index.Features, weighed: bool) -> str:
    """How many captions a prompt's reader would see more in than their words, and what was done: a line, or none."""
    captions = {text.caption for example in index.load(encoded).examples for text in example.all_texts}
    count = sum(encoders.literal(caption) != caption for caption in captions)
    read = "read as a prompt's weights" if weighed else "read literally, as sd-scripts does (see caption_weights)"
    return f"\n{count} captions with brackets, {read}" if count else ""


def _table_path(dataset: Path, name: str) -> Path:
    """A Parquet file among the dataset's exports, whether or not its name is given with the ending.

    Two folders down: directly in the dataset's folder, or one down, a loader would take it for a source of pictures.
    """
    return child_of(dataset, "exports", "text-features", _table_name(name), what="name of the text features")


def _existing_table(dataset: Path, name: str) -> Path:
    """The file of that name; directly in the dataset's folder, as earlier versions wrote it, where none is exported."""
    path, earlier = _table_path(dataset, name), child_of(dataset, _table_name(name), what="name of the text features")
    return earlier if earlier.is_file() and not path.exists() else path


def _table_name(name: str) -> str:
    return f"{name.strip().removesuffix('.parquet')}.parquet"


NODES = [EncodeTrainingData, ExportTextFeatures]
