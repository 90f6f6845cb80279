"""A process of its own, with mounts of its own: what everything that writes says on a full and a read-only disk.

`disk_writers.py <folder> <report.json>`; the folder becomes a small file system that ends with the process.
"""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

TESTS = Path(__file__).resolve().parent
runpy.run_path(str(TESTS / "conftest.py"))  # makes the repository importable as `impasto`

import torch  # noqa: E402
from impasto.captioners.editing import Edit, EditRules, edit_captions, save_edit  # noqa: E402
from impasto.captioners.ledger import Answer, Question, append_answer  # noqa: E402
from impasto.curation.exports import FORMATS, ExportSettings, export_dataset  # noqa: E402
from impasto.curation.measurements import measures  # noqa: E402
from impasto.dataset.config_writer import TomlSettings, write_dataset_toml  # noqa: E402
from impasto.dataset.pictures import store_picture  # noqa: E402
from impasto.dataset.records import Record, write_manifest  # noqa: E402
from impasto.embedded.tiny_flux import make_tiny_flux  # noqa: E402
from impasto.progress import silent  # noqa: E402
from impasto.prompting.library import Library, SavedPrompt  # noqa: E402
from impasto.prompting.prompt_set import Prompt  # noqa: E402
from impasto.prompting.sample_formats import SampleSettings, write_sample_formats  # noqa: E402
from impasto.prompting.seed_book import SeedBook  # noqa: E402
from impasto.prompting.seeds import SeedSettings  # noqa: E402
from impasto.rendering.animation import write_animation  # noqa: E402
from impasto.rendering.batches import Memory, PictureBatch, paint_all  # noqa: E402
from impasto.rendering.cells import Sampling  # noqa: E402
from impasto.rendering.picture_specs import PictureSpec, paint_specs  # noqa: E402
from impasto.sources.folder import load_folder  # noqa: E402
from impasto.trainers.features import encoding, text_table  # noqa: E402
from impasto.trainers.features.encoding import Encoder  # noqa: E402
from impasto.trainers.lora import workbench  # noqa: E402
from impasto.trainers.run import checkpoints, create, publish  # noqa: E402
from impasto.trainers.run import folder as runs  # noqa: E402
from impasto.trainers.settings import Settings  # noqa: E402
from PIL import Image  # noqa: E402

SEEDS, SAMPLES = SeedSettings("increment", 1, "", 1), SampleSettings(64, 64, 4, 3.5)
SIZE = 6 << 20  # bytes of the file system
LAYER = "transformer.transformer_blocks.0.attn.to_out.0"
LORA = {
    f"{LAYER}.lora_A.weight": torch.zeros(4, 128),
    f"{LAYER}.lora_B.weight": torch.zeros(128, 4),
    f"{LAYER}.alpha": torch.tensor(4.0),
}


class Painter:
    def encode(self, texts):
        pass

    def paint_batch(self, text, seeds, on_step):
        return [Image.effect_noise((64, 64), 90).convert("RGB") for _ in seeds]

    def use(self, adapter, strength):
        pass

    def paint(self, spec, on_step):
        return Image.effect_noise((64, 64), 90).convert("RGB")


