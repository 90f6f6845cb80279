"""Florence-2 captions pictures in batches of whatever size fits, without code from the checkpoint's folder."""

import asyncio
import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import impasto
import pytest
import torch
from impasto.captioners.captioner import Caption, CaptionRefusal, Kind, Picture
from impasto.captioners.florence import (
    TASKS,
    Florence2Captioner,
    FlorenceSettings,
    Generated,
    generate,
    load_florence,
    picture_size,
    read_answer,
    read_picture,
    whole_sentences,
)
from impasto.captioners.florence_checkpoints import FlorenceCheckpoint
from impasto.captioners.runner import caption_dataset
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Record, write_manifest
from impasto.errors import ModelError, SettingsError
from impasto.files import content_hash
from PIL import Image

REPOSITORY = Path(impasto.__file__).resolve().parent
COLOURS = ("red", "green", "blue", "green", "red")
SAID = [f"A {colour} boat on the water. A house stands behind it." for colour in COLOURS]


@pytest.fixture(scope="module")
def florence(tiny_florence):
    return load_florence(tiny_florence)


class Held:
    """A `Place` with the model there already; counts what it is asked to do."""

    def __init__(self, florence):
        self.florence, self.freed, self.closed = florence, 0, 0

    def open(self, captioner):
        return self.florence

    def free(self):
        self.freed += 1

    def close(self):
        self.closed += 1


@pytest.fixture
def captioner(tiny_florence, florence):
    checkpoint = FlorenceCheckpoint("florence2/Florence-2-tiny", tiny_florence, own_code=False)
    return Florence2Captioner(checkpoint, FlorenceSettings(max_new_tokens=60), 4, Held(florence))


@pytest.fixture
def pictures(tmp_path) -> list[Picture]:
    """Five pictures of different sizes, each of one colour."""
    made = []
    for number, colour in enumerate(COLOURS):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (80 + 10 * number, 64), colour if colour != "green" else "lime").save(path)
        made.append(Picture(content_hash(number), path, 80 + 10 * number, 64))
    return made


def ask(captioner, pictures, check=lambda: None) -> list:
    return asyncio.run(captioner.caption(pictures, check, lambda: None))


def texts(results) -> list[str]:
    return [result.text for result in results]


def test_each_picture_gets_the_caption_that_the_model_gives_it(captioner, pictures):
    assert texts(ask(captioner, pictures)) == SAID


def test_the_size_of_the_batch_changes_no_caption(captioner, pictures):
    alone = [ask(captioner, [picture])[0] for picture in pictures]
    assert ask(captioner, pictures) == alone


@pytest.mark.parametrize("task", [task for task in TASKS if task != "dense_region_caption"])
@pytest.mark.parametrize("beams", [1, 3])
def test_every_captioning_task_is_asked_in_the_models_own_words(captioner, pictures, task, beams):
    captioner.settings = FlorenceSettings(task, beams, 60)
    assert texts(ask(captioner, pictures[:3])) == SAID[:3]


def test_regions_are_listed_once_each(florence):
    corners = "<loc_1><loc_2><loc_30><loc_40>"
    text = f"<s>a red boat{corners}a house{corners}a house{corners}"
    answer = read_answer(florence, Generated(text, 30, True), FlorenceSettings("dense_region_caption"))
    assert answer == Caption("a red boat, a house", "stop", 30)
    cut = read_answer(florence, Generated(text + "a tree<loc_1>", 32, False), FlorenceSettings("dense_region_caption"))
    assert cut == Caption("a red boat, a house", "length", 32)


def test_the_same_task_goes_through_transformers_own_processing(florence, tiny_florence, pictures):
    """What the pack generates is what the plain calls of the transformers documentation generate."""
    opened = [read_picture(picture.path, picture_size(florence)) for picture in pictures]
    ours = [one.text for one in generate(florence, opened, FlorenceSettings(max_new_tokens=60), lambda: None)]
    inputs = florence.processor(text=["<MORE_DETAILED_CAPTION>"] * 5, images=opened, return_tensors="pt")
    plain = florence.model.generate(**inputs, num_beams=3, max_new_tokens=60, do_sample=False)
    theirs = florence.processor.batch_decode(plain, skip_special_tokens=True)
    assert [text.removeprefix("<s>") for text in ours] == theirs


