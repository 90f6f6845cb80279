from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from impasto.errors import DatasetError, NameRefused, SettingsError
from impasto.sources.opening import source_fingerprint
from impasto.sources.parquet import read_pictures, read_rows
from impasto.sources.plan import Request
from impasto.sources.wikiart import load_paintings
from pyarrow.parquet import ParquetFile

from ..leftovers import of_a_killed_process
from ..small_sources import Painting, picture_bytes, write_shard

REPOSITORY = Path(__file__).resolve().parents[2]


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / "images").iterdir()}


def test_pictures_are_stored_once_by_content_with_their_labels(datasets_root, mixed_source):
    dataset = load_paintings(datasets_root, Request("museum", "monets", artist="Claude Monet", count=5)).dataset

    records = dataset.records()
    assert len(records) == 5
    for record in records:
        data = dataset.image_path(record).read_bytes()
        assert hashlib.sha256(data).hexdigest() == record.sha256
        assert record.file_name == f"images/{record.sha256}.jpg"
        assert (record.width, record.height, record.size) == (96, 64, len(data))
        assert (record.artist, record.style) == ("Claude Monet", "Impressionism")
        shard, _, row = record.source.partition("#")
        assert dict(read_pictures(datasets_root / shard, [int(row)]))[int(row)] == data


def test_the_same_seed_and_source_give_the_same_pictures(datasets_root, mixed_source):
    first = load_paintings(datasets_root, Request("museum", "first", count=10, seed=7)).dataset
    second = load_paintings(datasets_root, Request("museum", "second", count=10, seed=7)).dataset
    other = load_paintings(datasets_root, Request("museum", "other", count=10, seed=8)).dataset

    assert first.revision == second.revision
    assert stored(Path(first.folder)) == stored(Path(second.folder))
    assert other.revision != first.revision


def test_a_larger_count_keeps_what_a_smaller_one_took(datasets_root, mixed_source):
    few = load_paintings(datasets_root, Request("museum", "paintings", count=6)).dataset.records()
    more = load_paintings(datasets_root, Request("museum", "paintings", count=12)).dataset.records()
    assert more[:6] == few


def test_the_selection_is_spread_over_artists_and_shards(datasets_root, mixed_source):
    records = load_paintings(datasets_root, Request("museum", "paintings", count=9)).dataset.records()
    assert Counter(record.artist for record in records) == {"Claude Monet": 3, "Vincent van Gogh": 3, "": 3}

    portraits = load_paintings(
        datasets_root, Request("museum", "portraits", genre="portrait", count=4)
    ).dataset.records()
    shards = Counter(record.source.partition("#")[0] for record in portraits)
    assert len(shards) == 2


def test_string_columns_work_as_class_labels_do(datasets_root, make_source):
    paintings = [Painting(picture_bytes(seed), artist="Berthe Morisot", style="Plein air") for seed in range(4)]
    make_source(paintings, labels_as="string")
    records = load_paintings(datasets_root, Request("museum", "morisots", style="plein AIR")).dataset.records()
    assert {(record.artist, record.style) for record in records} == {("Berthe Morisot", "Plein air")}


def test_labels_are_read_without_the_pictures(datasets_root, mixed_source, monkeypatch):
    read = []
    whole = ParquetFile.read
    monkeypatch.setattr(ParquetFile, "read", lambda self, columns: read.append(columns) or whole(self, columns=columns))
    read_rows(sorted(mixed_source.glob("data/*.parquet")))
    assert read == [["artist", "genre", "style"]] * 2


def test_only_row_groups_that_hold_chosen_rows_are_read(datasets_root, mixed_source, monkeypatch):
    groups = []
    batches = ParquetFile.iter_batches

    def spied(self, *arguments, row_groups, **options):
        groups.append(row_groups)
        return batches(self, *arguments, row_groups=row_groups, **options)

    monkeypatch.setattr(ParquetFile, "iter_batches", spied)
    shard = min(mixed_source.glob("data/*.parquet"))  # 12 rows in groups of 3
    assert [row for row, _ in read_pictures(shard, [4, 10])] == [4, 10]
    assert groups == [[1], [3]]


def test_fewer_than_asked_for_are_all_taken_and_reported(datasets_root, mixed_source):
    loaded = load_paintings(datasets_root, Request("museum", "goghs", artist="vincent-van-gogh", count=50))
    assert len(loaded.dataset.records()) == 6
    assert "6 available, 50 asked for, 6 taken" in loaded.report
    assert "44 fewer than asked for" in loaded.report


