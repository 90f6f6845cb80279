"""What the routes tell of datasets, as they lie on a disk, and what they refuse to tell."""

import io
import os
import time
from pathlib import Path

import pytest
from impasto.api.routing import Call, Places, Reply
from impasto.api.table import ROUTES
from impasto.captioners.editing import Edit, save_edit
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, Record, Refusal, write_manifest
from impasto.errors import ImpastoError
from PIL import Image

LISTED, DESCRIBED = "/impasto/datasets", "/impasto/datasets/{name}"
SMALL = "/impasto/datasets/{name}/thumbnails/{picture}"
HOSTILE = [
    "../monet",
    "/etc",
    "..",
    ".",
    "~",
    "a/b",
    "monet\x00",
    "C:\\x",
    "con",
    "",
    "x" * 300,
    "%2e%2e",
    "monet/../x",
]


def record_of(folder: Path, number: int, text: str = "") -> Record:
    kept = io.BytesIO()
    Image.new("RGB", (320, 200), (number, 90, 200)).save(kept, "PNG")
    stored = store_picture(folder, kept.getvalue())
    return Record(
        stored.file_name, stored.sha256, stored.width, stored.height, stored.size, text, title=f"No. {number}"
    )


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    folder = tmp_path / "datasets" / "monet gardens"
    records = [record_of(folder, number, "a harbour" if number % 2 else "") for number in range(5)]
    refused = Refusal(
        "museum/a#9", "min_side", "shorter side 90 px is under 512", 90, 512, record_of(folder, 9).file_name
    )
    return write_manifest(folder, records, [refused])


def ask(dataset: Dataset, path: str, name: str | None = None, picture: str = "", **query: str) -> Reply:
    places = Places(Path("/none"), Path("/none"), (Path(dataset.folder).parent,), Path("/none"))
    route = next(route for route in ROUTES if route.method == "GET" and route.path == path)
    return route(Call(places, {"name": dataset.name if name is None else name, "picture": picture}, query))


def files_under(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_datasets_are_listed_with_what_their_newest_revision_holds(dataset, tmp_path):
    (tmp_path / "datasets" / "only pictures").mkdir()
    (told,) = ask(dataset, LISTED).value["datasets"]
    assert (told["name"], told["count"], told["captioned"], told["refused"]) == ("monet gardens", 5, 2, 1)
    captioned = dataset.with_texts({record.sha256: "a pond" for record in dataset.records()})
    os.utime(captioned.manifest, (time.time() + 9, time.time() + 9))
    (told,) = ask(dataset, LISTED).value["datasets"]
    assert (told["revision"], told["captioned"]) == (captioned.revision, 5)


def test_a_damaged_dataset_says_so_and_hides_no_other(dataset):
    other = write_manifest(Path(dataset.folder).parent / "other", dataset.records())
    dataset.manifest.write_text("{}\n")
    told = {one["name"]: one["error"] for one in ask(dataset, LISTED).value["datasets"]}
    assert told[other.name] == "" and "changed after it was written" in told[dataset.name]


def test_pictures_come_a_page_at_a_time_with_captions_marks_and_doubts(dataset):
    records = dataset.records()
    save_edit(dataset.folder, records[3].sha256, Edit("an oil painting of a barn", locked=True))
    told = ask(dataset, DESCRIBED, offset="3", limit="1").value
    (shown,) = told["pictures"]
    assert told["total"] == 5 and told["estimated"]
    assert (shown["picture"], shown["title"], shown["caption"]) == (records[3].sha256, "No. 3", "a harbour")
    assert shown["edited"] and shown["locked"] and shown["tokens"] == (4, 3) and not shown["flags"]
    assert ask(dataset, DESCRIBED, limit="1").value["pictures"][0]["flags"] == {"empty": ("no caption",)}


def test_what_was_refused_on_the_way_is_told_with_its_reason(dataset):
    (refused,) = ask(dataset, DESCRIBED, refused="1").value["refusals"]
    assert (refused["rule"], refused["measured"], refused["limit"]) == ("min_side", 90, 512)
    assert ask(dataset, SMALL, picture=refused["picture"]).content


def test_an_earlier_revision_is_told_of_by_its_name(dataset):
    later = dataset.with_texts({record.sha256: "a pond" for record in dataset.records()})
    os.utime(later.manifest, (time.time() + 9, time.time() + 9))
    texts = [shown["caption"] for shown in ask(dataset, DESCRIBED, revision=dataset.revision).value["pictures"]]
    assert texts == [record.text for record in dataset.records()]


def test_a_small_copy_is_a_jpeg_of_the_asked_size_and_nothing_is_written_for_it(dataset):
    before = files_under(Path(dataset.folder))
    reply = ask(dataset, SMALL, picture=dataset.records()[0].sha256, side="64")
    with Image.open(io.BytesIO(reply.content)) as picture:
        assert (picture.format, picture.size) == ("JPEG", (64, 40))
    assert files_under(Path(dataset.folder)) == before


@pytest.mark.parametrize("path", [DESCRIBED, SMALL])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_name_leads_out_of_the_datasets_folder(dataset, path, name):
    with pytest.raises(ImpastoError, match="dataset"):
        ask(dataset, path, name=name, picture=dataset.records()[0].sha256)


@pytest.mark.parametrize("picture", ["../../manifests/x", "0" * 64, "ab", "", "0" * 63 + "/", "A" * 64])
def test_only_pictures_of_the_dataset_are_shown(dataset, picture):
    with pytest.raises(ImpastoError, match="picture"):
        ask(dataset, SMALL, picture=picture)


def test_a_link_out_of_the_dataset_is_not_followed(dataset, tmp_path):
    secret = tmp_path / "secret.jpg"
    Image.new("RGB", (32, 32)).save(secret)
    (Path(dataset.folder) / "images" / f"{'1' * 64}.jpg").symlink_to(secret)
    with pytest.raises(ImpastoError, match="outside"):
        ask(dataset, SMALL, picture="1" * 64)


@pytest.mark.parametrize("query", [{"limit": "0"}, {"limit": "501"}, {"offset": "-1"}, {"revision": "../x"}])
def test_a_page_is_held_to_bounds(dataset, query):
    with pytest.raises(ImpastoError, match=next(iter(query))):
        ask(dataset, DESCRIBED, **query)


def test_a_dataset_of_two_thousand_pictures_is_read_once_for_the_list(dataset, record_property, monkeypatch):
    records = [Record(f"images/{n:064x}.jpg", f"{n:064x}", 9, 9, 9, f"a harbour with {n} boats") for n in range(2000)]
    large = write_manifest(Path(dataset.folder).parent / "large", records)
    seconds = []
    for path in (DESCRIBED, LISTED):
        begun = time.perf_counter()
        told = ask(large, path).value
        seconds.append(time.perf_counter() - begun)
    record_property("measured", f"2,000 records: a page of 100 {seconds[0]:.3f} s, the list {seconds[1]:.4f} s")
    monkeypatch.setattr(Dataset, "records", lambda self: pytest.fail("it was read again"))
    assert ask(large, LISTED).value == told