def test_a_batch_that_does_not_fit_is_halved_and_the_report_says_so(captioner, pictures, florence, monkeypatch):
    sizes = []
    encode = florence.model.model.vision_tower.forward

    def small_device(pixels, **others):
        sizes.append(len(pixels))
        if len(pixels) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return encode(pixels, **others)

    monkeypatch.setattr(florence.model.model.vision_tower, "forward", small_device)
    assert texts(ask(captioner, pictures[:4])) == SAID[:4]
    assert sizes == [4, 2, 1, 1, 1, 1]
    assert captioner.place.freed == 2
    assert captioner.remarks == [
        "4 pictures at a time did not fit into memory; went on with 2.",
        "2 pictures at a time did not fit into memory; went on with 1.",
    ]
    sizes.clear()
    ask(captioner, pictures)
    assert sizes == [1] * 5, "what did not fit once is not tried again"


def test_a_batch_that_does_not_fit_is_let_go_before_the_next_try(captioner, pictures, florence, monkeypatch):
    """The failed call's tensors must be gone when memory is given back, or the smaller batch would not fit either."""
    import weakref

    held, alive = [], []
    encode = florence.model.model.vision_tower.forward

    def small_device(pixels, **others):
        if len(pixels) > 2:
            held.append(weakref.ref(pixels))
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(pixels, **others)

    monkeypatch.setattr(florence.model.model.vision_tower, "forward", small_device)
    captioner.place.free = lambda: alive.append(held[-1]() is not None)
    ask(captioner, pictures)
    assert alive == [False]