def encoders():
    picture = Encoder("vae", lambda pixels: torch.randn(16, pixels.shape[0] // 8, pixels.shape[1] // 8))
    return picture, Encoder("clip", lambda text: (torch.randn(256, 32), torch.randn(24)))


def noise(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.effect_noise((128, 128), 50 + seed).convert("RGB").save(path, "PNG")
    return path


class Writers:
    """What the nodes call, each over inputs that lie on the disk already and with outputs that do not."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.new = noise(root.parent / "new.png", 3).read_bytes()
        self.folder = root / "datasets" / "garden"
        stored = [store_picture(self.folder, noise(root.parent / f"{n}.png", n).read_bytes()) for n in range(2)]
        self.records = [Record(text=f"picture {number}", **vars(picture)) for number, picture in enumerate(stored)]
        self.dataset = write_manifest(self.folder, self.records)
        self.config = Path(write_dataset_toml(self.dataset, TomlSettings(resolution=128, min_bucket_reso=64)).path)
        self.features = encoding.encode(self.config, *encoders())
        weights = root / "flux.safetensors"
        self.job = runs.Job("tiny", Settings(), self.features.folder, self.features.key, str(weights), "f")
        self.run = create.create_run(root / "runs", self.job)
        checkpoints.save(self.run.path / "checkpoints", 10, LORA, {"impasto_run": self.run.id}, {})
        Library(root / "used.sqlite").save([SavedPrompt("a garden")])
        lora = self.run.path / "checkpoints" / "step-000010" / "adapter.safetensors"
        self.piece = workbench.Workpiece((workbench.Ingredient("adapter", lora, 1.0),))

    def all(self) -> dict[str, Callable[[], object]]:
        root, dataset = self.root, self.dataset
        question = Question(self.records[0].sha256, "gemini", "m", "p")
        jobs = (Prompt("a", 1),)
        formats = {f"export as {name}": lambda name=name: export_dataset(dataset, name, ExportSettings())
                   for name in FORMATS}  # fmt: skip
        return formats | {
            "store a picture": lambda: store_picture(self.folder, self.new),
            "load a folder": lambda: load_folder(root / "datasets", root.parent, "pictures", "loaded", "as it is"),
            "caption": lambda: append_answer(self.folder / "new.jsonl", question, Answer("a" * 9000, "stop", 1, 1, "")),
            "write captions": lambda: dataset.with_texts({self.records[0].sha256: "new"}),
            "edit a caption": lambda: save_edit(self.folder, self.records[0].sha256, Edit("new")),
            "show captions": lambda: edit_captions(dataset, EditRules(), {}, thumbnails=root / "small"),
            "measure": lambda: measures(dataset, self.records, silent),
            "write the config": lambda: write_dataset_toml(dataset, TomlSettings(resolution=192, min_bucket_reso=64)),
            "encode": lambda: encoding.encode(self.config, *(Encoder("new", e.encode) for e in encoders())),
            "export texts": lambda: text_table.export_texts(self.features, root / "texts.parquet"),
            "begin a run": lambda: create.create_run(root / "runs", runs.Job(**vars(self.job) | {"name": "other"})),
            "save a checkpoint": lambda: checkpoints.save(self.run.path / "checkpoints", 20, LORA, {}, {}),
            "publish": lambda: publish.publish(self.run, "kohya", root / "loras", "kohya"),
            "begin a library": lambda: Library(root / "new.sqlite").save([SavedPrompt("x" * 50_000)]),
            "save a prompt": lambda: Library(root / "used.sqlite").save([SavedPrompt("x" * 50_000)]),
            "export prompts": lambda: Library(root / "used.sqlite").write_to(root / "prompts.json"),
            "draw seeds": lambda: SeedBook(root / "seeds.sqlite").take(SEEDS, "main", "1"),
            "write sample prompts": lambda: write_sample_formats(root / "samples", jobs, SAMPLES),
            "paint a batch": lambda: paint_all(
                PictureBatch(root / "batch", jobs, Sampling(64, 64, 4), "m", 1), Painter(),
                Memory(lambda error: False, lambda: None), silent,
            ),
            "paint a grid": lambda: paint_specs(
                [PictureSpec("a", 1, Sampling(64, 64, 4))], root / "grid", "m", Painter(), silent
            ),
            "write an animation": lambda: write_animation(
                root / "a.webp", [Image.effect_noise((64, 64), 90)] * 2, [100, 100]
            ),
            "save a LoRA": lambda: workbench.save(LORA, workbench.work(self.piece), self.piece, root / "loras", "sum"),
            "make the tiny FLUX": lambda: make_tiny_flux(root / "models"),
        }  # fmt: skip


def fill(root: Path) -> Path:
    """Leave no byte free."""
    filler = root / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass
    return filler


def told(writers: dict[str, Callable[[], object]]) -> dict[str, list[str]]:
    """Writer -> name of the error's class and of its parents, and its text."""
    found = {}
    for name, write in writers.items():
        try:
            write()
        except Exception as error:
            found[name] = [" ".join(kind.__name__ for kind in type(error).__mro__), str(error)]
        else:
            found[name] = ["", "nothing was raised"]
    return found


def main(root: Path, report: Path) -> None:
    root.mkdir()
    noise(root.parent / "pictures" / "a.png", 7)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(root)], check=True)
    writers = Writers(root)
    filler = fill(root)
    full = told(writers.all())
    left = sorted(str(path.relative_to(root)) for path in root.rglob(".partial-*"))
    filler.unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(root)], check=True)
    report.write_text(json.dumps({"full": full, "read-only": told(writers.all()), "left": left}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