def test_a_corrupt_picture_is_refused_recorded_and_replaced(datasets_root, make_source):
    paintings = [Painting(picture_bytes(seed)) for seed in range(6)]
    paintings[2] = Painting(b"this is no picture")
    paintings[4] = Painting(picture_bytes(9, format="GIF"))
    make_source(paintings)

    loaded = load_paintings(datasets_root, Request("museum", "paintings", count=4))
    assert len(loaded.dataset.records()) == 4

    everything = load_paintings(datasets_root, Request("museum", "everything", count=6))
    assert len(everything.dataset.records()) == 4
    refused = {refusal.source: refusal for refusal in everything.dataset.refusals()}
    assert refused["museum/data/train-00000-of-00002.parquet#2"].rule == "unreadable"
    assert refused["museum/data/train-00001-of-00002.parquet#1"].reason == "format GIF is not JPEG, PNG or WebP"
    assert all(refusal.reason in everything.report for refusal in refused.values())


def test_the_same_bytes_twice_are_taken_once(datasets_root, make_source):
    make_source([Painting(picture_bytes(1)), Painting(picture_bytes(2)), Painting(picture_bytes(1)), Painting(b"")])
    dataset = load_paintings(datasets_root, Request("museum", "paintings", count=4)).dataset
    assert len({record.sha256 for record in dataset.records()}) == len(dataset.records()) == 2
    assert {refusal.rule for refusal in dataset.refusals()} == {"same_bytes", "empty"}


def test_the_extension_follows_the_content(datasets_root, make_source):
    make_source([Painting(picture_bytes(1, format="PNG")), Painting(picture_bytes(2, format="WEBP"))])
    dataset = load_paintings(datasets_root, Request("museum", "paintings")).dataset
    assert {Path(record.file_name).suffix for record in dataset.records()} == {".png", ".webp"}


def test_an_interrupted_load_goes_on_to_the_same_dataset(datasets_root, mixed_source):
    class Cancelled(BaseException):
        pass

    def cancel_at_the_fifth(done, total, text="", preview=None):
        if done == 5 and total == 12:
            raise Cancelled

    undisturbed = load_paintings(datasets_root, Request("museum", "undisturbed", count=12)).dataset
    with pytest.raises(Cancelled):
        load_paintings(datasets_root, Request("museum", "disturbed", count=12), cancel_at_the_fifth)
    folder = datasets_root / "disturbed"
    assert len(stored(folder)) == 5
    assert not (folder / "manifests").exists()
    of_a_killed_process(folder / "images" / "torso.jpg").write_bytes(b"half")
    written = {path.name: path.stat().st_mtime_ns for path in (folder / "images").glob("*.jpg") if path.name[0] != "."}

    resumed = load_paintings(datasets_root, Request("museum", "disturbed", count=12)).dataset
    assert resumed.revision == undisturbed.revision
    assert stored(folder) == stored(Path(undisturbed.folder))
    assert {name: (folder / "images" / name).stat().st_mtime_ns for name in written} == written


@pytest.mark.parametrize("pictures_before_the_kill", [1, 5, 9])
def test_a_killed_load_goes_on_to_the_same_dataset(datasets_root, mixed_source, pictures_before_the_kill):
    script = (
        f"import runpy, time; runpy.run_path({str(REPOSITORY / 'tests' / 'conftest.py')!r})\n"
        "from pathlib import Path\n"
        "from impasto.sources.plan import Request\n"
        "from impasto.sources.wikiart import load_paintings\n"
        f"load_paintings(Path({str(datasets_root)!r}), Request('museum', 'killed', count=12),"
        " lambda *_: time.sleep(0.02))"
    )
    folder = datasets_root / "killed"
    child = subprocess.Popen([sys.executable, "-c", script])
    while len(list(folder.glob("images/*.jpg"))) < pictures_before_the_kill and child.poll() is None:
        time.sleep(0.001)
    child.kill()
    assert child.wait() != 0
    assert not (folder / "manifests").exists()

    undisturbed = load_paintings(datasets_root, Request("museum", "undisturbed", count=12)).dataset
    resumed = load_paintings(datasets_root, Request("museum", "killed", count=12)).dataset
    assert resumed.revision == undisturbed.revision
    assert stored(folder) == stored(Path(undisturbed.folder))


def test_loading_again_writes_nothing(datasets_root, mixed_source):
    request = Request("museum", "paintings", count=8)
    first = load_paintings(datasets_root, request)
    before = {path: path.stat().st_mtime_ns for path in (datasets_root / "paintings").rglob("*")}
    assert load_paintings(datasets_root, request) == first
    assert {path: path.stat().st_mtime_ns for path in (datasets_root / "paintings").rglob("*")} == before


