import json
import logging
from dataclasses import dataclass, field, replace

import pytest
from impasto.errors import ModelError, SettingsError
from impasto.progress import silent
from impasto.rendering.cells import Sampling
from impasto.rendering.picture_specs import PictureSpec, paint_specs
from PIL import Image


@dataclass
class SmallPainter:
    """Paints flat pictures, and remembers what was asked of it."""

    used: list = field(default_factory=list)
    painted: list = field(default_factory=list)
    encoded: list = field(default_factory=list)
    blank: set = field(default_factory=set)  # texts that give no finite picture

    def encode(self, texts):
        self.encoded += texts

    def use(self, adapter, strength):
        self.used.append((adapter and adapter.name, strength))

    def paint(self, spec, on_step):
        on_step(1)
        self.painted.append(spec)
        size = (spec.sampling.width, spec.sampling.height)
        return None if spec.text in self.blank else Image.new("RGB", size, (spec.seed % 256, len(spec.text), 0))


BASE = PictureSpec("a", 1, Sampling(16, 8, 2))


@pytest.fixture
def lora(tmp_path):
    file = tmp_path / "monet.safetensors"
    file.write_bytes(b"weights")
    return file


def paint(specs, folder, painter=None, models="models", progress=silent):
    painter = painter or SmallPainter()
    return paint_specs(specs, folder / "pictures", models, painter, progress), painter


def test_each_lora_is_put_on_once_whatever_the_order_of_the_pictures(tmp_path, lora):
    with_lora = [replace(BASE, adapter=lora, strength=strength) for strength in (0.5, 1.0)]
    specs = [replace(spec, seed=seed) for seed in (1, 2, 3) for spec in (BASE, *with_lora)]
    painted, painter = paint(specs, tmp_path)
    assert painter.used[1:] == [(None, 0.0), ("monet.safetensors", 0.5), ("monet.safetensors", 1.0)]
    assert painter.used[0][0] == "monet.safetensors"  # tried before the first picture
    assert len(painter.painted) == 9 and len(set(painted.files.values())) == 9


@pytest.mark.parametrize(
    "change",
    [
        {"text": "b"},
        {"seed": 2},
        {"sampling": Sampling(16, 8, 3)},
        {"sampling": Sampling(16, 8, 2, 4.0)},
        {"sampling": Sampling(16, 8, 2, sampler_name="heun")},
        {"sampling": Sampling(8, 16, 2)},
        {"toward": 2, "share": 0.5},
        {"toward": 2, "share": 0.25},
    ],
    ids=str,
)
def test_whatever_decides_a_picture_decides_its_name(tmp_path, lora, change):
    first, _ = paint([BASE], tmp_path)
    other, _ = paint([replace(BASE, **change)], tmp_path)
    assert set(first.files.values()).isdisjoint(other.files.values()) and other.found == 0


def test_a_lora_s_content_and_strength_and_the_models_decide_it_and_the_lora_s_name_does_not(tmp_path, lora):
    spec = replace(BASE, adapter=lora)
    (first,) = paint([spec], tmp_path)[0].files.values()
    renamed = lora.with_name("renamed.safetensors")
    renamed.write_bytes(lora.read_bytes())
    assert set(paint([replace(spec, adapter=renamed)], tmp_path)[0].files.values()) == {first}
    assert first not in paint([replace(spec, strength=0.5)], tmp_path)[0].files.values()
    assert first not in paint([spec], tmp_path, models="others")[0].files.values()
    lora.write_bytes(b"other weights")
    assert first not in paint([spec], tmp_path)[0].files.values()
    assert (  # no strength changes what has no LoRA
        paint([BASE], tmp_path)[0].files.values() and paint([replace(BASE, strength=0.3)], tmp_path)[0].found == 1
    )


def test_cancelled_it_keeps_what_is_done_and_goes_on_from_there(tmp_path):
    class Cancelled(BaseException):
        pass

    specs = [replace(BASE, seed=seed) for seed in range(5)]

    def cancelling(done, total, text="", preview=None):
        if text.startswith("Picture 4 of 5: step"):
            raise Cancelled

    with pytest.raises(Cancelled):
        paint(specs, tmp_path, progress=cancelling)
    painted, painter = paint(specs, tmp_path)
    assert painted.found == 3 and [spec.seed for spec in painter.painted] == [3, 4]


def test_a_damaged_picture_is_painted_again(tmp_path):
    painted, _ = paint([BASE], tmp_path)
    content = painted.files[BASE].read_bytes()
    painted.files[BASE].write_bytes(content[: len(content) // 2])
    again, painter = paint([BASE], tmp_path)
    assert again.found == 0 and painter.painted == [BASE]


def test_the_same_picture_asked_for_twice_is_painted_once_and_given_twice(tmp_path):
    painted, painter = paint([BASE, BASE], tmp_path)
    assert painter.painted == [BASE] and len(list(painted.pictures([BASE, BASE], 10**6))) == 2


def test_without_a_lora_its_strengths_are_one_picture(tmp_path):
    specs = [replace(BASE, strength=strength) for strength in (0.0, 0.5, 1.0)]
    painted, painter = paint(specs, tmp_path)
    assert len(painter.painted) == 1 and len(painted.files) == 3 and len(set(painted.files.values())) == 1


def test_as_many_pictures_are_given_as_there_is_room_for(tmp_path):
    specs = [replace(BASE, seed=seed) for seed in range(5)]
    painted, _ = paint(specs, tmp_path)
    assert len(list(painted.pictures(specs, 3 * 16 * 8 + 1))) == 3


def test_a_picture_that_is_not_finite_is_left_out_and_told_and_none_at_all_is_an_error(tmp_path, caplog):
    other = replace(BASE, text="b")
    with caplog.at_level(logging.WARNING):
        painted, _ = paint([BASE, other], tmp_path, SmallPainter(blank={"a"}))
    assert list(painted.files) == [other] and "'a' with seed 1 gives no finite picture" in caplog.text
    with pytest.raises(ModelError, match="Not one picture is finite"):
        paint([BASE], tmp_path, SmallPainter(blank={"a"}))


def test_a_lora_deleted_underneath_is_named(tmp_path, lora):
    lora.unlink()
    with pytest.raises(ModelError, match=r"monet\.safetensors is not there any more"):
        paint([replace(BASE, adapter=lora)], tmp_path)


def test_each_file_says_what_it_is_of_in_any_script_and_no_folder(tmp_path, lora):
    spec = replace(BASE, text='"quoted" 🎨 夜の港 شارع', adapter=lora, toward=2**63 + 1, share=0.5)
    painted, _ = paint([spec], tmp_path)
    said = json.loads(Image.open(painted.files[spec]).text["impasto"])
    assert (said["prompt"], said["toward"], said["lora"]) == (spec.text, 2**63 + 1, "monet.safetensors")
    assert str(tmp_path) not in json.dumps(said)


def test_a_strength_that_is_no_number_is_refused():
    with pytest.raises(SettingsError, match="strength is nan"):
        replace(BASE, strength=float("nan"))
