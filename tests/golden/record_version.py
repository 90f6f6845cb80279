"""What a version of the pack leaves on people's disks, in one archive: `python -m tests.golden.record_version 0.1`.

Run once, while the code is that version's: `test_an_earlier_version` then reads it with whatever code there is.
Every file is made by the pack itself. Paths begin with `PLACE`; the base model is left out, as the tests can make it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from .. import conftest  # noqa: F401 (makes `impasto` importable)
from . import current
from .conftest import FOLDER, encode_picture, encode_text, write_base_weights
from .test_datasets import make_dataset

VERSIONS = sorted(FOLDER.glob("version-*"))  # that are recorded
PLACE = "/impasto"
TIME = (2026, 11, 29, 22, 0, 0)  # of every file in the archive
TOML = {
    "resolution": 96,
    "min_bucket_reso": 64,
    "max_bucket_reso": 128,
    "bucket_reso_steps": 32,
    "batch_size": 2,
    "validation_split": 0.3,
    "flip_aug": True,
    "caption_prefix": "mntgrdn style,",
}
RUNS = {
    "plain": {"targets": "image attention"},
    "elaborate": {
        "targets": "attention",
        "dora": True,
        "rslora": True,
        "block_ranks": "single: 3",
        "scheduler": "cosine",
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "lora_dropout": 0.1,
        "gradient_accumulation": 2,
        "timestep_sampling": "flux_shift",
        "max_grad_norm": 0.5,
    },
}
SHORT = {"steps": 8, "checkpoint_every": 3, "rank": 2, "alpha": 2.0, "sample_steps": 1, "precision": "fp32", "seed": 5}
STOPPED_AFTER = 5  # between two checkpoints
SAMPLES = [("a harbour at dawn", 7), ("été", 2**64 - 1)]
PROMPTS = [
    {"text": "a harbour at dawn", "name": "Harbour", "tags": ("light", "sea"), "favourite": True, "created": 1.0},
    {"text": "un étang, des nymphéas", "tags": ("light",), "created": 2.0},
    {"text": "two boats", "created": 3.0},
]
QUEUED = [("a harbour at dawn", 7, ""), ("un étang, des nymphéas", 2**64 - 1, "monet/monet.safetensors at 0.8")]
ANSWERS = [
    {"text": "a harbour", "finish_reason": "stop", "tokens": 4, "prompt_tokens": 1120},
    {"text": "", "finish_reason": "prompt blocked", "tokens": 0, "reason": "SAFETY"},
    {"text": "un étang 😀", "finish_reason": "stop", "tokens": 9},
]


def record(version: str) -> None:
    """Make everything in a temporary folder and pack it, with what the present code reads from it."""
    target = FOLDER / f"version-{version}"
    target.mkdir()  # a version is recorded once
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary).resolve()
        expected = make_all(root)
        archive(root, target / "disk.zip")
    text = json.dumps(expected, indent=1, ensure_ascii=False, sort_keys=True)
    (target / "expected.json").write_text(f"{text}\n", encoding="utf-8", newline="\n")


def make_all(root: Path) -> dict[str, Any]:
    weights = write_base_weights(root / "models" / "flux.safetensors")
    dataset = make_dataset(root / "datasets", "garden")
    ledger = dataset.captions_ledger
    for number, said in enumerate(ANSWERS):
        question = {"image": dataset.records()[number % 2].sha256, "captioner": "gemini", "model": "gemini-3"}
        said = {"seconds": 1.5, "time": f"2026-11-29T22:00:0{number}+00:00"} | said
        current.answer(ledger, question | {"prompt": "0123456789abcdef"}, said)
    config, identity = current.write_toml(dataset, TOML)
    folder, key, prompts = current.encode(config, encode_picture, encode_text, prompts=SAMPLES)
    inputs = {"features_folder": str(folder), "features_key": key, "prompts": prompts}
    inputs |= {"weights": str(weights), "fingerprint": current.fingerprint(weights)}
    expected = {
        "dataset": {
            "revision": dataset.revision,
            "toml": config.name,
            "hash": identity,
            "key": key,
            "prompts": prompts,
        },
        "samples": described(current.samples_of(folder, key, prompts)),
        "runs": {name: make_run(root, name, settings, inputs) for name, settings in RUNS.items()},
        "ledger": current.ledger_of(ledger),
    }
    user = root / "user"
    user.mkdir()
    current.save_prompts(user / "prompts.sqlite", PROMPTS, QUEUED)
    current.fill_seed_book(user / "seeds.sqlite")
    for profile in ("increment", "list", "increment"):
        current.taken(user / "seeds.sqlite", profile, "default")
    expected["library"] = current.library_of(user / "prompts.sqlite")
    expected["seed book"] = current.seed_book_of(user / "seeds.sqlite")
    shutil.copytree(FOLDER.parents[1] / "workflows", root / "graphs", ignore=shutil.ignore_patterns("*.jpg", "*.png"))
    weights.unlink()
    return expected


def make_run(root: Path, name: str, settings: dict[str, Any], inputs: dict[str, Any]) -> str:
    """A run that was stopped, and in `finished/` the LoRA that it comes to; its id."""
    run = current.begin_run(root / "runs", name, SHORT | settings, inputs)
    stopped = current.train(run, STOPPED_AFTER)
    if (stopped["state"], stopped["step"]) != ("stopped", STOPPED_AFTER):
        raise RuntimeError(f"{name} is {stopped} instead of stopped after step {STOPPED_AFTER}.")
    copy = shutil.copytree(run, root / "copies" / run.name)
    current.train(copy)
    (root / "finished").mkdir(exist_ok=True)
    shutil.copyfile(current.checkpoints_of(copy)[SHORT["steps"]], root / "finished" / f"{name}.safetensors")
    shutil.rmtree(root / "copies")
    return run.name


def described(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Samples with their tensors' shapes and hashes, by which their content is known to the last bit."""

    def known(tensor) -> str:
        return f"{list(tensor.shape)} {hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()[:16]}"

    return [
        sample | {"tensors": {name: known(tensor) for name, tensor in sample["tensors"].items()}} for sample in samples
    ]


def archive(root: Path, target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        for path in sorted(root.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if path.suffix == ".toml":
                    content = content.replace(root.as_posix().encode(), PLACE.encode())
                packed.writestr(zipfile.ZipInfo(path.relative_to(root).as_posix(), TIME), content, zipfile.ZIP_DEFLATED)


def unpack(version: Path, root: Path) -> Path:
    """The disk of a version, in `root`, with the paths in its TOMLs set to where it lies now."""
    with zipfile.ZipFile(version / "disk.zip") as packed:
        packed.extractall(root)
    for path in root.rglob("*.toml"):
        path.write_bytes(path.read_bytes().replace(f'"{PLACE}/'.encode(), f'"{root.as_posix()}/'.encode()))
    return root


if __name__ == "__main__":
    record(*sys.argv[1:])