def test_a_label_that_is_not_there_is_answered_with_those_that_are(datasets_root, mixed_source):
    with pytest.raises(DatasetError, match=r"style 'Cubism'.*Impressionism \(24\)"):
        load_paintings(datasets_root, Request("museum", "paintings", style="Cubism"))
    with pytest.raises(DatasetError, match=r"artist 'Rembrandt'.*claude-monet \(12\), vincent-van-gogh \(6\)"):
        load_paintings(datasets_root, Request("museum", "paintings", artist="Rembrandt"))


def test_labels_that_never_meet_are_answered_with_those_that_do(datasets_root, make_source):
    monet, gogh = Painting(picture_bytes(1)), Painting(picture_bytes(2), "vincent-van-gogh", "portrait")
    make_source([monet, gogh])
    with pytest.raises(DatasetError, match=r"genre 'portrait' and artist 'Claude Monet'.*genres .*landscape \(1\)"):
        load_paintings(datasets_root, Request("museum", "paintings", artist="Claude Monet", genre="portrait"))


def test_a_source_that_is_not_there_is_answered_with_those_that_are(datasets_root, mixed_source):
    (datasets_root / "empty").mkdir()
    with pytest.raises(DatasetError, match="Choose one of these: museum"):
        load_paintings(datasets_root, Request("louvre", "paintings"))
    with pytest.raises(DatasetError, match="'empty'"):
        load_paintings(datasets_root, Request("empty", "paintings"))


def test_a_broken_shard_is_named(datasets_root, mixed_source):
    shard = max(mixed_source.glob("data/*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DatasetError, match=shard.name):
        load_paintings(datasets_root, Request("museum", "paintings"))


def test_a_shard_without_pictures_is_named_with_its_columns(datasets_root):
    import pyarrow
    from pyarrow import parquet

    (datasets_root / "museum").mkdir()
    parquet.write_table(pyarrow.table({"style": ["Baroque"], "url": ["x"]}), datasets_root / "museum" / "a.parquet")
    with pytest.raises(DatasetError, match="its columns are style, url"):
        load_paintings(datasets_root, Request("museum", "paintings"))


def test_only_unreadable_pictures_are_no_dataset(datasets_root, make_source):
    make_source([Painting(b"x"), Painting(b"y")])
    with pytest.raises(DatasetError, match="2 unreadable"):
        load_paintings(datasets_root, Request("museum", "paintings"))


@pytest.mark.parametrize("name", ["../escape", "/etc/impasto", "a/b", "..", "", "~root", "C:\\x", "nul", "a\ud800"])
def test_names_that_leave_their_root_are_refused(datasets_root, mixed_source, name):
    with pytest.raises(NameRefused):
        load_paintings(datasets_root, Request("museum", name))
    if name != "a/b":  # as a source this is a repository on the Hub
        with pytest.raises(NameRefused):
            load_paintings(datasets_root, Request(name, "paintings"))
    assert sorted(path.name for path in datasets_root.iterdir()) == ["museum"]


def test_a_link_that_leaves_the_root_is_refused(datasets_root, mixed_source, tmp_path):
    (tmp_path / "outside").mkdir()
    (datasets_root / "linked").symlink_to(tmp_path / "outside")
    with pytest.raises(NameRefused, match="outside"):
        load_paintings(datasets_root, Request("museum", "linked"))


def test_a_dataset_cannot_have_the_name_of_a_source(datasets_root, mixed_source):
    before = sorted(mixed_source.rglob("*"))
    with pytest.raises(NameRefused, match="museum-selection"):
        load_paintings(datasets_root, Request("museum", "museum"))
    assert sorted(mixed_source.rglob("*")) == before


def test_a_count_below_one_is_refused(datasets_root, mixed_source):
    with pytest.raises(SettingsError, match="count is 0"):
        load_paintings(datasets_root, Request("museum", "paintings", count=0))


def test_the_fingerprint_changes_with_the_source_only(datasets_root, mixed_source):
    before = source_fingerprint(datasets_root, "museum")
    load_paintings(datasets_root, Request("museum", "paintings", count=2))
    assert source_fingerprint(datasets_root, "museum") == before
    write_shard(mixed_source / "data" / "train-00002.parquet", [Painting(picture_bytes(99))])
    assert source_fingerprint(datasets_root, "museum") != before


def test_a_dataset_whose_folder_vanished_says_so(datasets_root, mixed_source):
    dataset = load_paintings(datasets_root, Request("museum", "paintings", count=2)).dataset
    shutil.rmtree(dataset.folder)
    with pytest.raises(DatasetError, match="is gone"):
        dataset.records()
