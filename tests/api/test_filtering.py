"""What other thresholds would refuse is told as the filter itself would have it, from what it measured before."""

import io
from pathlib import Path

import pytest
from impasto.api.routing import Call, Places, Reply
from impasto.api.table import ROUTES
from impasto.curation.quality import Thresholds, filter_quality
from impasto.dataset.pictures import store_picture
from impasto.dataset.records import Dataset, Record, write_manifest
from impasto.embedded.paintings import paint, scene
from impasto.errors import ImpastoError

KINDS = ("landscape", "portrait", "cityscape", "still life")
LOOSE = {"min_side": 0, "max_aspect": 100.0, "min_bytes_per_pixel": 0.0}
MEASURED, REFUSED = "/impasto/datasets/{name}/measurements", "/impasto/datasets/{name}/refused"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Dataset:
    """Eight paintings, one of them also smaller, all measured."""
    folder = tmp_path_factory.mktemp("datasets") / "mixed"
    records = []
    for number in range(9):
        kept = io.BytesIO()
        picture = paint(scene(KINDS[number % 4], number % 8), "impressionist", 240, 200 - 2 * (number % 8))
        picture = picture.resize((180, 150)) if number == 8 else picture
        picture.save(kept, "JPEG", quality=90)
        stored = store_picture(folder, kept.getvalue())
        records.append(Record(stored.file_name, stored.sha256, stored.width, stored.height, stored.size))
    written = write_manifest(folder, records)
    filter_quality(written, Thresholds(**LOOSE))
    return written


def ask(dataset: Dataset, path: str, body: object = None, name: str = "mixed") -> Reply:
    places = Places(Path("/none"), Path("/none"), (Path(dataset.folder).parent,), Path("/none"))
    route = next(route for route in ROUTES if route.path == path)
    return route(Call(places, {"name": name}, {"revision": dataset.revision}, body))


def refused(dataset: Dataset, keep: str = "", **thresholds: object) -> dict[str, str]:
    told = ask(dataset, REFUSED, {"thresholds": LOOSE | thresholds, "keep": keep}).value["refused"]
    return {one["picture"]: one["reason"] for one in told}


@pytest.mark.parametrize(
    "thresholds",
    [
        {},
        {"min_sharpness": 0.3},
        {"min_side": 190},
        {"duplicate_distance": -1},
        {"min_entropy": 7.2},
        {"max_shadow": 0.05},
    ],
    ids=str,
)
def test_what_is_told_is_what_the_filter_does(dataset, thresholds):
    told = refused(dataset, **thresholds)
    done = filter_quality(dataset, Thresholds(**LOOSE | thresholds)).refused if len(told) < 9 else ()
    assert told == {record.sha256: refusal.reason for record, refusal in done} or len(told) == 9


def test_a_picture_that_is_kept_is_refused_by_no_threshold(dataset):
    out = refused(dataset, min_side=190)
    assert out
    kept = next(iter(out))
    line = f"{kept[:8]} The Jetty"
    assert refused(dataset, line, min_side=190).keys() == out.keys() - {kept}
    filtered = filter_quality(dataset, Thresholds(**LOOSE | {"min_side": 190}), keep=(kept[:8],))
    assert kept in {record.sha256 for record in filtered.dataset.records()}


def test_every_measure_of_every_picture_is_told_and_nothing_is_written(dataset):
    before = {path: path.stat().st_mtime_ns for path in Path(dataset.folder).rglob("*")}
    told = ask(dataset, MEASURED).value
    assert {"min_side", "min_sharpness", "min_jpeg_quality"} <= {rule["rule"] for rule in told["rules"]}
    assert all(len(values) == 9 and None not in values for values in told["values"].values()) and not told["unmeasured"]
    refused(dataset, min_sharpness=0.3)
    assert {path: path.stat().st_mtime_ns for path in Path(dataset.folder).rglob("*")} == before


def test_what_was_never_measured_is_counted_and_not_refused(dataset, tmp_path):
    folder = tmp_path / "mixed"
    (tmp_path / "mixed").mkdir()
    fresh = write_manifest(folder, dataset.records())
    told = ask(fresh, REFUSED, {"thresholds": LOOSE | {"min_sharpness": 1.9}}).value
    assert told["unmeasured"] == told["total"] == 9 and not told["refused"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"thresholds": {"min_side": -1}}, "min_side"),
        ({"thresholds": {"min_side": "512"}}, "min_side"),
        ({"thresholds": {"min_side": True}}, "min_side"),
        ({"thresholds": {"crop_borders": 1}}, "crop_borders"),
        ({"thresholds": {"__class__": 1}}, "__class__"),
        ({"thresholds": []}, "thresholds"),
        ({"keep": "../etc"}, "keep"),
        ({"keep": 3}, "keep"),
    ],
    ids=str,
)
def test_a_wrong_threshold_is_refused_by_name(dataset, body, said):
    with pytest.raises(ImpastoError, match=said):
        ask(dataset, REFUSED, body)


def test_no_name_leads_out_of_the_datasets_folder(dataset):
    for path in (MEASURED, REFUSED):
        with pytest.raises(ImpastoError, match="dataset"):
            ask(dataset, path, {}, "../mixed")
