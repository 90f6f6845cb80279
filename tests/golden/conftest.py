"""Goldens: what people's disks and saved graphs hold to, recorded once and compared with what the code gives now.

To write them anew: `IMPASTO_REWRITE_GOLDENS=1 python -m pytest tests/golden tests/inprocess/test_saved_graphs.py`; the
second needs ComfyUI. That is a decision, not a repair: a changed golden is a change to people's saved graphs and disks.
A run id that changes makes a half-trained run begin anew, a feature key that changes encodes everything again, a node's
input that changes breaks saved graphs: whoever rewrites a golden tells in the changelog what people lose, and why. A
case may be added freely. What `version-*` holds is never written anew: another version gets a folder of its own
(`record_version.py`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy
import pytest

FOLDER = Path(__file__).parent
PICTURES = FOLDER / "pictures"
REWRITE = bool(os.environ.get("IMPASTO_REWRITE_GOLDENS"))
REMEDY = "If people shall bear that change, see tests/golden/conftest.py."


@pytest.fixture
def golden() -> Callable[[str, dict[str, Any]], None]:
    """Compare cases with those in `<name>.json`, or write them there."""
    return check


def check(name: str, cases: dict[str, Any]) -> None:
    path = FOLDER / f"{name}.json"
    found = json.loads(json.dumps(cases))  # as JSON gives it back
    if REWRITE:
        path.parent.mkdir(exist_ok=True)
        path.write_text(_readable(found), encoding="utf-8", newline="\n")
    recorded = json.loads(path.read_text(encoding="utf-8"))
    assert found.keys() == recorded.keys(), f"{path.name} has other cases. {REMEDY}"
    for case, value in recorded.items():
        assert found[case] == value, f"'{case}' is not what {path.name} holds. {REMEDY}"


def _readable(cases: dict[str, Any]) -> str:
    """Sorted and indented; lists of plain values, which are many here, on one line where they fit."""
    text = json.dumps(cases, indent=1, ensure_ascii=False, sort_keys=True)
    return re.sub(r"\[([^\[\]{}]{1,300}?)\n\s*\]", _on_one_line, text) + "\n"


def _on_one_line(found: re.Match) -> str:
    line = f"[{' '.join(part.strip() for part in found[1].splitlines() if part.strip())}]"
    return line if len(line) <= 110 else found[0]


def without_places(text: str, **places: Path) -> str:
    """A text with `<name>` in place of each folder's path."""
    for name, place in places.items():
        text = text.replace(place.as_posix(), f"<{name}>").replace(str(place), f"<{name}>")
    return text


@pytest.fixture(scope="session")
def base_weights(tmp_path_factory) -> Path:
    return write_base_weights(tmp_path_factory.mktemp("models") / "flux.safetensors")


def write_base_weights(path: Path) -> Path:
    """A FLUX.1 of one block of each kind, in BFL's layout: the same bytes everywhere, whatever the pack can make."""
    shapes = json.loads((FOLDER / "base_model.json").read_text(encoding="utf-8"))
    random = numpy.random.RandomState(20261129)  # numpy promises that its stream never changes
    tensors = {name: _weight(name, shape, random) for name, shape in shapes.items()}
    ends = list(accumulate(tensor.nbytes for tensor in tensors.values()))
    header = {
        name: {"dtype": "F32", "shape": tensor.shape, "data_offsets": [end - tensor.nbytes, end]}
        for (name, tensor), end in zip(tensors.items(), ends, strict=True)
    }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(map(numpy.ndarray.tobytes, tensors.values())))
    return path


def _weight(name: str, shape: list[int], random: numpy.random.RandomState) -> numpy.ndarray:
    """Multiples of 1/128 times a power of two near the square root of the inputs' number; norms of 1, no biases."""
    if len(shape) == 1:
        return numpy.full(shape, name.endswith(".scale"), numpy.float32)
    scale = 2.0 ** -round(numpy.log2(shape[1]) / 2)
    return (random.randint(-128, 128, shape) * (scale / 64)).astype(numpy.float32)


def no_encoder(given: Any) -> Any:
    raise AssertionError(f"{given!r} was encoded though it lies there already.")


def encode_picture(pixels):
    """Every eighth pixel's colours over 16 channels: nothing is computed that machines round differently."""
    return pixels[::8, ::8].permute(2, 0, 1).repeat(6, 1, 1)[:16].contiguous()


def encode_text(text: str, tokens: int = 16, context: int = 64, pooled: int = 32):
    """Whole numbers from the text's own letters, as floats."""
    import torch

    letters = torch.tensor([*map(ord, text), 7], dtype=torch.int64)
    place = torch.arange(tokens * context, dtype=torch.int64)
    drawn = (place * 2654435761 + letters.sum() * 40503 + letters[place % len(letters)] * 97) % 65536
    values = (drawn.float() - 32768) / 16384
    return values.reshape(tokens, context), values[:pooled].clone()
