"""What lies in the folders of a dataset config and is not used, told as the loaders of pictures tell it."""

from __future__ import annotations

from ..paths import folded
from .config_reader import DatasetGroup, Subset, caption_file, image_files, pictures
from .passed_over import by_name, deeper, is_mask, placeholders, told

REMEDY_OF_MASKS = "Put each into its picture's alpha channel, and set alpha_mask"
LOAD_DEEPER = "Give each of those folders a [[datasets.subsets]] of its own"


def leftovers(group: DatasetGroup) -> list[str]:
    """Lines on what was seen and not used, each once; none where all was.

    Raises:
        DatasetError: what `pictures` raises.
    """
    subsets = [subset for dataset in group.datasets for subset in dataset.subsets if not subset.metadata_file]
    lines = [line for subset in subsets for line in _of(subset)]
    return [*dict.fromkeys(lines), *placeholders({picture.caption for picture in pictures(group)})]


def _of(subset: Subset) -> list[str]:
    """A folder may be several subsets'. What is hidden and what sd-scripts keeps beside a picture is no leftover."""
    images, others = image_files(subset.image_dir)
    names, stems = by_name(others), {folded(image.stem) for image in images}
    used = {caption_file(image, subset, names) for image in images}
    masks = [path for path in others if path.suffix.lower() == ".png" and is_mask(path, stems)]
    files = [path for path in others if path.is_file() and path not in used and path not in set(masks)]
    unused = [path for path in files if path.suffix.lower() not in (".npz", ".toml", ".json", ".jsonl", ".safetensors")]
    folders = [path for path in others if path.is_dir() and not path.name.startswith(".")]
    return [*told(unused, masks, REMEDY_OF_MASKS), *deeper(folders, LOAD_DEEPER)]
