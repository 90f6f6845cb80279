"""Nodes that bring pictures in from folders and from the web."""

from __future__ import annotations

import functools

from comfy_api.latest import io

from ..captioners.captions import checked_trigger_word
from ..dataset.normalise import JPEG, PNG
from ..errors import ImpastoError
from ..sources.download import Fetcher, allowed_hosts
from ..sources.folder import find_folder, folder_fingerprint, load_folder
from ..sources.import_pictures import dataset_folder
from ..sources.urls import list_file, load_urls, read_list
from . import sockets
from .host import execution, folders
from .inputs import anew, keep_metadata_input, over_links, refused
from .jobs import logged

CATEGORY = "Impasto/Dataset"
_ROOTS = {"input": folders.input_root, "datasets": folders.datasets_roots}


def _format_input() -> io.Input:
    return io.Combo.Input(
        "format",
        options=[JPEG, PNG],
        default=JPEG,
        tooltip="What a picture is written as if it has to be turned, brought to sRGB, laid on white or converted: "
        "JPEG of quality 95, or PNG. JPEG, PNG and WebP with nothing to change stay as they are.",
    )


def _name_input(default: str) -> io.Input:
    return io.String.Input(
        "name",
        default=default,
        tooltip="Name of the dataset: a folder of this name appears under ComfyUI's datasets folder.",
    )


class ImageFolderLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoImageFolderLoader",
            display_name="Image Folder Loader",
            category=CATEGORY,
            description=(
                "Makes a dataset of the pictures in a folder, with the captions beside them: .txt files, "
                "metadata.jsonl, or kohya's folder names. The folder stays as it is."
            ),
            search_aliases=["load images", "local pictures", "kohya folder", "metadata.jsonl", "imagefolder"],
            inputs=[
                io.Combo.Input(
                    "root", options=list(_ROOTS), default="input", tooltip="The ComfyUI folder that the folder is in."
                ),
                io.String.Input(
                    "folder",
                    default="pictures",
                    tooltip="The folder, by name; with slashes for one further down. Folders directly in it count too.",
                ),
                _name_input("pictures"),
                _format_input(),
                keep_metadata_input(),
                io.Boolean.Input(
                    "whole_tree",
                    default=False,
                    optional=True,
                    tooltip="Take the pictures of all folders below it, however deep.",
                ),
                io.String.Input(
                    "trigger_word",
                    default="",
                    optional=True,
                    tooltip="Put in the place of [trigger] in captions, as ai-toolkit does. Empty leaves it.",
                ),
                io.Boolean.Input(
                    "masks",
                    default=False,
                    optional=True,
                    advanced=True,
                    tooltip="Put OneTrainer's masks (x-masklabel.png) into the pictures' alpha channel. Only for "
                    "training with alpha_mask: everything else shows what is masked out as white.",
                ),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The pictures, with the captions that were there."),
                io.String.Output("report", tooltip="What was found, changed and refused, and kohya's repeats."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, root: str | None = None, folder: str | None = None) -> bool | str:
        if root is None:
            return True
        if not isinstance(root, str) or root not in _ROOTS:
            return f"root: choose one of {', '.join(_ROOTS)}."
        return refused(("folder", folder, functools.partial(find_folder, _ROOTS[root]())))

    @classmethod
    def fingerprint_inputs(
        cls, root: str | None = None, folder: str | None = None, whole_tree: bool | None = False, **others: object
    ) -> str | float:
        """Load again when a file in the folder has changed."""
        if over_links(root, folder, whole_tree):
            return anew()
        try:
            return folder_fingerprint(_ROOTS[root](), folder, whole_tree)
        except (ImpastoError, KeyError):  # ComfyUI or `execute` will say what is wrong
            return ""

    @classmethod
    def execute(
        cls, root: str, folder: str, name: str, format: str, trigger_word: str = "", **options
    ) -> io.NodeOutput:
        """`options` are those of `load_folder`, with their defaults."""
        options["trigger_word"] = checked_trigger_word(trigger_word)  # a caption may ask for it thousands of times
        place = folders.datasets_roots(), _ROOTS[root](), folder, name
        with logged("Image Folder Loader", dataset_folder(place[0], name)):
            return io.NodeOutput(*load_folder(*place, format, execution.progress(), **options))


class ImageURLLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ImpastoImageURLLoader",
            display_name="Image URL Loader",
            category=CATEGORY,
            description=(
                "Makes a dataset of pictures from the web. Only https, and only hosts that the owner of this server "
                "allows: as shipped, open-access museums and Wikimedia. What fails is reported; the rest is kept."
            ),
            search_aliases=["download images", "url list", "museum", "wikimedia", "open access", "csv"],
            inputs=[
                io.String.Input(
                    "urls",
                    default="",
                    multiline=True,
                    tooltip="One URL per line; or CSV whose first line has the column url; or JSON lines with the key "
                    "url. CSV and JSON may also have text (the caption), artist, title, date, style and genre.",
                ),
                io.String.Input(
                    "file",
                    default="",
                    tooltip="Name of such a list (.txt, .csv or .jsonl) in ComfyUI's input folder, read before urls.",
                ),
                _name_input("museum"),
                _format_input(),
                keep_metadata_input(),
            ],
            outputs=[
                sockets.Dataset.Output("dataset", tooltip="The pictures that came, in the order of the list."),
                io.String.Output("report", tooltip="What was stored and changed, and why each other URL gave nothing."),
            ],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, urls: str | None = None, file: str | None = None) -> bool | str:
        if not isinstance(file, str):
            return file is None or "file is given something else than a text."
        return refused(("urls", urls, lambda lines: read_list(list_file(folders.input_root(), file), lines)))

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None, **others: object) -> str | float:
        """Load again when the file has changed."""
        if over_links(file):
            return anew()
        try:
            return list_file(folders.input_root(), file)
        except ImpastoError:  # `execute` will say what is wrong
            return ""

    @classmethod
    def execute(cls, urls: str, file: str, name: str, format: str, keep_metadata: bool = False) -> io.NodeOutput:
        listed = read_list(list_file(folders.input_root(), file), urls)
        fetcher = Fetcher(allowed_hosts(folders.allowed_hosts_file()))
        place = folders.datasets_roots(), name
        with logged("Image URL Loader", dataset_folder(*place)):
            return io.NodeOutput(*load_urls(*place, listed, format, fetcher, execution.progress(), keep_metadata))


NODES = [ImageFolderLoader, ImageURLLoader]
