"""Nodes that bring datasets to other trainers and to the Hub, and take in the configs that people wrote for them."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..curation.exports import FORMATS, ExportSettings, export_dataset
from ..dataset import config_reader as dataset_config
from ..dataset.config_editor import Changes, find_toml, rewrite_dataset_toml, written_toml_fingerprint
from ..dataset.config_schema import BY_NAME
from ..dataset.other_trainers import is_of_another_trainer
from ..dataset.schema_key import TARGETS
from ..errors import ImpastoError
from ..trainers.job_files import check_job, write_job
from . import results, sockets
from .host import execution, folders
from .inputs import anew, key_input, over_links, refused

CATEGORY = "Impasto/Dataset"


class DatasetExport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults = ExportSettings()

        def key(name: str, tooltip: str, **options: float) -> io.Input:
            value = getattr(defaults, name)
            return key_input(BY_NAME[name], tooltip, default=value, optional=False, advanced=False, **options)

        return io.Schema(
            node_id="ImpastoDatasetExport",
            display_name="Dataset Export",
            category=CATEGORY,
            description=(
                "Writes the dataset for ai-toolkit, SimpleTuner, OneTrainer or sd-scripts or as a Hugging Face "
                "imagefolder, with a dataset card that says what is in it, what was filtered out, where it comes from "
                "and under which rights; with training settings, a whole job too."
            ),
            search_aliases=["ai-toolkit", "SimpleTuner", "multidatabackend", "imagefolder", "hugging face", "card"],
            inputs=[
                sockets.Dataset.Input("dataset", tooltip="The dataset to write. Trainers need a caption per picture."),
                io.Combo.Input("format", options=list(FORMATS), tooltip="Who is to read it."),
                key("resolution", "Training size in pixels: the side of a square of that area. Not for imagefolder."),
                key("num_repeats", f"{BY_NAME['num_repeats'].widget.tooltip} Not for imagefolder."),
                key(
                    "caption_dropout_rate",
                    "Share of pictures trained with an empty caption. For SimpleTuner the note says where to set it. "
                    "Not for imagefolder.",
                    step=0.001,
                ),
                io.String.Input(
                    "license",
                    default=defaults.license,
                    tooltip="For the card, an identifier of the Hub: cc0-1.0, cc-by-4.0 … other where rights differ.",
                ),
                sockets.Training.Input(
                    "training",
                    optional=True,
                    tooltip="From Training Settings: then a whole job for ai-toolkit, SimpleTuner or sd-scripts is "
                    "written too, with these settings.",
                ),
            ],
            outputs=[
                io.String.Output("folder", tooltip="Where it was written."),
                io.String.Output("config", tooltip="The text of the file that the trainer or the Hub reads."),
                io.String.Output("card", tooltip="The dataset card, README.md in the folder, as Markdown."),
                io.String.Output("note", tooltip="What to do with the files."),
                io.String.Output("job", tooltip="The text of the job; empty without training settings."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, dataset, format: str, training=None, **settings) -> io.NodeOutput:
        if training is not None:
            check_job(format, training)  # before anything is written
        export = export_dataset(dataset, format, ExportSettings(**settings), execution.progress())
        texts = [Path(path).read_text(encoding="utf-8") for path in (export.config, Path(export.folder) / "README.md")]
        note, job = export.note, ""
        if training is not None:
            file, what = write_job(format, Path(export.config), dataset.name, training)
            note, job = f"{note}\n{what}", file.read_text(encoding="utf-8")
        return io.NodeOutput(export.folder, *texts, note, job)


class DatasetTOMLLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def kept(name: str) -> io.Input:
            key = BY_NAME[name]
            return key_input(key, f"{key.widget.tooltip} 0 keeps the file's.", default=0, min=0)

        return io.Schema(
            node_id="ImpastoDatasetTOMLLoader",
            display_name="Dataset TOML Loader",
            category=CATEGORY,
            description=(
                "Takes a dataset config that was written by hand for kohya sd-scripts, with its own folders of "
                "pictures and captions. A copy with the changes asked for is written beside it, comments kept. "
                "Configs of OneTrainer and SimpleTuner, and trees of folders with repeats, are translated."
            ),
            search_aliases=[
                "kohya",
                "sd-scripts",
                "dataset config",
                "toml",
                "OneTrainer",
                "SimpleTuner",
                "FluxTrainer",
            ],
            inputs=[
                io.String.Input(
                    "file",
                    default="",
                    tooltip="TOML file in ComfyUI's datasets folder, with slashes for folders: 'monets/dataset.toml'. "
                    "Or concepts of OneTrainer, SimpleTuner's multidatabackend.json, or a folder of folders 10_name.",
                ),
                io.Combo.Input(
                    "target",
                    options=list(TARGETS),
                    tooltip="Who reads the copy: today's sd-scripts (and Impasto), or the older one of FluxTrainer.",
                ),
                *map(kept, Changes().values),
            ],
            outputs=[
                sockets.DatasetConfig.Output("dataset_config", tooltip="The dataset config, for Encode Training Data."),
                io.String.Output("toml", tooltip="The text of the copy."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return refused(("file", file, lambda name: find_toml(folders.datasets_roots(), name)))

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: object) -> str | float:
        """Load again when the file, or a picture or a caption that it leads to, has changed."""
        if over_links(file):
            return anew()
        try:
            return written_toml_fingerprint(find_toml(folders.datasets_roots(), file))
        except (ImpastoError, OSError) as error:
            return str(error)  # execute says it in full

    @classmethod
    def execute(cls, file: str, **changes) -> io.NodeOutput:
        source = find_toml(folders.datasets_roots(), file)
        if not is_of_another_trainer(source):
            dataset_config.read(source)  # its errors name the person's own file
        config = rewrite_dataset_toml(source, Changes(**changes))
        dataset_config.read(config.path)
        text = Path(config.path).read_text(encoding="utf-8")
        return io.NodeOutput(config, text, ui=results.said(f"Written: {config.path}"))


NODES = [DatasetExport, DatasetTOMLLoader]