def test_no_memory_for_one_picture_ends_the_run_with_what_to_do(captioner, pictures, florence, monkeypatch):
    def full_device(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(florence.model.model.vision_tower, "forward", full_device)
    with pytest.raises(ModelError, match="one picture at 3 beams.*fewer beams"):
        ask(captioner, pictures)


def test_another_error_is_not_taken_for_want_of_memory(captioner, pictures, florence, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(florence.model.model.vision_tower, "forward", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        ask(captioner, pictures)


def test_a_damaged_file_is_refused_and_the_rest_captioned(captioner, pictures):
    content = pictures[1].path.read_bytes()
    pictures[1].path.write_bytes(content[: len(content) // 2])
    results = ask(captioner, pictures[:3])
    assert isinstance(results[1], CaptionRefusal)
    assert results[1].kind is Kind.UNREADABLE
    assert "1.png" in results[1].reason
    assert [results[0].text, results[2].text] == [SAID[0], SAID[2]]


def test_an_answer_cut_off_is_given_as_far_as_it_is_whole(captioner, pictures):
    captioner.settings = FlorenceSettings(max_new_tokens=10)
    (cut,) = ask(captioner, pictures[:1])
    assert (cut.text, cut.finish_reason) == ("A red boat on the water.", "length")
    captioner.settings = FlorenceSettings(max_new_tokens=4)
    (refused,) = ask(captioner, pictures[:1])
    assert refused.kind is Kind.CUT_OFF
    assert "max_new_tokens = 4" in refused.reason


def test_an_empty_answer_is_a_refusal(florence):
    refused = read_answer(florence, Generated("<s>", 1, True), FlorenceSettings("caption"))
    assert refused.kind is Kind.NO_ANSWER


@pytest.mark.parametrize(
    ("text", "whole"),
    [("One. Two", "One."), ("It costs 3.50 and", ""), ("Yes! And no? Per", "Yes! And no?"), ("None", ""), ("", "")],
)
def test_whole_sentences_end_with_their_mark(text, whole):
    assert whole_sentences(text) == whole


def test_a_transparent_picture_stands_on_white_and_a_turned_one_upright(tmp_path):
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    assert read_picture(tmp_path / "clear.png", (4, 4)).getpixel((0, 0)) == (255, 255, 255)
    turned = Image.new("RGB", (64, 64), "white")
    turned.paste("black", (0, 0, 64, 16))  # black above
    exif = Image.Exif()
    exif[0x0112] = 3  # to be shown upside down
    turned.save(tmp_path / "turned.jpg", exif=exif)
    shown = read_picture(tmp_path / "turned.jpg", (16, 16))
    assert shown.getpixel((8, 1))[0] > 200 > 50 > shown.getpixel((8, 14))[0]


class Cancelled(BaseException):
    """As ComfyUI's own, which must not be caught on the way."""


@pytest.mark.parametrize(
    "part", ["vision_tower", "multi_modal_projector", "language_model.encoder", "language_model.decoder"]
)
def test_cancel_is_heard_in_every_part_of_the_model(captioner, pictures, florence, monkeypatch, part):
    """On a CPU, one batch takes many seconds in each of them."""
    module = florence.model.model.get_submodule(part)
    forward, entered, checked = module.forward, [], []

    @functools.wraps(forward)  # transformers looks at the encoder's signature
    def enter(*given, **named):
        entered.append(True)
        result = forward(*given, **named)
        entered.append(False)
        return result

    def check():
        checked.append(True)
        if entered and entered[-1]:
            raise Cancelled

    monkeypatch.setattr(module, "forward", enter)
    monkeypatch.setattr("impasto.clock.POLL", 0.0)
    with pytest.raises(Cancelled):
        ask(captioner, pictures, check)
    assert entered == [True], "cancelled the first time that it was in there"
    hooked = [one for one in florence.model.modules() if one._forward_pre_hooks]
    assert not hooked, "nothing stays attached to the model"


def test_cancel_is_heard_between_tokens(captioner, pictures, florence, monkeypatch):
    steps = []
    decoder = florence.model.model.language_model.decoder
    forward = decoder.forward
    monkeypatch.setattr(decoder, "forward", lambda *given, **named: steps.append(True) or forward(*given, **named))

    def check():
        if len(steps) == 3:
            raise Cancelled

    monkeypatch.setattr("impasto.clock.POLL", 0.0)
    with pytest.raises(Cancelled):
        ask(captioner, pictures, check)
    assert len(steps) == 3


def test_settings_out_of_range_are_refused():
    for wrong in ({"task": "<OD>"}, {"num_beams": 0}, {"max_new_tokens": 5000}):
        with pytest.raises(SettingsError, match=next(iter(wrong))):
            FlorenceSettings(**wrong)


def test_what_is_asked_names_all_that_changes_the_answer(captioner):
    picture = Picture("0", Path("0.jpg"), 1, 1)
    asked = {captioner.prompt(picture)}
    for change in ({"task": "caption"}, {"num_beams": 1}, {"max_new_tokens": 61}):
        captioner.settings = replace(FlorenceSettings(max_new_tokens=60), **change)
        asked.add(captioner.prompt(picture))
    assert len(asked) == 4


def test_a_dataset_is_captioned_once_through_the_ledger(captioner, tmp_path, pictures):
    records = []
    for picture in pictures:
        stored = store_picture(tmp_path / "boats", picture.path.read_bytes())
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size))
    dataset = write_manifest(tmp_path / "boats", records)
    captioned = asyncio.run(caption_dataset(dataset, captioner, trigger_word="mntgrdn", rules=None))
    assert [record.text for record in captioned.dataset.records()] == [f"mntgrdn, {said}" for said in SAID]

    assert captioner.place.closed == 1, "the model is let go after the run"

    def fails(_):
        raise AssertionError("asked again")

    captioner.place.open = fails
    again = asyncio.run(caption_dataset(dataset, captioner, trigger_word="other", rules=None))
    assert [record.text for record in again.dataset.records()] == [f"other, {said}" for said in SAID]


def test_a_checkpoint_runs_without_torchvision(tiny_florence, pictures, tmp_path):
    """In a process that cannot import it, as where torchvision is missing or of another torch."""
    program = f"""
import asyncio, sys
sys.modules["torchvision"] = None
sys.path.insert(0, {str(REPOSITORY / "tests")!r})
import conftest
from pathlib import Path
from impasto.captioners.captioner import Picture
from impasto.captioners.florence import Florence2Captioner, FlorenceSettings
from impasto.captioners.florence_checkpoints import FlorenceCheckpoint
checkpoint = FlorenceCheckpoint("tiny", Path({str(tiny_florence)!r}), False)
captioner = Florence2Captioner(checkpoint, FlorenceSettings(max_new_tokens=60))
pictures = [Picture(str(n), Path(p), 64, 64) for n, p in enumerate({[str(p.path) for p in pictures[:3]]!r})]
print("|".join(c.text for c in asyncio.run(captioner.caption(pictures, lambda: None, lambda: None))))
assert not [name for name in sys.modules if name.startswith("torchvision.")]
"""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "|".join(SAID[:3])


def test_files_that_do_not_belong_together_are_named(tiny_florence, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(tiny_florence, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="broken could not be loaded as Florence-2"):
        load_florence(broken)


def test_pickled_weights_are_not_read(tiny_florence, tmp_path):
    import shutil

    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_florence, pickled)
    (pickled / "model.safetensors").unlink()

    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "was-run"),)

    torch.save(Trap(), pickled / "pytorch_model.bin")
    with pytest.raises(ModelError):
        load_florence(pickled)
    assert not (tmp_path / "was-run").exists()
