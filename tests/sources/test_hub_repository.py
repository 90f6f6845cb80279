"""Paintings from a Hugging Face Hub on loopback: what is asked for, what is fetched, and what happens when it fails."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pyarrow
import pytest
from impasto.clock import Stopped
from impasto.dataset.labels import label_key
from impasto.dataset.wikiart_labels import ARTISTS, GENRES, STYLES
from impasto.errors import DatasetError, SettingsError
from impasto.sources.hub import Connection
from impasto.sources.hub_repository import fingerprint
from impasto.sources.plan import CHEAP, EVEN, Request
from impasto.sources.wikiart import load_paintings
from pyarrow import parquet

from ..small_sources import Painting, heavier, picture_bytes, write_shard
from .loopback_hub import BLOCK, LoopbackHub, serving

REPOSITORY = Path(__file__).resolve().parents[2]
SHARDS, ROWS, ROWS_PER_GROUP, PICTURE = 24, 400, 40, 30_000  # of the large source; bytes of a picture
QUOTAS = "landscape: 300\nportrait: 300\ncityscape: 200\nstill_life: 200"
THOUSAND = Request(
    "huggan/wikiart", "thousand", style="Impressionism", quotas=QUOTAS, max_per_artist=40, seed=5, prefer=CHEAP
)


@pytest.fixture(scope="module")
def wikiart(tmp_path_factory) -> Path:
    """24 shards in the schema of huggan/wikiart with all its labels, 10 row groups each, 290 MB in all."""
    folder = tmp_path_factory.mktemp("wikiart")
    chance = random.Random(1)
    small = picture_bytes(1)
    features = {"image": {"_type": "Image"}}
    for column, names in (("artist", ARTISTS), ("genre", GENRES), ("style", STYLES)):
        features[column] = {"names": list(names), "_type": "ClassLabel"}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    genres = [4] * 30 + [6] * 25 + [1] * 12 + [9] * 12 + list(range(11))
    for shard in range(SHARDS):
        data = [heavier(small, chance.randbytes(PICTURE - len(small) - 16)) for _ in range(ROWS)]
        columns = {
            "image": pyarrow.array([{"bytes": picture, "path": None} for picture in data]),
            "artist": pyarrow.array([chance.randrange(129) for _ in data], pyarrow.int64()),
            "genre": pyarrow.array([chance.choice(genres) for _ in data], pyarrow.int64()),
            "style": pyarrow.array([12 if chance.random() < 0.4 else chance.randrange(27) for _ in data]),
        }
        table = pyarrow.table(columns).replace_schema_metadata(metadata)
        path = folder / "data" / f"train-{shard:05d}-of-{SHARDS:05d}.parquet"
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(table, path, row_group_size=ROWS_PER_GROUP)
    return folder


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    with serving() as running:
        yield running


@pytest.fixture
def small_repository(hub: LoopbackHub, tmp_path: Path) -> Path:
    """48 paintings in four shards of four row groups, published as museum/paintings."""
    folder = tmp_path / "museum"
    artists, genres = ("claude-monet", "vincent-van-gogh", "Unknown Artist"), ("landscape", "portrait")
    kinds = itertools.cycle(itertools.product(artists, genres))
    for shard in range(4):
        paintings = [Painting(picture_bytes(100 * shard + n, 160, 160), *next(kinds)) for n in range(12)]
        write_shard(folder / "data" / f"train-{shard}.parquet", paintings)
    hub.publish("museum/paintings", folder)
    return folder


def read_labels(hub: LoopbackHub, root: Path, request: Request) -> None:
    """Have the index made, and forget what that took: of a small file, the read for its footer spans most pictures."""
    load_paintings(root, request, opener=hub.opener(), plan_only=True)
    hub.ranges.clear()


SMALL = Request("museum/paintings", "paintings", count=10, seed=2)


def touched_row_groups(folder: Path, sources: list[str]) -> int:
    """Bytes of the picture columns of the row groups that hold these rows."""
    groups = set()
    for source in sources:
        path, _, row = source.partition("/data/")[2].partition("#")
        groups.add((path, int(row) // ROWS_PER_GROUP))
    files = {path: parquet.ParquetFile(folder / "data" / path) for path, _ in groups}
    return sum(files[path].metadata.row_group(group).column(0).total_compressed_size for path, group in groups)


def test_a_thousand_under_quotas_cost_the_row_groups_they_lie_in_and_the_labels_next_to_nothing(
    hub, wikiart, datasets_root, record_property
):
    hub.publish("huggan/wikiart", wikiart)
    whole = sum(path.stat().st_size for path in wikiart.rglob("*.parquet"))

    plan = load_paintings(datasets_root, THOUSAND, opener=hub.opener(), plan_only=True)
    labels = hub.sent()
    hub.ranges.clear()
    assert plan.dataset is None and not (datasets_root / "thousand").exists()
    assert labels < 0.002 * whole

    loaded = load_paintings(datasets_root, THOUSAND, opener=hub.opener())
    records = loaded.dataset.records()
    fetched = hub.sent()
    picked = sum(record.size for record in records)
    groups = touched_row_groups(wikiart, [record.source for record in records])
    record_property("labels / all", round(labels / whole, 5))
    for of, size in {"all": whole, "their row groups": groups, "their own": picked}.items():
        record_property(f"fetched / {of}", round(fetched / size, 2))
    assert fetched <= 1.5 * groups
    assert f"{fetched / 1e6:,.1f} MB" in plan.report
    assert re.search(r"in \d+ requests, about \d+ \w+ at the speed last measured", plan.report)
    assert hub.overlaps() == 0

    cells = Counter(record.genre for record in records)
    assert cells == {"landscape": 300, "portrait": 300, "cityscape": 200, "still_life": 200}
    assert max(Counter(record.artist for record in records if record.artist).values()) <= 40
    assert {record.style for record in records} == {"Impressionism"}


def test_an_even_choice_has_the_artists_of_a_choice_without_regard_to_row_groups_for_less(hub, wikiart, datasets_root):
    hub.publish("huggan/wikiart", wikiart)
    shutil.copytree(wikiart, datasets_root / "local")
    request = replace(THOUSAND, quotas="landscape: 120", name="even", prefer="even artists")
    spread = load_paintings(datasets_root, replace(request, source="local", name="spread")).dataset.records()
    plan = load_paintings(datasets_root, request, opener=hub.opener(), plan_only=True).report
    assert "This is with prefer 'even artists'; with 'few megabytes' it would be" in plan
    labels = hub.sent()
    even = load_paintings(datasets_root, request, opener=hub.opener()).dataset.records()
    assert Counter(record.artist for record in even) == Counter(record.artist for record in spread)
    assert hub.sent() - labels < 0.8 * touched_row_groups(wikiart, [record.source for record in spread])


@pytest.mark.parametrize(("cap", "way"), [(0, EVEN), (40, CHEAP)])
def test_where_a_cap_says_how_even_a_choice_must_be_the_cheaper_way_is_automatic(hub, wikiart, datasets_root, cap, way):
    hub.publish("huggan/wikiart", wikiart)
    request = replace(THOUSAND, quotas="landscape: 120", max_per_artist=cap, prefer="automatic")
    automatic, named = (
        load_paintings(datasets_root, asked, opener=hub.opener(), plan_only=True).report
        for asked in (request, replace(request, prefer=way))
    )
    assert automatic == named and f"This is with prefer '{way}'" in automatic


def test_the_pictures_are_the_shards_own_bytes_with_their_labels_and_place(hub, small_repository, datasets_root):
    dataset = load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset
    records = dataset.records()
    assert len(records) == 10
    for record in records:
        place, _, row = record.source.partition("#")
        shard = parquet.read_table(small_repository / place.split("/", 2)[2])
        data = shard["image"][int(row)].as_py()["bytes"]
        assert dataset.image_path(record).read_bytes() == data
        assert record.source.startswith("museum/paintings@")
        assert record.genre in ("landscape", "portrait")


def test_the_same_seed_and_revision_give_the_same_pictures_whatever_was_fetched_before(
    hub, small_repository, datasets_root
):
    first = load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset
    load_paintings(datasets_root, replace(SMALL, name="again", seed=9, count=20), opener=hub.opener())
    again = load_paintings(datasets_root, replace(SMALL, name="again"), opener=hub.opener()).dataset
    other = load_paintings(datasets_root, replace(SMALL, name="again", seed=9), opener=hub.opener()).dataset
    assert again.revision == first.revision != other.revision


def test_loading_again_fetches_nothing_and_offline_gives_the_same(hub, small_repository, datasets_root):
    first = load_paintings(datasets_root, SMALL, opener=hub.opener())
    before = hub.sent()
    assert load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset == first.dataset
    assert hub.sent() == before
    calls = len(hub.calls)
    offline = load_paintings(datasets_root, SMALL, opener=hub.opener(offline=True))
    assert offline.dataset == first.dataset and len(hub.calls) == calls
    with pytest.raises(DatasetError, match="HF_HUB_OFFLINE is set"):
        load_paintings(datasets_root, replace(SMALL, name="other"), opener=hub.opener(offline=True))
    with pytest.raises(DatasetError, match="never read"):
        load_paintings(datasets_root, replace(SMALL, source="other/one"), opener=hub.opener(offline=True))


def test_a_folder_that_image_url_loader_used_before_can_be_used(hub, small_repository, datasets_root):
    (datasets_root / "paintings").mkdir()
    (datasets_root / "paintings" / "fetched.jsonl").write_text('{"key": "x", "url": "https://a.example/1.jpg"}\n')
    assert len(load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset.records()) == 10


def test_more_from_the_row_groups_fetched_costs_nothing(hub, small_repository, datasets_root):
    read_labels(hub, datasets_root, SMALL)
    load_paintings(datasets_root, replace(SMALL, count=3, prefer=CHEAP), opener=hub.opener())
    before = hub.sent()
    more = replace(SMALL, count=3, spare=100, prefer=CHEAP)
    plan = load_paintings(datasets_root, more, opener=hub.opener(), plan_only=True).report
    loaded = load_paintings(datasets_root, more, opener=hub.opener())
    assert len(loaded.dataset.records()) == 6
    assert ("Nothing needs to be fetched" in plan) == (hub.sent() == before)
    assert hub.overlaps() == 0


@pytest.mark.parametrize("prefer", ["even artists", CHEAP])
def test_more_spare_paintings_come_on_top_of_what_fewer_fetched(hub, wikiart, datasets_root, prefer):
    hub.publish("huggan/wikiart", wikiart)
    request = replace(THOUSAND, quotas="landscape: 20\nportrait: 10", max_per_artist=3, prefer=prefer)
    read_labels(hub, datasets_root, request)
    taken: list[set[str]] = []
    for spare in (0, 50, 150, 350):
        dataset = load_paintings(datasets_root, replace(request, spare=spare), opener=hub.opener()).dataset
        assert max(Counter(record.artist for record in dataset.records() if record.artist).values()) <= 3
        taken.append({record.source for record in dataset.records()})
    assert taken[0] < taken[1] < taken[2] < taken[3]
    assert hub.overlaps() == 0


def test_a_damaged_stored_picture_is_noticed_by_its_hash_and_fetched_again(hub, small_repository, datasets_root):
    dataset = load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset
    victim = dataset.image_path(dataset.records()[0])
    content = victim.read_bytes()
    victim.write_bytes(b"\0" * len(content))
    assert load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset == dataset
    assert victim.read_bytes() == content


@pytest.mark.parametrize("kills", [1, 2, 3] if not os.environ.get("IMPASTO_LONG") else range(1, 13))
def test_killed_at_random_moments_and_queued_again_fetches_nothing_twice(hub, tmp_path, datasets_root, kills):
    folder = tmp_path / "heavy"
    for shard in range(3):
        data = [heavier(picture_bytes(10 * shard + n, 8, 8), random.Random(n).randbytes(300_000)) for n in range(8)]
        write_shard(folder / f"{shard}.parquet", [Painting(picture) for picture in data], rows_per_group=4)
    hub.publish("museum/heavy", folder)
    request = Request("museum/heavy", "killed", count=24)
    undisturbed = load_paintings(datasets_root, replace(request, name="undisturbed"), opener=hub.opener()).dataset
    hub.ranges.clear()

    script = (
        f"import runpy; runpy.run_path({str(REPOSITORY / 'tests' / 'conftest.py')!r})\n"
        "from pathlib import Path\n"
        "from functools import partial\n"
        "from impasto.sources.hub import Hub\n"
        "from impasto.sources.hub_repository import open_source\n"
        "from impasto.sources.plan import Request\n"
        "from impasto.sources.wikiart import load_paintings\n"
        f"load_paintings(Path({str(datasets_root)!r}), Request('museum/heavy', 'killed', count=24),"
        f" opener=partial(open_source, hub=Hub({hub.endpoint!r})))"
    )
    hub.pause = 0.05  # so that a client on a slow core keeps pace: what waits for it when it dies is lost
    chance = random.Random(kills)
    ended: list[int] = []
    for _ in range(kills):
        before, goal = hub.sent(), chance.randrange(200_000, 1_500_000)
        child = subprocess.Popen([sys.executable, "-c", script])
        while hub.sent() - before < goal and child.poll() is None:
            time.sleep(0.005)
        child.kill()
        ended.append(child.wait())
        time.sleep(0.1)  # for the server to see that nobody listens
    hub.pause = 0.0
    assert ended[0] != 0  # it was killed, not done
    resumed = load_paintings(datasets_root, request, opener=hub.opener()).dataset
    assert resumed.revision == undisturbed.revision
    # what was on the way to a process that died is lost: a few of the server's blocks for each of four connections
    assert hub.overlaps() < kills * 4 * 2 * BLOCK
    assert not list((datasets_root / ".sources").glob("*/parts/*"))


def test_a_killed_transfer_goes_on_within_the_row_group(hub, small_repository, datasets_root, tmp_path):
    read_labels(hub, datasets_root, SMALL)
    hub.faults.append("half")
    with pytest.raises(DatasetError, match="What was fetched is kept"):
        hub.faults.extend(["drop"] * 200)
        load_paintings(datasets_root, SMALL, opener=hub.opener(attempts=2))
    hub.faults.clear()
    [(path, start, length)] = [sent for sent in hub.ranges if sent[2]]
    load_paintings(datasets_root, SMALL, opener=hub.opener())
    assert (path, start + length) in {(other, first) for other, first, _ in hub.ranges}
    assert hub.overlaps() == 0


@pytest.mark.parametrize("fault", ["500", "drop", "half"])
def test_passing_failures_change_nothing(hub, small_repository, datasets_root, fault):
    undisturbed = load_paintings(datasets_root, replace(SMALL, name="undisturbed"), opener=hub.opener()).dataset
    shutil.rmtree(datasets_root / ".sources")
    hub.faults.extend([fault, ""] * 4)  # while labels are read
    read_labels(hub, datasets_root, SMALL)
    assert not hub.faults
    hub.faults.extend([fault] * 3)
    disturbed = load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset
    assert disturbed.revision == undisturbed.revision
    assert not hub.faults and hub.overlaps() == 0


def test_a_rate_limit_is_waited_for_with_a_countdown_and_without_more_requests(hub, small_repository, datasets_root):
    load_paintings(datasets_root, SMALL, opener=hub.opener(), plan_only=True)
    hub.faults.append("429")
    hub.api_faults.append("429")
    told = []
    began = time.monotonic()
    loaded = load_paintings(
        datasets_root, SMALL, lambda done, total, text="", preview=None: told.append(text), opener=hub.opener()
    )
    assert len(loaded.dataset.records()) == 10
    assert time.monotonic() - began > 2
    assert any("rate limit is reached: going on in" in text for text in told)


def test_cancel_ends_a_wait_at_once_and_keeps_what_is_there(hub, small_repository, datasets_root):
    class Cancelled(BaseException):
        pass

    def cancel(done, total, text="", preview=None):
        if "rate limit" in text:
            raise Cancelled

    read_labels(hub, datasets_root, SMALL)
    hub.faults.append("429")
    hub.retry_after = 300
    began = time.monotonic()
    with pytest.raises(Cancelled):
        load_paintings(datasets_root, SMALL, cancel, opener=hub.opener())
    assert time.monotonic() - began < 5
    assert len(load_paintings(datasets_root, SMALL, opener=hub.opener()).dataset.records()) == 10
    assert hub.overlaps() == 0


def test_a_transfer_that_is_called_off_writes_nothing_more(hub, tmp_path):
    """Cancel does not wait for it, so that the next load may be writing into the same file already."""
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "a.bin").write_bytes(bytes(4 * BLOCK))
    hub.pause = 0.3
    connection, part = Connection(hub.client()), tmp_path / "part"
    revision = connection.list_revision("museum/large", hub.publish("museum/large", tmp_path / "large"))
    arguments = (revision, revision.files[0], 0, 4 * BLOCK, part)
    with ThreadPoolExecutor() as pool:
        download = pool.submit(connection.download, *arguments)
        while connection.received < BLOCK:
            time.sleep(0.01)
        connection.stop()
        size = part.stat().st_size
        assert isinstance(download.exception(), Stopped)
    assert part.stat().st_size == size < 4 * BLOCK


def test_only_a_shard_replaced_under_a_new_revision_is_read_again(hub, small_repository, datasets_root, tmp_path):
    everything = replace(SMALL, count=100)
    old = load_paintings(datasets_root, everything, opener=hub.opener()).dataset
    before = fingerprint(datasets_root, "museum/paintings", hub.client())
    newer = tmp_path / "newer"
    shutil.copytree(small_repository, newer)
    write_shard(newer / "data" / "train-3.parquet", [Painting(picture_bytes(7_000 + n, 160, 160)) for n in range(12)])
    sha = hub.publish("museum/paintings", newer)
    hub.ranges.clear()

    assert fingerprint(datasets_root, "museum/paintings", hub.client()) != before
    new = load_paintings(datasets_root, everything, opener=hub.opener()).dataset
    assert {path for path, _, _ in hub.ranges} == {"data/train-3.parquet"}
    kept = {record.sha256 for record in old.records()} & {record.sha256 for record in new.records()}
    assert len(new.records()) == 48 and len(kept) == 36
    assert all(f"@{sha[:12]}/" in record.source for record in new.records())


def test_an_old_revision_can_be_named(hub, small_repository, datasets_root, tmp_path):
    first = load_paintings(datasets_root, replace(SMALL, name="first"), opener=hub.opener()).dataset
    sha = fingerprint(datasets_root, "museum/paintings", hub.client())
    write_shard(tmp_path / "other" / "a.parquet", [Painting(picture_bytes(5))])
    hub.publish("museum/paintings", tmp_path / "other")
    named = load_paintings(datasets_root, replace(SMALL, source=f"museum/paintings@{sha}"), opener=hub.opener()).dataset
    assert named.revision == first.revision


def test_a_shard_changed_behind_its_revision_is_refused(hub, small_repository, datasets_root):
    load_paintings(datasets_root, SMALL, opener=hub.opener(), plan_only=True)
    for path in hub._oids:
        hub._oids[path] = hashlib.sha256(path.name.encode()).hexdigest()
    with pytest.raises(DatasetError, match="is not the file that its revision lists"):
        load_paintings(datasets_root, SMALL, opener=hub.opener())


def test_a_corrupt_picture_is_refused_and_replaced(hub, tmp_path, datasets_root):
    paintings = [Painting(picture_bytes(seed)) for seed in range(9)]
    paintings[1], paintings[4] = Painting(b"no picture"), Painting(b"")
    write_shard(tmp_path / "bad" / "a.parquet", paintings)
    hub.publish("museum/bad", tmp_path / "bad")
    read_labels(hub, datasets_root, Request("museum/bad", "good"))
    loaded = load_paintings(datasets_root, Request("museum/bad", "good", count=7), opener=hub.opener())
    assert len(loaded.dataset.records()) == 7
    again = load_paintings(datasets_root, Request("museum/bad", "good", count=9), opener=hub.opener())
    assert {refusal.rule for refusal in again.dataset.refusals()} == {"unreadable", "empty"}
    assert hub.overlaps() == 0


def test_string_and_list_columns_are_read_through_a_mapping_with_title_date_and_rights(hub, tmp_path, datasets_root):
    columns = {
        "picture": [picture_bytes(seed) for seed in range(4)],
        "artistName": ["Claude Monet"] * 4,
        "genres": [["landscape", "marina"], ["portrait"], [], None],
        "movement": ["Impressionism"] * 4,
        "title": ["Water Lilies", "Camille", "Untitled", None],
        "completitionYear": [1906, 1867, None, 1880],
        "license": ["Public domain"] * 4,
    }
    (tmp_path / "strings").mkdir()
    parquet.write_table(pyarrow.table(columns), tmp_path / "strings" / "test-00000.parquet")
    hub.publish("asahi417/wikiart-all", tmp_path / "strings")
    request = Request(
        "asahi417/wikiart-all", "strings", style="Impressionism", columns="image: picture\nstyle: movement"
    )
    records = load_paintings(datasets_root, request, opener=hub.opener()).dataset.records()
    found = {(record.title, record.date, record.genre, record.rights, record.artist) for record in records}
    assert ("Water Lilies", "1906", "landscape", "Public domain", "Claude Monet") in found
    assert ("", "1880", "", "Public domain", "Claude Monet") in found
    with pytest.raises(DatasetError, match="no column 'subject' to read as genre: its columns are picture, artistName"):
        load_paintings(datasets_root, replace(request, columns="image: picture\ngenre: subject"), opener=hub.opener())
    with pytest.raises(SettingsError, match="not of the form"):
        load_paintings(datasets_root, replace(request, columns="picture"), opener=hub.opener())


def test_what_the_hub_does_not_give_is_answered_with_the_remedy(hub, small_repository, datasets_root):
    with pytest.raises(DatasetError, match="Check its spelling"):
        load_paintings(datasets_root, replace(SMALL, source="museum/painting"), opener=hub.opener())
    with pytest.raises(DatasetError, match="has no revision 'v9'"):
        load_paintings(datasets_root, replace(SMALL, source="museum/paintings@v9"), opener=hub.opener())
    hub.gated.add("museum/paintings")
    with pytest.raises(DatasetError, match="set HF_TOKEN"):
        load_paintings(datasets_root, SMALL, opener=hub.opener())
    assert load_paintings(datasets_root, SMALL, opener=hub.opener(token="hf_secret")).dataset
    assert "Bearer hf_secret" in hub.tokens
    assert "hf_secret" not in "".join(
        path.read_text(errors="replace") for path in datasets_root.rglob("*") if path.is_file()
    )


def test_a_repository_without_parquet_is_told_where_it_might_be(hub, tmp_path, datasets_root):
    (tmp_path / "readme").mkdir()
    (tmp_path / "readme" / "README.md").write_text("nothing")
    hub.publish("museum/empty", tmp_path / "readme")
    with pytest.raises(DatasetError, match="museum/empty@refs/convert/parquet"):
        load_paintings(datasets_root, replace(SMALL, source="museum/empty"), opener=hub.opener())


def test_a_quota_that_cannot_be_filled_is_known_before_fetching(hub, small_repository, datasets_root):
    request = replace(SMALL, quotas="landscape: 5\nartist=Vincent van Gogh: 100", max_per_artist=6)
    before = hub.sent()
    plan = load_paintings(datasets_root, request, opener=hub.opener(), plan_only=True).report
    assert [line.split() for line in plan.splitlines() if line.startswith(("landscape", "artist"))] == [
        ["landscape", "24", "5", "5"],
        ["artist", "Vincent", "van", "Gogh", "16", "100", "6"],
    ]
    labels = hub.sent() - before
    loaded = load_paintings(datasets_root, request, opener=hub.opener())
    assert hub.sent() > labels
    artists = Counter(label_key(record.artist) for record in loaded.dataset.records())
    assert artists["vincent van gogh"] == 6
    assert "94 fewer than asked for: nothing else in the source matches with at most 6 of an artist" in loaded.report
    none = replace(SMALL, name="none", artist="claude-monet", quotas="portrait: 2\nartist=Vincent van Gogh: 3")
    plan = load_paintings(datasets_root, none, opener=hub.opener(), plan_only=True).report
    assert ["artist", "Vincent", "van", "Gogh", "0", "3", "0"] in [line.split() for line in plan.splitlines()]
    with pytest.raises(DatasetError, match=r"genre 'marina' of the quotas. There are: landscape \(24\)"):
        load_paintings(datasets_root, replace(SMALL, quotas="marina: 5"), opener=hub.opener())
