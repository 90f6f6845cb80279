"""What other trainers call a dataset, as a dataset config of sd-scripts: OneTrainer's concepts, SimpleTuner's
multidatabackend.json, and trees of folders with kohya's repeats in their names.

What they ask for and sd-scripts has not is refused by name where training would be another, else told in the text.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

from ..errors import DatasetError, writable
from ..files import parsed_json
from ..texts import cleaned, decoded, one_line
from .config_reader import IMAGE_EXTENSIONS

KOHYA = re.compile(r"(\d{1,5})_(.+)")  # "10_monet garden": repeats, and the words of pictures without a caption
DEFAULT_RESOLUTION = 512  # pixels, where a file leaves it to the trainer's settings
NO_CAPTIONS = ".no-caption-files"  # an ending that no file has, so that class_tokens are the caption of every picture
MOST_FOLDERS = 10_000
_ORDINARY = ("enable_crop_jitter", "enable_random_flip", "enable_resolution_override")  # of OneTrainer's concept.image

Table = dict[str, Any]


def is_of_another_trainer(source: Path) -> bool:
    """Whether it is a tree of folders or a JSON file, and no dataset config of sd-scripts."""
    return source.is_dir() or source.suffix.lower() == ".json"


def as_sd_scripts(source: Path) -> str:
    """The dataset config of sd-scripts, as TOML, that a folder or a JSON file of another trainer stands for.

    Raises:
        DatasetError: it is neither, or asks for what cannot be done with it here; the text says what to change.
    """
    import tomlkit

    notes: list[str] = []
    if source.is_dir():
        subsets = list(_tree(source))
    else:
        notes, subsets = _translated(source)
    if not subsets:
        raise DatasetError(f"{source} leads to no pictures. Put some there, or enable a part of it.")
    datasets: dict[str, Table] = {}
    for keys, subset in subsets:
        datasets.setdefault(repr(sorted(keys.items())), {**keys, "subsets": []})["subsets"].append(subset)
    head = [f"Made from {source.name}. Where it gives no resolution, it is {DEFAULT_RESOLUTION}.", *notes]
    comments = "".join(f"# {writable(one_line(line))}\n" for line in head)
    return comments + tomlkit.dumps({"datasets": list(datasets.values())})


def _tree(root: Path) -> Iterator[tuple[Table, Table]]:
    for folder in picture_folders(root):
        names = folder.relative_to(root.parent).parts
        kohya = next((found for name in reversed(names) if (found := KOHYA.fullmatch(name))), None)
        subset: Table = {"image_dir": folder.as_posix(), "caption_extension": ".txt"}
        if kohya:
            subset |= {"num_repeats": int(kohya[1]), "class_tokens": one_line(cleaned(kohya[2]))}
        yield {"resolution": DEFAULT_RESOLUTION}, subset


def picture_folders(root: Path) -> list[Path]:
    """The folder and all below it, those that have pictures directly in them, in their order; no link is followed."""
    found = []
    for number, (folder, below, names) in enumerate(os.walk(root)):
        below[:] = sorted(name for name in below if not name.startswith("."))
        if number >= MOST_FOLDERS:
            raise DatasetError(f"{root} holds more than {MOST_FOLDERS:,} folders. Choose one of them.")
        if any(os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS for name in names if not name.startswith(".")):
            found.append(Path(folder))
    return found


def _translated(source: Path) -> tuple[list[str], list[tuple[Table, Table]]]:
    try:
        content = parsed_json(decoded(source.read_bytes()))
    except (OSError, ValueError) as error:
        raise DatasetError(f"The file {source} cannot be read as JSON: {error}. Write it again.") from error
    parts = content.get("concepts") if isinstance(content, dict) else content
    if not isinstance(parts, list) or not parts or not all(isinstance(part, dict) for part in parts):
        raise DatasetError(
            f"The file {source} is no list of OneTrainer's concepts and no multidatabackend.json of SimpleTuner. Give "
            "one of these, or a dataset config in TOML."
        )
    is_simple_tuner = any("dataset_type" in part or "instance_data_dir" in part for part in parts)
    translate = _backend if is_simple_tuner else _concept
    notes: list[str] = []
    subsets = []
    for number, part in enumerate(parts, start=1):
        name = one_line(str(part.get("id") or part.get("name") or f"part {number}"))[:80]
        try:
            subsets += translate(part, source.parent, name, notes)
        except DatasetError as error:
            raise DatasetError(f"'{name}' of {source} cannot be used: {error}") from error
        except (TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"'{name}' of {source} has a value of another kind: {error}. Correct it.") from error
    return notes, subsets if is_simple_tuner else _whole_repeats(subsets, notes)


def _concept(part: Table, place: Path, name: str, notes: list[str]) -> list[tuple[Table, Table]]:
    """One of OneTrainer's concepts (modules/util/config/ConceptConfig.py)."""
    if not part.get("enabled", True):
        notes.append(f"'{name}' is not enabled.")
        return []
    kind = part.get("type", "VALIDATION" if part.get("validation_concept") else "STANDARD")
    if kind == "PRIOR_PREDICTION":
        raise DatasetError("it is for prior prediction, which is not done here. Disable it.")
    if part.get("balancing_strategy", "REPEATS") != "REPEATS":
        raise DatasetError("it gives a number of samples. Choose REPEATS as its balancing strategy.")
    text, image = _table(part, "text"), _table(part, "image")
    subset: Table = {"num_repeats": _repeats(part.get("balancing", part.get("repeats", 1)))}
    subset |= _prompts(text, place)
    if image.get("enable_random_flip"):
        subset["flip_aug"] = True
    if text.get("enable_tag_shuffling"):
        subset |= {"shuffle_caption": True, "keep_tokens": int(text.get("keep_tags_count", 1))}
        subset["caption_separator"] = str(text.get("tag_delimiter", ","))
    more = [key for key, value in image.items() if value is True and key.startswith("enable_") and key not in _ORDINARY]
    more += [key for key in ("tag_dropout_enable", "caps_randomize_enable") if text.get(key)]
    more += ["loss_weight"] if part.get("loss_weight", 1) != 1 else []
    if more:
        notes.append(f"Of '{name}' is not taken over: {', '.join(more)}.")
    keys: Table = {"resolution": DEFAULT_RESOLUTION}
    if image.get("enable_resolution_override"):
        keys["resolution"] = _side(image.get("resolution_override"))
    if kind == "VALIDATION":
        keys["validation_split"] = 1.0
    return _subsets(part.get("path"), place, bool(part.get("include_subdirectories")), keys, subset)


