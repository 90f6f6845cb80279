"""WikiArt.org as a source, against a stand-in on loopback whose clock runs only while somebody waits."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from impasto.errors import DatasetError, SettingsError
from impasto.rate_limit import RateLimiter
from impasto.sources.opening import source_fingerprint
from impasto.sources.plan import Request
from impasto.sources.wikiart import load_paintings
from impasto.sources.wikiart_org import LIST_LIMITS, PaintingList, open_source

from ..small_sources import picture_bytes
from .loopback_wikiart import HurriedClock, LoopbackWikiArt, most_within, serving_wikiart

IMPRESSIONISM, LANDSCAPES, PORTRAITS = (
    f"/en/paintings-by-{path}" for path in ("style/impressionism", "genre/landscape", "genre/portrait")
)
MONET = "/en/claude-monet/mode/all-paintings"
ALL_OF_MONET = Request("wikiart.org", "monet", artist="claude-monet", count=1000)


@pytest.fixture
def wikiart() -> Iterator[LoopbackWikiArt]:
    with serving_wikiart() as stand_in:
        yield stand_in


class Cancelled(BaseException):
    pass


def cancelling(when: Callable[[str], object]) -> Callable[..., None]:
    def progress(done: int, total: int, text: str = "", preview: object = None) -> None:
        if when(text):
            raise Cancelled

    return progress


def long_wait(text: str) -> bool:
    return re.search(r"may be asked again: \d+ min", text) is not None


def test_a_painting_has_the_labels_of_the_lists_it_is_in(wikiart, datasets_root):
    for number in range(12):
        genre = LANDSCAPES if number % 3 else PORTRAITS
        wikiart.add(number, IMPRESSIONISM, genre, artist=("claude-monet", "berthe-morisot")[number % 2])
    wikiart.add(50, LANDSCAPES, artist="ivan-shishkin")  # no Impressionist
    wikiart.add(51, IMPRESSIONISM)  # neither landscape nor portrait
    asked = Request("wikiart.org", "few", style="Impressionism", quotas="landscape: 4\nportrait: 2", max_per_artist=3)

    loaded = load_paintings(datasets_root, asked, opener=wikiart.opener())

    records = loaded.dataset.records()
    assert [record.genre for record in records] == ["landscape"] * 4 + ["portrait"] * 2
    assert {record.style for record in records} == {"Impressionism"}
    assert [record.artist for record in records].count("Claude Monet") == 3
    for record in records:
        number = int(record.title.removeprefix("Painting No. "))
        # the picture itself, not its smaller copy, byte for byte
        assert loaded.dataset.image_path(record).read_bytes() == picture_bytes(number)
        assert record.source.startswith("https://www.wikiart.org/en/") and record.source.endswith(f"-{number}")
        assert record.date == ("1872" if number % 2 else "")
    assert len(wikiart.sent) == 6
    assert wikiart.headers[0]["X-Requested-With"] == "XMLHttpRequest"
    again = load_paintings(datasets_root, replace(asked, name="again"), opener=wikiart.opener())
    assert [record.sha256 for record in again.dataset.records()] == [record.sha256 for record in records]


def test_the_plan_is_told_before_any_picture_is_asked_for(wikiart, datasets_root):
    for number in range(130):
        wikiart.add(number, MONET)
    asked = Request("wikiart.org", "monet", artist="Claude Monet", count=100)

    plan = load_paintings(datasets_root, asked, plan_only=True, opener=wikiart.opener())

    assert plan.dataset is None and not (datasets_root / "monet").exists()
    assert "130" in plan.report and "To fetch: 100 pictures" in plan.report and "plan_only" in plan.report
    assert [path.partition("page=")[2][0] for _, path in wikiart.listed] == ["1", "2", "3"]
    assert wikiart.sent == []


def test_the_published_limits_on_requests_hold_and_are_used_up(wikiart, datasets_root):
    wikiart.page_size = 1
    for number in range(420):
        wikiart.add(number, MONET, picture=b"")
    told: list[str] = []
    started = wikiart.time

    load_paintings(
        datasets_root,
        ALL_OF_MONET,
        lambda done, total, text="", preview=None: told.append(text),
        plan_only=True,
        opener=wikiart.opener(),
    )

    times = [at for at, _ in wikiart.listed]
    assert len(times) == 420
    assert most_within(times, 2.5) == 10
    assert most_within(times, 3600) == 400
    assert 3600 < wikiart.time - started < 3800
    assert any(long_wait(text) for text in told)
    assert any("400 an hour are allowed, so up to 1 h more" in text for text in told)


def use_up_the_hour(wikiart: LoopbackWikiArt, datasets_root: Path) -> None:
    """What a process that was killed then has left behind after 400 requests."""
    limiter = RateLimiter(
        LIST_LIMITS, wikiart.site.clock, datasets_root / ".sources" / "wikiart.org" / "requests.jsonl"
    )
    for _ in range(400):
        with limiter.call():
            pass


def test_the_hours_limit_outlives_the_process(wikiart, datasets_root):
    wikiart.add(1, MONET)
    started = wikiart.time
    use_up_the_hour(wikiart, datasets_root)
    load_paintings(datasets_root, ALL_OF_MONET, plan_only=True, opener=wikiart.opener())
    assert wikiart.listed[0][0] - started >= 3600


def test_pictures_come_at_most_twenty_a_second(wikiart, datasets_root):
    for number in range(70):
        wikiart.add(number, MONET)
    load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    assert len(wikiart.sent) == 70
    assert most_within([at for at, _ in wikiart.sent], 1.0) <= 20


@pytest.mark.parametrize("stop_at", ["Reading page 3", "Painting 5"])
def test_a_cancelled_load_goes_on_where_it_stopped(wikiart, datasets_root, stop_at):
    wikiart.page_size = 5
    for number in range(30):
        wikiart.add(number, MONET)
    with pytest.raises(Cancelled):
        load_paintings(
            datasets_root, ALL_OF_MONET, cancelling(lambda text: text.startswith(stop_at)), opener=wikiart.opener()
        )
    before = len(wikiart.listed) + len(wikiart.sent)

    loaded = load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())

    assert 0 < before < 36 and len(loaded.dataset.records()) == 30
    # what was under way when it was cancelled may be asked for twice
    assert len({path for _, path in wikiart.listed}) == 6 and len(wikiart.listed) <= 7
    assert len({path for _, path in wikiart.sent}) == 30 and len(wikiart.sent) <= 34
    load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    assert len(wikiart.listed) + len(wikiart.sent) <= 41


class StandingClock(HurriedClock):
    """One that does not get there."""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)


def test_cancel_ends_an_hours_wait_at_once(wikiart, datasets_root):
    wikiart.add(1, MONET)
    use_up_the_hour(wikiart, datasets_root)
    still = replace(wikiart.site, clock=StandingClock(wikiart))
    with pytest.raises(Cancelled):
        load_paintings(datasets_root, ALL_OF_MONET, cancelling(long_wait), opener=partial(open_source, site=still))
    assert wikiart.listed == []
    for thread in threading.enumerate():
        if thread.name.startswith("impasto-fetch"):
            thread.join(5)
            assert not thread.is_alive()


def test_a_busy_or_failing_site_is_asked_again_after_the_wait_it_names(wikiart, datasets_root):
    for number in range(3):
        wikiart.add(number, MONET)
    wikiart.faults.extend([(429, {"Retry-After": "90"}), (500, {}), (200, {}), (503, {"Retry-After": "40"})])
    loaded = load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    assert len(loaded.dataset.records()) == 3
    (first, _), (second, _), (third, _) = wikiart.listed
    assert second - first >= 90 and third - second >= 10
    assert max(at for at, _ in wikiart.sent) - min(at for at, _ in wikiart.sent) >= 40


def test_a_site_that_stays_down_ends_the_load_and_keeps_what_came(wikiart, datasets_root):
    for number in range(40):
        wikiart.add(number, MONET)
    wikiart.faults.extend([(200, {})] * 9 + [(500, {})] * 200)
    with pytest.raises(DatasetError, match="5 pictures in a row not at all .*500.*queue again"):
        load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    wikiart.faults.clear()
    kept = len(list((datasets_root / "monet" / "images").iterdir()))
    wikiart.sent.clear()
    assert len(load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener()).dataset.records()) == 40
    assert kept == 8 and len({path for _, path in wikiart.sent}) == 32


def test_what_is_missing_or_no_picture_is_refused_and_replaced(wikiart, datasets_root):
    for number in range(8):
        wikiart.add(number, MONET, picture=b"<html>" if number == 1 else None)
    del wikiart.pictures["/images/claude-monet/painting-2.jpg"]
    loaded = load_paintings(datasets_root, replace(ALL_OF_MONET, count=6), opener=wikiart.opener())
    assert len(loaded.dataset.records()) == 6
    assert {refusal.rule for refusal in loaded.dataset.refusals()} <= {"fetch", "unreadable"}


@pytest.mark.parametrize(
    "image",
    [
        "https://127.0.0.1/a.jpg",
        "http://uploads1.wikiart.org/a.jpg",
        "file:///etc/passwd",
        "https://uploads1.wikiart.org.evil.example/a.jpg",
    ],
)
def test_a_list_cannot_send_the_loader_to_another_host(wikiart, datasets_root, image):
    wikiart.add(1, MONET)
    wikiart.add(2, MONET)
    wikiart.lists[MONET][0]["image"] = image
    loaded = load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    assert [refusal.rule for refusal in loaded.dataset.refusals()] == ["address"]
    assert len(wikiart.sent) == 1


def test_a_list_that_counts_more_than_it_gives_ends_where_it_is_empty(wikiart, datasets_root):
    wikiart.page_size, wikiart.overstated = 10, 500
    for number in range(25):
        wikiart.add(number, MONET)
    plan = load_paintings(datasets_root, ALL_OF_MONET, plan_only=True, opener=wikiart.opener())
    assert "25" in plan.report and len(wikiart.listed) == 4
    assert "list of the artist 'claude-monet' ended at page 3 of 53" in plan.report


def test_a_page_that_was_empty_once_ends_no_list_for_ever(wikiart, datasets_root):
    wikiart.page_size, wikiart.overstated = 10, 15
    for number in range(10):
        wikiart.add(number, MONET)
    short = load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    assert len(short.dataset.records()) == 10 and "ended at page 1 of 3" in short.report
    wikiart.overstated = 0
    for number in range(10, 25):
        wikiart.add(number, MONET)
    whole = load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())
    assert len(whole.dataset.records()) == 25 and "ended at page" not in whole.report
    assert [path.partition("page=")[2][0] for _, path in wikiart.listed] == ["1", "2", "2", "3"]


def test_an_empty_page_that_was_kept_before_is_asked_for_again(wikiart, datasets_root):
    wikiart.page_size = 10
    for number in range(15):
        wikiart.add(number, MONET)
    kept = datasets_root / ".sources" / "wikiart.org" / "artist-claude-monet" / "2.json"
    kept.parent.mkdir(parents=True)
    kept.write_text("[2, []]")
    assert len(load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener()).dataset.records()) == 15


def test_cancel_does_not_wait_for_a_host_that_is_not_found(wikiart, datasets_root):
    asked, answered, waited = threading.Event(), threading.Event(), threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        asked.set()
        if not answered.wait(30):
            waited.set()
        raise OSError("no such host")

    site = replace(wikiart.site, network=replace(wikiart.site.network, resolve=resolve))
    with pytest.raises(Cancelled):
        load_paintings(
            datasets_root, ALL_OF_MONET, cancelling(lambda text: asked.is_set()), opener=partial(open_source, site=site)
        )
    assert not waited.is_set()
    answered.set()


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>Just a moment...</html>",
        b"[]",
        b"{}",
        b'{"Paintings": 5, "AllPaintingsCount": 1, "PageSize": 60}',
        b'{"Paintings": ["x"], "AllPaintingsCount": 1, "PageSize": 60}',
        b'{"Paintings": [], "AllPaintingsCount": 1e999, "PageSize": 60}',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_is_no_list_is_told_as_that(wikiart, datasets_root, answer):
    wikiart.add(1, MONET)
    wikiart.answer = answer
    with pytest.raises(DatasetError, match="page 1 of its list of the artist 'claude-monet'.*not one of its lists"):
        load_paintings(datasets_root, ALL_OF_MONET, opener=wikiart.opener())


def test_asking_for_everything_or_for_what_is_not_there_is_told_before_long(wikiart, datasets_root):
    with pytest.raises(SettingsError, match="no list of all its paintings. Ask for a style"):
        load_paintings(datasets_root, Request("WikiArt.org", "all"), opener=wikiart.opener())
    with pytest.raises(DatasetError, match="artist 'nobody'.*404"):
        load_paintings(datasets_root, Request("wikiart.org", "nobody", artist="nobody"), opener=wikiart.opener())
    with pytest.raises(SettingsError, match="cannot be looked up"):
        load_paintings(datasets_root, Request("wikiart.org", "nobody", artist="北斎"), opener=wikiart.opener())
    assert source_fingerprint(datasets_root, "wikiart.org") == source_fingerprint(Path("elsewhere"), " WikiArt.org")


@pytest.mark.parametrize(
    ("kind", "label", "slug"),
    [
        ("style", "Post_Impressionism", "post-impressionism"),
        ("style", "Art_Nouveau", "art-nouveau-modern"),
        ("style", "Mannerism_Late_Renaissance", "mannerism-late-renaissance"),
        ("genre", "nude_painting", "nude-painting-nu"),
        ("artist", "Claude Monet", "claude-monet"),
        ("artist", "m.c.-escher", "m-c-escher"),
        ("artist", "Joaquín Sorolla", "joaquin-sorolla"),
        ("artist", "joaqu\u00e3\u00adn-sorolla", "joaquin-sorolla"),
    ],
)
def test_labels_become_the_sites_own_names(kind, label, slug):
    assert PaintingList(kind, label).slug == slug
