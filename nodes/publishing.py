"""The node that publishes a LoRA, as a folder and on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from comfy_api.latest import io

from ..curation.exports import IMAGE_FOLDER, ExportSettings, export_dataset, image_folder_files
from ..errors import SettingsError
from ..paths import child_of
from ..publishing import hub_upload
from ..publishing.lora_folder import CARD_FILE, SPACE_FOLDER, Publication, write_folder
from ..publishing.model_card import BASE_MODELS
from ..publishing.own_dataset import check_own
from ..publishing.rights import CLAIMS, rights_of
from ..publishing.space import FILES as SPACE_FILES
from ..rendering.cells import best_of, steps_wanted
from ..trainers.run.folder import MAX_RUN_ID_LENGTH
from . import sockets
from .host import execution, folders
from .inputs import refused
from .rendering import checkpoints_of


class PublishLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def repository(name: str, what: str) -> io.String.Input:
            return io.String.Input(
                name,
                default="",
                optional=True,
                advanced=name != "repository",
                placeholder="owner/name",
                tooltip=f"{what} on the Hugging Face Hub, owner/name; empty to send nothing. The server's owner must "
                "have allowed that name, see help.",
            )

        return io.Schema(
            node_id="ImpastoPublishLora",
            display_name="Publish LoRA",
            category="Impasto/Training",
            description="Makes a folder of a trained LoRA that other people can use: weights, a card with pictures, "
            "settings, dataset and rights. Brings it to the Hugging Face Hub where the server's owner allows that.",
            search_aliases=["hugging face", "upload lora", "model card", "share lora", "hub", "space"],
            inputs=[
                sockets.Run.Input("run", tooltip="The run that trained it."),
                io.Combo.Input(
                    "base_model", options=list(BASE_MODELS), tooltip="What it was trained on; its licence holds."
                ),
                io.Combo.Input(
                    "rights",
                    options=list(CLAIMS),
                    tooltip="Without a dataset whose sources state their rights, nothing is published unless you say "
                    "that you have the right.",
                ),
                sockets.Dataset.Input(
                    "dataset", optional=True, tooltip="The pictures it was trained on, for the card."
                ),
                sockets.PictureGrid.Input(
                    "picture_grid", optional=True, tooltip="From Progress Grid: its last column becomes the gallery."
                ),
                io.String.Input(
                    "at_step",
                    default="last",
                    optional=True,
                    tooltip="Which checkpoint: last, best, or a step's number.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    optional=True,
                    tooltip="The word that calls the style; empty for the one that all captions begin with.",
                ),
                repository("repository", "Where the LoRA goes"),
                io.Boolean.Input(
                    "private",
                    default=True,
                    optional=True,
                    tooltip="New repositories are seen by their owner alone, and nothing is sent to a public one.",
                ),
                io.Boolean.Input(
                    "replace",
                    default=False,
                    optional=True,
                    tooltip="Write over files of the same name there. Else they are named, and nothing is sent.",
                ),
                repository("dataset_repository", "Where the dataset goes, with its card,"),
                repository("space_repository", "Where a Gradio Space goes that tries the LoRA out,"),
            ],
            outputs=[
                io.String.Output("folder", tooltip="Where it lies on this machine."),
                io.String.Output("card", tooltip="The model card, as Markdown."),
                io.String.Output("report", tooltip="What was made, and what was sent where."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(
        cls,
        repository: str | None = None,
        dataset_repository: str | None = None,
        space_repository: str | None = None,
    ) -> bool | str:
        given = {
            "repository": repository,
            "dataset_repository": dataset_repository,
            "space_repository": space_repository,
        }
        return refused(*((name, value, _allowed) for name, value in given.items()))

    @classmethod
    def execute(
        cls,
        run,
        base_model,
        rights,
        dataset=None,
        picture_grid=None,
        at_step="last",
        trigger_word="",
        repository="",
        private=True,
        replace=False,
        dataset_repository="",
        space_repository="",
    ) -> io.NodeOutput:
        places = [_allowed(name) for name in (repository, dataset_repository, space_repository)]
        if places[1] and dataset is None:
            raise SettingsError("dataset_repository is given, and no dataset is connected. Connect the one to publish.")
        if places[2] and not places[0]:
            raise SettingsError("A Space loads the LoRA from the Hub: give repository too, or no space_repository.")
        differs = check_own(run, dataset) if dataset else ""
        known = rights_of(dataset, rights)
        root = child_of(folders.published_root(), run.id, what="run id", longest=MAX_RUN_ID_LENGTH)
        what = Publication(
            run.name,
            _weights(run, at_step),
            run,
            base_model,
            known,
            trigger_word.strip(),
            dataset,
            picture_grid,
            places[0],
        )
        written = write_folder(what, root)
        inside = written.folder
        told = [f"Made {inside}", *filter(None, [differs])]
        progress = execution.progress()
        sending = [(inside, places[0], "model", written.files)]
        if places[1]:
            exported = export_dataset(dataset, IMAGE_FOLDER, ExportSettings(), progress)
            sending.append((Path(exported.folder), places[1], "dataset", image_folder_files(dataset)))
        sending.append((root / SPACE_FOLDER, places[2], "space", SPACE_FILES))
        for folder, place, kind, files in sending:
            if place:
                sent = hub_upload.upload(folder, place, kind, private, replace, progress=progress, files=files)
                number = f"{len(sent.sent)} files sent" if sent.sent else "nothing to send, all of it lies there"
                told.append(f"{sent.address}: {number}")
        if places[0]:
            told.append("New repositories are private." if private else "New repositories are public.")
        return io.NodeOutput(str(inside), (inside / CARD_FILE).read_text(encoding="utf-8"), "\n".join(told))


def _allowed(repository: str | None) -> str:
    """`repository` where it may be written to; "" for none."""
    if not (repository or "").strip():
        return ""
    name = hub_upload.check_repository(repository)
    hub_upload.check_allowed(name, folders.user_root())
    return name


def _weights(run, at_step: str) -> Path:
    """The LoRA of one step.

    Raises:
        SettingsError: several steps are named, none, or one without a checkpoint.
    """
    adapters, held_out = checkpoints_of(run)
    best = best_of(adapters, held_out)
    steps = steps_wanted(at_step or "last", adapters, best)
    if not steps and at_step.strip().lower() == "best":
        raise SettingsError("at_step is best, and no held-out loss was measured. Choose last, or a step's number.")
    if len(steps) != 1 or steps[0] not in adapters:
        there = ", ".join(map(str, adapters)) or "none"
        raise SettingsError(f"at_step is '{at_step[:40]}'. Name one step that has a checkpoint: {there}.")
    return adapters[steps[0]]


NODES = [PublishLora]
