import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from impasto.errors import ModelError
from impasto.progress import silent
from impasto.rendering.batches import Memory, PictureBatch, paint_all
from impasto.rendering.cells import Sampling
from PIL import Image


class OutOfMemory(RuntimeError):
    pass


@dataclass(frozen=True)
class Job:
    text: str
    seed: int


@dataclass
class SmallPainter:
    """Holds at most `room` pictures at a time, and remembers what was asked of it."""

    room: int
    asked: list[int] = field(default_factory=list)

    def encode(self, texts):
        self.encoded = list(texts)

    def paint_batch(self, text, seeds, on_step):
        self.asked.append(len(seeds))
        if len(seeds) > self.room:
            raise OutOfMemory("no memory")
        on_step(1)
        return [Image.new("RGB", (8, 8), (seed % 256, len(text), 0)) for seed in seeds]


JOBS = tuple(Job(text, seed) for text in ("a", "bb") for seed in range(10))


def batch(folder: Path, jobs=JOBS, size: int = 8) -> PictureBatch:
    return PictureBatch(folder, jobs, Sampling(8, 8, 4), "models", size)


def memory(freed: list | None = None) -> Memory:
    return Memory(lambda error: isinstance(error, OutOfMemory), lambda: (freed if freed is not None else []).append(1))


def test_every_prompt_is_painted_with_every_seed_and_written_into_the_manifest(tmp_path):
    painted = paint_all(batch(tmp_path), SmallPainter(100), memory(), silent)
    assert [picture.getpixel((0, 0))[:2] for picture in painted.pictures()] == [(j.seed, len(j.text)) for j in JOBS]
    entries = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [(entry["text"], entry["seed"]) for entry in entries] == [(job.text, job.seed) for job in JOBS]
    assert all((tmp_path / entry["file"]).is_file() for entry in entries)
    assert entries[0]["steps"] == 4


def test_out_of_memory_it_goes_on_with_what_fits_and_asks_for_no_more_again(tmp_path):
    painter, freed = SmallPainter(3), []
    painted = paint_all(batch(tmp_path), painter, memory(freed), silent)
    assert painter.asked == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2]
    assert painted.size == 2
    assert len(freed) == 2 + 2  # after each failure, and between the prompts
    assert len(set(painted.files)) == 20


def test_not_even_one_picture_is_an_error_with_a_remedy_and_what_is_done_stays(tmp_path):
    class Failing(SmallPainter):
        def paint_batch(self, text, seeds, on_step):
            if text == "bb":
                raise OutOfMemory("no memory")
            return super().paint_batch(text, seeds, on_step)

    with pytest.raises(ModelError, match="even one picture"):
        paint_all(batch(tmp_path), Failing(100), memory(), silent)
    assert len((tmp_path / "manifest.jsonl").read_text().splitlines()) == 10
    again = SmallPainter(100)
    assert paint_all(batch(tmp_path), again, memory(), silent).found == 10
    assert again.encoded == ["bb"]


def test_cancelled_it_keeps_what_is_done_and_goes_on_from_there(tmp_path):
    class Cancelled(BaseException):
        pass

    def cancelling(done, total, text="", preview=None):
        if done >= 8:
            raise Cancelled

    with pytest.raises(Cancelled):
        paint_all(batch(tmp_path), SmallPainter(100), memory(), cancelling)
    painter = SmallPainter(100)
    painted = paint_all(batch(tmp_path), painter, memory(), silent)
    assert painted.found == 8
    assert sum(painter.asked) == 12


def test_another_error_is_not_taken_for_a_want_of_memory(tmp_path):
    class Broken(SmallPainter):
        def paint_batch(self, text, seeds, on_step):
            raise ValueError("shape")

    with pytest.raises(ValueError, match="shape"):
        paint_all(batch(tmp_path), Broken(1), memory(), silent)


def test_a_picture_that_is_not_finite_is_named(tmp_path):
    class Blank(SmallPainter):
        def paint_batch(self, text, seeds, on_step):
            return [None for _ in seeds]

    with pytest.raises(ModelError, match="'a' with seed 0.*not finite"):
        paint_all(batch(tmp_path), Blank(1), memory(), silent)


def test_a_painted_picture_that_was_damaged_since_is_named_with_the_remedy(tmp_path):
    painted = paint_all(batch(tmp_path), SmallPainter(100), memory(), silent)
    painted.files[3].write_bytes(painted.files[3].read_bytes()[:-30])
    with pytest.raises(ModelError, match=f"{painted.files[3].name} cannot be read .* Delete it"):
        painted.pictures()
    painted.files[3].unlink()
    painter = SmallPainter(100)
    assert len(paint_all(batch(tmp_path), painter, memory(), silent).pictures()) == 20 and painter.asked == [1]


def test_the_same_prompt_and_seed_twice_is_painted_once(tmp_path):
    painter = SmallPainter(100)
    painted = paint_all(batch(tmp_path, (Job("a", 1), Job("a", 1))), painter, memory(), silent)
    assert painter.asked == [1]
    assert len(painted.files) == 2