def _prompts(text: Mapping[str, Any], place: Path) -> Table:
    kind = text.get("prompt_source", "sample")
    if kind == "sample":
        return {"caption_extension": ".txt"}
    if kind != "concept":
        raise DatasetError("its prompts are the names of its files. Write them into .txt files beside the pictures.")
    file = place / str(text.get("prompt_path", ""))
    if file.suffix.lower() != ".txt":
        raise DatasetError(f"its prompts are in '{file.name[:80]}'. Give a text file, .txt, as prompt_path.")
    try:
        lines = [line.strip() for line in decoded(file.read_bytes(), utf_16=True).splitlines() if line.strip()]
    except (OSError, ValueError) as error:
        raise DatasetError(f"its prompts in {file} cannot be read ({error}). Correct prompt_path.") from error
    if len(lines) != 1:
        raise DatasetError(f"its prompts in {file} are {len(lines)} lines, and one for all pictures can be used.")
    return {"class_tokens": one_line(cleaned(lines[0])), "caption_extension": NO_CAPTIONS}


def _backend(part: Table, place: Path, name: str, notes: list[str]) -> list[tuple[Table, Table]]:
    """One of SimpleTuner's backends (documentation/DATALOADER.md)."""
    kind = part.get("dataset_type", "image")
    if part.get("disabled") or part.get("disable") or kind in ("text_embeds", "image_embeds"):
        return []
    if kind not in ("image", "eval"):
        raise DatasetError(f"its dataset_type is {kind!r}, which is not done here. Set disabled for it.")
    if part.get("type", "local") != "local":
        raise DatasetError(f"its type is {part['type']!r}. Only pictures on this machine can be used: local.")
    subset: Table = {"num_repeats": int(part.get("repeats", 0)) + 1}  # there 0 shows each picture once
    strategy = part.get("caption_strategy", "textfile")
    prompt = one_line(cleaned(str(part.get("instance_prompt") or "")))
    if strategy == "instanceprompt":
        subset |= {"class_tokens": prompt, "caption_extension": NO_CAPTIONS}
    elif strategy == "textfile":
        subset["caption_extension"] = ".txt"
        if part.get("prepend_instance_prompt") and prompt:
            subset["caption_prefix"] = prompt
    else:
        raise DatasetError(f"its caption_strategy is {strategy!r}. Write captions into .txt files, with textfile.")
    if part.get("is_regularisation_data") or part.get("is_regularization_data"):
        subset["is_reg"] = True
    if part.get("crop"):
        notes.append(f"Of '{name}' is not taken over: crop.")
    keys: Table = {"resolution": _backend_side(part)}
    if kind == "eval":
        keys["validation_split"] = 1.0
    return _subsets(part.get("instance_data_dir"), place, True, keys, subset)


def _backend_side(part: Table) -> int:
    """The side of a square of the training size: SimpleTuner's "area" counts in megapixels."""
    side = part.get("resolution", DEFAULT_RESOLUTION)
    if part.get("resolution_type") == "area" and isinstance(side, int | float) and 0 < side <= 64:
        return round(math.sqrt(side * 1_000_000) / 64) * 64
    return _side(side)


def _side(value: object) -> int:
    text = str(value).strip()
    if not re.fullmatch(r"\d{1,5}(\.0)?", text) or not float(text):
        raise DatasetError(f"its resolution is '{text[:40]}'. Give one whole number of pixels.")
    return int(float(text))


def _repeats(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 100_000:
        raise DatasetError(f"its repeats (balancing) are {str(value)[:40]!r}. Give a number above 0.")
    return Fraction(value).limit_denominator(100)


def _whole_repeats(subsets: Sequence[tuple[Table, Table]], notes: list[str]) -> list[tuple[Table, Table]]:
    """OneTrainer knows half a repeat; num_repeats are whole, so all are multiplied, which keeps their proportions."""
    factor = math.lcm(*(subset["num_repeats"].denominator for _, subset in subsets))
    if factor > 1:
        notes.append(f"All repeats are {factor} times what they were, as num_repeats are whole: so is the epoch.")
    return [(keys, subset | {"num_repeats": int(subset["num_repeats"] * factor)}) for keys, subset in subsets]


def _subsets(
    path: object, place: Path, with_folders_below: bool, keys: Table, subset: Table
) -> list[tuple[Table, Table]]:
    if not isinstance(path, str) or not path.strip():
        raise DatasetError("it has no folder. Give its path.")
    folder = place / path.strip()
    folders = (picture_folders(folder) if with_folders_below else []) or [folder]
    return [(keys, {"image_dir": each.as_posix()} | subset) for each in folders]


def _table(part: Table, name: str) -> Table:
    value = part.get(name)
    return value if isinstance(value, dict) else {}
